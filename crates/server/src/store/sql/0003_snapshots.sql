-- Snapshots: saved disks. Times are milliseconds since 1970. A row outlives the box that was saved, and even that box's own row.

create table snapshots (
    id text not null primary key,
    account text not null references accounts (id),
    -- The box that was saved.
    box_id text not null,
    -- 'kept' until somebody deletes it, or 'fork': for the making of one box, and shown to nobody.
    purpose text not null,
    name text not null,
    -- 'creating' (its turn has not come), 'saving', 'ready', 'error' or 'deleting'. A box in a phase of saving has one that is 'saving'.
    status text not null,
    error text,
    size_bytes bigint not null,
    -- JSON: what a box made from it has of the box that was saved, beside the disk.
    inherits text not null,
    created_at bigint not null,
    seq bigint not null
);

create index snapshots_of_account on snapshots (account, created_at, seq);
create index snapshots_of_box on snapshots (box_id, created_at, seq);

-- What a box's disk started as a copy of. The snapshot may be gone.
alter table boxes add column from_snapshot text;

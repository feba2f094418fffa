-- What runs wrote, and requests that must not be carried out twice.

-- How many bytes the run wrote in all; null while it runs, and of runs from before this was recorded.
alter table runs add column output_end bigint;
-- Bytes that are kept of it, in a file or in the next column.
alter table runs add column output_held bigint not null default 0;
-- A short output itself, as boxes/spool/short.rs writes it.
alter table runs add column output bytea;

create index runs_with_output on runs (completed_at) where output_held > 0;

-- Idempotency keys: which run a client has begun under this name. A box has one account, so the name need not be told apart by accounts.
create table claims (
    box_id text not null references boxes (id),
    name text not null,
    run_id text not null,
    -- SHA-256 of what was asked for.
    hash bytea not null,
    created_at bigint not null,
    primary key (box_id, name)
);

create index claims_by_time on claims (created_at);

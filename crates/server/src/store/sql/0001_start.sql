-- Times are milliseconds since 1970. JSON is kept as text and read by the program only.

create table accounts (
    id text not null primary key,
    name text not null unique,
    created_at bigint not null
);

create table keys (
    id text not null primary key,
    account text not null references accounts (id),
    hash bytea not null unique,
    prefix text not null,
    label text,
    created_at bigint not null,
    revoked_at bigint
);

create table boxes (
    id text not null primary key,
    account text not null references accounts (id),
    name text,
    size text not null,
    runtime text not null,
    env text not null,
    engine text not null,
    phase text not null,
    error text,
    total_cpu_ns bigint not null,
    last_activity_at bigint not null,
    created_at bigint not null,
    updated_at bigint not null,
    deleted_at bigint,
    -- Two boxes made in the same millisecond are listed in the order of their making.
    seq bigint not null
);

create index boxes_of_account on boxes (account, created_at, seq);
create index boxes_live on boxes (account, created_at, seq) where deleted_at is null;

-- A name belongs to one box of an account for as long as its row is here: a box that is being deleted gives it back.
create table box_names (
    account text not null references accounts (id),
    name text not null,
    box_id text not null references boxes (id),
    primary key (account, name)
);

create index box_names_of_box on box_names (box_id);

create table box_labels (
    box_id text not null references boxes (id),
    label text not null,
    place bigint not null,
    primary key (box_id, label)
);

create index boxes_of_label on box_labels (label, box_id);

create table runs (
    id text not null primary key,
    box_id text not null references boxes (id),
    account text not null references accounts (id),
    kind text not null,
    status text not null,
    prompt text not null,
    exit_code bigint,
    cpu_ns bigint not null,
    memory_peak bigint not null,
    created_at bigint not null,
    completed_at bigint,
    error text,
    timeout_ms bigint,
    seq bigint not null
);

create index runs_of_box on runs (box_id, created_at, seq);
create index runs_by_end on runs (completed_at);
create index runs_running on runs (status) where status = 'running';

create table logs (
    box_id text not null references boxes (id),
    at bigint not null,
    seq bigint not null,
    level text not null,
    source text not null,
    message text not null,
    primary key (box_id, at, seq)
);

create index logs_by_time on logs (at);

-- Who may come in by SSH. Times are milliseconds since 1970.

-- Public keys, each of which opens all boxes of its account. The same key may be in several accounts.
create table ssh_keys (
    id text not null primary key,
    account text not null references accounts (id),
    -- The public key as SSH sends it: the algorithm and its numbers, each with its length before it.
    key bytea not null,
    algorithm text not null,
    fingerprint text not null,
    label text,
    created_at bigint not null,
    unique (account, key)
);

create index ssh_keys_by_key on ssh_keys (key);

-- Passwords of one box each, until they expire. Only their SHA-256 is here.
create table ssh_tokens (
    id text not null primary key,
    account text not null references accounts (id),
    box_id text not null references boxes (id),
    hash bytea not null unique,
    label text,
    created_at bigint not null,
    expires_at bigint not null,
    revoked_at bigint
);

create index ssh_tokens_of_account on ssh_tokens (account, expires_at);
create index ssh_tokens_of_box on ssh_tokens (box_id, created_at);
create index ssh_tokens_by_end on ssh_tokens (expires_at);

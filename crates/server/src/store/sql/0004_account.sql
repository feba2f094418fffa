-- What belongs to an account as a whole. Times are milliseconds since 1970.

-- Variables of the boxes that the account makes from now on.
create table account_env (
    account text not null references accounts (id),
    name text not null,
    value text not null,
    primary key (account, name)
);

-- Records of deleted boxes are removed in the order of their deletion.
create index boxes_by_end on boxes (deleted_at, id) where deleted_at is not null;

-- How a box lives: whether it is never paused, what runs when it starts, when it ends.

alter table boxes add column keep_alive boolean not null default false;
-- Empty when there is none.
alter table boxes add column init_command text not null default '';
-- Whether the init command has yet to be run, when the box takes work next.
alter table boxes add column init_due boolean not null default false;
-- When an ephemeral box is deleted; null for all others.
alter table boxes add column expires_at bigint;

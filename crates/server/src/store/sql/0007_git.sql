-- What a box has of git: who commits in it, and the token for GitHub that is its own.

-- What was asked for when the box was made, to be told to git before anything works there; null when nothing was.
alter table boxes add column git_user_name text;
alter table boxes add column git_user_email text;

-- The secrets are apart from the boxes, so that no list of boxes reads them. A box that is being deleted has none.
create table git_tokens (
    box_id text not null primary key references boxes (id),
    token text not null
);

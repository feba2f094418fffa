//! Boxes' own tokens for GitHub. A box that is being deleted has none any more.

use boxyard_proto::BoxId;

use super::sql::Sql;
use super::sqlite::Db;
use super::{Store, StoreError, changed};
use crate::config::Secret;

const FIND: Sql = Sql::new("select token from git_tokens where box_id = $1");
// A box that is being deleted by now has no row to take the token from.
const SET: Sql = Sql::new(
    "insert into git_tokens (box_id, token)
     select id, $1 from boxes where id = $2 and phase not in ('deleting', 'deleted')
     on conflict (box_id) do update set token = excluded.token",
);
const FORGET: Sql = Sql::new("delete from git_tokens where box_id = $1");

impl Store {
    /// The box's own token for GitHub, if it has one.
    ///
    /// # Errors
    /// The database's failures.
    pub async fn git_token(&self, id: &BoxId) -> Result<Option<Secret>, StoreError> {
        let id = id.clone();
        self.read("reading a box's token for GitHub", move |db| {
            db.one(FIND, (id.as_str(),), |row| row.get(0).map(Secret::new))
        })
        .await
    }

    /// Sets or removes the box's own token for GitHub.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when the box is being deleted, or the database's failures.
    pub async fn set_git_token(&self, id: BoxId, token: Option<Secret>) -> Result<(), StoreError> {
        self.write("changing a box's token for GitHub", move |db| match &token {
            Some(token) => changed(set(db, &id, token)?),
            None => Ok(forget(db, &id)?),
        })
        .await
    }
}

pub(super) fn set(db: &Db, id: &BoxId, token: &Secret) -> rusqlite::Result<usize> {
    db.execute(SET, (token.expose(), id.as_str()))
}

pub(super) fn forget(db: &Db, id: &BoxId) -> rusqlite::Result<()> {
    db.execute(FORGET, (id.as_str(),)).map(drop)
}

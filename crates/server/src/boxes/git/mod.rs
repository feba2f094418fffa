//! Git in boxes. It always runs inside, as boxuser: what lies in a repository is as hostile as anything in a box, and some of it is code.
//!
//! ```text
//!   Boxes::git ─▶ GitWork: a lease, and one deadline for all of a call ─▶ work::run: one git in the box, its output up to a bound
//!                    │                                                          │
//!                    ├─ clone, look, commit, push, checkout, raw, identity      └─▶ told: its words as a refusal, without secrets
//!                    └─ propose ─▶ attach (files of the box), github (its REST API, called by the server)
//! ```
//! Like a session a call of git has no record, and ends with whoever waits for it: dropping the future ends git and all that it started.
//!
//! A token reaches git by the environment of that one process tree, and a credential helper that is told on its command line for which hosts the
//! token is; other hosts that a redirect or a submodule leads to are asked without. Nothing of it is written down in the box. Programs
//! in the box run as the same user and could look meanwhile: who gives a box a token trusts it for that long.

mod address;
mod attach;
mod checkout;
mod clone;
mod command;
mod commit;
mod failure;
mod github;
mod identity;
mod look;
mod names;
mod propose;
mod push;
mod raw;
mod token;
mod told;
mod work;

pub use checkout::Checkout;
pub use clone::Cloning;
pub use commit::{Commit, Committed};
pub use failure::{GitError, Refusal};
pub use identity::Identity;
pub use look::Looked;
pub use propose::{Proposal, Proposed};
pub use push::Push;
pub use raw::{Ran, Raw};
pub use token::Token;
pub use work::GitWork;

pub(super) use identity::introduce;

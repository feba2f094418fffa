//! SSH clients against a box: OpenSSH's own, driven as people drive them.
//!
//! ```text
//!  Door ──▶ Ssh ──┬─▶ run, sh         a command, its output and its exit status
//!                 ├─▶ dialogue        … of which one hears while it runs
//!                 ├─▶ terminal        … on a pseudo-terminal that the test holds
//!                 └─▶ command         any program that reads a configuration of ssh: sftp, scp, rsync, git, sshfs
//! ```
//!
//! Every client gets a configuration file of its own and nothing of the user's: no agent, no keys, no known hosts but the server's, whose
//! keys are asked for over HTTP and checked strictly. Passwords come by `SSH_ASKPASS`.
//!
//! With `BOXYARD_TEST_SSH=reference` in the environment all of it speaks to OpenSSH's own server instead, which is installed and started
//! inside the box for the purpose, see [`reference`]: what a test says about SSH shall first be true of what users are used to. Tests of
//! what only our door does (tokens, the log, its messages) fail there.

pub mod agent;
pub mod client;
pub mod dialogue;
pub mod done;
pub mod door;
pub mod reference;

pub use agent::{Agent, Key};
pub use client::{HOST, Ssh};
pub use dialogue::Dialogue;
pub use done::{Done, finish};
pub use door::{Door, HostKey};

//! The server as its clients see it, on the engine in memory: over real sockets, with a real database, without root.
//!
//! One file per resource or concern. Tests wait for events, never for time.

mod account_env;
mod accounts;
mod admission;
mod archives;
mod auth;
mod bad_input;
mod boxes;
mod code;
mod connections;
mod contexts;
mod contexts_ends;
mod contexts_lies;
mod death;
mod exec;
mod exec_session_attacks;
mod exec_sessions;
mod files;
mod files_liar;
mod git;
mod idempotency;
mod idle;
mod labels;
mod life;
mod logs;
mod metrics;
mod openapi;
mod output;
mod races;
mod recovery;
mod runs;
mod sizes;
mod snapshots;
mod snapshots_recovery;
mod ssh;
mod ssh_flow;
mod ssh_forwards;
mod ssh_login;
mod ssh_sessions;
mod ssh_stalls;
mod streams;
mod support;
mod uploads;
mod usage;

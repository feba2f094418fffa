//! Tests of the whole program: `serve` on the host, and real boxes made by `launch`. They need root, as the program does.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test names what it wants; everything else is a failure")]

mod files_box;
mod launch_escapes;
mod launch_failures;
mod launch_posture;
mod launch_sockets;
mod launch_terminals;
mod serve_hangup;
mod serve_jobs;
mod serve_protocol;
mod serve_sockets;
mod serve_spools;
mod serve_terminals;
mod serve_trees;
mod serve_unix_sockets;
mod sftp_box;
mod sftp_openssh;
mod sftp_requests;
mod support;

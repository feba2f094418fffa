//! What the tests and measurements on real boxes stand on: a real server in a place of its own, a client, and a look at what there is
//! on the host because of it.
//!
//! Every test has its own server in its own [`Lane`]: data folder, address range and uid range that no other has, so that tests run
//! beside each other and beside a server that is in use. Image layers are shared and built once. A server that is dropped deletes its
//! boxes, stops, and leaves nothing; what a killed test has left is cleaned up by the next one in its lane.
#![forbid(unsafe_code)]

pub mod deaths;
pub mod disk;
pub mod fail;
pub mod footprint;
pub mod forge;
pub mod freezes;
pub mod http;
pub mod init;
pub mod lane;
pub mod live;
pub mod outside;
pub mod server;
pub mod ssh;
pub mod wait;

pub use deaths::Deaths;
pub use disk::{FileSystem, PowerDisk};
pub use fail::FailPoints;
pub use footprint::Footprint;
pub use forge::Forge;
pub use freezes::Freezes;
pub use http::{Answer, Client, Connection};
pub use lane::Lane;
pub use live::Live;
pub use outside::Outside;
pub use server::{Output, Server, Settings};
pub use ssh::{Dialogue, Done, Door, HOST, Ssh, finish};
pub use wait::until;

//! Real boxes on this machine. They need root, `nft`, `mmdebstrap` and a built `boxyard-init`, and fail where one is missing.

mod archives;
mod crashes;
mod disks;
mod doctor;
mod isolation;
mod layers;
mod life;
mod limits;
mod network;
mod oci;
mod pause;
mod pool;
mod snapshots;
mod sockets;
mod yard;

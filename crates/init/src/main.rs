//! `boxyard-init`: makes a box from outside (`launch`) and is PID 1 inside it (`serve`).
fn main() {}

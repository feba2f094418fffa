//! The program `boxyard`.
fn main() {}

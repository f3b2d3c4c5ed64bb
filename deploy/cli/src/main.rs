//! deploy/cli
fn main() {}

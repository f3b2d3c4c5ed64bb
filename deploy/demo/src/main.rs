//! deploy/demo
fn main() {}

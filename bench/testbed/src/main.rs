//! bench/testbed
fn main() {}

//! bench/testbed

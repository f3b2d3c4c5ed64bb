//! The proxy under another control plane: a server built on go-control-plane, in `server/`, drives it through all that
//! `weir_xds` says of servers, over the incremental protocol and over that of the state of the world.
//!
//! The server is built by the first test that runs. Without Go the tests say so and do nothing; with `WEIR_NO_SKIP=1`
//! they fail.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod control_plane;
mod load;
#[path = "../pair/mod.rs"]
mod pair;
mod proxy;
mod resources;
mod scripted;

mod absence;
mod cycle;
mod lives;
mod names;
mod order;
mod refused;
mod serving;

/// Runs a test over each variant of the protocol.
macro_rules! over_both {
    ($($name:ident),+ $(,)?) => {
        mod over_delta {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(crate::proxy::Variant::Delta).await;
            })+
        }

        mod over_state_of_the_world {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(crate::proxy::Variant::StateOfTheWorld).await;
            })+
        }
    };
}
pub(crate) use over_both;

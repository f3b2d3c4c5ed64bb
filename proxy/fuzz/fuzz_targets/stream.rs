//! Any bytes as responses of the stream: an answer, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use weir_proxy::{model::Listener, xds::rehearsal::Rehearsal};
use weir_xds::{
    ResourceType,
    envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse},
};

fuzz_target!(|data: &[u8]| {
    for is_wildcard in [true, false] {
        let mut proxy = Rehearsal::new(is_wildcard);
        let _wanted = proxy.want::<Listener>("inbound");
        for kind in ResourceType::ALL {
            if let Ok(mut response) = DeltaDiscoveryResponse::decode(data) {
                response.type_url = kind.url().to_owned();
                let _ = proxy.delta(response);
            }
            if let Ok(mut response) = DiscoveryResponse::decode(data) {
                response.type_url = kind.url().to_owned();
                let _ = proxy.state_of_the_world(response);
            }
        }
        let _ = proxy.store.dump();
    }
});

//! Any bytes as a resource of each type: an outcome, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost_types::Any;
use weir_proxy::xds::decode::{Context, Origin, resource};
use weir_xds::ResourceType;

fuzz_target!(|data: &[u8]| {
    for kind in ResourceType::ALL {
        let any = Any {
            type_url: kind.url().to_owned(),
            value: data.to_vec(),
        };
        let _ = resource(kind, &any, &mut Context::new(Origin::Stream));
    }
});

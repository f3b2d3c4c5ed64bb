//! Pods, Services and addresses.

use libtest_mimic::Trial;
use weir_testbed::Sandbox;

use crate::bed::{Bed, PATIENCE, PROBED, deployment};
use crate::trial;

pub(crate) fn trials(sandbox: Option<Sandbox>) -> Vec<Trial> {
    vec![trial(
        "pods_reach_each_other_by_service_name",
        sandbox,
        service_name,
    )]
}

async fn service_name(sandbox: Sandbox) {
    let manifests = deployment("web", 1, PROBED) + "---\n" + &deployment("client", 1, "");
    let bed = Bed::start(sandbox, &[("all.yaml", &manifests)]).await;
    bed.testbed.wait_ready(PATIENCE).await.unwrap();
    let web = bed.testbed.find("shop/web").unwrap();
    for target in [
        "web:80",
        "web.shop:80",
        "web.shop.svc.cluster.local:80",
        &format!("[{}]:8080", web.ips[1]),
        &format!("{}:8080", web.ips[0]),
    ] {
        assert_eq!(
            bed.get("shop/client", target).await,
            Ok(web.name.clone()),
            "{target}"
        );
    }
    // A pod that asks its own Service reaches itself.
    assert_eq!(bed.get("shop/web", "web:80").await, Ok(web.name.clone()));
    bed.stop().await;
}

//! Pods, Services and addresses.

use libtest_mimic::Trial;
use weir_testbed::Sandbox;

use crate::bed::{Bed, PATIENCE, PROBED, deployment};
use crate::trial;

pub(crate) fn trials(sandbox: Option<Sandbox>) -> Vec<Trial> {
    vec![
        trial("pods_reach_each_other_by_service_name", sandbox, service_name),
        trial("a_capture_sees_what_pods_say_in_clear", sandbox, capture),
        trial("kill_9_leaves_nothing_behind", sandbox, kill_9),
    ]
}

/// A whole testbed in a sandbox of its own is killed; its containers must be gone with it.
async fn kill_9(_sandbox: Sandbox) {
    let dir = tempfile::tempdir().unwrap();
    let (yaml, run) = (dir.path().join("yaml"), dir.path().join("run"));
    std::fs::create_dir_all(&yaml).unwrap();
    let marker = "424242424";
    let pod = format!(
        "{{kind: Pod, metadata: {{name: p}}, spec: {{containers: [{{name: c, command: [sleep, '{marker}']}}]}}}}"
    );
    std::fs::write(yaml.join("p.yaml"), pod).unwrap();
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_weir-testbed"))
        .arg(&yaml)
        .arg("--run-dir")
        .arg(&run)
        .env_remove("WEIR_SANDBOX")
        .spawn()
        .unwrap();
    let sleeps = || {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        all.filter_map(|entry| std::fs::read_to_string(entry.path().join("cmdline")).ok())
            .filter(|line| line.starts_with("sleep") && line.contains(marker))
            .count()
    };
    let until = |wanted: usize| async move {
        let mut tick = tokio::time::interval(std::time::Duration::from_millis(20));
        while sleeps() != wanted {
            tick.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, until(1))
        .await
        .expect("the container starts");
    child.kill().await.unwrap();
    tokio::time::timeout(PATIENCE, until(0))
        .await
        .expect("the container is gone");
    assert_eq!(
        std::fs::read_dir(run.join("netns"))
            .unwrap()
            .flatten()
            .filter(|entry| is_mounted(&entry.path()))
            .count(),
        0
    );
}

fn is_mounted(path: &std::path::Path) -> bool {
    std::fs::read_to_string("/proc/self/mounts")
        .unwrap()
        .contains(path.to_str().unwrap())
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

async fn capture(sandbox: Sandbox) {
    let manifests = deployment("web", 1, PROBED) + "---\n" + &deployment("client", 1, "");
    let bed = Bed::start(sandbox, &[("all.yaml", &manifests)]).await;
    bed.testbed.wait_ready(PATIENCE).await.unwrap();
    let capture = bed.testbed.capture(1 << 20).unwrap();
    bed.get("shop/client", "web:80/a-telling-path").await.unwrap();
    while !capture.contains(b"a-telling-path") {
        tokio::task::yield_now().await;
    }
    assert!(!capture.contains(b"never said"));
    bed.stop().await;
}

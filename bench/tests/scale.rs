//! The scale scenario, small: what it promises of thousands of sidecars must hold for two hundred, and of some on a
//! real API server.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::{env, path::Path, process::Command};

use serde_json::Value;
use weir_cluster::programs;

const BENCH: &str = env!("CARGO_BIN_EXE_weir-bench");

/// The figures, when no target is missed.
fn figures(arguments: &str) -> Value {
    let output = Command::new(BENCH)
        .args(["scale", "--check", "--json"])
        .args(arguments.split(' '))
        .arg("--controller")
        .arg(Path::new(BENCH).with_file_name("weir-controller"))
        .output()
        .unwrap();
    let (figures, said) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{said}\n{figures}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn resources(figures: &Value, phase: &str) -> Option<u64> {
    figures[phase]["resources"].as_u64()
}

#[test]
fn two_hundred_sidecars_are_served_and_served_again() {
    let mesh = "--sidecars 200 --services 100 --changes 5 --seconds 8 --growth 3";
    // Neither program is optimized here, and the machine may be busy.
    let targets = "--target-p99 15000 --target-storm 60 --target-sidecar 150 --target-growth 4";
    let figures = figures(&format!("{mesh} {targets}"));
    // Six are a sidecar's own; a service that it uses is a listener, routes, a cluster and endpoints.
    assert_eq!(resources(&figures, "arrival"), Some(200 * (6 + 10 * 4)));
    // A sidecar that comes back leaves one untold, to see the answer; also when the controller is another one.
    assert_eq!(resources(&figures, "storm"), Some(200));
    assert_eq!(resources(&figures, "restart"), Some(200));
    // It was the controller that went, not only connections to it.
    assert_eq!(figures["storm"]["failures"], 0);
    assert!(
        figures["restart"]["failures"].as_u64() >= Some(200),
        "{figures:#}"
    );
    assert_eq!(figures["provider"], "files");
    assert_eq!(figures["churn"]["changes"], 40);
    // Each service has twenty users.
    assert_eq!(resources(&figures, "churn"), Some(40 * 20));
}

#[test]
fn sidecars_of_a_cluster_are_served_what_its_api_server_has() {
    if let Err(missing) = programs::find(programs::API_SERVER) {
        assert!(env::var_os("WEIR_NO_SKIP").is_none(), "{missing}");
        eprintln!("skipped: {missing}");
        return;
    }
    let mesh =
        "--provider cluster --sidecars 40 --services 20 --endpoints 4 --changes 4 --seconds 5 --growth 1";
    let targets = "--target-p99 15000 --target-storm 60 --target-sidecar 1000";
    let figures = figures(&format!("{mesh} {targets}"));
    assert_eq!(resources(&figures, "arrival"), Some(40 * (6 + 10 * 4)));
    assert_eq!(figures["provider"], "cluster");
    assert_eq!(resources(&figures, "restart"), Some(40));
    assert!(figures["restart"]["failures"].as_u64() >= Some(40), "{figures:#}");
    assert_eq!(figures["churn"]["changes"], 20);
    // Each service has twenty users.
    assert_eq!(resources(&figures, "churn"), Some(20 * 20));
}

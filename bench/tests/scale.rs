//! The scale scenario, small: what it promises of thousands of sidecars must hold for two hundred.

use std::{path::Path, process::Command};

const BENCH: &str = env!("CARGO_BIN_EXE_weir-bench");

#[test]
fn two_hundred_sidecars_are_served_and_served_again() {
    let mesh = "scale --sidecars 200 --services 100 --changes 5 --seconds 8 --growth 3";
    // Neither program is optimized here, and the machine may be busy.
    let targets = "--target-p99 15000 --target-storm 60 --target-sidecar 150 --target-growth 4";
    let output = Command::new(BENCH)
        .args(mesh.split(' ').chain(targets.split(' ')))
        .args(["--check", "--json", "--controller"])
        .arg(Path::new(BENCH).with_file_name("weir-controller"))
        .output()
        .unwrap();
    let (figures, said) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{said}\n{figures}");
    let figures: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let resources = |phase: &str| figures[phase]["resources"].as_u64();
    // Six are a sidecar's own; a service that it uses is a listener, routes, a cluster and endpoints.
    assert_eq!(resources("arrival"), Some(200 * (6 + 10 * 4)));
    // A sidecar that comes back leaves one untold, to see the answer.
    assert_eq!(resources("storm"), Some(200));
    assert_eq!(figures["churn"]["changes"], 40);
    // Each service has twenty users.
    assert_eq!(resources("churn"), Some(40 * 20));
}

//! The scenario of a sidecar in a large mesh, small: its memory is that of the services in use.

use std::{path::Path, process::Command};

const BENCH: &str = env!("CARGO_BIN_EXE_weir-bench");
/// Makes a test fail that would be skipped.
const NO_SKIP: &str = "WEIR_NO_SKIP";

#[test]
fn a_sidecar_does_not_pay_for_services_that_it_does_not_use() {
    let beside = |name: &str| Path::new(BENCH).with_file_name(name);
    let output = Command::new(BENCH)
        .args([
            "demand",
            "--services",
            "300",
            "--uses",
            "5",
            "--endpoints",
            "4",
            "--firsts",
            "40",
        ])
        // Neither program is optimized here, and the machine may be busy.
        .args(["--max-added", "1000", "--max-growth", "1.5", "--check", "--json"])
        .arg("--weir")
        .arg(beside("weir-proxy"))
        .arg("--controller")
        .arg(beside("weir-controller"))
        .args(["--envoy", "none"])
        .output()
        .unwrap();
    let (figures, said) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    let forbidden = said.contains("the scenario needs a network of its own");
    let skip = std::env::var_os(NO_SKIP).is_none_or(|value| value.is_empty() || value == "0");
    if forbidden && skip {
        eprintln!("skipped: {said}");
        return;
    }
    assert!(output.status.success(), "{said}\n{figures}");
    let figures: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(figures["weir"][1]["services"], 300);
    assert_eq!(figures["firsts"]["first"].as_array().map(Vec::len), Some(40));
}

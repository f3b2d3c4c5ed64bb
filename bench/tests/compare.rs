//! The comparison, small: every HTTP/1.1 scenario works in pods, beside none, and what was measured is written down.

use std::{fs, path::Path, process::Command};

use serde_json::Value;

const BENCH: &str = env!("CARGO_BIN_EXE_weir-bench");
/// Makes a test fail that would be skipped.
const NO_SKIP: &str = "WEIR_NO_SKIP";

#[test]
fn a_pair_is_measured_beside_none() {
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("figures.json");
    let plots = directory.path().join("plots");
    let output = Command::new(BENCH)
        .args([
            "compare",
            "--quick",
            "--only",
            "http1",
            "--ways",
            "direct,weir",
            "--weir",
        ])
        .arg(Path::new(BENCH).with_file_name("weir-proxy"))
        .arg("--json")
        .arg(&json)
        .arg("--plots")
        .arg(&plots)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let forbidden = said.contains("the comparison needs a network of its own");
    let skip = std::env::var_os(NO_SKIP).is_none_or(|value| value.is_empty() || value == "0");
    if forbidden && skip {
        eprintln!("skipped: {said}");
        return;
    }
    assert!(output.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let figures = |scenario: &str, way: &str, metric: &str| {
        report["summaries"][scenario][way][metric]["median"].as_f64()
    };
    for scenario in [
        "http1-1",
        "http1-64",
        "http1-1000",
        "http1-new",
        "http1-64k",
        "http1-1m",
    ] {
        for way in ["direct", "weir"] {
            assert!(
                figures(scenario, way, "rate") > Some(0.0),
                "{scenario} {way}: {report:#}"
            );
        }
        // It is the sidecars that work, so the traffic went through them.
        assert!(
            figures(scenario, "weir", "cpu_us") > Some(1.0),
            "{scenario}: {report:#}"
        );
        assert_eq!(figures(scenario, "direct", "cpu_us"), None);
    }
    let open = figures("http1-rate", "weir", "rate").unwrap();
    assert!(
        open > 100.0 && open < 1600.0,
        "{open} requests a second were sent, not 1,500"
    );
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(table.contains("http1-1m: "), "{table}");
    for plot in ["throughput.svg", "cpu.svg", "latency.svg"] {
        let plot = fs::read_to_string(plots.join(plot)).unwrap();
        assert!(plot.contains(">weir</text>"), "{plot}");
    }
    assert!(!plots.join("memory.svg").exists());
}

#[test]
fn a_target_that_was_not_measured_is_missed() {
    let output = Command::new(BENCH)
        .args([
            "compare", "--quick", "--check", "--only", "http1-1", "--ways", "direct",
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("the comparison needs a network of its own") {
        assert!(std::env::var_os(NO_SKIP).is_none(), "{said}");
        eprintln!("skipped: {said}");
        return;
    }
    assert!(!output.status.success(), "{said}");
    assert!(
        said.contains("missed: http1-1: added P50Us was not measured beside envoy"),
        "{said}"
    );
}

//! The comparison, small: every scenario works in pods, beside none, and what was measured is written down.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

const BENCH: &str = env!("CARGO_BIN_EXE_weir-bench");
/// Makes a test fail that would be skipped.
const NO_SKIP: &str = "WEIR_NO_SKIP";

/// Set on the program, and so on everything that it starts.
const MARKER: &str = "WEIR_BENCH_STARTED_BY_TEST";

/// What was said by one that could not run here, which is then no failure unless nothing may be skipped.
fn skipped(output: &Output) -> bool {
    let said = String::from_utf8_lossy(&output.stderr);
    let forbidden = said.contains("the comparison needs a network of its own");
    let skip = std::env::var_os(NO_SKIP).is_none_or(|value| value.is_empty() || value == "0");
    if forbidden && skip {
        eprintln!("skipped: {said}");
    }
    forbidden && skip
}

/// The report and the table of a short comparison that works; `None` where it may be skipped.
fn measured(arguments: &str, more: &[&OsStr]) -> Option<(Value, String)> {
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("figures.json");
    let output = Command::new(BENCH)
        .args(["compare", "--quick", "--weir"])
        .arg(Path::new(BENCH).with_file_name("weir-proxy"))
        .arg("--json")
        .arg(&json)
        .args(arguments.split(' '))
        .args(more)
        .output()
        .unwrap();
    if skipped(&output) {
        return None;
    }
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let report = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    Some((report, String::from_utf8(output.stdout).unwrap()))
}

#[test]
fn a_pair_is_measured_beside_none() {
    let directory = tempfile::tempdir().unwrap();
    let plots = directory.path().join("plots");
    let arguments = "--only http1,grpc,tcp,start --ways direct,weir --plots";
    let Some((report, table)) = measured(arguments, &[plots.as_os_str()]) else {
        return;
    };
    let figures = |scenario: &str, way: &str, metric: &str| {
        report["summaries"][scenario][way][metric]["median"].as_f64()
    };
    let scenarios = report["summaries"].as_object().unwrap();
    assert_eq!(scenarios.len(), 8 + 2 + 7 + 1, "{report:#}");
    for scenario in scenarios.keys().filter(|name| *name != "start") {
        let throughput = if scenario.starts_with("tcp-stream") {
            "megabytes_per_second"
        } else {
            "rate"
        };
        for way in ["direct", "weir"] {
            // Without sidecars there is no access log to pay for.
            if (scenario.as_str(), way) == ("http1-log", "direct") {
                continue;
            }
            assert!(
                figures(scenario, way, throughput) > Some(0.0),
                "{scenario} {way}: {report:#}"
            );
        }
        // It is the sidecars that work, so the traffic went through them.
        assert!(
            figures(scenario, "weir", "busy_percent") > Some(0.1),
            "{scenario}: {report:#}"
        );
        assert_eq!(figures(scenario, "direct", "busy_percent"), None);
    }
    assert!(figures("start", "weir", "start_ms") > Some(0.0), "{report:#}");
    for way in ["direct", "weir"] {
        let open = figures("http1-rate", way, "rate").unwrap();
        assert!(
            open > 100.0 && open < 1600.0,
            "{way}: {open} requests a second were sent, not 1,500"
        );
    }
    assert!(table.contains("http1-1m: "), "{table}");
    for plot in ["throughput.svg", "latency.svg"] {
        let plot = fs::read_to_string(plots.join(plot)).unwrap();
        assert!(plot.contains(">weir</text>"), "{plot}");
    }
    // A way without sidecars has no CPU to compare with, and no mesh was measured.
    assert!(!plots.join("cpu.svg").exists() && !plots.join("memory.svg").exists());
}

/// A pair of weir-proxy, of which only the addresses are told; the shell stays, so the proxy is its child.
const RELAY: &str = r#"
[ "$WEIR_BENCH_PROTOCOL" = tcp-plain ] && [ -z "$WEIR_BENCH_ACCESS_LOG" ] || exit 1
for file in "$WEIR_BENCH_CERTIFICATE" "$WEIR_BENCH_KEY" "$WEIR_BENCH_ROOT"; do grep -q BEGIN "$file" || exit 1; done
at() { echo "address: { socket_address: { address: $1, port_value: $2 } }"; }
printf '%s\n' "static_resources:
  listeners:
  - name: all
    $(at 0.0.0.0 "$WEIR_BENCH_LISTEN")
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: next
          cluster: next
  clusters:
  - name: next
    type: STATIC
    load_assignment:
      cluster_name: next
      endpoints: [{ lb_endpoints: [{ endpoint: { $(at "${WEIR_BENCH_NEXT%:*}" "${WEIR_BENCH_NEXT##*:}") } }] }]
" > "$WEIR_BENCH_ROOT.yaml"
"$WEIR" -c "$WEIR_BENCH_ROOT.yaml" --concurrency 1 --stats-address off --health-address off
exit 1"#;
/// A sidecar that says much, and ends.
const TALKER: &str =
    "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; echo that is all; exit 1";

#[test]
fn pairs_of_commands_are_measured_and_a_broken_one_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("figures.json");
    let output = Command::new(BENCH)
        .args("compare --quick --only tcp-echo-plain --ways direct".split(' '))
        .args([
            "--pair", "relay", RELAY, RELAY, "--pair", "talker", TALKER, TALKER,
        ])
        .arg("--json")
        .arg(&json)
        .env("WEIR", Path::new(BENCH).with_file_name("weir-proxy"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if skipped(&output) || said.contains("left out: relay, which takes a second user id") {
        return;
    }
    assert!(
        !output.status.success() && said.contains("1 measurements failed"),
        "{said}"
    );
    let report: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let relay = &report["summaries"]["tcp-echo-plain"]["relay"];
    for metric in ["rate", "busy_percent"] {
        assert!(relay[metric]["median"].as_f64() > Some(0.1), "{report:#}");
    }
    let failures = report["failures"].as_array().unwrap();
    let error = failures[0]["error"].as_str().unwrap();
    assert_eq!((failures.len(), &failures[0]["way"]), (1, &"talker".into()));
    assert!(
        error.contains("that is all") && error.len() < 10_000,
        "{} bytes",
        error.len()
    );
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(
        table.contains("not measured: talker failed in tcp-echo-plain"),
        "{table}"
    );
}

#[test]
fn what_the_kernel_takes_is_measured() {
    let Some((report, _)) = measured("--only http1-1,http1-log --ways forward", &[]) else {
        return;
    };
    let scenarios = report["summaries"].as_object().unwrap();
    let forward = &scenarios["http1-1"]["forward"];
    for metric in ["rate", "busy_percent"] {
        assert!(forward[metric]["median"].as_f64() > Some(0.1), "{report:#}");
    }
    // What only forwards writes no log.
    assert_eq!(scenarios.len(), 1, "{report:#}");
}

#[test]
fn congestion_control_is_the_one_that_is_named() {
    let run = |congestion: &str| {
        Command::new(BENCH)
            .args("compare --quick --only tcp-echo-plain --ways direct --congestion".split(' '))
            .arg(congestion)
            .output()
            .unwrap()
    };
    let output = run("none-such");
    if skipped(&output) {
        return;
    }
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(
        said.contains("the kernel does not take none-such as congestion control") && said.contains("reno"),
        "{said}"
    );
    let output = run("reno");
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(
        table.contains(", TCP reno, ") && output.status.success(),
        "{table}"
    );
}

#[test]
fn a_target_that_was_not_measured_is_missed() {
    let output = Command::new(BENCH)
        .args([
            "compare", "--quick", "--check", "--only", "http1-1", "--ways", "direct",
        ])
        .output()
        .unwrap();
    if skipped(&output) {
        return;
    }
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(
        said.contains("missed: http1-1: added P50Us was not measured beside envoy"),
        "{said}"
    );
}

#[test]
fn nothing_is_left_of_a_run_that_is_interrupted() {
    // Not SIGINT: it is ignored by what a shell starts in the background.
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        interrupt(signal);
    }
}

fn interrupt(signal: Signal) {
    let value = format!("{}-{signal}", std::process::id());
    let marker = format!("{MARKER}={value}");
    let mut child = Command::new(BENCH)
        .args("compare --rounds 1000 --seconds 0.2 --patience 0 --only http1-1 --ways weir --weir".split(' '))
        .arg(Path::new(BENCH).with_file_name("weir-proxy"))
        .env(MARKER, value)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    while !said.contains("round 1 ") && lines.read_line(&mut said).unwrap() > 0 {}
    if !said.contains("round 1 ") {
        let status = child.wait().unwrap();
        let output = Output {
            status,
            stdout: Vec::new(),
            stderr: said.clone().into_bytes(),
        };
        assert!(skipped(&output), "{said}");
        return;
    }
    assert!(
        started_with(&marker) > 1,
        "the sidecars are not found by the marker"
    );
    kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
    assert!(!child.wait().unwrap().success());
    let begin = Instant::now();
    while started_with(&marker) > 0 {
        assert!(begin.elapsed() < Duration::from_secs(20), "processes are left");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Processes that have this in their environment.
fn started_with(marker: &str) -> usize {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let environments = processes.filter_map(|process| fs::read(process.path().join("environ")).ok());
    environments
        .filter(|environment| {
            environment
                .split(|byte| *byte == 0)
                .any(|entry| entry == marker.as_bytes())
        })
        .count()
}

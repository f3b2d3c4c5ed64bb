//! Flags, as users give them.

use super::*;

fn parse(args: &[&str]) -> Result<Args, clap::Error> {
    Args::try_parse_from([&["weir-proxy"], args].concat())
}

#[test]
fn envoy_command_lines_are_understood() {
    let args = parse(&[
        "--config-yaml",
        "{}",
        "-l",
        "warning",
        "--concurrency",
        "2",
        "--service-cluster",
        "a.b",
        "--base-id",
        "1",
        "--disable-hot-restart",
        "--drain-time-s",
        "5",
        "--mode",
        "validate",
    ])
    .unwrap();
    assert_eq!(args.log_level, LogLevel::Warn);
    let config = args.load().unwrap();
    assert_eq!(config.drain_time, Duration::from_secs(5));
    assert_eq!(config.mode, Mode::Validate);
    assert_eq!(config.bootstrap.node.cluster, "a.b");
}

#[test]
fn every_flag_of_envoy_is_taken_or_refused_with_a_reason() {
    let with = |flags: &[&str]| {
        let args = parse(&[&["--config-yaml", "{node: {id: one}}"], flags].concat());
        args.map_err(|error| error.to_string())
            .and_then(|args| args.load().map_err(|error| error.to_string()))
    };
    let taken = with(&[
        "--service-zone",
        "z",
        "--component-log-level",
        "upstream:debug",
        "--log-format",
        "[%T] %v",
        "--parent-shutdown-time-s",
        "60",
        "--drain-strategy",
        "immediate",
        "--use-dynamic-base-id",
        "--restart-epoch",
        "0",
        "--local-address-ip-version",
        "v4",
        "--cpuset-threads",
        "--stats-tag",
        "a:b",
        "--skip-hot-restart-on-no-parent",
        "--skip-hot-restart-parent-stats",
        "--ignore-unknown-dynamic-fields",
        "--file-flush-interval-msec",
        "10",
        "--file-flush-min-size-kb",
        "64",
        "--enable-fine-grain-logging",
        "--allow-unknown-static-fields",
        "--log-level",
        "critical",
        "--admin-address-path",
        "/tmp/a",
    ])
    .unwrap();
    assert_eq!(taken.bootstrap.node.locality.unwrap().zone, "z");
    assert_eq!(
        (taken.log_format, taken.log_level),
        (LogFormat::Text, LogLevel::Error)
    );
    assert!(taken.bootstrap.ignored.iter().any(|told| told == "--stats-tag"));
    for (flags, reason) in [
        (["--restart-epoch", "1"], "no hot restart"),
        (["--log-path", "/tmp/log"], "stderr"),
        (["--mode", "init_only"], "validate"),
        (["--drain-strategy", "never"], "gradual"),
        (["--log-format", "xml"], "text or json"),
        (
            ["--mode=serve", "--reject-unknown-dynamic-fields"],
            "counted and told",
        ),
    ] {
        let refused = with(&flags).unwrap_err();
        assert!(refused.contains(reason), "{refused}");
    }
    assert!(parse(&["--hot-restart-version"]).is_ok());
}

#[test]
fn an_identity_needs_somebody_who_gives_it() {
    let load = |yaml: &str| {
        parse(&["--mode", "identity", "--config-yaml", yaml])
            .unwrap()
            .load()
    };
    let refused = load("{}").unwrap_err().to_string();
    assert!(refused.contains("ads_config"), "{refused}");
}

#[test]
fn a_bootstrap_is_required() {
    assert!(parse(&[]).is_err());
}

#[test]
fn addresses_can_be_switched_off() {
    let args = parse(&["--config-yaml", "{}", "--stats-address", "off"]).unwrap();
    let config = args.load().unwrap();
    assert_eq!(config.stats_address, None);
    assert_eq!(config.health_address, Some("[::]:15904".parse().unwrap()));
    assert!(parse(&["--config-yaml", "{}", "--stats-address", "15010"]).is_err());
}

#[test]
fn the_pod_is_told_by_its_addresses_and_names() {
    let args = parse(&[
        "--config-yaml",
        "{}",
        "--pod-ip",
        "10.0.0.1",
        "--pod-ips",
        "10.0.0.1,fd00::1",
        "--pod-name",
        "p",
        "--pod-namespace",
        "n",
    ])
    .unwrap();
    let config = args.load().unwrap();
    assert_eq!(config.pod_ips.len(), 2);
    assert_eq!(config.workload.pod, "p");
    assert_eq!(config.workload.kind, "unknown");
    let metadata = config.bootstrap.node.metadata.unwrap_or_default();
    assert!(metadata.fields.contains_key("POD_NAMESPACE"));
    let wrong = parse(&["--config-yaml", "{}", "--pod-ip", "here"])
        .unwrap()
        .load();
    assert!(wrong.unwrap_err().to_string().contains("POD_IP"));
}

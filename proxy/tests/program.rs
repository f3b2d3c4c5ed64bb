//! What only the program can show: how its process ends.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Nothing here takes longer unless it is broken.
const LIMIT: Duration = Duration::from_secs(10);

/// A sidecar that answers requests itself and logs them.
fn bootstrap(port: u16) -> String {
    format!(
        r#"{{node: {{id: test, cluster: test}}, static_resources: {{listeners: [{{
  name: http, traffic_direction: INBOUND, address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}},
  filter_chains: [{{filters: [{{name: http, typed_config: {{
    "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager,
    stat_prefix: http,
    access_log: [{{name: out, typed_config: {{"@type": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog}}}}],
    route_config: {{name: r, virtual_hosts: [{{name: v, domains: ["*"], routes: [{{match: {{prefix: /}}, direct_response: {{status: 200}}}}]}}]}},
    http_filters: [{{name: router, typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]
  }}}}]}}]
}}]}}}}"#
    )
}

/// A process that does not outlive its test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Program {
    /// Returns once it serves.
    fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir-proxy"));
        command
            .args(arguments)
            .args(["--stats-address", "off", "--health-address", "off"]);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        let program = Self(child);
        assert!(said.any(|line| line.unwrap().contains("serving")), "it ended");
        // Whoever reads goes on, or the program could not write.
        std::thread::spawn(move || said.count());
        program
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), signal).unwrap();
    }

    /// What it wrote to stdout until it ended, which it is to do by itself.
    fn rest(mut self) -> String {
        let mut written = String::new();
        self.0
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut written)
            .unwrap();
        assert!(self.0.wait().unwrap().success());
        written
    }
}

#[test]
fn the_last_requests_are_logged_before_the_process_ends() {
    let [port] = weir_testbed::free_ports().unwrap();
    let program = Program::start(&["--config-yaml", &bootstrap(port), "--drain-time-s", "0"]);
    let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    client
        .write_all(b"GET /last HTTP/1.1\r\nhost: app\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut response = String::new();
    client.read_to_string(&mut response).unwrap();
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");

    program.signal(Signal::SIGTERM);
    let log = program.rest();
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(log.contains(r#""path":"/last""#), "{log}");
}

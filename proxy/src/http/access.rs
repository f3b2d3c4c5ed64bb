//! The access log: one JSON line on stdout for each request, with the fields that OSM's Envoy wrote.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderMap, Request, StatusCode, Version, header::USER_AGENT};
use serde::Serialize;

use super::{AccessLog, Body, flow::Flow};
use crate::{policy, reason::Reason};

/// Room for a usual line.
const LINE: usize = 768;

/// What is known of one request; its line is written when this is dropped.
#[derive(Debug)]
pub(super) struct Entry {
    log: AccessLog,
    flow: Arc<Flow>,
    time: SystemTime,
    started: Instant,
    method: String,
    path: String,
    authority: String,
    protocol: Version,
    server_name: String,
    x_forwarded_for: Option<String>,
    user_agent: Option<String>,
    request_id: Option<String>,
    upstream: Option<(String, SocketAddr, Instant)>,
    answer: Option<(StatusCode, Option<Reason>, Duration, Option<Duration>)>,
}

impl Entry {
    pub(super) fn new(
        log: &AccessLog,
        flow: &Arc<Flow>,
        request: &Request<Body>,
        server_name: &str,
    ) -> Box<Self> {
        let asked = policy::Request::of(request);
        let header = |name: &str| text(request.headers(), name);
        Box::new(Self {
            log: log.clone(),
            flow: flow.clone(),
            time: SystemTime::now(),
            started: Instant::now(),
            method: asked.method.to_owned(),
            path: asked.target.to_owned(),
            authority: asked.authority.to_owned(),
            protocol: request.version(),
            server_name: server_name.to_owned(),
            x_forwarded_for: header("x-forwarded-for"),
            user_agent: header(USER_AGENT.as_str()),
            request_id: header("x-request-id"),
            upstream: None,
            answer: None,
        })
    }

    /// It is sent to this endpoint.
    pub(super) fn sent_to(&mut self, cluster: &str, endpoint: SocketAddr) {
        self.upstream = Some((cluster.to_owned(), endpoint, Instant::now()));
    }

    /// It has its response: the endpoint's, or the proxy's own for a reason.
    pub(super) fn answered(&mut self, status: StatusCode, reason: Option<Reason>) {
        let service = self.upstream.as_ref().filter(|_| reason.is_none());
        let service = service.map(|(_, _, sent)| sent.elapsed());
        self.answer = Some((status, reason, self.started.elapsed(), service));
    }

    fn line(&self) -> Line<'_> {
        let reason = self.answer.and_then(|(_, reason, ..)| reason);
        let details = match (&self.answer, reason) {
            (None, _) => "client_left",
            (_, None) => "via_upstream",
            (_, Some(reason)) => reason.as_str(),
        };
        Line {
            start_time: timestamp(self.time),
            method: &self.method,
            path: &self.path,
            protocol: match self.protocol {
                Version::HTTP_2 => "HTTP/2",
                Version::HTTP_10 => "HTTP/1.0",
                _ => "HTTP/1.1",
            },
            response_code: self.answer.map_or(0, |(status, ..)| status.as_u16()),
            response_code_details: details,
            time_to_first_byte: self.answer.map(|(_, _, first, _)| milliseconds(first)),
            upstream_cluster: self.upstream.as_ref().map(|(cluster, ..)| cluster.as_str()),
            response_flags: match &self.answer {
                None => "DC",
                Some(_) => reason.map_or("-", flag),
            },
            bytes_received: self.flow.received.load(Ordering::Relaxed),
            bytes_sent: self.flow.sent.load(Ordering::Relaxed),
            duration: milliseconds(self.started.elapsed()),
            upstream_service_time: self.answer.and_then(|(.., service)| service).map(milliseconds),
            x_forwarded_for: self.x_forwarded_for.as_deref(),
            user_agent: self.user_agent.as_deref(),
            request_id: self.request_id.as_deref(),
            requested_server_name: Some(self.server_name.as_str()).filter(|name| !name.is_empty()),
            authority: &self.authority,
            upstream_host: self
                .upstream
                .as_ref()
                .map(|(_, endpoint, _)| endpoint.to_string()),
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut line = Vec::with_capacity(LINE);
        if serde_json::to_writer(&mut line, &self.line()).is_ok() {
            line.push(b'\n');
            self.log.write(&line);
        }
    }
}

/// The fields of a line.
pub const LOGGED: [&str; 19] = [
    "start_time",
    "method",
    "path",
    "protocol",
    "response_code",
    "response_code_details",
    "time_to_first_byte",
    "upstream_cluster",
    "response_flags",
    "bytes_received",
    "bytes_sent",
    "duration",
    "upstream_service_time",
    "x_forwarded_for",
    "user_agent",
    "request_id",
    "requested_server_name",
    "authority",
    "upstream_host",
];

#[derive(Serialize)]
struct Line<'a> {
    start_time: String,
    method: &'a str,
    path: &'a str,
    protocol: &'a str,
    response_code: u16,
    response_code_details: &'a str,
    time_to_first_byte: Option<u64>,
    upstream_cluster: Option<&'a str>,
    response_flags: &'a str,
    bytes_received: u64,
    bytes_sent: u64,
    duration: u64,
    upstream_service_time: Option<u64>,
    x_forwarded_for: Option<&'a str>,
    user_agent: Option<&'a str>,
    request_id: Option<&'a str>,
    requested_server_name: Option<&'a str>,
    authority: &'a str,
    upstream_host: Option<String>,
}

/// Envoy's flag for a reason.
fn flag(reason: Reason) -> &'static str {
    match reason {
        Reason::NoRoute => "NR",
        Reason::NoCluster => "NC",
        Reason::NoEndpoint => "UH",
        Reason::Overflow => "UO",
        Reason::ConnectFailed | Reason::ConnectTimeout | Reason::UpstreamTls => "UF",
        Reason::UpstreamReset => "UC",
        Reason::UpstreamProtocol => "UPE",
        Reason::RequestTimeout => "UT",
        Reason::IdleTimeout => "SI",
        Reason::BadRequest => "DPE",
        Reason::ClientReset => "DC",
        Reason::RateLimited => "RL",
        _ => "-",
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?;
    Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// RFC 3339 with milliseconds.
fn timestamp(time: SystemTime) -> String {
    let mut timestamp = prost_types::Timestamp::from(time);
    timestamp.nanos -= timestamp.nanos % 1_000_000;
    timestamp.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::lines::tests::{SOON, log};

    fn logged(tell: impl FnOnce(&mut Entry)) -> serde_json::Value {
        let (log, lines) = log(Duration::ZERO);
        let flow = Arc::new(Flow::default());
        flow.sent.store(7, Ordering::Relaxed);
        let request = Request::get("/books?id=1")
            .header("host", "bookstore")
            .header("user-agent", "curl")
            .body(Body::empty())
            .unwrap();
        let mut entry = Entry::new(&log, &flow, &request, "");
        tell(&mut entry);
        drop(entry);
        let line = lines.recv_timeout(SOON).unwrap();
        assert!(line.ends_with(b"\n"));
        serde_json::from_slice(&line).unwrap()
    }

    #[test]
    fn a_line_has_the_fields_of_osm() {
        let line = logged(|entry| {
            entry.sent_to("ns/bookstore|80", "10.0.0.1:80".parse().unwrap());
            entry.answered(StatusCode::OK, None);
        });
        assert_eq!(line.as_object().unwrap().len(), LOGGED.len());
        assert!(LOGGED.iter().all(|name| line.get(name).is_some()));
        assert_eq!(line["path"], "/books?id=1");
        assert_eq!(line["authority"], "bookstore");
        assert_eq!(line["user_agent"], "curl");
        assert_eq!(line["response_code"], 200);
        assert_eq!(line["response_code_details"], "via_upstream");
        assert_eq!(line["upstream_host"], "10.0.0.1:80");
        assert_eq!(line["bytes_sent"], 7);
        assert_eq!(line["response_flags"], "-");
        assert!(line["upstream_service_time"].is_u64() && line["requested_server_name"].is_null());
        assert!(line["start_time"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn a_line_names_the_reason_of_a_refusal() {
        let refused =
            logged(|entry| entry.answered(StatusCode::SERVICE_UNAVAILABLE, Some(Reason::NoEndpoint)));
        assert_eq!(refused["response_code_details"], "no_endpoint");
        assert_eq!(refused["response_flags"], "UH");
        assert!(refused["upstream_host"].is_null());
        assert_eq!(logged(|_| {})["response_flags"], "DC");
    }
}

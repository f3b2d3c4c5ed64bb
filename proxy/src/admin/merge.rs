//! The application's own metrics beside the proxy's: Prometheus reaches one port of the pod, without a certificate.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header, uri::PathAndQuery};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{sync::Semaphore, time::timeout};

use super::{AdminState, Page, metrics, page};

/// The application has to give its metrics within this; Prometheus itself waits for 10 s.
const LIMIT: Duration = Duration::from_secs(5);
/// Most bytes of them.
const SIZE: usize = 8 * 1024 * 1024;
/// Scrapes that ask the application at a time.
const AT_A_TIME: usize = 2;
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPENMETRICS: &str = "application/openmetrics-text";
const ACCEPT: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5");
const END: &str = "# EOF\n";

/// Where the application shows its metrics, on loopback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Application {
    /// Its port.
    pub port: u16,
    /// Path and query.
    pub path: PathAndQuery,
}

impl FromStr for Application {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("{text:?} is not PORT/PATH, as in 8080/metrics");
        let (port, path) = text.split_once('/').ok_or_else(wrong)?;
        Ok(Self {
            port: port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?,
            path: format!("/{path}").parse().map_err(|_| wrong())?,
        })
    }
}

/// Metrics as the application gave them.
struct Scraped {
    text: String,
    openmetrics: bool,
}

/// Asks the application, not too often at once.
pub(super) struct Merge {
    scrapes: Semaphore,
}

impl Default for Merge {
    fn default() -> Self {
        Self {
            scrapes: Semaphore::new(AT_A_TIME),
        }
    }
}

impl Merge {
    /// The proxy's metrics and, where it is told of one, the application's. `weir_application_up` says whether the
    /// application gave any.
    pub(super) async fn page(&self, state: &AdminState) -> Page {
        let Some(application) = &state.application else {
            return metrics(state);
        };
        let scraped = timeout(LIMIT, self.scrape(application, state)).await;
        let scraped = scraped.unwrap_or_else(|_| Err(format!("no answer within {LIMIT:?}")));
        let own = (state.metrics)();
        let up = format!(
            "# HELP weir_application_up Whether the application gave its metrics.\n\
             # TYPE weir_application_up gauge\nweir_application_up {}\n",
            u8::from(scraped.is_ok())
        );
        let own = own.strip_suffix(END).unwrap_or(&own);
        match scraped {
            Ok(Scraped {
                text,
                openmetrics: false,
            }) => {
                let own = plain(own);
                let line = if text.is_empty() || text.ends_with('\n') {
                    ""
                } else {
                    "\n"
                };
                page(StatusCode::OK, TEXT, format!("{own}{up}{text}{line}"))
            }
            Ok(Scraped { text, .. }) => {
                let text = text.trim_end();
                let text = text.strip_suffix(END.trim_end()).unwrap_or(text).trim_end();
                page(
                    StatusCode::OK,
                    state.metrics_type,
                    format!("{own}{up}{text}\n{END}"),
                )
            }
            Err(why) => {
                tracing::debug!(port = application.port, path = %application.path, why, "no metrics of the application");
                page(StatusCode::OK, state.metrics_type, format!("{own}{up}{END}"))
            }
        }
    }

    async fn scrape(&self, application: &Application, state: &AdminState) -> Result<Scraped, String> {
        let _permit = self.scrapes.acquire().await.map_err(|error| error.to_string())?;
        let port = application.port;
        let addresses = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let addresses = addresses.map(|ip| SocketAddr::new(ip, port));
        if addresses.iter().any(|address| (state.own)(*address)) {
            return Err("the port is the proxy's own".to_owned());
        }
        let [first, second] = addresses;
        let stream = match state.dialer.dial(first, LIMIT).await {
            Ok(stream) => stream,
            Err(_) => state
                .dialer
                .dial(second, LIMIT)
                .await
                .map_err(|error| error.to_string())?,
        };
        let failed = |error: hyper::Error| error.to_string();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        let request = Request::get(application.path.as_str())
            .header(header::HOST, format!("localhost:{port}"))
            .header(header::ACCEPT, ACCEPT)
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|error| error.to_string())?;
        let asked = async {
            let response = sender.send_request(request).await.map_err(failed)?;
            if response.status() != StatusCode::OK {
                return Err(format!("it answers {}", response.status()));
            }
            let kind = response.headers().get(header::CONTENT_TYPE);
            let openmetrics = kind.is_some_and(|kind| kind.as_bytes().starts_with(OPENMETRICS.as_bytes()));
            let body = Limited::new(response.into_body(), SIZE).collect().await;
            let bytes = body.map_err(|error| error.to_string())?.to_bytes();
            let text = String::from_utf8(bytes.into()).map_err(|_| "not UTF-8".to_owned())?;
            Ok(Scraped { text, openmetrics })
        };
        // Dropping the connection closes it, whatever comes first.
        tokio::pin!(asked);
        tokio::select! {
            answered = &mut asked => answered,
            _ = connection => asked.await,
        }
    }
}

/// OpenMetrics as the older text format, which names a family as its samples, and knows fewer types.
fn plain(openmetrics: &str) -> String {
    let suffix = |kind: &str| match kind {
        "counter" => "_total",
        "info" => "_info",
        _ => "",
    };
    let families: std::collections::HashMap<&str, &str> = openmetrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .collect();
    let mut text = String::with_capacity(openmetrics.len());
    for line in openmetrics.lines() {
        let described = ["HELP", "TYPE", "UNIT"].iter().find_map(|word| {
            Some((
                *word,
                line.strip_prefix("# ")?
                    .strip_prefix(word)?
                    .trim_start()
                    .split_once(' ')?,
            ))
        });
        // Writing into a string cannot fail.
        let _ = match described {
            Some(("UNIT", _)) => Ok(()),
            Some((word, (name, rest))) => {
                let kind = families.get(name).copied().unwrap_or("unknown");
                let rest = match (word, rest) {
                    ("TYPE", "info" | "stateset") => "gauge",
                    ("TYPE", "unknown") => "untyped",
                    (_, rest) => rest,
                };
                writeln!(text, "# {word} {name}{} {rest}", suffix(kind))
            }
            None => writeln!(text, "{line}"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_application_is_told_by_port_and_path() {
        let application = "8080/metrics?all=1".parse::<Application>().unwrap();
        assert_eq!(
            (application.port, application.path.as_str()),
            (8080, "/metrics?all=1")
        );
        assert_eq!("9/".parse::<Application>().unwrap().path, "/");
        for wrong in ["", "8080", "/metrics", "0/metrics", "70000/metrics", "80/a b"] {
            assert!(wrong.parse::<Application>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_older_format_names_families_as_their_samples() {
        let openmetrics = "# HELP weir_build The version.\n# TYPE weir_build info\nweir_build_info{version=\"1\"} 1\n\
                           # HELP a Some.\n# TYPE a counter\n# UNIT a bytes\na_total{b=\"# TYPE\"} 2\n# HELP h H.\n# TYPE h histogram\nh_sum 1\n";
        let text = "# HELP weir_build_info The version.\n# TYPE weir_build_info gauge\nweir_build_info{version=\"1\"} 1\n\
                    # HELP a_total Some.\n# TYPE a_total counter\na_total{b=\"# TYPE\"} 2\n# HELP h H.\n# TYPE h histogram\nh_sum 1\n";
        assert_eq!(plain(openmetrics), text);
    }
}

//! An API server on loopback that does as it is told, badly too.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use futures::StreamExt as _;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{body::Frame, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use kube::{Client, Config};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;

use super::super::kinds::KINDS;

type Body = BoxBody<Bytes, Infallible>;
type Line = mpsc::UnboundedSender<Bytes>;

/// How the server behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mood {
    #[default]
    Well,
    /// Too many requests.
    Busy,
    /// Connections are closed unanswered.
    Away,
    /// Watches end as soon as they begin.
    Fickle,
}

#[derive(Default)]
pub(super) struct Server {
    mood: Mutex<Mood>,
    objects: Mutex<BTreeMap<&'static str, BTreeMap<String, Value>>>,
    watches: Mutex<Vec<(&'static str, Line)>>,
    /// What watches were told, by version.
    told: Mutex<Vec<(u64, &'static str, Bytes)>>,
    /// Plurals without a definition.
    absent: Mutex<BTreeSet<&'static str>>,
    /// Plurals whose next watch is told that its version is forgotten.
    forgotten: Mutex<BTreeSet<&'static str>>,
    version: AtomicU64,
    pub(super) lists: AtomicUsize,
    pub(super) begun: AtomicUsize,
    pub(super) refused: AtomicUsize,
}

impl Server {
    /// A server, and a client of it.
    pub(super) async fn start(stop: &CancellationToken) -> (Arc<Self>, Client) {
        let server = Arc::new(Self::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = server.clone().accept(listener);
        tokio::spawn(stop.clone().run_until_cancelled_owned(serving));
        (server, client(address))
    }

    pub(super) fn be(&self, mood: Mood) {
        *self.mood.lock() = mood;
        if mood != Mood::Well {
            self.sever();
        }
    }

    /// Ends every watch.
    pub(super) fn sever(&self) {
        self.watches.lock().clear();
    }

    pub(super) fn define(&self, plural: &'static str, defined: bool) {
        if defined {
            self.absent.lock().remove(plural);
        } else {
            self.absent.lock().insert(plural);
        }
    }

    pub(super) fn forget(&self, plural: &'static str) {
        self.forgotten.lock().insert(plural);
    }

    /// Writes an object, and tells the watches unless `quietly`.
    pub(super) fn put(&self, plural: &'static str, mut object: Value, quietly: bool) {
        let version = self.version.fetch_add(1, Ordering::Relaxed) + 1;
        object["metadata"]["resourceVersion"] = version.to_string().into();
        let last = self
            .objects
            .lock()
            .entry(plural)
            .or_default()
            .insert(name(&object), object.clone());
        if !quietly {
            self.tell(plural, if last.is_some() { "MODIFIED" } else { "ADDED" }, &object);
        }
    }

    pub(super) fn delete(&self, plural: &'static str, name: &str, quietly: bool) {
        let gone = self
            .objects
            .lock()
            .entry(plural)
            .or_default()
            .remove(name)
            .unwrap();
        if !quietly {
            self.tell(plural, "DELETED", &gone);
        }
    }

    fn tell(&self, plural: &'static str, r#type: &str, object: &Value) {
        let line = Bytes::from(format!("{}\n", json!({ "type": r#type, "object": object })));
        let watches = self.watches.lock();
        let version = object["metadata"]["resourceVersion"].as_str().unwrap();
        self.told
            .lock()
            .push((version.parse().unwrap(), plural, line.clone()));
        for (_, watch) in watches.iter().filter(|(of, _)| *of == plural) {
            // A client that is gone hears nothing.
            let _ = watch.send(line.clone());
        }
    }

    async fn accept(self: Arc<Self>, listener: TcpListener) {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let server = self.clone();
            connections.spawn(async move {
                let answer = service_fn(move |request: Request<Incoming>| {
                    let server = server.clone();
                    async move { server.answer(&request) }
                });
                http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), answer)
                    .await
            });
        }
    }

    fn answer(&self, request: &Request<Incoming>) -> Result<Response<Body>, std::io::Error> {
        let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
        let mood = *self.mood.lock();
        match mood {
            Mood::Well | Mood::Fickle => {}
            Mood::Busy => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                let mut busy = plain(
                    StatusCode::TOO_MANY_REQUESTS,
                    "Too many requests, please try again later.",
                );
                busy.headers_mut().insert("retry-after", "1".parse().unwrap());
                return Ok(busy);
            }
            Mood::Away => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                return Err(std::io::ErrorKind::ConnectionReset.into());
            }
        }
        if path == "/apis" {
            return Ok(groups());
        }
        let plural = path.rsplit('/').next().unwrap();
        let Some(kind) = KINDS.iter().find(|kind| kind.plural == plural) else {
            return Ok(self.resources(path));
        };
        if self.absent.lock().contains(plural) {
            return Ok(plain(StatusCode::NOT_FOUND, "404 page not found"));
        }
        Ok(match query.contains("watch=true") {
            true => self.watch(kind.plural, query, mood),
            false => self.list(kind.plural, query),
        })
    }

    /// Two objects a page.
    fn list(&self, plural: &'static str, query: &str) -> Response<Body> {
        self.lists.fetch_add(1, Ordering::Relaxed);
        let from = usize::try_from(number(query, "continue=").unwrap_or(0)).unwrap();
        let objects = self.objects.lock().get(plural).cloned().unwrap_or_default();
        let more = if from + 2 < objects.len() {
            (from + 2).to_string()
        } else {
            String::new()
        };
        let items: Vec<Value> = objects.into_values().skip(from).take(2).collect();
        let version = self.version.load(Ordering::Relaxed).max(1).to_string();
        json_of(&json!({
            "apiVersion": "v1", "kind": "List",
            "metadata": { "resourceVersion": version, "continue": more },
            "items": items,
        }))
    }

    fn watch(&self, plural: &'static str, query: &str, mood: Mood) -> Response<Body> {
        self.begun.fetch_add(1, Ordering::Relaxed);
        let (line, lines) = mpsc::unbounded_channel();
        if self.forgotten.lock().remove(plural) {
            let status = json!({ "kind": "Status", "status": "Failure", "reason": "Expired", "code": 410,
                "message": "too old resource version" });
            let _ = line.send(format!("{}\n", json!({ "type": "ERROR", "object": status })).into());
        } else if mood == Mood::Well {
            let mut watches = self.watches.lock();
            let since = number(query, "resourceVersion=").unwrap_or(0);
            for (_, _, missed) in self
                .told
                .lock()
                .iter()
                .filter(|(at, of, _)| *at > since && *of == plural)
            {
                let _ = line.send(missed.clone());
            }
            watches.push((plural, line));
        }
        let frames = UnboundedReceiverStream::new(lines).map(|line| Ok(Frame::data(line)));
        Response::new(BodyExt::boxed(StreamBody::new(frames)))
    }

    fn resources(&self, path: &str) -> Response<Body> {
        let version = path.trim_start_matches("/apis/");
        let absent = self.absent.lock();
        let served = KINDS
            .iter()
            .filter(|kind| kind.api_version == version && !absent.contains(kind.plural));
        let resources: Vec<Value> = served
            .map(|kind| json!({ "name": kind.plural, "singularName": "", "namespaced": true, "kind": kind.name, "verbs": [] }))
            .collect();
        json_of(&json!({ "kind": "APIResourceList", "groupVersion": version, "resources": resources }))
    }
}

fn client(address: SocketAddr) -> Client {
    // The tests of other rooms may have been first.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Client::try_from(Config::new(format!("http://{address}").parse().unwrap())).unwrap()
}

fn number(query: &str, parameter: &str) -> Option<u64> {
    query
        .split('&')
        .find_map(|it| it.strip_prefix(parameter)?.parse().ok())
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap().to_owned()
}

fn groups() -> Response<Body> {
    let versions: BTreeSet<(&str, &str)> = KINDS.iter().map(|kind| kind.group_version()).collect();
    let groups: Vec<Value> = versions
        .into_iter()
        .filter(|(group, _)| !group.is_empty())
        .map(|(group, version)| {
            json!({ "name": group, "versions": [{ "groupVersion": format!("{group}/{version}"), "version": version }] })
        })
        .collect();
    json_of(&json!({ "kind": "APIGroupList", "groups": groups }))
}

fn json_of(value: &Value) -> Response<Body> {
    Response::new(Full::from(value.to_string()).boxed())
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Full::from(text).boxed());
    *response.status_mut() = status;
    response
}

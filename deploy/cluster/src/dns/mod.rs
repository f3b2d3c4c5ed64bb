//! A DNS server for cluster names, as small as tests need one: it watches Services and EndpointSlices and answers on
//! UDP and TCP. Names outside the cluster do not exist.

mod records;

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context;
use futures::StreamExt;
use hickory_proto::op::{Message, MessageType, ResponseCode};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{
    Api, Client, Resource,
    runtime::{WatchStreamExt, reflector, reflector::Store, watcher},
};
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinSet,
};

use records::Objects;

/// The longest answer over UDP to a client that does not say more.
const SMALL: usize = 512;

/// A running server; it ends when dropped.
#[derive(Debug)]
pub(crate) struct Dns {
    _tasks: JoinSet<()>,
}

/// What the watches have seen.
struct Table {
    services: Store<Service>,
    slices: Store<EndpointSlice>,
}

impl Dns {
    /// Starts to watch and to answer on `address`.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub(crate) async fn start(client: Client, address: SocketAddr) -> anyhow::Result<Self> {
        let udp = UdpSocket::bind(address).await;
        let udp = udp.with_context(|| format!("cannot serve DNS on UDP {address}"))?;
        let tcp = TcpListener::bind(address).await;
        let tcp = tcp.with_context(|| format!("cannot serve DNS on TCP {address}"))?;
        let mut tasks = JoinSet::new();
        let table = Arc::new(Table {
            services: watch(&mut tasks, client.clone()),
            slices: watch(&mut tasks, client),
        });
        tasks.spawn(datagrams(udp, Arc::clone(&table)));
        tasks.spawn(connections(tcp, table));
        Ok(Self { _tasks: tasks })
    }
}

fn watch<K>(tasks: &mut JoinSet<()>, client: Client) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let objects = watcher(Api::<K>::all(client), watcher::Config::default()).default_backoff();
    let stream = reflector::reflector(writer, objects);
    tasks.spawn(async move { stream.for_each(|_| std::future::ready(())).await });
    store
}

impl Table {
    /// The answer to a message; nothing to one that cannot be read.
    fn answer(&self, request: &[u8], limit: usize) -> Option<Vec<u8>> {
        let request = Message::from_vec(request).ok()?;
        if request.metadata.message_type != MessageType::Query {
            return None;
        }
        let limit = limit.max(usize::from(request.max_payload()));
        let mut response = Message::response(request.metadata.id, request.metadata.op_code);
        response.metadata.recursion_desired = request.metadata.recursion_desired;
        response.metadata.recursion_available = true;
        response.metadata.authoritative = true;
        let objects = Objects {
            services: self.services.state(),
            slices: self.slices.state(),
        };
        for query in &request.queries {
            match records::answer(&objects, query.name(), query.query_type()) {
                Some(records) => response.answers.extend(records),
                None => response.metadata.response_code = ResponseCode::NXDomain,
            }
        }
        response.queries = request.queries;
        let whole = response.to_vec().ok()?;
        match whole.len() <= limit {
            true => Some(whole),
            false => response.truncate().to_vec().ok(),
        }
    }
}

async fn datagrams(socket: UdpSocket, table: Arc<Table>) {
    let mut buffer = [0; 4096];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        if let Some(answer) = buffer
            .get(..length)
            .and_then(|request| table.answer(request, SMALL))
        {
            // Who asked asks again.
            let _lost = socket.send_to(&answer, from).await;
        }
    }
}

async fn connections(listener: TcpListener, table: Arc<Table>) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    open.spawn(connection(stream, Arc::clone(&table)));
                }
            }
            Some(_) = open.join_next() => {}
        }
    }
}

/// Messages with their length before them, until the other end closes.
async fn connection(mut stream: TcpStream, table: Arc<Table>) {
    while let Ok(length) = stream.read_u16().await {
        let mut request = vec![0; usize::from(length)];
        if stream.read_exact(&mut request).await.is_err() {
            return;
        }
        let Some(answer) = table.answer(&request, usize::from(u16::MAX)) else {
            return;
        };
        let Ok(length) = u16::try_from(answer.len()) else {
            return;
        };
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend(answer);
        if stream.write_all(&framed).await.is_err() {
            return;
        }
    }
}

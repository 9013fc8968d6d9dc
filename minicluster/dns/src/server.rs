//! The sockets of the DNS server: UDP and TCP on the cluster's DNS address, each question answered from the zone or
//! handed, byte for byte, to the node's resolvers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use windlass::{BoxError, RunCx, Runnable};

use crate::view::{Informed, View};
use crate::zone::{Answer, Zone};

/// Questions worked on at once; further ones wait in the socket's buffer.
const AT_ONCE: usize = 512;
/// TCP connections at once; further ones wait to be accepted.
const CONNECTIONS: usize = 256;
/// A TCP connection without a question for this long is closed.
const IDLE: Duration = Duration::from_secs(10);
/// How long one of the node's resolvers may take.
const FORWARD: Duration = Duration::from_secs(2);
/// Largest datagram taken or given.
const DATAGRAM: usize = 4096;
/// Pause after the addresses could not be bound; doubles to [`MAX_RETRY`].
const RETRY: Duration = Duration::from_millis(200);
const MAX_RETRY: Duration = Duration::from_secs(10);

/// What a DNS server is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it listens; both UDP and TCP.
    pub listen: Vec<SocketAddr>,
    /// The cluster's domain.
    pub domain: String,
    /// Resolvers for everything else, in the order they are asked.
    pub forward: Vec<SocketAddr>,
}

/// Why a DNS server cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// The domain is no name.
    #[error("the cluster domain is not a DNS name: {0}")]
    Domain(#[from] hickory_proto::ProtoError),
}

/// The DNS server of a cluster.
pub struct Dns {
    config: Config,
    zone: Zone,
}

struct Serving {
    zone: Zone,
    view: Arc<dyn View>,
    forward: Vec<SocketAddr>,
    permits: Arc<Semaphore>,
}

impl Dns {
    /// A server for this configuration. A resolver that is one of its own addresses is left out.
    ///
    /// # Errors
    /// [`DnsError`]
    pub fn new(mut config: Config) -> Result<Self, DnsError> {
        let own = config.listen.clone();
        config.forward.retain(|f| !own.contains(f));
        Ok(Self { zone: Zone::new(&config.domain)?, config })
    }

    /// The resolvers of a `resolv.conf`.
    pub fn resolvers(resolv_conf: &str) -> Vec<SocketAddr> {
        let servers = resolv_conf.lines().filter_map(|l| l.trim().strip_prefix("nameserver"));
        servers
            .filter_map(|s| Some(SocketAddr::new(s.split_whitespace().next()?.parse().ok()?, 53)))
            .collect()
    }

    /// Serves a view until it is dropped; tries again while an address is not there yet.
    pub async fn serve(&self, view: Arc<dyn View>) {
        let serving = Arc::new(Serving {
            zone: self.zone.clone(),
            view,
            forward: self.config.forward.clone(),
            permits: Arc::new(Semaphore::new(AT_ONCE)),
        });
        let all = self.config.listen.iter().map(|at| {
            let serving = serving.clone();
            async move {
                tokio::join!(keep(*at, "udp", || udp(*at, &serving)), keep(*at, "tcp", || tcp(*at, &serving)))
            }
        });
        futures::future::join_all(all).await;
    }
}

impl Runnable for Dns {
    fn name(&self) -> &str {
        "cluster-dns"
    }

    fn needs_leader(&self) -> bool {
        false
    }

    fn run(&self, cx: RunCx) -> BoxFuture<'_, Result<(), BoxError>> {
        async move {
            let view = Arc::new(Informed::new(&cx.informers));
            let work = async {
                view.synced().await;
                self.serve(view.clone()).await;
            };
            tokio::select! {
                biased;
                () = work => {}
                () = cx.stop.cancelled() => {}
            }
            Ok(())
        }
        .boxed()
    }
}

/// Runs a listener again whenever it fails.
async fn keep<F: Future<Output = std::io::Result<()>>>(
    at: SocketAddr,
    what: &str,
    mut listen: impl FnMut() -> F,
) {
    let mut pause = RETRY;
    loop {
        if let Err(error) = listen().await {
            tracing::warn!(%at, what, %error, "DNS cannot listen; trying again");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_RETRY);
    }
}

async fn udp(at: SocketAddr, serving: &Arc<Serving>) -> std::io::Result<()> {
    let socket = Arc::new(UdpSocket::bind(at).await?);
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let permit = serving.permits.clone().acquire_owned().await;
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // An earlier answer that could not be delivered is no reason to stop.
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => continue,
            Err(e) => return Err(e),
        };
        let (question, socket, serving) = (buffer[..length].to_vec(), socket.clone(), serving.clone());
        tokio::spawn(async move {
            if let Some(answer) = serving.answer(&question, false).await {
                let _ = socket.send_to(&answer, from).await;
            }
            drop(permit);
        });
    }
}

async fn tcp(at: SocketAddr, serving: &Arc<Serving>) -> std::io::Result<()> {
    let listener = TcpListener::bind(at).await?;
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let permit = connections.clone().acquire_owned().await;
        let (stream, _) = listener.accept().await?;
        let serving = serving.clone();
        tokio::spawn(async move {
            let _ = connection(stream, &serving).await;
            drop(permit);
        });
    }
}

async fn connection(mut stream: TcpStream, serving: &Serving) -> std::io::Result<()> {
    loop {
        let length = tokio::time::timeout(IDLE, stream.read_u16()).await??;
        let mut question = vec![0; usize::from(length)];
        tokio::time::timeout(IDLE, stream.read_exact(&mut question)).await??;
        let Some(answer) = serving.answer(&question, true).await else { return Ok(()) };
        stream.write_u16(u16::try_from(answer.len()).unwrap_or(0)).await?;
        stream.write_all(&answer).await?;
    }
}

impl Serving {
    /// The answer to a question, as bytes; nothing for what is no question.
    async fn answer(&self, bytes: &[u8], tcp: bool) -> Option<Vec<u8>> {
        let request = Message::from_vec(bytes).ok()?;
        let (id, code) = (request.metadata.id, request.metadata.op_code);
        let reply = match request.queries.as_slice() {
            [query] if code == OpCode::Query => {
                match self.zone.answer(&*self.view, &query.name, query.query_type) {
                    Answer::Elsewhere => return Some(self.forwarded(&request, bytes, tcp).await),
                    answer => self.reply(&request, query, answer).await,
                }
            }
            _ => Message::error_msg(id, code, ResponseCode::NotImp),
        };
        let limit =
            if tcp { usize::from(u16::MAX) } else { usize::from(request.max_payload()).min(DATAGRAM) };
        let bytes = reply.to_vec().ok()?;
        if bytes.len() <= limit {
            return Some(bytes);
        }
        let mut short = reply.truncate();
        short.queries.clone_from(&request.queries);
        short.to_vec().ok()
    }

    async fn reply(&self, request: &Message, query: &Query, answer: Answer) -> Message {
        let mut reply = Message::response(request.metadata.id, OpCode::Query);
        reply.metadata.authoritative = true;
        reply.metadata.recursion_desired = request.metadata.recursion_desired;
        reply.metadata.recursion_available = !self.forward.is_empty();
        reply.queries.push(query.clone());
        if request.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(u16::try_from(DATAGRAM).unwrap_or(u16::MAX));
            reply.edns = Some(edns);
        }
        match answer {
            Answer::Found { records, additional, follow } => {
                reply.answers = records;
                reply.additionals = additional;
                if let Some(name) = follow {
                    reply.answers.extend(self.follow(name, query.query_type).await);
                }
            }
            Answer::Nothing { code, soa } => {
                reply.metadata.response_code = code;
                reply.authorities.push(soa);
            }
            Answer::Elsewhere => reply.metadata.response_code = ResponseCode::Refused,
        }
        reply
    }

    /// The records behind an alias that leads out of the cluster.
    async fn follow(&self, name: Name, kind: RecordType) -> Vec<hickory_proto::rr::Record> {
        let mut question = Message::query();
        question.metadata.recursion_desired = true;
        question.queries.push(Query::query(name, kind));
        let Ok(bytes) = question.to_vec() else { return Vec::new() };
        let reply = self.ask_others(&bytes, false).await;
        reply.and_then(|r| Message::from_vec(&r).ok()).map(|m| m.answers).unwrap_or_default()
    }

    async fn forwarded(&self, request: &Message, bytes: &[u8], tcp: bool) -> Vec<u8> {
        if let Some(answer) = self.ask_others(bytes, tcp).await {
            return answer;
        }
        let mut failed = Message::error_msg(request.metadata.id, OpCode::Query, ResponseCode::ServFail);
        failed.queries.clone_from(&request.queries);
        failed.to_vec().unwrap_or_default()
    }

    /// The first answer of the node's resolvers.
    async fn ask_others(&self, question: &[u8], tcp: bool) -> Option<Vec<u8>> {
        for server in &self.forward {
            let ask =
                async { if tcp { by_tcp(*server, question).await } else { by_udp(*server, question).await } };
            if let Ok(Ok(answer)) = tokio::time::timeout(FORWARD, ask).await {
                return Some(answer);
            }
        }
        None
    }
}

async fn by_udp(server: SocketAddr, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // Only the answer to this very question counts.
        if buffer.get(..2) == question.get(..2) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn by_tcp(server: SocketAddr, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_u16(u16::try_from(question.len()).unwrap_or(0)).await?;
    stream.write_all(question).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Endpoint;

    struct Empty;

    impl View for Empty {
        fn service(&self, _: &str, _: &str) -> Option<Arc<k8s_openapi::api::core::v1::Service>> {
            None
        }
        fn endpoints(&self, _: &str, _: &str) -> Vec<Endpoint> {
            Vec::new()
        }
        fn namespace(&self, name: &str) -> bool {
            name == "shop"
        }
        fn service_at(&self, _: IpAddr) -> Option<Arc<k8s_openapi::api::core::v1::Service>> {
            None
        }
        fn endpoint_at(&self, _: IpAddr) -> Option<(String, String, Endpoint)> {
            None
        }
    }

    async fn free() -> SocketAddr {
        UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
    }

    async fn ask(server: SocketAddr, name: &str, tcp: bool) -> Message {
        let mut question = Message::query();
        question.queries.push(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        let bytes = question.to_vec().unwrap();
        for _ in 0..100 {
            let reply = if tcp { by_tcp(server, &bytes).await } else { by_udp(server, &bytes).await };
            match reply {
                Ok(reply) => return Message::from_vec(&reply).unwrap(),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        panic!("no answer");
    }

    #[tokio::test]
    async fn questions_of_other_zones_are_handed_on() {
        let (other, own) = (free().await, free().await);
        let config = |listen, forward: Vec<SocketAddr>, domain: &str| Config {
            listen: vec![listen],
            domain: domain.into(),
            forward,
        };
        // The other resolver knows a zone of its own.
        let elsewhere = Dns::new(config(other, vec![], "example.org")).unwrap();
        let server = Dns::new(config(own, vec![other], "cluster.local")).unwrap();
        let tasks = [
            tokio::spawn(async move { elsewhere.serve(Arc::new(Empty)).await }),
            tokio::spawn(async move { server.serve(Arc::new(Empty)).await }),
        ];
        for tcp in [false, true] {
            let own_name = ask(own, "nope.shop.svc.cluster.local.", tcp).await;
            assert_eq!(own_name.metadata.response_code, ResponseCode::NXDomain);
            assert!(own_name.metadata.authoritative);
            let handed_on = ask(own, "shop.svc.example.org.", tcp).await;
            assert_eq!(handed_on.metadata.response_code, ResponseCode::NoError);
            assert_eq!(handed_on.authorities[0].name.to_ascii(), "example.org.");
        }
        for task in tasks {
            task.abort();
        }
    }

    #[test]
    fn resolvers_come_from_resolv_conf() {
        let found =
            Dns::resolvers("search lan\nnameserver 192.0.2.1\nnameserver bad\n nameserver 192.0.2.2 # two\n");
        assert_eq!(found, ["192.0.2.1:53".parse().unwrap(), "192.0.2.2:53".parse().unwrap()]);
    }
}

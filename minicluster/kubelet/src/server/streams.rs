//! Terminals and port-forwarding: the client's upgraded connection is joined to the runtime's streaming server.
//!
//! SPDY and the older WebSocket protocols are spoken by the runtime itself, so their bytes pass through untouched. What
//! it does not speak is translated: WebSocket v5 (which can tell the end of input) into SPDY streams, and the tunnel
//! that carries SPDY inside WebSocket for port-forwarding into plain bytes.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};

use super::spdy::{self, Frame, Writer};
use super::websocket::{self, Message};
use super::{Body, full, text};
use crate::kubelet::Handle;
use crate::runtime::{ContainerState, RuntimeError, Streams};

/// What a log is read with.
const BINARY: &str = "binary.k8s.io";
const BASE64: &str = "base64.binary.k8s.io";
const V5: &str = "v5.channel.k8s.io";
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// What is spoken to the runtime when a terminal is translated.
const TO_RUNTIME: &str = "v4.channel.k8s.io";

/// Channels of the WebSocket protocol, by the first byte of each message.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// The byte after it names the channel that has ended.
const CLOSE: u8 = 255;

type Io = TokioIo<Upgraded>;

pub(super) async fn exec(
    kubelet: &Handle,
    request: Request<Incoming>,
    namespace: &str,
    pod: &str,
    container: &str,
) -> Response<Body> {
    let id = match running(kubelet, namespace, pod, container) {
        Ok(id) => id,
        Err(reply) => return reply,
    };
    let (streams, command) = asked(request.uri());
    if command.is_empty() {
        return text(StatusCode::BAD_REQUEST, "you must specify at least 1 command");
    }
    let url = kubelet.shared.runtime.exec_url(&id, &command, streams).await;
    terminal(request, url, streams).await
}

pub(super) async fn attach(
    kubelet: &Handle,
    request: Request<Incoming>,
    namespace: &str,
    pod: &str,
    container: &str,
) -> Response<Body> {
    let id = match running(kubelet, namespace, pod, container) {
        Ok(id) => id,
        Err(reply) => return reply,
    };
    let (mut streams, _) = asked(request.uri());
    // A container keeps the terminal it was made with.
    let cell = kubelet.find(namespace, pod);
    let spec = cell.and_then(|c| crate::pod::container(&c.pod(), container).map(|(_, c)| c.into_owned()));
    streams.tty = spec.and_then(|c| c.tty).unwrap_or_default();
    if streams.tty {
        streams.stderr = false;
    }
    let url = kubelet.shared.runtime.attach_url(&id, streams).await;
    terminal(request, url, streams).await
}

pub(super) async fn port_forward(
    kubelet: &Handle,
    request: Request<Incoming>,
    namespace: &str,
    pod: &str,
) -> Response<Body> {
    let Some(cell) = kubelet.find(namespace, pod) else {
        return text(StatusCode::NOT_FOUND, format!("pod \"{pod}\" does not exist"));
    };
    let view = cell.view();
    let Some(sandbox) = view.sandboxes.first().filter(|s| s.ready) else {
        return text(StatusCode::NOT_FOUND, format!("pod \"{pod}\" is not running"));
    };
    let ports = values(request.uri(), "port").iter().filter_map(|p| p.parse().ok()).collect::<Vec<i32>>();
    let url = match kubelet.shared.runtime.port_forward_url(&sandbox.id, &ports).await {
        Ok(url) => url,
        Err(error) => return refused(&error),
    };
    if !offers(request.headers(), TUNNEL) {
        return pass(request, &url).await;
    }
    switch(request, TUNNEL, move |client| async move {
        let (runtime, _) = dial(&url, "portforward.k8s.io").await?;
        tunnel(client, runtime).await
    })
}

fn refused(error: &RuntimeError) -> Response<Body> {
    text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

/// The running instance of a container.
fn running(kubelet: &Handle, namespace: &str, pod: &str, container: &str) -> Result<String, Response<Body>> {
    let Some(cell) = kubelet.find(namespace, pod) else {
        return Err(text(StatusCode::NOT_FOUND, format!("pod \"{pod}\" does not exist")));
    };
    let view = cell.view();
    let found = view.newest(container).filter(|c| c.state == ContainerState::Running);
    found
        .map(|c| c.id.clone())
        .ok_or_else(|| text(StatusCode::NOT_FOUND, format!("container not found (\"{container}\")")))
}

/// All values of a query parameter.
fn values(uri: &Uri, name: &str) -> Vec<String> {
    let pairs = uri.query().unwrap_or_default().split('&');
    let found = pairs.filter_map(|p| p.split_once('=')).filter(|(key, _)| *key == name);
    found.map(|(_, value)| decoded(value)).collect()
}

/// Undoes percent encoding; `+` is a blank.
fn decoded(value: &str) -> String {
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = |b: &u8| char::from(*b).to_digit(16).and_then(|d| u8::try_from(d).ok());
        match (first, tail) {
            (b'+', _) => out.push(b' '),
            (b'%', [a, b, after @ ..]) if hex(a).is_some() && hex(b).is_some() => {
                out.push(hex(a).unwrap_or(0) << 4 | hex(b).unwrap_or(0));
                rest = after;
                continue;
            }
            (byte, _) => out.push(*byte),
        }
        rest = tail;
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn asked(uri: &Uri) -> (Streams, Vec<String>) {
    let flag = |names: [&str; 2]| {
        names.iter().flat_map(|n| values(uri, n)).any(|v| matches!(v.as_str(), "1" | "true"))
    };
    let tty = flag(["tty", "tty"]);
    let streams = Streams {
        stdin: flag(["input", "stdin"]),
        stdout: flag(["output", "stdout"]),
        // A terminal has one output.
        stderr: flag(["error", "stderr"]) && !tty,
        tty,
    };
    (streams, values(uri, "command"))
}

/// The client's WebSocket offers this protocol.
fn offers(headers: &HeaderMap, protocol: &str) -> bool {
    let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL);
    offered.iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).any(|p| p.trim() == protocol)
}

async fn terminal(
    request: Request<Incoming>,
    url: Result<String, RuntimeError>,
    streams: Streams,
) -> Response<Body> {
    let url = match url {
        Ok(url) => url,
        Err(error) => return refused(&error),
    };
    if !offers(request.headers(), V5) {
        return pass(request, &url).await;
    }
    switch(request, V5, move |client| async move {
        let (runtime, _) = dial(&url, TO_RUNTIME).await?;
        translate(client, runtime, streams).await
    })
}

/// The client asks for WebSocket.
pub(super) fn wants_websocket(headers: &HeaderMap) -> bool {
    headers.get(header::UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Sends chunks as messages until they end: binary ones, or text in base64 where the client asks for that.
pub(super) fn messages(request: Request<Incoming>, mut chunks: mpsc::Receiver<Bytes>) -> Response<Body> {
    let protocol = [BINARY, BASE64].into_iter().find(|protocol| offers(request.headers(), protocol));
    let encoded = protocol == Some(BASE64);
    switch(request, protocol.unwrap_or_default(), move |mut client| async move {
        while let Some(chunk) = chunks.recv().await {
            if encoded {
                websocket::write_text(&mut client, &STANDARD.encode(chunk)).await?;
            } else {
                websocket::write(&mut client, &[&chunk]).await?;
            }
        }
        websocket::close(&mut client).await
    })
}

/// Answers a WebSocket handshake and goes on with the connection aside.
fn switch<F, W>(mut request: Request<Incoming>, protocol: &'static str, work: W) -> Response<Body>
where
    F: Future<Output = io::Result<()>> + Send,
    W: FnOnce(Io) -> F + Send + 'static,
{
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY).and_then(|k| k.to_str().ok());
    let Some(accept) = key.map(websocket::accept) else {
        return text(StatusCode::BAD_REQUEST, "a WebSocket key is missing");
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(client) = upgrade.await else { return };
        if let Err(error) = work(TokioIo::new(client)).await {
            tracing::debug!(%error, "a stream ended early");
        }
    });
    let mut reply = Response::new(full(Bytes::new()));
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = reply.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    if !protocol.is_empty() {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    if let Ok(accept) = HeaderValue::try_from(accept) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    reply
}

/// Sends a request to the runtime's streaming server; its answer.
async fn ask(url: &str, method: Method, headers: HeaderMap) -> io::Result<Response<Incoming>> {
    let other = |e: String| io::Error::other(e);
    let uri: Uri = url.parse().map_err(|e| other(format!("the runtime gave a bad address: {e}")))?;
    let host = uri.host().unwrap_or("127.0.0.1").trim_matches(['[', ']']).to_owned();
    let tcp = TcpStream::connect((host, uri.port_u16().unwrap_or(80))).await?;
    tcp.set_nodelay(true)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await.map_err(|e| other(e.to_string()))?;
    tokio::spawn(connection.with_upgrades());
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .body(Empty::<Bytes>::new())
        .map_err(|e| other(e.to_string()))?;
    *request.headers_mut() = headers;
    if let Some(authority) = uri.authority().and_then(|a| HeaderValue::try_from(a.as_str()).ok()) {
        request.headers_mut().insert(header::HOST, authority);
    }
    sender.send_request(request).await.map_err(|e| other(e.to_string()))
}

/// Opens a SPDY connection to the runtime.
async fn dial(url: &str, protocol: &'static str) -> io::Result<(Io, HeaderMap)> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    headers.insert("x-stream-protocol-version", HeaderValue::from_static(protocol));
    let mut reply = ask(url, Method::POST, headers).await?;
    if reply.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(io::Error::other(format!("the runtime refused the stream: {}", reply.status())));
    }
    let headers = reply.headers().clone();
    let upgraded = hyper::upgrade::on(&mut reply).await.map_err(io::Error::other)?;
    Ok((TokioIo::new(upgraded), headers))
}

/// Hands the request to the runtime as it is, and its answer back; from then on bytes pass both ways.
async fn pass(mut request: Request<Incoming>, url: &str) -> Response<Body> {
    let mut headers = request.headers().clone();
    headers.remove(header::AUTHORIZATION);
    let mut reply = match ask(url, request.method().clone(), headers).await {
        Ok(reply) => reply,
        Err(error) => {
            return text(StatusCode::BAD_GATEWAY, format!("the runtime cannot be reached: {error}"));
        }
    };
    let (status, headers) = (reply.status(), reply.headers().clone());
    let mut answer = Response::new(full(Bytes::new()));
    *answer.status_mut() = status;
    if status != StatusCode::SWITCHING_PROTOCOLS {
        use http_body_util::BodyExt as _;
        let body = http_body_util::Limited::new(reply.into_body(), 1 << 16).collect().await;
        *answer.body_mut() = full(body.map(http_body_util::Collected::to_bytes).unwrap_or_default());
        return answer;
    }
    *answer.headers_mut() = headers;
    let client = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let (Ok(client), Ok(runtime)) = tokio::join!(client, hyper::upgrade::on(&mut reply)) else { return };
        let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(runtime)).await;
    });
    answer
}

/// SPDY inside WebSocket: each message is a piece of the byte stream.
async fn tunnel(client: Io, runtime: Io) -> io::Result<()> {
    let (mut from_client, to_client) = tokio::io::split(client);
    let (mut from_runtime, mut to_runtime) = tokio::io::split(runtime);
    let to_client = Mutex::new(to_client);
    let inward = async {
        loop {
            match websocket::read(&mut from_client).await? {
                Message::Data(data) => to_runtime.write_all(&data).await?,
                Message::Ping(data) => websocket::pong(&mut *to_client.lock().await, &data).await?,
                Message::Close => return to_runtime.shutdown().await,
            }
        }
    };
    let outward = async {
        let mut buffer = vec![0; 32 * 1024];
        loop {
            let n = from_runtime.read(&mut buffer).await?;
            if n == 0 {
                return websocket::close(&mut *to_client.lock().await).await;
            }
            websocket::write(&mut *to_client.lock().await, &[&buffer[..n]]).await?;
        }
    };
    tokio::select! { ended = inward => ended, ended = outward => ended }
}

/// The SPDY streams of a terminal by channel.
struct Ids {
    stdin: Option<u32>,
    resize: Option<u32>,
    /// Streams from the runtime: id and channel.
    out: Vec<(u32, u8)>,
}

async fn open(writer: &mut Writer<WriteHalf<Io>>, streams: Streams) -> io::Result<Ids> {
    let mut ids = Ids { stdin: None, resize: None, out: Vec::new() };
    ids.out.push((writer.open(&[("streamtype", "error")]).await?, ERROR));
    if streams.stdin {
        ids.stdin = Some(writer.open(&[("streamtype", "stdin")]).await?);
    }
    if streams.stdout {
        ids.out.push((writer.open(&[("streamtype", "stdout")]).await?, STDOUT));
    }
    if streams.stderr {
        ids.out.push((writer.open(&[("streamtype", "stderr")]).await?, STDERR));
    }
    if streams.tty {
        ids.resize = Some(writer.open(&[("streamtype", "resize")]).await?);
    }
    Ok(ids)
}

/// A WebSocket v5 terminal over SPDY streams.
async fn translate(client: Io, runtime: Io, streams: Streams) -> io::Result<()> {
    let (mut from_client, to_client) = tokio::io::split(client);
    let (mut from_runtime, to_runtime) = tokio::io::split(runtime);
    let (to_client, to_runtime) = (Mutex::new(to_client), Mutex::new(Writer::new(to_runtime)));
    let ids = open(&mut *to_runtime.lock().await, streams).await?;
    if streams.stdout {
        // Tells the client that the stream is there.
        websocket::write(&mut *to_client.lock().await, &[&[STDOUT]]).await?;
    }
    tokio::select! {
        ended = inward(&mut from_client, &to_client, &to_runtime, &ids) => ended,
        ended = outward(&mut from_runtime, &to_client, &to_runtime, &ids) => {
            let _ = websocket::close(&mut *to_client.lock().await).await;
            ended
        }
    }
}

async fn inward(
    from_client: &mut ReadHalf<Io>,
    to_client: &Mutex<WriteHalf<Io>>,
    to_runtime: &Mutex<Writer<WriteHalf<Io>>>,
    ids: &Ids,
) -> io::Result<()> {
    loop {
        let data = match websocket::read(from_client).await? {
            Message::Data(data) => data,
            Message::Ping(data) => {
                websocket::pong(&mut *to_client.lock().await, &data).await?;
                continue;
            }
            Message::Close => return Ok(()),
        };
        let mut runtime = to_runtime.lock().await;
        match (data.split_first(), ids.stdin, ids.resize) {
            (Some((&STDIN, bytes)), Some(stdin), _) => runtime.data(stdin, bytes, false).await?,
            (Some((&RESIZE, bytes)), _, Some(resize)) => runtime.data(resize, bytes, false).await?,
            (Some((&CLOSE, [STDIN])), Some(stdin), _) => runtime.data(stdin, b"", true).await?,
            _ => {}
        }
    }
}

async fn outward(
    from_runtime: &mut ReadHalf<Io>,
    to_client: &Mutex<WriteHalf<Io>>,
    to_runtime: &Mutex<Writer<WriteHalf<Io>>>,
    ids: &Ids,
) -> io::Result<()> {
    let mut open = ids.out.clone();
    while let Some(frame) = spdy::read(from_runtime).await? {
        let (id, data, end) = match frame {
            Frame::Data { id, data, end } => (id, data, end),
            Frame::Reset(id) => (id, Vec::new(), true),
            Frame::Ping(id) => {
                to_runtime.lock().await.pong(id).await?;
                continue;
            }
            Frame::Goodbye => return Ok(()),
        };
        let channel = ids.out.iter().find(|(known, _)| *known == id).map(|(_, channel)| *channel);
        if let Some(channel) = channel.filter(|_| !data.is_empty()) {
            websocket::write(&mut *to_client.lock().await, &[&[channel], &data]).await?;
        }
        if end {
            open.retain(|(known, _)| *known != id);
            if open.is_empty() {
                return Ok(());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_of_both_spellings_are_understood() {
        let uri: Uri =
            "/exec/a/b/c?command=sh&command=-c&command=echo+a%20b&output=1&error=1&tty=true".parse().unwrap();
        let (streams, command) = asked(&uri);
        assert_eq!(command, ["sh", "-c", "echo a b"]);
        assert_eq!(streams, Streams { stdin: false, stdout: true, stderr: false, tty: true });
    }
}

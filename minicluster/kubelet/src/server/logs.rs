//! `/containerLogs`: a container's log from its file, to its end or as it grows.
//!
//! Following waits for the file's folder to change; a rotated file is read to its end before the new one is opened.
//! The only clock is one second while following, to notice that the container has ended.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::mpsc;
use windlass::clock;

use super::{Body, stream, streams, text};
use crate::files::Changes;
use crate::kubelet::Handle;
use crate::logs::{Options, Shaper, tail_offset};
use crate::runtime::{Container, ContainerState};
use crate::worker::Cell;

/// Bytes read at once.
const CHUNK: usize = 64 * 1024;
/// Chunks on their way to a client.
const QUEUE: usize = 8;
/// The end of a log that is searched for the last lines.
const TAIL_WINDOW: u64 = 16 << 20;
/// While following, how often it is checked that the container still runs.
const CHECK: Duration = Duration::from_secs(1);

/// Answers with the log as a body, or as messages where the client speaks WebSocket.
pub(super) async fn serve(
    kubelet: &Handle,
    request: Request<Incoming>,
    namespace: &str,
    pod: &str,
    container: &str,
) -> Response<Body> {
    let query = request.uri().query().unwrap_or_default();
    let chunks = match open(kubelet, namespace, pod, container, query).await {
        Ok(chunks) => chunks,
        Err((status, message)) => return text(status, message),
    };
    if streams::wants_websocket(request.headers()) {
        return streams::messages(request, chunks);
    }
    let mut reply = Response::new(stream(chunks));
    let plain = http::HeaderValue::from_static("text/plain");
    reply.headers_mut().insert(http::header::CONTENT_TYPE, plain);
    reply
}

async fn open(
    kubelet: &Handle,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &str,
) -> Result<mpsc::Receiver<Bytes>, (StatusCode, String)> {
    let bad = |message| (StatusCode::BAD_REQUEST, message);
    let options = Options::parse(query, clock::now()).map_err(bad)?;
    let cell = kubelet
        .find(namespace, pod)
        .ok_or_else(|| (StatusCode::NOT_FOUND, format!("pod \"{pod}\" does not exist")))?;
    let chosen = choose(&cell, pod, container, options.previous).map_err(bad)?;
    let (send, receive) = mpsc::channel(QUEUE);
    let in_memory = kubelet.shared.runtime.log(&chosen.id).await;
    tokio::spawn(async move {
        if let Some(log) = in_memory {
            let _ = send.send(Bytes::from(log)).await;
            return;
        }
        let mut reader = Reader { shaper: Shaper::new(options.clone()), send, rest: Vec::new() };
        if let Err(error) = reader.run(&cell, &chosen, &options).await {
            tracing::debug!(%error, path = chosen.log_path, "a log ended early");
        }
    });
    Ok(receive)
}

/// The instance whose log is meant.
fn choose(cell: &Cell, pod: &str, name: &str, previous: bool) -> Result<Container, String> {
    let view = cell.view();
    if crate::pod::container(&cell.pod(), name).is_none() {
        return Err(format!("container {name} is not valid for pod {pod}"));
    }
    if previous {
        // While the container waits to run again, the one that ended last is the newest.
        let newest = view.newest(name);
        let waits = newest.is_some_and(|c| c.state == ContainerState::Exited) && cell.is_waiting(name);
        let found = if waits { newest } else { view.previous(name) };
        return found
            .cloned()
            .ok_or_else(|| format!("previous terminated container \"{name}\" in pod \"{pod}\" not found"));
    }
    match view.newest(name) {
        Some(c) if c.state != ContainerState::Created => Ok(c.clone()),
        _ => {
            let reason = cell.waiting_reason(name);
            Err(format!("container \"{name}\" in pod \"{pod}\" is waiting to start: {reason}"))
        }
    }
}

struct Reader {
    shaper: Shaper,
    send: mpsc::Sender<Bytes>,
    /// The beginning of a line whose end is not written yet.
    rest: Vec<u8>,
}

impl Reader {
    async fn run(&mut self, cell: &Arc<Cell>, chosen: &Container, options: &Options) -> io::Result<()> {
        let path = PathBuf::from(&chosen.log_path);
        let changes =
            if options.follow { Some(Changes::of(path.parent().unwrap_or(Path::new("/")))?) } else { None };
        let mut file = tokio::fs::File::open(&path).await?;
        if let Some(lines) = options.tail {
            seek_tail(&mut file, lines).await?;
        }
        loop {
            self.drain(&mut file).await?;
            if self.shaper.full() || self.send.is_closed() {
                return Ok(());
            }
            let Some(changes) = &changes else { return Ok(()) };
            let runs = cell
                .view()
                .containers
                .iter()
                .any(|c| c.id == chosen.id && c.state == ContainerState::Running);
            if rotated(&file, &path).await {
                file = tokio::fs::File::open(&path).await?;
                continue;
            }
            if !runs {
                // What was written just before the end.
                return self.drain(&mut file).await;
            }
            tokio::select! {
                changed = tokio::time::timeout(CHECK, changes.wait()) => {
                    if let Ok(result) = changed { result?; }
                }
                () = self.send.closed() => return Ok(()),
            }
        }
    }

    /// Sends everything up to the present end of the file.
    async fn drain(&mut self, file: &mut tokio::fs::File) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK];
        loop {
            let n = file.read(&mut buffer).await?;
            if n == 0 {
                return Ok(());
            }
            self.rest.extend_from_slice(&buffer[..n]);
            let mut out = Vec::new();
            let mut from = 0;
            while let Some(end) = self.rest[from..].iter().position(|b| *b == b'\n') {
                self.shaper.push(&self.rest[from..from + end], &mut out);
                from += end + 1;
            }
            self.rest.drain(..from);
            if !out.is_empty() && self.send.send(Bytes::from(out)).await.is_err() {
                return Ok(());
            }
            if self.shaper.full() {
                return Ok(());
            }
        }
    }
}

/// The path leads to another file than the open one.
async fn rotated(file: &tokio::fs::File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let (Ok(open), Ok(there)) = (file.metadata().await, tokio::fs::metadata(path).await) else {
        return false;
    };
    open.ino() != there.ino()
}

async fn seek_tail(file: &mut tokio::fs::File, lines: usize) -> io::Result<()> {
    let length = file.metadata().await?.len();
    let from = length.saturating_sub(TAIL_WINDOW);
    file.seek(io::SeekFrom::Start(from)).await?;
    let mut end = Vec::new();
    (&mut *file).take(TAIL_WINDOW).read_to_end(&mut end).await?;
    let at = from + tail_offset(&end, lines) as u64;
    file.seek(io::SeekFrom::Start(at)).await.map(drop)
}

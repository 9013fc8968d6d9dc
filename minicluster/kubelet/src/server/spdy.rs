//! The client's half of SPDY/3.1, as far as a container runtime's streaming server needs it.
//!
//! Terminals that a client opens over WebSocket (v5) are carried to the runtime over SPDY, because only there can the
//! end of standard input be told. The peer is a Go server that neither counts windows nor reads ahead, which keeps
//! this small: header blocks are sent as stored (uncompressed) zlib blocks, flushed by an empty one, and the headers of
//! replies are skipped, since nothing in them is needed.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

const VERSION: u16 = 3;
const SYN_STREAM: u16 = 1;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const FIN: u8 = 1;
/// Largest frame taken: length is 24 bits on the wire, and a runtime sends far less.
const FRAME: usize = 16 << 20;

/// What the peer sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    /// Data of a stream; the last of it when `end`.
    Data {
        /// Stream.
        id: u32,
        /// Bytes.
        data: Vec<u8>,
        /// Nothing follows on this stream.
        end: bool,
    },
    /// A stream was broken off.
    Reset(u32),
    /// A sign of life that wants to be answered.
    Ping(u32),
    /// The end of the connection.
    Goodbye,
}

/// Writes frames.
pub(super) struct Writer<W> {
    io: W,
    next: u32,
    started: bool,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    pub(super) fn new(io: W) -> Self {
        Self { io, next: 1, started: false }
    }

    /// Opens a stream with these headers; its id.
    pub(super) async fn open(&mut self, headers: &[(&str, &str)]) -> io::Result<u32> {
        let id = self.next;
        self.next += 2;
        let mut body = Vec::new();
        body.extend_from_slice(&id.to_be_bytes());
        body.extend_from_slice(&[0; 6]);
        body.extend_from_slice(&header_block(headers, !self.started));
        self.started = true;
        self.control(SYN_STREAM, &body).await?;
        Ok(id)
    }

    /// Sends data on a stream.
    pub(super) async fn data(&mut self, id: u32, data: &[u8], end: bool) -> io::Result<()> {
        let mut head = Vec::with_capacity(8 + data.len());
        head.extend_from_slice(&(id & 0x7fff_ffff).to_be_bytes());
        head.push(if end { FIN } else { 0 });
        head.extend_from_slice(&length(data.len())?);
        head.extend_from_slice(data);
        self.io.write_all(&head).await?;
        self.io.flush().await
    }

    /// Answers a sign of life.
    pub(super) async fn pong(&mut self, id: u32) -> io::Result<()> {
        self.control(PING, &id.to_be_bytes()).await
    }

    async fn control(&mut self, kind: u16, body: &[u8]) -> io::Result<()> {
        let mut frame = Vec::with_capacity(8 + body.len());
        frame.extend_from_slice(&(0x8000 | VERSION).to_be_bytes());
        frame.extend_from_slice(&kind.to_be_bytes());
        frame.push(0);
        frame.extend_from_slice(&length(body.len())?);
        frame.extend_from_slice(body);
        self.io.write_all(&frame).await?;
        self.io.flush().await
    }
}

fn length(n: usize) -> io::Result<[u8; 3]> {
    let n = u32::try_from(n).ok().filter(|n| *n < 1 << 24);
    let [_, a, b, c] = n.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?.to_be_bytes();
    Ok([a, b, c])
}

/// Names and values behind their lengths, in one stored zlib block and an empty one that flushes it.
fn header_block(headers: &[(&str, &str)], first: bool) -> Vec<u8> {
    let mut plain = Vec::new();
    let number = |n: usize| u32::try_from(n).unwrap_or(0).to_be_bytes();
    plain.extend_from_slice(&number(headers.len()));
    for text in headers.iter().flat_map(|(name, value)| [name, value]) {
        plain.extend_from_slice(&number(text.len()));
        plain.extend_from_slice(text.as_bytes());
    }
    let size = u16::try_from(plain.len()).unwrap_or(u16::MAX);
    let mut block = if first { vec![0x78, 0x01] } else { Vec::new() };
    block.push(0);
    block.extend_from_slice(&size.to_le_bytes());
    block.extend_from_slice(&(!size).to_le_bytes());
    block.extend_from_slice(&plain);
    block.extend_from_slice(&[0, 0, 0, 0xff, 0xff]);
    block
}

/// Reads the next frame that matters; nothing at the end of the connection.
pub(super) async fn read(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Frame>> {
    loop {
        let mut head = [0; 8];
        match io.read_exact(&mut head).await {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other.map(drop)?,
        }
        let size = usize::from(head[5]) << 16 | usize::from(head[6]) << 8 | usize::from(head[7]);
        if size > FRAME {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a SPDY frame is too large"));
        }
        let mut body = vec![0; size];
        io.read_exact(&mut body).await?;
        let word = |bytes: &[u8]| bytes.first_chunk().map_or(0, |b| u32::from_be_bytes(*b) & 0x7fff_ffff);
        if head[0] & 0x80 == 0 {
            return Ok(Some(Frame::Data { id: word(&head), data: body, end: head[4] & FIN != 0 }));
        }
        let id = word(&body);
        match u16::from_be_bytes([head[2], head[3]]) {
            // A reply that closes the other side at once.
            2 if head[4] & FIN != 0 => return Ok(Some(Frame::Data { id, data: Vec::new(), end: true })),
            RST_STREAM => return Ok(Some(Frame::Reset(id))),
            PING => return Ok(Some(Frame::Ping(body.first_chunk().map_or(0, |b| u32::from_be_bytes(*b))))),
            GOAWAY => return Ok(Some(Frame::Goodbye)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn data_frames_come_back() {
        let mut wire = Vec::new();
        let mut writer = Writer::new(&mut wire);
        assert_eq!(writer.open(&[("streamtype", "stdin")]).await.unwrap(), 1);
        assert_eq!(writer.open(&[("streamtype", "stdout")]).await.unwrap(), 3);
        writer.data(1, b"hello", false).await.unwrap();
        writer.data(1, b"", true).await.unwrap();
        writer.pong(7).await.unwrap();
        let mut wire = wire.as_slice();
        let mut seen = Vec::new();
        while let Some(frame) = read(&mut wire).await.unwrap() {
            seen.push(frame);
        }
        let data = |text: &[u8], end| Frame::Data { id: 1, data: text.to_vec(), end };
        assert_eq!(seen, [data(b"hello", false), data(b"", true), Frame::Ping(7)]);
    }

    #[test]
    fn header_blocks_are_stored_zlib() {
        let block = header_block(&[("streamtype", "error")], true);
        // Header, one stored block of 4 + 4 + 10 + 4 + 5 bytes, an empty one.
        assert_eq!(&block[..7], [0x78, 0x01, 0, 27, 0, !27, 0xff]);
        assert_eq!(&block[block.len() - 5..], [0, 0, 0, 0xff, 0xff]);
        assert_eq!(block.len(), 2 + 5 + 27 + 5);
    }
}

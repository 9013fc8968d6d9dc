//! The server's half of WebSocket (RFC 6455): the handshake and the frames. Messages are bounded; extensions are not
//! negotiated.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Largest frame taken from a client.
const FRAME: u64 = 4 << 20;
const MAGIC: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What a client sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    /// Data, text or binary, possibly a part of a larger message.
    Data(Vec<u8>),
    /// It asks whether anybody is there.
    Ping(Vec<u8>),
    /// The end.
    Close,
}

/// `Sec-WebSocket-Accept` for a client's key.
pub(super) fn accept(key: &str) -> String {
    let digest =
        ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{MAGIC}").as_bytes());
    STANDARD.encode(digest.as_ref())
}

/// Reads the next message; answers to pings are the caller's.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Message> {
    loop {
        let mut head = [0; 2];
        if let Err(e) = stream.read_exact(&mut head).await {
            return if e.kind() == io::ErrorKind::UnexpectedEof { Ok(Message::Close) } else { Err(e) };
        }
        let length = match head[1] & 0x7f {
            126 => u64::from(stream.read_u16().await?),
            127 => stream.read_u64().await?,
            n => u64::from(n),
        };
        if length > FRAME {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a WebSocket frame is too large"));
        }
        let mut mask = [0; 4];
        if head[1] & 0x80 != 0 {
            stream.read_exact(&mut mask).await?;
        }
        let mut data = vec![0; usize::try_from(length).unwrap_or(0)];
        stream.read_exact(&mut data).await?;
        for (byte, key) in data.iter_mut().zip(mask.iter().cycle()) {
            *byte ^= key;
        }
        match head[0] & 0x0f {
            0..=2 => return Ok(Message::Data(data)),
            8 => return Ok(Message::Close),
            9 => return Ok(Message::Ping(data)),
            _ => {}
        }
    }
}

fn frame(opcode: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|p| p.len()).sum();
    let mut out = Vec::with_capacity(length + 10);
    out.push(0x80 | opcode);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(n), _) if n < 126 => out.push(n),
        (_, Ok(n)) => {
            out.push(126);
            out.extend_from_slice(&n.to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

/// Sends a binary message made of parts.
pub(super) async fn write(stream: &mut (impl AsyncWrite + Unpin), parts: &[&[u8]]) -> io::Result<()> {
    stream.write_all(&frame(2, parts)).await?;
    stream.flush().await
}

/// Sends a text message.
pub(super) async fn write_text(stream: &mut (impl AsyncWrite + Unpin), text: &str) -> io::Result<()> {
    stream.write_all(&frame(1, &[text.as_bytes()])).await?;
    stream.flush().await
}

/// Answers a ping.
pub(super) async fn pong(stream: &mut (impl AsyncWrite + Unpin), data: &[u8]) -> io::Result<()> {
    stream.write_all(&frame(10, &[data])).await?;
    stream.flush().await
}

/// Says goodbye, in good order.
pub(super) async fn close(stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    stream.write_all(&frame(8, &[&1000_u16.to_be_bytes()])).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_of_every_size_come_back() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        for size in [0, 1, 125, 126, 65_535, 65_536] {
            let data = vec![7; size];
            let mut sent = Vec::new();
            write(&mut sent, &[&data[..size / 2], &data[size / 2..]]).await.unwrap();
            assert_eq!(read(&mut sent.as_slice()).await.unwrap(), Message::Data(data));
        }
    }

    #[tokio::test]
    async fn masked_frames_are_unmasked_and_large_ones_refused() {
        let masked = [0x82, 0x83, 1, 2, 3, 4, b'a' ^ 1, b'b' ^ 2, b'c' ^ 3];
        assert_eq!(read(&mut masked.as_slice()).await.unwrap(), Message::Data(b"abc".to_vec()));
        let large = [0x82, 127, 0, 0, 0, 1, 0, 0, 0, 0];
        assert!(read(&mut large.as_slice()).await.is_err());
    }
}

//! Protobuf's wire format: how numbers, bytes and messages in messages are written. Knows no message.

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;

/// Appends a number of any length.
fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        #[expect(clippy::cast_possible_truncation, reason = "the low seven bits are meant")]
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    #[expect(clippy::cast_possible_truncation, reason = "below 0x80")]
    out.push(n as u8);
}

fn key(out: &mut Vec<u8>, tag: u32, wire: u32) {
    varint(out, u64::from(tag << 3 | wire));
}

/// Writes a whole number or a truth.
pub(crate) fn integer(out: &mut Vec<u8>, tag: u32, n: i64) {
    key(out, tag, VARINT);
    #[expect(clippy::cast_sign_loss, reason = "negative numbers are sent as their two's complement")]
    varint(out, n as u64);
}

/// Writes a number of eight bytes.
pub(crate) fn double(out: &mut Vec<u8>, tag: u32, n: f64) {
    key(out, tag, FIXED64);
    out.extend_from_slice(&n.to_le_bytes());
}

/// Writes what stands before `len` bytes of a field.
pub(super) fn length(out: &mut Vec<u8>, tag: u32, len: usize) {
    key(out, tag, BYTES);
    varint(out, len as u64);
}

/// Writes a field of bytes.
pub(crate) fn bytes(out: &mut Vec<u8>, tag: u32, bytes: &[u8]) {
    length(out, tag, bytes.len());
    out.extend_from_slice(bytes);
}

/// Writes a field whose content `write` appends.
pub(crate) fn nested<E>(
    out: &mut Vec<u8>,
    tag: u32,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    key(out, tag, BYTES);
    out.push(0);
    let start = out.len();
    write(out)?;
    let len = out.len() - start;
    let mut head = Vec::with_capacity(5);
    varint(&mut head, len as u64);
    out[start - 1] = head[0];
    if head.len() > 1 {
        out.splice(start..start, head[1..].iter().copied());
    }
    Ok(())
}

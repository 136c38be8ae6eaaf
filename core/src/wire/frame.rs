//! Frames: a `u32` length, big endian, and that many bytes. Used on peer streams and on the control socket.

/// Bytes of the length.
pub const HEADER_LEN: usize = 4;

/// A frame longer than its channel allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {len} bytes arrived, at most {max} are accepted")]
pub struct FrameTooLong {
    /// The length it stated, in bytes.
    pub len: usize,
    /// The bound of the channel, in bytes.
    pub max: usize,
}

/// The header of a frame with this payload.
///
/// # Errors
/// [`FrameTooLong`] when the payload is longer than `max`.
pub fn header(payload_len: usize, max: usize) -> Result<[u8; HEADER_LEN], FrameTooLong> {
    match u32::try_from(payload_len) {
        Ok(len) if payload_len <= max => Ok(len.to_be_bytes()),
        _ => Err(FrameTooLong { len: payload_len, max }),
    }
}

/// The payload length that a header states.
///
/// # Errors
/// [`FrameTooLong`] when it is longer than `max`; nothing should be read or allocated for it.
pub fn payload_len(header: [u8; HEADER_LEN], max: usize) -> Result<usize, FrameTooLong> {
    let len = u32::from_be_bytes(header) as usize;
    if len <= max { Ok(len) } else { Err(FrameTooLong { len, max }) }
}

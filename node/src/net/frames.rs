//! Frames on a stream between two nodes: a `u32` length, big endian, and that many bytes.
//!
//! Invariants: a length above the reader's bound is refused before anything is allocated for it, and what is allocated
//! for a frame under way is at most twice what has arrived of it. An end between two frames is the end of the stream,
//! one inside a frame is an error. libp2p shows a stream that was reset as one that ended.
//!
//! Deliberately absent: timeouts, and what the bytes mean.

use std::io;
use std::sync::Arc;

use bib_core::limits::{FRAME_FIRST_ALLOCATION, FRAME_JOINED_WRITE, MAX_PEER_FRAME};
use bib_core::wire::frame::{self, FrameTooLong, HEADER_LEN};
use futures::io::{ReadHalf, WriteHalf};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::streams::Slot;

/// Why no frame was read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The frame is longer than the channel allows.
    #[error(transparent)]
    TooLong(#[from] FrameTooLong),
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame, after {got} of {len} bytes")]
    Truncated {
        /// Bytes of it that came.
        got: usize,
        /// Bytes that were promised.
        len: usize,
    },
    /// The connection failed.
    #[error("the stream broke: {0}")]
    Io(#[from] io::Error),
}

/// A stream to one node, in frames. Dropping it without [`FrameWriter::close`] resets the stream.
pub struct FrameStream {
    stream: libp2p::Stream,
    slot: Arc<Slot>,
}

impl FrameStream {
    pub(crate) fn new(stream: libp2p::Stream, slot: Slot) -> Self {
        Self { stream, slot: Arc::new(slot) }
    }

    /// The two directions; the stream is given back when both are dropped.
    pub fn split(self) -> (FrameReader, FrameWriter) {
        let (read, write) = self.stream.split();
        let reader = FrameReader { io: read, max: MAX_PEER_FRAME, slot: self.slot.clone() };
        (reader, FrameWriter { io: write, joined: Vec::new(), slot: self.slot })
    }
}

impl std::fmt::Debug for FrameStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FrameStream")
    }
}

/// Reads the frames of a stream.
pub struct FrameReader {
    io: ReadHalf<libp2p::Stream>,
    max: usize,
    slot: Arc<Slot>,
}

impl FrameReader {
    /// Lowers the bound for frames from [`MAX_PEER_FRAME`], for a side on which only short ones make sense.
    #[must_use]
    pub fn with_max(self, max: usize) -> Self {
        Self { max: max.min(MAX_PEER_FRAME), ..self }
    }

    /// The next frame; `None` when the peer has ended the stream after the last one.
    ///
    /// Not cancel safe: a read that was dropped half-way leaves the stream inside a frame. Read in a task of its own.
    ///
    /// # Errors
    /// [`FrameError`]; afterwards the stream is of no use.
    pub async fn read(&mut self) -> Result<Option<Vec<u8>>, FrameError> {
        let frame = read_frame(&mut self.io, self.max).await?;
        if let Some(frame) = &frame {
            self.slot.received(HEADER_LEN + frame.len());
        }
        Ok(frame)
    }
}

/// Writes the frames of a stream.
pub struct FrameWriter {
    io: WriteHalf<libp2p::Stream>,
    /// A short frame with its header, so that it leaves as one piece.
    joined: Vec<u8>,
    slot: Arc<Slot>,
}

impl FrameWriter {
    /// Writes a frame. It waits while the peer does not take more; what was written leaves by itself.
    ///
    /// Not cancel safe, as [`FrameReader::read`].
    ///
    /// # Errors
    /// [`FrameError::TooLong`] above [`MAX_PEER_FRAME`], with nothing written; [`FrameError::Io`] afterwards the stream
    /// is of no use.
    pub async fn write(&mut self, payload: &[u8]) -> Result<(), FrameError> {
        write_frame(&mut self.io, &mut self.joined, payload).await?;
        self.slot.sent(HEADER_LEN + payload.len());
        Ok(())
    }

    /// Tells the peer that no frame follows.
    ///
    /// # Errors
    /// [`FrameError::Io`] when the connection is broken.
    pub async fn close(&mut self) -> Result<(), FrameError> {
        Ok(self.io.close().await?)
    }
}

/// Reads a frame of at most `max` bytes; `None` at an end before its first byte.
pub(crate) async fn read_frame(io: &mut (impl AsyncRead + Unpin), max: usize) -> Result<Option<Vec<u8>>, FrameError> {
    let mut header = [0; HEADER_LEN];
    let mut got = 0;
    while got < HEADER_LEN {
        match io.read(&mut header[got..]).await? {
            0 if got == 0 => return Ok(None),
            0 => return Err(FrameError::Truncated { got, len: HEADER_LEN }),
            n => got += n,
        }
    }
    let len = frame::payload_len(header, max)?;
    let mut payload = Vec::new();
    let mut got = 0;
    while got < len {
        if got == payload.len() {
            let grown = len.min((2 * got).max(FRAME_FIRST_ALLOCATION));
            payload.reserve_exact(grown - got);
            payload.resize(grown, 0);
        }
        match io.read(&mut payload[got..]).await? {
            0 => return Err(FrameError::Truncated { got, len }),
            n => got += n,
        }
    }
    Ok(Some(payload))
}

/// Writes a frame; `joined` is memory for short ones.
async fn write_frame(
    io: &mut (impl AsyncWrite + Unpin),
    joined: &mut Vec<u8>,
    payload: &[u8],
) -> Result<(), FrameError> {
    let header = frame::header(payload.len(), MAX_PEER_FRAME)?;
    // Each write becomes a frame of the muxer: a short payload goes with its header, a long one is not copied.
    let (first, rest) = payload.split_at(payload.len().min(FRAME_JOINED_WRITE));
    joined.clear();
    joined.extend_from_slice(&header);
    joined.extend_from_slice(first);
    io.write_all(joined).await?;
    io.write_all(rest).await?;
    // To the connection, which sends it on when it has nothing else to write; this does not wait for the network.
    io.flush().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use futures::executor::block_on;
    use futures::io::Cursor;

    use super::*;

    fn read(bytes: &[u8]) -> Result<Option<Vec<u8>>, FrameError> {
        block_on(read_frame(&mut Cursor::new(bytes), MAX_PEER_FRAME))
    }

    #[test]
    fn what_is_written_is_read_whatever_its_length() {
        for len in [0, 1, FRAME_JOINED_WRITE - 1, FRAME_JOINED_WRITE, FRAME_JOINED_WRITE + 1, 300_000, MAX_PEER_FRAME] {
            let payload: Vec<u8> = (0..len).map(|n| n as u8).collect();
            let mut wire = Vec::new();
            block_on(write_frame(&mut wire, &mut Vec::new(), &payload)).unwrap();
            assert_eq!(wire.len(), HEADER_LEN + len);
            assert!(read(&wire).unwrap().unwrap() == payload, "{len}");
        }
    }

    #[test]
    fn end_between_frames_is_an_end_and_inside_one_is_an_error() {
        assert_eq!(read(&[]).unwrap(), None);
        for cut in [&[0][..], &[0, 0, 0], &[0, 0, 0, 2], &[0, 0, 0, 2, 9]] {
            assert!(matches!(read(cut), Err(FrameError::Truncated { .. })), "{cut:?}");
        }
    }

    /// Gives one byte at a time and remembers the largest buffer it was offered.
    struct Trickle<'a> {
        left: &'a [u8],
        given: usize,
        worst: usize,
    }

    impl AsyncRead for Trickle<'_> {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
            let Some((first, left)) = self.left.split_first() else { return Poll::Ready(Ok(0)) };
            // Room offered beyond what has come is what a liar costs.
            self.worst = self.worst.max(buf.len().saturating_sub(self.given));
            buf[0] = *first;
            self.left = left;
            self.given += 1;
            Poll::Ready(Ok(1))
        }
    }

    #[test]
    fn length_above_the_bound_is_refused_at_the_header() {
        let mut wire = (MAX_PEER_FRAME as u32 + 1).to_be_bytes().to_vec();
        wire.extend([0; 64]);
        let mut io = Trickle { left: &wire, given: 0, worst: 0 };
        let error = block_on(read_frame(&mut io, MAX_PEER_FRAME)).unwrap_err();
        assert!(matches!(error, FrameError::TooLong(_)), "{error}");
        assert_eq!(io.given, HEADER_LEN);
    }

    #[test]
    fn promise_of_a_long_frame_costs_no_more_than_what_came() {
        let mut wire = (MAX_PEER_FRAME as u32).to_be_bytes().to_vec();
        wire.extend([0; 200_000]);
        let mut io = Trickle { left: &wire, given: 0, worst: 0 };
        let error = block_on(read_frame(&mut io, MAX_PEER_FRAME)).unwrap_err();
        assert!(matches!(error, FrameError::Truncated { got: 200_000, .. }), "{error}");
        assert!(io.worst <= FRAME_FIRST_ALLOCATION, "{}", io.worst);
    }
}

//! Frames on a stream between two nodes: a `u32` length, big endian, and that many bytes.
//!
//! Invariants: a length above the reader's bound is refused before anything is allocated for it, and what is allocated
//! for a frame under way is at most twice what has arrived of it, or borrowed before. An end between two frames is the end of the stream,
//! one inside a frame is an error. libp2p shows a stream that was reset as one that ended.
//!
//! Deliberately absent: a clock, and what the bytes mean.

use std::io;
use std::pin::pin;
use std::sync::Arc;

use bib_core::limits::{
    DATA_FRAME_PROGRESS, FRAME_FIRST_ALLOCATION, FRAME_JOINED_WRITE, MAX_FRAME_UNCOUNTED, MAX_PEER_FRAME,
};
use bib_core::wire::frame::{self, FrameTooLong, HEADER_LEN};
use futures::future::{Either, select};
use futures::io::{ReadHalf, WriteHalf};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::streams::Slot;
use crate::credits::{Credits, Permit};

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
    /// The frame was begun and not ended in time.
    #[error("a frame of {len} bytes was begun and did not come in time")]
    TooSlow {
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

impl FrameReader {
    /// As [`FrameReader::read`], of a frame that must get on once it has begun, see [`read_steadily`].
    pub(crate) async fn read_steadily<T: Future>(
        &mut self,
        deadline: impl FnMut() -> T,
    ) -> Result<Option<Vec<u8>>, FrameError> {
        let frame = read_steadily(&mut self.io, self.max, deadline).await?;
        if let Some(frame) = &frame {
            self.slot.received(HEADER_LEN + frame.len());
        }
        Ok(frame)
    }

    /// The length of the next frame, which [`FrameReader::payload`] reads; `None` as with [`FrameReader::read`].
    pub(crate) async fn header(&mut self) -> Result<Option<usize>, FrameError> {
        read_header(&mut self.io, self.max).await
    }

    /// The frame whose length was read, see [`read_lent`].
    pub(crate) async fn payload<T: Future>(
        &mut self,
        len: usize,
        credits: &Credits,
        deadline: impl FnOnce() -> T,
    ) -> Result<Lent, FrameError> {
        let lent = read_lent(&mut self.io, len, credits, deadline).await?;
        self.slot.received(HEADER_LEN + len);
        Ok(lent)
    }
}

/// A frame with the memory that it borrowed, when it is large.
pub(crate) type Lent = (Vec<u8>, Option<Permit>);

/// Reads the payload of a frame after borrowing its length, when it is large. The deadline begins when there is memory:
/// waiting for that is not the peer's fault.
async fn read_lent<T: Future>(
    io: &mut (impl AsyncRead + Unpin),
    len: usize,
    credits: &Credits,
    deadline: impl FnOnce() -> T,
) -> Result<Lent, FrameError> {
    let permit = if len > MAX_FRAME_UNCOUNTED { Some(credits.borrow(len).await) } else { None };
    match select(pin!(read_payload(io, len, len)), pin!(deadline())).await {
        Either::Left((payload, _)) => Ok((payload?, permit)),
        Either::Right(_) => Err(FrameError::TooSlow { len }),
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

    /// Writes the beginning of a frame of `len` bytes and leaves it so: for tests of how the other side bears that.
    ///
    /// # Errors
    /// As [`FrameWriter::write`].
    #[doc(hidden)]
    pub async fn write_part(&mut self, len: usize, part: &[u8]) -> Result<(), FrameError> {
        self.io.write_all(&frame::header(len, MAX_PEER_FRAME)?).await?;
        self.io.write_all(part).await?;
        Ok(self.io.flush().await?)
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
    match read_header(io, max).await? {
        Some(len) => Ok(Some(read_payload(io, len, FRAME_FIRST_ALLOCATION).await?)),
        None => Ok(None),
    }
}

/// As [`read_frame`]. It waits for the first byte as long as that takes; then a new deadline begins with the rest of
/// the header, and with each [`DATA_FRAME_PROGRESS`] bytes, so that a slow line is borne and a peer that stops is not.
async fn read_steadily<T: Future>(
    io: &mut (impl AsyncRead + Unpin),
    max: usize,
    mut deadline: impl FnMut() -> T,
) -> Result<Option<Vec<u8>>, FrameError> {
    let mut header = [0; HEADER_LEN];
    let first = io.read(&mut header).await?;
    if first == 0 {
        return Ok(None);
    }
    in_time(rest_of_header(io, &mut header, first), deadline(), HEADER_LEN).await?;
    let mut partial = Partial::new(frame::payload_len(header, max)?, FRAME_FIRST_ALLOCATION);
    while partial.got < partial.len {
        let (len, until) = (partial.len, partial.got + DATA_FRAME_PROGRESS);
        in_time(partial.read_until(io, until), deadline(), len).await?;
    }
    Ok(Some(partial.payload))
}

async fn in_time(
    step: impl Future<Output = Result<(), FrameError>>,
    deadline: impl Future,
    len: usize,
) -> Result<(), FrameError> {
    match select(pin!(step), pin!(deadline)).await {
        Either::Left((result, _)) => result,
        Either::Right(_) => Err(FrameError::TooSlow { len }),
    }
}

async fn read_header(io: &mut (impl AsyncRead + Unpin), max: usize) -> Result<Option<usize>, FrameError> {
    let mut header = [0; HEADER_LEN];
    let first = io.read(&mut header).await?;
    if first == 0 {
        return Ok(None);
    }
    rest_of_header(io, &mut header, first).await?;
    Ok(Some(frame::payload_len(header, max)?))
}

async fn rest_of_header(
    io: &mut (impl AsyncRead + Unpin),
    header: &mut [u8; HEADER_LEN],
    mut got: usize,
) -> Result<(), FrameError> {
    while got < HEADER_LEN {
        match io.read(&mut header[got..]).await? {
            0 => return Err(FrameError::Truncated { got, len: HEADER_LEN }),
            n => got += n,
        }
    }
    Ok(())
}

/// Reads a payload; `first` bytes are allocated before any of it came.
async fn read_payload(io: &mut (impl AsyncRead + Unpin), len: usize, first: usize) -> Result<Vec<u8>, FrameError> {
    let mut partial = Partial::new(len, first);
    partial.read_until(io, len).await?;
    Ok(partial.payload)
}

/// A payload under way.
struct Partial {
    payload: Vec<u8>,
    got: usize,
    len: usize,
    /// Bytes that are allocated before any came.
    first: usize,
}

impl Partial {
    const fn new(len: usize, first: usize) -> Self {
        Self { payload: Vec::new(), got: 0, len, first }
    }

    /// Reads until so many bytes of it, or all, are here.
    async fn read_until(&mut self, io: &mut (impl AsyncRead + Unpin), until: usize) -> Result<(), FrameError> {
        let Self { payload, got, len, first } = self;
        while *got < until.min(*len) {
            if *got == payload.len() {
                let grown = (*len).min((2 * *got).max(*first));
                payload.reserve_exact(grown - *got);
                payload.resize(grown, 0);
            }
            match io.read(&mut payload[*got..]).await? {
                0 => return Err(FrameError::Truncated { got: *got, len: *len }),
                n => *got += n,
            }
        }
        Ok(())
    }
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
    fn half_frames_hold_what_is_lent_and_no_more_and_the_deadline_gives_it_back() {
        use futures::FutureExt;
        use futures::channel::oneshot;

        /// A peer that sends nothing of what it promised.
        struct Silent;
        impl AsyncRead for Silent {
            fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut [u8]) -> Poll<io::Result<usize>> {
                Poll::Pending
            }
        }

        let credits = Credits::new(100_000);
        let (mut first_io, mut second_io) = (Silent, Silent);
        let (strike, struck) = oneshot::channel::<()>();
        let mut first = Box::pin(read_lent(&mut first_io, 60_000, &credits, || struck));
        assert!(first.as_mut().now_or_never().is_none());
        let begun = std::cell::Cell::new(false);
        let begin = || {
            begun.set(true);
            std::future::pending::<()>()
        };
        let mut second = Box::pin(read_lent(&mut second_io, 60_000, &credits, begin));
        assert!(second.as_mut().now_or_never().is_none());
        assert!(!begun.get() && credits.is_contended(), "it waits for memory, and its time has not begun");
        let short = read_lent(&mut Cursor::new([7; 9]), 9, &credits, std::future::pending::<()>).now_or_never();
        assert_eq!(short.unwrap().unwrap().0, [7; 9], "short frames pass");
        strike.send(()).unwrap();
        assert!(matches!(first.as_mut().now_or_never().unwrap(), Err(FrameError::TooSlow { len: 60_000 })));
        drop(first);
        assert!(second.as_mut().now_or_never().is_none());
        assert!(begun.get() && !credits.is_contended(), "the memory went to who waited");
    }

    #[test]
    fn frames_that_stop_are_given_up_and_slow_ones_are_not() {
        use futures::FutureExt;
        use futures::io::AsyncReadExt as _;

        /// A peer that sends nothing more.
        struct Silent;
        impl AsyncRead for Silent {
            fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut [u8]) -> Poll<io::Result<usize>> {
                Poll::Pending
            }
        }

        let mut wire = (3 * DATA_FRAME_PROGRESS as u32).to_be_bytes().to_vec();
        wire.resize(HEADER_LEN + 3 * DATA_FRAME_PROGRESS, 7);
        // As many deadlines pass as there are steps, and none while a step gets on.
        let mut begun = 0;
        let mut slow = Trickle { left: &wire, given: 0, worst: 0 };
        let counted = || {
            begun += 1;
            std::future::pending::<()>()
        };
        let frame = read_steadily(&mut slow, MAX_PEER_FRAME, counted).now_or_never().unwrap();
        assert_eq!(frame.unwrap().unwrap().len(), 3 * DATA_FRAME_PROGRESS);
        assert_eq!(begun, 4, "the header, and three times as much as must come");
        for cut in [1, HEADER_LEN, HEADER_LEN + 1, wire.len() - 1] {
            let mut stops = Cursor::new(&wire[..cut]).chain(Silent);
            let passed = read_steadily(&mut stops, MAX_PEER_FRAME, || async {}).now_or_never();
            assert!(matches!(passed, Some(Err(FrameError::TooSlow { .. }))), "{cut}");
            let mut stops = Cursor::new(&wire[..cut]).chain(Silent);
            let waiting = read_steadily(&mut stops, MAX_PEER_FRAME, std::future::pending::<()>).now_or_never();
            assert!(waiting.is_none(), "{cut}");
        }
        let idle = read_steadily(&mut Silent, MAX_PEER_FRAME, || async {}).now_or_never();
        assert!(idle.is_none(), "what has not begun has no deadline");
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

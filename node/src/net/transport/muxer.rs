//! Several streams over one connection: yamux, wire-compatible with libp2p's own, with settings that suit bulk data.
//!
//! libp2p's own muxer hides the settings of yamux, and yamux flushes after each frame. Here frames are longer
//! ([`MUXER_FRAME`]), and a flush waits until yamux has nothing more to write or [`MUXER_UNFLUSHED`] bytes wait: full
//! records of the encryption below and few system calls.
//!
//! Invariant: after every poll of the connection that ends in waiting, what was written has been flushed as far as the
//! socket takes it, and the task is woken to go on.

use std::collections::VecDeque;
use std::io;
use std::iter;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bib_core::limits::{MUXER_FRAME, MUXER_STREAMS, MUXER_UNFLUSHED, MUXER_WINDOWS};
use futures::future::{Ready, ready as ready_future};
use futures::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};

/// The name under which both sides agree on this muxer.
const PROTOCOL: &str = "/yamux/1.0.0";

/// Makes a [`Muxer`] of an encrypted connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MuxerUpgrade;

impl MuxerUpgrade {
    fn config() -> yamux::Config {
        let mut config = yamux::Config::default();
        config.set_max_num_streams(MUXER_STREAMS);
        config.set_max_connection_receive_window(Some(MUXER_WINDOWS));
        config.set_split_send_size(MUXER_FRAME);
        config
    }
}

impl UpgradeInfo for MuxerUpgrade {
    type Info = &'static str;
    type InfoIter = iter::Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        iter::once(PROTOCOL)
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> InboundConnectionUpgrade<C> for MuxerUpgrade {
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = Ready<io::Result<Muxer<C>>>;

    fn upgrade_inbound(self, io: C, _: &'static str) -> Self::Future {
        ready_future(Ok(Muxer::new(io, yamux::Mode::Server)))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> OutboundConnectionUpgrade<C> for MuxerUpgrade {
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = Ready<io::Result<Muxer<C>>>;

    fn upgrade_outbound(self, io: C, _: &'static str) -> Self::Future {
        ready_future(Ok(Muxer::new(io, yamux::Mode::Client)))
    }
}

/// A connection with its streams.
pub(crate) struct Muxer<C> {
    connection: yamux::Connection<Unflushed<C>>,
    socket: Unflushed<C>,
    /// Streams of the peer that nobody has taken yet; there are never more than the connection allows.
    inbound: VecDeque<yamux::Stream>,
    inbound_waker: Option<Waker>,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Muxer<C> {
    fn new(io: C, mode: yamux::Mode) -> Self {
        let socket = Unflushed(Arc::new(Mutex::new(Held { io, unflushed: 0 })));
        let connection = yamux::Connection::new(socket.clone(), MuxerUpgrade::config(), mode);
        Self { connection, socket, inbound: VecDeque::new(), inbound_waker: None }
    }

    /// Lets the connection work until it waits, and takes in the streams that the peer opened.
    fn drive(&mut self, cx: &mut Context<'_>) -> Result<(), yamux::ConnectionError> {
        loop {
            match self.connection.poll_next_inbound(cx) {
                Poll::Ready(Some(Ok(stream))) => {
                    self.inbound.push_back(stream);
                    if let Some(waker) = self.inbound_waker.take() {
                        waker.wake();
                    }
                }
                Poll::Ready(Some(Err(error))) => return Err(error),
                Poll::Ready(None) => return Err(yamux::ConnectionError::Closed),
                Poll::Pending => break,
            }
        }
        match self.socket.poll_written(cx) {
            Poll::Ready(Err(error)) => Err(yamux::ConnectionError::Io(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> StreamMuxer for Muxer<C> {
    type Substream = yamux::Stream;
    type Error = yamux::ConnectionError;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<yamux::Stream, Self::Error>> {
        let this = &mut *self;
        if this.inbound.is_empty() {
            this.drive(cx)?;
        }
        match this.inbound.pop_front() {
            Some(stream) => Poll::Ready(Ok(stream)),
            None => {
                this.inbound_waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<yamux::Stream, Self::Error>> {
        self.connection.poll_new_outbound(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.connection.poll_close(cx)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, Self::Error>> {
        self.drive(cx)?;
        Poll::Pending
    }
}

/// The connection below yamux, held by yamux and by the [`Muxer`] that decides when to flush.
struct Unflushed<C>(Arc<Mutex<Held<C>>>);

struct Held<C> {
    io: C,
    /// Bytes written since the last flush.
    unflushed: usize,
}

impl<C> Clone for Unflushed<C> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> Unflushed<C> {
    fn held(&self) -> MutexGuard<'_, Held<C>> {
        // Both holders live in one task; a panic between two polls leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll_written(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let held = &mut *self.held();
        held.poll_written(cx)
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> Held<C> {
    fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unflushed > 0 {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> AsyncRead for Unflushed<C> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.held().io).poll_read(cx, buf)
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Unflushed<C> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let held = &mut *self.held();
        if held.unflushed >= MUXER_UNFLUSHED {
            ready!(held.poll_written(cx))?;
        }
        let len = ready!(Pin::new(&mut held.io).poll_write(cx, buf))?;
        held.unflushed += len;
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Asked after each frame; done by the muxer once yamux waits.
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let held = &mut *self.held();
        ready!(held.poll_written(cx))?;
        Pin::new(&mut held.io).poll_close(cx)
    }
}

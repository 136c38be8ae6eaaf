//! A connected TCP socket that reads ahead and counts its bytes.
//!
//! The layers above ask for a few bytes at a time (a record's length, a frame's header); reading ahead turns these into
//! few system calls. The buffer exists only while it holds bytes, so that an idle connection has none.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_io::Async;
use bib_core::limits::SOCKET_READ_AHEAD;
use futures::{AsyncRead, AsyncWrite};

use crate::net::traffic::Traffic;

/// Length of the buffer of a connection with little to read.
const MIN_READ_AHEAD: usize = 1 << 10;

/// The socket; see the module.
pub(crate) struct TcpSocket {
    stream: Async<std::net::TcpStream>,
    traffic: Arc<Traffic>,
    /// Bytes read ahead are `ahead[from..to]`; without any, nothing is allocated.
    ahead: Box<[u8]>,
    from: usize,
    to: usize,
    /// What the next buffer is made for: grows while reads fill it, shrinks while they do not.
    next_len: usize,
}

impl TcpSocket {
    /// Takes a connected stream.
    pub(crate) fn new(stream: Async<std::net::TcpStream>, traffic: Arc<Traffic>) -> Self {
        Self { stream, traffic, ahead: Box::default(), from: 0, to: 0, next_len: MIN_READ_AHEAD }
    }

    /// Where this end is.
    #[cfg(test)]
    pub(crate) fn local_addr(&self) -> io::Result<std::net::SocketAddr> {
        self.stream.get_ref().local_addr()
    }

    fn take(&mut self, buf: &mut [u8]) -> usize {
        let len = buf.len().min(self.to - self.from);
        buf[..len].copy_from_slice(&self.ahead[self.from..self.from + len]);
        self.from += len;
        len
    }
}

impl AsyncRead for TcpSocket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.from == this.to {
            if buf.len() >= this.next_len {
                let len = ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
                this.traffic.received(len);
                return Poll::Ready(Ok(len));
            }
            if this.ahead.len() != this.next_len {
                this.ahead = vec![0; this.next_len].into();
            }
            match Pin::new(&mut this.stream).poll_read(cx, &mut this.ahead) {
                Poll::Ready(Ok(len)) => {
                    (this.from, this.to) = (0, len);
                    this.traffic.received(len);
                    if len == this.next_len {
                        this.next_len = (4 * len).min(SOCKET_READ_AHEAD);
                    } else if len < this.next_len / 16 {
                        this.next_len = (this.next_len / 2).max(MIN_READ_AHEAD);
                    }
                }
                waiting_or_broken => {
                    this.ahead = Box::default();
                    return waiting_or_broken;
                }
            }
        }
        Poll::Ready(Ok(this.take(buf)))
    }
}

impl AsyncWrite for TcpSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let len = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.traffic.sent(len);
        Poll::Ready(Ok(len))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs))?;
        self.traffic.sent(len);
        Poll::Ready(Ok(len))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

//! Which encryption a connection gets.
//!
//! Every node speaks Noise. One whose CPU has AES instructions offers TLS before it, so that two such nodes use it; a
//! node without them does not offer it, because its Noise is the faster one.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::{AsyncRead, AsyncWrite, FutureExt};
use futures_rustls::TlsStream;
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use libp2p::identity::Keypair;
use libp2p::{PeerId, noise};

use super::tls::{self, Tls};
use crate::net::NetError;

/// The encryption that a node offers and takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Security {
    /// TLS before Noise where the CPU has AES instructions, else Noise alone.
    #[default]
    Auto,
    /// Noise alone.
    Noise,
    /// TLS before Noise on any CPU.
    Tls,
}

/// The name under which both sides agree on Noise.
const NOISE: &str = "/noise";

/// Encrypts a connection and authenticates its peer.
#[derive(Clone)]
pub(crate) struct Secure {
    noise: noise::Config,
    tls: Option<Tls>,
}

impl Secure {
    pub(crate) fn new(identity: &Keypair, security: Security) -> Result<Self, NetError> {
        let noise = noise::Config::new(identity).map_err(|error| NetError::Identity(error.to_string()))?;
        let with_tls = match security {
            Security::Auto => tls::has_aes(),
            Security::Noise => false,
            Security::Tls => true,
        };
        let tls = with_tls.then(|| Tls::new(identity)).transpose()?;
        Ok(Self { noise, tls })
    }
}

impl UpgradeInfo for Secure {
    type Info = &'static str;
    type InfoIter = std::iter::Chain<std::option::IntoIter<&'static str>, std::iter::Once<&'static str>>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.tls.is_some().then_some(tls::PROTOCOL).into_iter().chain(std::iter::once(NOISE))
    }
}

/// An encrypted connection.
pub(crate) enum Channel<C> {
    Noise(Box<noise::Output<C>>),
    Tls(Box<TlsStream<C>>),
}

type Secured<C> = io::Result<(PeerId, Channel<C>)>;

impl<C: AsyncRead + AsyncWrite + Unpin + Send + 'static> InboundConnectionUpgrade<C> for Secure {
    type Output = (PeerId, Channel<C>);
    type Error = io::Error;
    type Future = BoxFuture<'static, Secured<C>>;

    fn upgrade_inbound(self, io: C, protocol: &'static str) -> Self::Future {
        async move {
            match self.tls {
                Some(tls) if protocol == tls::PROTOCOL => {
                    tls.accept(io).await.map(|(peer, stream)| (peer, Channel::Tls(stream.into())))
                }
                _ => {
                    let (peer, stream) = self.noise.upgrade_inbound(io, protocol).await.map_err(io::Error::other)?;
                    Ok((peer, Channel::Noise(stream.into())))
                }
            }
        }
        .boxed()
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin + Send + 'static> OutboundConnectionUpgrade<C> for Secure {
    type Output = (PeerId, Channel<C>);
    type Error = io::Error;
    type Future = BoxFuture<'static, Secured<C>>;

    fn upgrade_outbound(self, io: C, protocol: &'static str) -> Self::Future {
        async move {
            match self.tls {
                Some(tls) if protocol == tls::PROTOCOL => {
                    tls.connect(io).await.map(|(peer, stream)| (peer, Channel::Tls(stream.into())))
                }
                _ => {
                    let (peer, stream) = self.noise.upgrade_outbound(io, protocol).await.map_err(io::Error::other)?;
                    Ok((peer, Channel::Noise(stream.into())))
                }
            }
        }
        .boxed()
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> AsyncRead for Channel<C> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Noise(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Channel<C> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Noise(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Noise(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Noise(stream) => Pin::new(stream).poll_close(cx),
            Self::Tls(stream) => Pin::new(stream).poll_close(cx),
        }
    }
}

//! From an address to an authenticated connection with streams: TCP, then encryption, then the muxer.
//!
//! Invariant: no byte of a bib protocol is exchanged before the peer has proved that it holds the key its id names, and
//! a connection that is not ready in time is dropped.

mod muxer;
mod secure;
mod socket;
mod tcp;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::Boxed;
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::{PeerId, Transport};

pub use secure::Security;

use super::NetError;
use super::traffic::Traffic;

/// Builds the transport of a node, on which a connection may take as long as `handshake` to be ready.
pub(crate) fn build(
    identity: &Keypair,
    security: Security,
    handshake: Duration,
    traffic: Arc<Traffic>,
) -> Result<Boxed<(PeerId, StreamMuxerBox)>, NetError> {
    Ok(tcp::Tcp::new(traffic)
        .upgrade(Version::V1)
        .authenticate(secure::Secure::new(identity, security)?)
        .multiplex(muxer::MuxerUpgrade)
        .timeout(handshake)
        .boxed())
}

/// The socket alone, below encryption and muxer of somebody else.
#[cfg(test)]
pub(crate) fn bare(traffic: Arc<Traffic>) -> tcp::Tcp {
    tcp::Tcp::new(traffic)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use futures::{AsyncReadExt, StreamExt};
    use libp2p::core::transport::{ListenerId, TransportEvent};

    use super::*;

    #[test]
    fn connection_that_says_nothing_is_dropped_in_time() {
        let identity = Keypair::ed25519_from_bytes([1; 32]).unwrap();
        let mut transport = build(&identity, Security::Auto, Duration::from_millis(20), Arc::default()).unwrap();
        transport.listen_on(ListenerId::next(), "/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
        async_io::block_on(async {
            let Some(TransportEvent::NewAddress { listen_addr, .. }) = transport.next().await else {
                panic!("no address");
            };
            let port: u16 = listen_addr.to_string().rsplit('/').next().unwrap().parse().unwrap();
            let mut silent = async_io::Async::<TcpStream>::connect(([127, 0, 0, 1], port)).await.unwrap();
            let Some(TransportEvent::Incoming { upgrade, .. }) = transport.next().await else {
                panic!("no connection");
            };
            assert!(upgrade.await.is_err());
            // What it is told of the protocol is followed by the end.
            let mut rest = Vec::new();
            silent.read_to_end(&mut rest).await.unwrap();
        });
    }
}

//! From an address to an authenticated connection with streams: TCP, then encryption, then the muxer.
//!
//! Invariant: no byte of a bib protocol is exchanged before the peer has proved that it holds the key its id names, and
//! a connection that is not ready within [`HANDSHAKE`] is dropped.

mod muxer;
mod secure;
mod socket;
mod tcp;
mod tls;

use std::sync::Arc;

use bib_core::limits::HANDSHAKE;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::Boxed;
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::{PeerId, Transport};

pub use secure::Security;

use super::NetError;
use super::traffic::Traffic;

/// Builds the transport of a node.
pub(crate) fn build(
    identity: &Keypair,
    security: Security,
    traffic: Arc<Traffic>,
) -> Result<Boxed<(PeerId, StreamMuxerBox)>, NetError> {
    Ok(tcp::Tcp::new(traffic)
        .upgrade(Version::V1)
        .authenticate(secure::Secure::new(identity, security)?)
        .multiplex(muxer::MuxerUpgrade)
        .timeout(HANDSHAKE)
        .boxed())
}

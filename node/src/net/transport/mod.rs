//! From an address to an authenticated connection with streams: TCP, then encryption, then the muxer.
//!
//! Invariant: no byte of a bib protocol is exchanged before the peer has proved that it holds the key its id names, and
//! a connection that is not ready within [`HANDSHAKE`] is dropped.

mod muxer;
mod socket;
mod tcp;

use std::sync::Arc;

use bib_core::limits::HANDSHAKE;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::Boxed;
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::{PeerId, Transport, noise};

use super::NetError;
use super::traffic::Traffic;

/// Builds the transport of a node.
pub(crate) fn build(identity: &Keypair, traffic: Arc<Traffic>) -> Result<Boxed<(PeerId, StreamMuxerBox)>, NetError> {
    let noise = noise::Config::new(identity).map_err(|error| NetError::Identity(error.to_string()))?;
    Ok(tcp::Tcp::new(traffic)
        .upgrade(Version::V1)
        .authenticate(noise)
        .multiplex(muxer::MuxerUpgrade)
        .timeout(HANDSHAKE)
        .boxed())
}

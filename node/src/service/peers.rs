//! The other nodes: who is known, connecting and disconnecting.

use bib_core::api::{ErrorCode, Event, Failure};
use bib_core::id::NodeId;

use super::require_operator;
use crate::control::{Caller, Output};
use crate::net::{DialFailure, Multiaddr};
use crate::network::Stopped;
use crate::node::Context;

/// Why there is no session with a peer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum PeerError {
    /// The text is no address.
    #[error("`{0}` is not a multiaddr")]
    Address(String),
    /// The dial came to nothing.
    #[error("cannot connect to {address}: {source}")]
    Dial {
        /// What was dialed.
        address: String,
        /// Why not.
        source: DialFailure,
    },
    /// The node is not connected.
    #[error("not connected to {0}")]
    NotConnected(NodeId),
    /// The node stops.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl From<PeerError> for Failure {
    fn from(error: PeerError) -> Self {
        let failure = |code| Self::new(code, error.to_string());
        match &error {
            PeerError::Address(_) => failure(ErrorCode::Invalid).hinted(
                "an address looks like /ip4/192.168.1.20/tcp/4001; `bib status` on the other node shows its own",
            ),
            PeerError::Dial { source, .. } => match source {
                DialFailure::WrongNode(node) => {
                    failure(ErrorCode::Denied).hinted(format!("if {node} is the one you mean, connect to it"))
                }
                DialFailure::Ourselves | DialFailure::Unsupported => {
                    failure(ErrorCode::Invalid).hinted("`bib status` on the other node shows its addresses")
                }
                DialFailure::Refused(_) => failure(ErrorCode::Busy).hinted("`bib peer list` shows who is connected"),
                _ => failure(ErrorCode::Unreachable)
                    .hinted("check that bibd runs there (`bib status`) and that no firewall is between"),
            },
            PeerError::NotConnected(_) => failure(ErrorCode::NotFound).hinted("`bib peer list` shows who is connected"),
            PeerError::Stopped(_) => failure(ErrorCode::Cancelled),
        }
    }
}

type Result<T, E = Failure> = std::result::Result<T, E>;

pub(crate) async fn list(ctx: &Context, out: &Output) -> Result<()> {
    for peer in ctx.network.peers() {
        out.event(Event::Peer(peer)).await?;
    }
    Ok(())
}

pub(crate) async fn connect(ctx: &Context, caller: &Caller, address: String, out: &Output) -> Result<()> {
    require_operator(caller, "connect it to others")?;
    let parsed: Multiaddr = address.parse().map_err(|_| PeerError::Address(address.chars().take(120).collect()))?;
    let dialed = ctx.network.connect(parsed).await.map_err(PeerError::from)?;
    let node = dialed.map_err(|source| PeerError::Dial { address, source })?;
    let peer = ctx.network.peer(node).ok_or(PeerError::NotConnected(node))?;
    out.event(Event::Peer(peer)).await
}

pub(crate) async fn disconnect(ctx: &Context, caller: &Caller, node: NodeId) -> Result<()> {
    require_operator(caller, "disconnect it from others")?;
    if !ctx.network.peer(node).is_some_and(|peer| peer.connected) {
        return Err(PeerError::NotConnected(node).into());
    }
    ctx.network.disconnect(node).await;
    Ok(())
}

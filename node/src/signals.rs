//! What the system tells `bibd`: SIGHUP reads the configuration again, SIGTERM and SIGINT stop it after draining, a
//! second one of these at once.

use std::io;

use async_signal::{Signal, Signals};
use futures::StreamExt;

use crate::node::Handle;

/// Keeps SIGHUP for the node that is being started. The others still end the process at once: a start may take long, and
/// nothing is lost with it.
///
/// # Errors
/// When the system does not hand them out.
pub fn take() -> io::Result<Signals> {
    Signals::new([Signal::Hup])
}

/// Takes the other signals as well, for a node that can end what it began.
///
/// # Errors
/// When the system does not hand them out.
pub fn take_all(signals: &mut Signals) -> io::Result<()> {
    signals.add_signals([Signal::Term, Signal::Int])
}

/// Obeys them.
pub async fn obey(mut signals: Signals, node: Handle) {
    while let Some(signal) = signals.next().await {
        match signal {
            Ok(Signal::Hup) => node.reload().await,
            Ok(_) => {
                if !node.shutdown() {
                    node.halt();
                }
            }
            Err(error) => log::warn!(error:% = error; "a signal was lost"),
        }
    }
}

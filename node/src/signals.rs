//! What the system tells `bibd`: SIGHUP reads the configuration again, SIGTERM and SIGINT stop it after draining, a
//! second one of these at once.

use std::io;

use async_signal::{Signal, Signals};
use futures::StreamExt;

use crate::node::Handle;

/// Takes the signals of the process from now on.
///
/// # Errors
/// When the system does not hand them out.
pub fn take() -> io::Result<Signals> {
    Signals::new([Signal::Hup, Signal::Term, Signal::Int])
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

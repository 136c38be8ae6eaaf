//! The beginning of a session on the control socket, to learn whether a node answers without starting a program.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use bib_core::api::{API_VERSION, ClientFrame, ServerFrame};
use bib_core::encode::{decode, encode};
use bib_core::limits::MAX_CONTROL_FRAME;
use bib_core::wire::frame;

use crate::failure::{During, Failure, Result};

/// How long a node that accepted the connection may take to greet.
const PATIENCE: Duration = Duration::from_secs(20);

/// Says hello to a node; `None` when nobody listens. Returns its id.
///
/// # Errors
/// When somebody listens and does not answer as a node does.
pub fn greet(socket: &Path) -> Result<Option<String>> {
    let Ok(mut stream) = UnixStream::connect(socket) else { return Ok(None) };
    stream.set_read_timeout(Some(PATIENCE)).during("set a timeout")?;
    let hello = encode(&ClientFrame::Hello { api: API_VERSION });
    let header = frame::header(hello.len(), MAX_CONTROL_FRAME).during("frame a hello")?;
    stream.write_all(&[header.as_slice(), &hello].concat()).during("send a hello")?;
    let mut header = [0; frame::HEADER_LEN];
    stream.read_exact(&mut header).during("read the answer to a hello")?;
    let mut payload = vec![0; frame::payload_len(header, MAX_CONTROL_FRAME).during("read the answer to a hello")?];
    stream.read_exact(&mut payload).during("read the answer to a hello")?;
    match decode::<ServerFrame>(&payload).during("decode the answer to a hello")? {
        ServerFrame::Hello { node, .. } => Ok(Some(node.to_string())),
        other => Err(Failure(format!("the node answers a hello with {other:?}"))),
    }
}

//! The two messages of an SSH agent that bib needs: which keys are there, and sign this. An answer is bounded before
//! it is read, and what it says is checked before it is used.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bib_core::api::ErrorCode;
use bib_core::id::UserId;
use bib_core::key::Signature;

use crate::error::{CliError, Result};

/// Longest answer of an agent that is read, in bytes: what agents themselves allow.
const MAX_ANSWER: usize = 256 << 10;
/// Keys looked at; an agent with more is asked for one by its public key.
const MAX_KEYS: usize = 1_024;
/// An agent may ask its user to confirm, which takes a while.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;
const KEY_TYPE: &[u8] = b"ssh-ed25519";

/// An Ed25519 key that the agent holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AgentKey {
    pub(crate) user: UserId,
    pub(crate) comment: String,
}

/// Where an agent listens.
#[derive(Debug, Clone)]
pub(crate) struct Agent {
    socket: PathBuf,
}

impl Agent {
    pub(crate) fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// The Ed25519 keys it holds; others are not listed.
    pub(crate) fn keys(&self) -> Result<Vec<AgentKey>> {
        let answer = self.ask(&[REQUEST_IDENTITIES])?;
        parse_identities(&answer).ok_or_else(|| self.nonsense())
    }

    /// Has `bytes` signed by a key.
    pub(crate) fn sign(&self, user: &UserId, bytes: &[u8]) -> Result<Signature> {
        let mut request = vec![SIGN_REQUEST];
        put_string(&mut request, &key_blob(user));
        put_string(&mut request, bytes);
        request.extend_from_slice(&0u32.to_be_bytes());
        let answer = self.ask(&request)?;
        if answer.first() != Some(&SIGN_RESPONSE) {
            return Err(CliError::new(ErrorCode::Denied, format!("the SSH agent does not sign with {}", user.short()))
                .hint("`ssh-add -l` lists the keys it holds; perhaps it is locked or asked for a confirmation"));
        }
        parse_signature(&answer).ok_or_else(|| self.nonsense())
    }

    fn ask(&self, request: &[u8]) -> Result<Vec<u8>> {
        self.exchange(request).map_err(|error| {
            CliError::new(
                ErrorCode::Unauthenticated,
                format!("the SSH agent at `{}` does not answer: {error}", self.socket.display()),
            )
            .hint("start one with `eval $(ssh-agent)` and add the key with `ssh-add`, or name a key file with `--key`")
        })
    }

    fn exchange(&self, request: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        let mut frame = Vec::new();
        put_string(&mut frame, request);
        stream.write_all(&frame)?;
        let mut len = [0; 4];
        stream.read_exact(&mut len)?;
        let len = u32::from_be_bytes(len) as usize;
        if len > MAX_ANSWER {
            return Err(std::io::Error::other(format!("an answer of {len} bytes is too long")));
        }
        let mut answer = vec![0; len];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    }

    fn nonsense(&self) -> CliError {
        CliError::new(
            ErrorCode::Unauthenticated,
            format!("the SSH agent at `{}` answers nonsense", self.socket.display()),
        )
        .hint("check SSH_AUTH_SOCK, or name a key file with `--key`")
    }
}

fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).expect("requests to an agent are below 128 KiB");
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(bytes);
}

fn key_blob(user: &UserId) -> Vec<u8> {
    let mut blob = Vec::new();
    put_string(&mut blob, KEY_TYPE);
    put_string(&mut blob, user.as_bytes());
    blob
}

/// Takes a length-prefixed string from the front of `bytes`.
fn take_string<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (string, rest) = bytes
        .split_at_checked(4)
        .and_then(|(len, rest)| rest.split_at_checked(u32::from_be_bytes(len.try_into().ok()?) as usize))?;
    *bytes = rest;
    Some(string)
}

fn parse_identities(answer: &[u8]) -> Option<Vec<AgentKey>> {
    let mut rest = answer.strip_prefix(&[IDENTITIES_ANSWER])?;
    let (count, tail) = rest.split_at_checked(4)?;
    let count = u32::from_be_bytes(count.try_into().ok()?) as usize;
    rest = tail;
    let mut keys = Vec::new();
    for _ in 0..count.min(MAX_KEYS) {
        let mut blob = take_string(&mut rest)?;
        let comment = String::from_utf8_lossy(take_string(&mut rest)?).into_owned();
        if take_string(&mut blob) == Some(KEY_TYPE) {
            let user = take_string(&mut blob).and_then(UserId::from_slice)?;
            keys.push(AgentKey { user, comment });
        }
    }
    Some(keys)
}

fn parse_signature(answer: &[u8]) -> Option<Signature> {
    let mut rest = answer.strip_prefix(&[SIGN_RESPONSE])?;
    let mut signature = take_string(&mut rest)?;
    if take_string(&mut signature)? != KEY_TYPE {
        return None;
    }
    take_string(&mut signature)?.try_into().ok().map(Signature)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bib_core::key::{Purpose, SecretKey, signed_bytes, verify};
    use std::os::unix::net::UnixListener;

    /// An agent that holds one key and answers `n` requests.
    fn agent(key: SecretKey, n: usize) -> (tempfile::TempDir, Agent, std::thread::JoinHandle<()>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let handle = std::thread::spawn(move || {
            for _ in 0..n {
                let (mut stream, _) = listener.accept().unwrap();
                let mut len = [0; 4];
                stream.read_exact(&mut len).unwrap();
                let mut request = vec![0; u32::from_be_bytes(len) as usize];
                stream.read_exact(&mut request).unwrap();
                let mut answer = Vec::new();
                if request[0] == REQUEST_IDENTITIES {
                    answer.push(IDENTITIES_ANSWER);
                    answer.extend_from_slice(&2u32.to_be_bytes());
                    let mut foreign = Vec::new();
                    put_string(&mut foreign, b"ssh-rsa");
                    put_string(&mut foreign, &[1; 256]);
                    put_string(&mut answer, &foreign);
                    put_string(&mut answer, b"old");
                    put_string(&mut answer, &key_blob(&key.user_id()));
                    put_string(&mut answer, b"me@home");
                } else {
                    let mut rest = &request[1..];
                    assert_eq!(take_string(&mut rest).unwrap(), key_blob(&key.user_id()));
                    let data = take_string(&mut rest).unwrap();
                    // An agent signs what it gets; the purpose is in the bytes already.
                    let plain = data.strip_prefix(b"bib/op/1\0".as_slice()).unwrap();
                    let mut signature = Vec::new();
                    put_string(&mut signature, KEY_TYPE);
                    put_string(&mut signature, &key.sign(Purpose::Op, plain).0);
                    answer.push(SIGN_RESPONSE);
                    put_string(&mut answer, &signature);
                }
                let mut frame = Vec::new();
                put_string(&mut frame, &answer);
                stream.write_all(&frame).unwrap();
            }
        });
        (dir, Agent::new(path), handle)
    }

    #[test]
    fn agent_lists_only_ed25519_keys_and_its_signature_holds() {
        let key = SecretKey::from_seed([5; 32]);
        let (_dir, agent, handle) = agent(key.clone(), 2);
        assert_eq!(agent.keys().unwrap(), [AgentKey { user: key.user_id(), comment: "me@home".to_owned() }]);
        let signature = agent.sign(&key.user_id(), &signed_bytes(Purpose::Op, b"hello")).unwrap();
        assert_eq!(verify(&key.user_id(), Purpose::Op, b"hello", &signature), Ok(()));
        handle.join().unwrap();
    }

    #[test]
    fn garbage_of_an_agent_is_refused_without_panic() {
        let key = key_blob(&UserId::from_bytes([1; 32]));
        let mut good = vec![IDENTITIES_ANSWER, 0, 0, 0, 1];
        put_string(&mut good, &key);
        put_string(&mut good, b"comment");
        assert!(parse_identities(&good).is_some());
        for cut in 0..good.len() {
            assert_eq!(parse_identities(&good[..cut]), None, "cut at {cut}");
            for answer in [&good[..cut], &[SIGN_RESPONSE, 0xff, 0xff, 0xff, 0xff, 1], &[SIGN_RESPONSE]] {
                assert_eq!(parse_signature(answer), None);
            }
        }
        let lying = [IDENTITIES_ANSWER, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(parse_identities(&lying), None);
    }
}

//! The user's key: where it is, whether it may be used, and signing with it. The secret stays in this process (or in
//! an SSH agent); a node only ever sees signatures.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bib_core::api::ErrorCode;
use bib_core::id::UserId;
use bib_core::key::{Purpose, SecretKey, Signature, signed_bytes, verify};
use rustix::termios::{self, LocalModes, OptionalActions};
use ssh_key::private::{Ed25519Keypair, Ed25519PrivateKey, KeypairData};
use ssh_key::public::{Ed25519PublicKey, KeyData};
use ssh_key::{Cipher, Kdf, LineEnding, PrivateKey, PublicKey};
use zeroize::Zeroizing;

use crate::Context;
use crate::agent::Agent;
use crate::config::user_dir;
use crate::error::{CliError, Result};

/// Longest key file that is read, in bytes.
const MAX_KEY_FILE: u64 = 16 << 10;
/// Rounds of the key derivation for a passphrase: what OpenSSH uses.
const KDF_ROUNDS: u32 = 16;
/// Rounds that are accepted: with more, a crafted key file would keep the command busy for minutes.
const MAX_KDF_ROUNDS: u32 = 1_024;
/// Longest passphrase, in bytes.
const MAX_PASSPHRASE: usize = 1_024;

/// How much a command wants the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// It cannot do without.
    Required,
    /// It takes it when there is one, asking for the passphrase.
    Wanted,
    /// It takes it when that costs no question.
    IfReady,
}

/// A key that was found and not opened yet.
#[derive(Debug)]
pub(crate) enum Located {
    /// A private key in a file.
    File { path: PathBuf, user: UserId, key: Box<PrivateKey> },
    /// A key in an agent, named by its public half in a file or by the agent itself.
    Agent { agent: Agent, user: UserId, comment: String },
}

impl Located {
    /// Whose it is.
    pub(crate) const fn user(&self) -> &UserId {
        match self {
            Self::File { user, .. } | Self::Agent { user, .. } => user,
        }
    }

    /// Where it is, for people.
    pub(crate) fn place(&self) -> String {
        match self {
            Self::File { path, .. } => path.display().to_string(),
            Self::Agent { agent, comment, .. } => format!("agent {} ({comment})", agent.socket().display()),
        }
    }

    /// Whether a passphrase protects it.
    pub(crate) fn is_encrypted(&self) -> bool {
        matches!(self, Self::File { key, .. } if key.is_encrypted())
    }
}

/// Signs in the name of the user.
#[derive(Debug)]
pub(crate) enum Signer {
    /// With a key in this process.
    Key(SecretKey),
    /// With a key that an agent holds.
    Agent(Agent, UserId),
}

impl Signer {
    /// The user.
    pub(crate) fn user_id(&self) -> UserId {
        match self {
            Self::Key(key) => key.user_id(),
            Self::Agent(_, user) => *user,
        }
    }

    /// Signs `bytes` for a purpose.
    pub(crate) fn sign(&self, purpose: Purpose, bytes: &[u8]) -> Result<Signature> {
        match self {
            Self::Key(key) => Ok(key.sign(purpose, bytes)),
            Self::Agent(agent, user) => {
                let signature = agent.sign(user, &signed_bytes(purpose, bytes))?;
                verify(user, purpose, bytes, &signature).map_err(|_| {
                    CliError::new(ErrorCode::Unauthenticated, "the SSH agent made a signature that does not hold")
                        .hint("name a key file with `--key`")
                })?;
                Ok(signature)
            }
        }
    }
}

/// The key as the configuration names it, ready to sign; `None` only if `need` allows it.
pub(crate) fn signer(ctx: &Context, need: Need) -> Result<Option<Signer>> {
    match locate(ctx)? {
        Some(located) => unlock(ctx, located, need),
        None if need == Need::Required => Err(no_key()),
        None => Ok(None),
    }
}

/// The key, which the command cannot do without.
pub(crate) fn required_signer(ctx: &Context) -> Result<Signer> {
    signer(ctx, Need::Required)?.ok_or_else(no_key)
}

/// What to say when there is no key.
pub(crate) fn no_key() -> CliError {
    CliError::new(ErrorCode::Unauthenticated, "there is no key to sign with").hint("make one with `bib key new`")
}

/// The file in which the key is unless told otherwise.
pub(crate) fn default_path(ctx: &Context) -> Result<PathBuf> {
    Ok(user_dir(&ctx.environment)?.join("user.key"))
}

/// Finds the key that the configuration names; `None` when it names none and none is at the usual place.
pub(crate) fn locate(ctx: &Context) -> Result<Option<Located>> {
    let spec = ctx.config.key();
    if let Some(which) = spec.strip_prefix("agent:") {
        return from_agent(ctx, which).map(Some);
    }
    if spec != "auto" {
        let path = match spec.strip_prefix("~/") {
            Some(rest) => Path::new(ctx.environment.get("HOME").unwrap_or("/")).join(rest),
            None => PathBuf::from(spec),
        };
        return read(ctx, &path)?.map_or_else(
            || {
                Err(CliError::new(ErrorCode::NotFound, format!("there is no key file `{}`", path.display()))
                    .hint(format!("make one with `bib key new --out {}`", path.display())))
            },
            |located| Ok(Some(located)),
        );
    }
    // Who has no home has no key there, and may do what takes none.
    let Ok(path) = default_path(ctx) else { return Ok(None) };
    match read(ctx, &path)? {
        Some(located) => Ok(Some(located)),
        None => read(ctx, &path.with_extension("key.pub")),
    }
}

fn read(ctx: &Context, path: &Path) -> Result<Option<Located>> {
    let fail = |error| CliError::io("read the key", path, &error);
    // A fifo is opened without waiting for who writes to it.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    let metadata = file.metadata().map_err(fail)?;
    if !metadata.is_file() {
        return Err(
            CliError::invalid(format!("`{}` is not a file", path.display())).hint("name a key file with `--key`")
        );
    }
    let mut text = Zeroizing::new(Vec::new());
    file.take(MAX_KEY_FILE).read_to_end(&mut text).map_err(fail)?;
    if text.starts_with(b"ssh-") {
        return from_public(ctx, path, &text).map(Some);
    }
    let key = PrivateKey::from_openssh(text.as_slice()).map_err(|error| {
        CliError::invalid(format!("`{}` is not an OpenSSH key: {error}", path.display()))
            .hint("make one with `bib key new`, or name yours with `--key`")
    })?;
    // Checked after parsing: only what is a private key has to be private.
    if metadata.mode() & 0o077 != 0 {
        let mode = metadata.mode() & 0o7777;
        return Err(CliError::new(
            ErrorCode::Denied,
            format!("others may read the key `{}` (mode {mode:04o})", path.display()),
        )
        .hint(format!(
            "close it with `chmod 600 {}`; if others have access to this machine, make a new one",
            path.display()
        )));
    }
    let user = user_of(key.public_key().key_data(), path)?;
    Ok(Some(Located::File { path: path.to_owned(), user, key: Box::new(key) }))
}

fn user_of(public: &KeyData, path: &Path) -> Result<UserId> {
    public.ed25519().map(|key| UserId::from_bytes(key.0)).ok_or_else(|| {
        CliError::new(
            ErrorCode::Unsupported,
            format!("`{}` is a key for {}, bib signs with Ed25519", path.display(), public.algorithm()),
        )
        .hint("make one with `bib key new`")
    })
}

fn agent(ctx: &Context) -> Result<Agent> {
    ctx.environment.get("SSH_AUTH_SOCK").map(Agent::new).ok_or_else(|| {
        CliError::new(ErrorCode::Unauthenticated, "there is no SSH agent: SSH_AUTH_SOCK is not set")
            .hint("start one with `eval $(ssh-agent)` and add the key with `ssh-add`")
    })
}

/// The public half is in a file, so the secret one must be in the agent.
fn from_public(ctx: &Context, path: &Path, text: &[u8]) -> Result<Located> {
    let public =
        std::str::from_utf8(text).ok().and_then(|text| PublicKey::from_openssh(text.trim()).ok()).ok_or_else(|| {
            CliError::invalid(format!("`{}` is not an OpenSSH public key", path.display()))
                .hint("make a key with `bib key new`")
        })?;
    let user = user_of(public.key_data(), path)?;
    let agent = agent(ctx)?;
    match agent.keys()?.into_iter().find(|key| key.user == user) {
        Some(key) => Ok(Located::Agent { agent, user, comment: key.comment }),
        None => Err(CliError::new(
            ErrorCode::Unauthenticated,
            format!("the SSH agent does not hold the secret half of `{}`", path.display()),
        )
        .hint("add it with `ssh-add <private key>`")),
    }
}

fn from_agent(ctx: &Context, which: &str) -> Result<Located> {
    let agent = agent(ctx)?;
    let keys = agent.keys()?;
    let mut matching = keys
        .into_iter()
        .filter(|key| which.is_empty() || key.comment == which || key.user.to_string().starts_with(which));
    match (matching.next(), matching.next()) {
        (Some(key), None) => Ok(Located::Agent { agent, user: key.user, comment: key.comment }),
        (None, _) if which.is_empty() => {
            Err(CliError::new(ErrorCode::Unauthenticated, "the SSH agent holds no Ed25519 key")
                .hint("add one with `ssh-add`, or make a key file with `bib key new`"))
        }
        (None, _) => {
            Err(CliError::new(ErrorCode::Unauthenticated, format!("the SSH agent holds no Ed25519 key `{which}`"))
                .hint("`ssh-add -L` lists its keys"))
        }
        (Some(first), Some(second)) => Err(CliError::invalid(format!(
            "the SSH agent holds several Ed25519 keys: {} ({}), {} ({})…",
            first.user.short(),
            first.comment,
            second.user.short(),
            second.comment
        ))
        .hint(format!("say which: `--key agent:{}`", first.user.short()))),
    }
}

fn unlock(ctx: &Context, located: Located, need: Need) -> Result<Option<Signer>> {
    let (path, user, key) = match located {
        Located::Agent { agent, user, .. } => return Ok(Some(Signer::Agent(agent, user))),
        Located::File { path, user, key } => (path, user, key),
    };
    if !key.is_encrypted() {
        return secret(&path, &user, &key).map(|key| Some(Signer::Key(key)));
    }
    let passphrase = match ctx.environment.get("BIB_PASSPHRASE") {
        Some(passphrase) => Zeroizing::new(passphrase.to_owned()),
        None => {
            // An agent that holds the key saves the question, as with ssh.
            if let Some(socket) = ctx.environment.get("SSH_AUTH_SOCK") {
                let agent = Agent::new(socket);
                if agent.keys().is_ok_and(|keys| keys.iter().any(|key| key.user == user)) {
                    return Ok(Some(Signer::Agent(agent, user)));
                }
            }
            if need == Need::IfReady {
                return Ok(None);
            }
            ask_passphrase(&format!("Passphrase of {}: ", path.display()))?
        }
    };
    if let Kdf::Bcrypt { rounds, .. } = key.kdf()
        && *rounds > MAX_KDF_ROUNDS
    {
        return Err(CliError::new(
            ErrorCode::Unsupported,
            format!(
                "`{}` asks for {rounds} rounds of key derivation, at most {MAX_KDF_ROUNDS} are done",
                path.display()
            ),
        )
        .hint(format!("write it again with fewer: `ssh-keygen -p -a 16 -f {}`", path.display())));
    }
    let opened = key.decrypt(passphrase.as_bytes()).map_err(|_| {
        CliError::new(ErrorCode::Unauthenticated, format!("the passphrase does not open `{}`", path.display()))
            .hint("try again; BIB_PASSPHRASE, if set, is used instead of asking")
    })?;
    secret(&path, &user, &opened).map(|key| Some(Signer::Key(key)))
}

fn secret(path: &Path, user: &UserId, key: &PrivateKey) -> Result<SecretKey> {
    let damaged = || {
        CliError::new(
            ErrorCode::Integrity,
            format!("the halves of the key `{}` do not belong together", path.display()),
        )
        .hint("restore it from a copy, or make a new one with `bib key new --out <file>`")
    };
    let pair = key.key_data().ed25519().ok_or_else(damaged)?;
    let secret = SecretKey::from_seed(pair.private.to_bytes());
    if secret.user_id() == *user { Ok(secret) } else { Err(damaged()) }
}

/// The public half in the form of OpenSSH.
pub(crate) fn openssh_public(user: &UserId, comment: &str) -> Result<String> {
    PublicKey::new(KeyData::Ed25519(Ed25519PublicKey(*user.as_bytes())), comment)
        .to_openssh()
        .map_err(|error| CliError::new(ErrorCode::Internal, format!("the public key cannot be written: {error}")))
}

/// Random bytes of the operating system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| {
        CliError::new(ErrorCode::Internal, format!("the system gives no random bytes: {error}")).hint("try again later")
    })?;
    Ok(bytes)
}

/// Makes a key and writes both halves, never over a file that is there.
pub(crate) fn create(path: &Path, comment: &str, passphrase: Option<&str>) -> Result<UserId> {
    let seed = Zeroizing::new(random::<32>()?);
    let secret = SecretKey::from_seed(*seed);
    let user = secret.user_id();
    let internal =
        |error: ssh_key::Error| CliError::new(ErrorCode::Internal, format!("the key cannot be written: {error}"));
    let pair = Ed25519Keypair {
        public: Ed25519PublicKey(*user.as_bytes()),
        private: Ed25519PrivateKey::from_bytes(secret.seed()),
    };
    let mut key = PrivateKey::new(KeypairData::Ed25519(pair), comment).map_err(internal)?;
    if let Some(passphrase) = passphrase {
        let kdf = Kdf::Bcrypt { salt: random::<16>()?.to_vec(), rounds: KDF_ROUNDS };
        key = key
            .encrypt_with(Cipher::Aes256Ctr, kdf, u32::from_be_bytes(random()?), passphrase.as_bytes())
            .map_err(internal)?;
    }
    let text = key.to_openssh(LineEnding::LF).map_err(internal)?;
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|error| CliError::io("make the folder", dir, &error))?;
    }
    write_new(path, text.as_bytes(), 0o600)?;
    let mut public = path.as_os_str().to_owned();
    public.push(".pub");
    // Derived from the key beside it, so an old one may be replaced.
    fs::write(&public, openssh_public(&user, comment)? + "\n")
        .map_err(|error| CliError::io("write", Path::new(&public), &error))?;
    Ok(user)
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(|error| {
        if error.kind() == std::io::ErrorKind::AlreadyExists {
            CliError::new(ErrorCode::Exists, format!("there is a key at `{}` already", path.display()))
                .hint("show it with `bib key show`, or write another one with `bib key new --out <file>`")
        } else {
            CliError::io("write the key", path, &error)
        }
    })?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|error| CliError::io("write the key", path, &error))
}

/// The passphrase for a new key: from the environment, else asked twice.
pub(crate) fn new_passphrase(ctx: &Context) -> Result<Zeroizing<String>> {
    if let Some(passphrase) = ctx.environment.get("BIB_PASSPHRASE") {
        return Ok(Zeroizing::new(passphrase.to_owned()));
    }
    let first = ask_passphrase("New passphrase: ")?;
    if first.is_empty() {
        return Err(
            CliError::invalid("the passphrase is empty").hint("leave `--passphrase` away for a key without one")
        );
    }
    if *first != *ask_passphrase("The same again: ")? {
        return Err(CliError::invalid("the two passphrases differ").hint("try again"));
    }
    Ok(first)
}

/// Asks on the terminal without showing what is typed.
pub(crate) fn ask_passphrase(prompt: &str) -> Result<Zeroizing<String>> {
    let no_terminal = |_| {
        CliError::new(ErrorCode::Unauthenticated, "the key has a passphrase and there is no terminal to ask for it")
            .hint("set BIB_PASSPHRASE, or load the key into an SSH agent with `ssh-add`")
    };
    let mut tty = OpenOptions::new().read(true).write(true).open("/dev/tty").map_err(no_terminal)?;
    let before = termios::tcgetattr(&tty).map_err(|error| no_terminal(error.into()))?;
    let mut silent = before.clone();
    // Without ISIG an interrupt arrives as a byte, so the terminal is always put back before the command ends.
    silent.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
    termios::tcsetattr(&tty, OptionalActions::Flush, &silent).map_err(|error| no_terminal(error.into()))?;
    let answer = tty.write_all(prompt.as_bytes()).and_then(|()| read_silently(&mut tty));
    let restored = termios::tcsetattr(&tty, OptionalActions::Flush, &before);
    let _ = tty.write_all(b"\n");
    restored.map_err(|error| no_terminal(error.into()))?;
    match answer.map_err(|error| CliError::io("read", "/dev/tty", &error))? {
        Some(passphrase) => Ok(passphrase),
        None => Err(CliError::new(ErrorCode::Cancelled, "no passphrase was given").hint("run the command again")),
    }
}

/// Reads a line byte by byte; `None` when it was interrupted or is no text.
fn read_silently(tty: &mut impl Read) -> std::io::Result<Option<Zeroizing<String>>> {
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_PASSPHRASE));
    let mut byte = [0];
    loop {
        if tty.read(&mut byte)? == 0 {
            return Ok(None);
        }
        match byte[0] {
            b'\n' | b'\r' => break,
            0x03 | 0x04 => return Ok(None),
            0x08 | 0x7f => {
                // A whole character goes, not a part of one.
                while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
            }
            _ if line.len() == MAX_PASSPHRASE => return Ok(None),
            byte => line.push(byte),
        }
    }
    Ok(std::str::from_utf8(&line).ok().map(|text| Zeroizing::new(text.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_passphrases_can_be_corrected_and_interrupted() {
        let typed = |bytes: &[u8]| read_silently(&mut &*bytes).unwrap().map(|text| text.to_string());
        assert_eq!(typed(b"secret\n"), Some("secret".to_owned()));
        assert_eq!(typed("a\u{e9}\u{7f}b\r".as_bytes()), Some("ab".to_owned()));
        assert_eq!(typed(b"\x7f\x7fa\n"), Some("a".to_owned()));
        assert_eq!(typed(b"sec\x03"), None);
        assert_eq!(typed(b"sec"), None);
        assert_eq!(typed(b"\xff\n"), None);
        assert_eq!(typed(&[b'a'; 2_000]), None);
    }
}

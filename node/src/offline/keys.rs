//! `bibd keys`: the keys of an encrypted node, without it.

use std::io::Read;

use argh::{ArgsInfo, FromArgs};
use bib_core::api::{ErrorCode, Failure};
use bib_core::limits::MAX_SHARES_TEXT;
use bib_core::share::{self, Share, ShareLine};
use zeroize::Zeroizing;

use super::{Idle, Streams, identity};
use crate::identity::load_or_make;
use crate::service::keys::vault_failure;
use crate::vault::Vault;

/// take care of the keys of an encrypted node
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "keys", help_triggers("-h", "--help"))]
pub struct KeysArgs {
    #[argh(subcommand)]
    command: KeysCommand,
}

#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand)]
enum KeysCommand {
    Recover(RecoverArgs),
}

/// seal the key that shares make to the node of the data directory
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "recover",
    help_triggers("-h", "--help"),
    example = "cat share-1.txt share-4.txt share-5.txt | {command_name} --data-dir /srv/bib",
    note = "Reads shares from stdin, one a line; empty lines and those that begin with # are passed over.\n\
    `bib admin keys recover` asks for them one by one, and opens those that are sealed to you.",
    note = "A data directory without identity.pem gets a new identity. Prints the node that the keys are\n\
    sealed to now, the one before, and the numbers of shares that were wrong and not needed."
)]
struct RecoverArgs {
    /// where everything is kept
    #[argh(option, arg_name = "folder")]
    data_dir: Option<String>,
}

impl KeysArgs {
    /// The data directory that the line names, if it does.
    pub(super) fn data_dir(&self) -> Option<&str> {
        match &self.command {
            KeysCommand::Recover(args) => args.data_dir.as_deref(),
        }
    }
}

pub(super) fn run(args: &KeysArgs, idle: &Idle, streams: &mut Streams<'_>) -> Result<(), Failure> {
    match &args.command {
        KeysCommand::Recover(_) => recover(idle, streams),
    }
}

fn recover(idle: &Idle, streams: &mut Streams<'_>) -> Result<(), Failure> {
    if !Vault::is_in(idle.dir()) {
        let message = format!("`{}` has no keys: it is not of an encrypted node", idle.dir().display());
        let hint = if Vault::has_copy(idle.dir()) {
            "its copy is there: `cp -p keys/store.keys.copy keys/store.keys` in that folder"
        } else {
            "name the data directory of the node with `--data-dir <folder>`; `keys/store.keys` must be in it"
        };
        return Err(Failure::new(ErrorCode::NotFound, message).hinted(hint));
    }
    let shares = read(streams)?;
    // Before there is a new identity, so that what cannot be done leaves nothing behind.
    share::check(&shares).map_err(|error| {
        let failure = Failure::new(ErrorCode::Integrity, error.to_string());
        failure.hinted("give as many different shares of one set as are needed, one a line")
    })?;
    let key = load_or_make(idle.dir()).map_err(|error| identity::failure(&error))?;
    let recovered = Vault::recover(idle.dir(), &shares, &key).map_err(|error| vault_failure(&error))?;
    streams.line(&format!("node   {}", key.node_id()))?;
    streams.line(&format!("before {}", recovered.before))?;
    for index in recovered.wrong {
        streams.note(&format!("share {index} is not genuine and was passed over"));
        streams.line(&format!("wrong  {index}"))?;
    }
    Ok(())
}

fn read(streams: &mut Streams<'_>) -> Result<Vec<Share>, Failure> {
    let unreadable = |why: &str| {
        Failure::new(ErrorCode::Invalid, format!("the shares cannot be read: {why}"))
            .hinted("give them on stdin, one a line")
    };
    let mut text = Zeroizing::new(String::with_capacity(MAX_SHARES_TEXT));
    let input = streams.input.take(MAX_SHARES_TEXT as u64 + 1).read_to_string(&mut text);
    let n_bytes = input.map_err(|error| unreadable(&error.to_string()))?;
    if n_bytes > MAX_SHARES_TEXT {
        return Err(unreadable("they are longer than 32 KiB"));
    }
    let mut shares = Vec::new();
    for (number, line) in share::lines(&text) {
        match line {
            Ok(ShareLine::Plain(share)) => shares.push(share),
            Ok(ShareLine::Sealed(sealed)) => {
                let message = format!(
                    "line {number}: share {} is sealed to the user {}, whose key bibd never has",
                    sealed.name().index,
                    sealed.user()
                );
                return Err(Failure::new(ErrorCode::Precondition, message)
                    .hinted("its user opens it with `bib admin keys open <file>`"));
            }
            Err(error) => {
                return Err(Failure::new(ErrorCode::Integrity, format!("line {number}: {error}"))
                    .hinted("compare the line with the paper or file that it comes from"));
            }
        }
    }
    Ok(shares)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bib_core::key::SecretKey;
    use bib_core::share::Scheme;
    use bib_core::time::Timestamp;

    use super::*;

    const NOW: Timestamp = Timestamp(1_795_530_245_000_000);

    fn recover_from(dir: &Path, input: &str) -> Result<String, Failure> {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut streams = Streams { input: &mut input.as_bytes(), out: &mut out, err: &mut err };
        recover(&Idle::take(dir)?, &mut streams)?;
        Ok(String::from_utf8(out).unwrap())
    }

    /// The data directory of an encrypted node without its identity, and the five lines of its shares.
    fn orphan() -> (tempfile::TempDir, SecretKey, Vec<String>) {
        let (dir, key) = (tempfile::tempdir().unwrap(), SecretKey::from_seed([1; 32]));
        let vault = Vault::create(dir.path(), &key, NOW).unwrap();
        let shares =
            vault.split(Scheme::new(3, 5).unwrap(), NOW, &mut rand_core::UnwrapErr(getrandom::SysRng)).unwrap();
        (dir, key, shares.iter().map(|share| share.to_text().to_string()).collect())
    }

    #[test]
    fn three_shares_on_stdin_make_a_new_owner() {
        let (dir, old, lines) = orphan();
        let input = format!("# of ann\n{}\n\n{}\n{}", lines[4], lines[1].to_uppercase(), lines[2].replace('-', " "));
        let out = recover_from(dir.path(), &input).unwrap();
        let new = load_or_make(dir.path()).unwrap();
        assert_eq!(out, format!("node   {}\nbefore {}\n", new.node_id(), old.node_id()));
        Vault::open(dir.path(), &new).unwrap().unwrap();
    }

    #[test]
    fn shares_that_do_not_suffice_are_named_and_make_no_identity() {
        let (dir, _, lines) = orphan();
        let refused = |input: &str| {
            let refused = recover_from(dir.path(), input).unwrap_err();
            assert!(refused.hint.is_some());
            assert!(!dir.path().join("identity.pem").exists(), "{refused}");
            refused.message
        };
        assert_eq!(refused(&lines[..2].join("\n")), "2 of the 3 shares that are needed are there");
        assert_eq!(refused(""), "0 of the 2 shares that are needed are there");
        let twice = [&*lines[0], &lines[1], &lines[0]].join("\n");
        assert_eq!(refused(&twice), "share 1 is there twice");
        let mistyped = format!("{}\n{}\n{}", lines[0], lines[1], lines[2].replacen("-a", "-b", 1));
        assert_eq!(refused(&mistyped), "line 3: its check does not fit: it is mistyped or damaged in group 1");
        assert!(refused("open sesame").contains("line 1: it is not a share"));
        assert!(refused(&"#".repeat(MAX_SHARES_TEXT + 1)).contains("longer than 32 KiB"));
    }

    #[test]
    fn sealed_share_is_left_to_its_user() {
        let (dir, _, lines) = orphan();
        let ShareLine::Plain(share) = ShareLine::parse(&lines[0]).unwrap() else { panic!("a plain share") };
        let user = SecretKey::from_seed([9; 32]).user_id();
        let sealed = share.seal_to(&user, Zeroizing::new([7; 32])).unwrap().to_text();
        let refused = recover_from(dir.path(), &[&*sealed, &lines[1], &lines[2]].join("\n")).unwrap_err();
        assert!(refused.message.contains(&user.to_string()), "{refused}");
        assert!(refused.hint.unwrap().contains("bib admin keys open"));
    }

    #[test]
    fn directory_without_keys_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let refused = recover_from(dir.path(), "").unwrap_err();
        assert_eq!(refused.code, ErrorCode::NotFound);
        assert!(!dir.path().join("identity.pem").exists());
        let (dir, ..) = orphan();
        std::fs::remove_file(Vault::path_in(dir.path())).unwrap();
        let refused = recover_from(dir.path(), "").unwrap_err();
        assert!(refused.hint.unwrap().contains("cp -p keys/store.keys.copy"));
    }
}

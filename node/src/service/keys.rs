//! The keys of an encrypted node: what may be known of them, new ones, shares. Secrets go to the operator who asked
//! and nowhere else.

use std::sync::Arc;

use bib_core::api::event::{KeysFigures, ShareText, SplitFigures};
use bib_core::api::{ErrorCode, Event, Failure};
use bib_core::id::UserId;
use bib_core::limits::{MAX_SHARES, MIN_THRESHOLD};
use bib_core::share::Scheme;
use bib_storage_redb::crypto::{Cipher, Keyring};
use getrandom::SysRng;
use rand_core::UnwrapErr;
use zeroize::Zeroizing;

use super::require_operator;
use crate::control::{Caller, Output};
use crate::node::Context;
use crate::runtime::timestamp;
use crate::store::Stores;
use crate::vault::{Vault, VaultError};

/// The keys that are in use.
#[derive(Debug)]
pub(crate) struct Keys {
    pub(crate) vault: Vault,
    pub(crate) keyring: Arc<Keyring>,
}

impl Keys {
    /// What may be known of them and of what they seal.
    pub(crate) fn figures(&self, stores: &Stores) -> KeysFigures {
        let figures = self.vault.figures();
        let split = figures.split.map(|split| SplitFigures {
            set: split.set,
            threshold: split.scheme.threshold(),
            total: split.scheme.total(),
            time: split.time,
            is_stale: split.is_stale,
        });
        let cipher = match self.keyring.cipher() {
            Cipher::Aes256Gcm => "AES-256-GCM",
            Cipher::ChaCha20Poly1305 => "ChaCha20-Poly1305",
        };
        let cipher = cipher.to_owned();
        let (generation, fingerprint, data_keys) = (figures.generation, figures.fingerprint, figures.data_keys);
        let is_partly_plain = stores.has_plain_segments();
        KeysFigures { cipher, generation, fingerprint, data_keys, split, is_partly_plain }
    }
}

fn keys(ctx: &Context, caller: &Caller, what: &str) -> Result<Arc<Keys>, Failure> {
    require_operator(caller, what)?;
    ctx.keys.clone().ok_or_else(|| {
        Failure::new(ErrorCode::Precondition, "what this node stores is not encrypted")
            .hinted("set `crypto.enabled = true` in bibd.toml and start bibd again: what is stored is encrypted then")
    })
}

/// What a caller is told when keys cannot be used or changed.
pub(crate) fn vault_failure(error: &VaultError) -> Failure {
    let code = match error {
        VaultError::Io { .. } => ErrorCode::Internal,
        VaultError::TooWide { .. } => ErrorCode::Denied,
        VaultError::Unsupported { .. } => ErrorCode::Unsupported,
        VaultError::Absent { .. } => ErrorCode::NotFound,
        VaultError::OtherNode { .. } | VaultError::TooMany => ErrorCode::Precondition,
        VaultError::WeakUser(_) => ErrorCode::Invalid,
        _ => ErrorCode::Integrity,
    };
    Failure::new(code, error.to_string()).hinted(error.hint())
}

/// Does something with the keys that writes files.
async fn on_pool<T: Send + 'static>(
    ctx: &Context,
    keys: &Arc<Keys>,
    work: impl FnOnce(&Keys) -> Result<T, VaultError> + Send + 'static,
) -> Result<T, Failure> {
    let keys = keys.clone();
    let done = ctx.pool.run("keys", move || work(&keys)).await;
    let done = done.map_err(|error| Failure::new(ErrorCode::Internal, error.to_string()))?;
    done.map_err(|error| {
        log::error!(error:% = error; "the keys could not be changed");
        vault_failure(&error)
    })
}

pub(crate) async fn status(ctx: &Context, caller: &Caller, out: &Output) -> Result<(), Failure> {
    let keys = keys(ctx, caller, "see its keys")?;
    out.event(Event::Keys(Box::new(keys.figures(&ctx.store.stores())))).await
}

pub(crate) async fn rotate(ctx: &Context, caller: &Caller, which: (bool, bool), out: &Output) -> Result<(), Failure> {
    let keys = keys(ctx, caller, "renew its keys")?;
    let (kek, data) = which;
    if !kek && !data {
        return Err(Failure::new(ErrorCode::Invalid, "no key was named").hinted("say `--kek`, `--data` or both"));
    }
    on_pool(ctx, &keys, move |keys| {
        if data {
            let id = keys.vault.rotate_data_key(&keys.keyring, timestamp())?;
            log::info!(number = id; "a new data key seals what is written");
        }
        if kek {
            let generation = keys.vault.rotate_kek()?;
            log::info!(generation = generation; "a new key wraps the data keys; shares of the old one open nothing");
        }
        Ok(())
    })
    .await?;
    out.event(Event::Keys(Box::new(keys.figures(&ctx.store.stores())))).await
}

pub(crate) async fn split(
    ctx: &Context,
    caller: &Caller,
    (threshold, total): (u8, u8),
    to: Vec<UserId>,
    out: &Output,
) -> Result<(), Failure> {
    let keys = keys(ctx, caller, "share its key out")?;
    let scheme = Scheme::new(threshold, total).ok_or_else(|| {
        let message = format!("{threshold} of {total} is no way to share a key");
        let rule = format!("at least {MIN_THRESHOLD} shares must be needed, and at most {MAX_SHARES} can be made");
        Failure::new(ErrorCode::Invalid, message).hinted(rule)
    })?;
    if !to.is_empty() && to.len() != usize::from(total) {
        let message = format!("{} users are named for {total} shares", to.len());
        return Err(Failure::new(ErrorCode::Invalid, message)
            .hinted("name a user for each share, or none and hand the shares out yourself"));
    }
    let lines = on_pool(ctx, &keys, move |keys| {
        let mut rng = UnwrapErr(SysRng);
        // A user whose key cannot be sealed to is found before there is a new set.
        for user in &to {
            bib_core::sealed::check_recipient(user.as_bytes()).map_err(|_| VaultError::WeakUser(user.to_string()))?;
        }
        let shares = keys.vault.split(scheme, timestamp(), &mut rng)?;
        let mut users = to.iter();
        let mut lines = Vec::with_capacity(shares.len());
        for share in shares {
            let user = users.next();
            let text = match user {
                None => ShareText::new(&share.to_text()),
                Some(user) => {
                    let mut ephemeral = Zeroizing::new([0; 32]);
                    rand_core::Rng::fill_bytes(&mut rng, ephemeral.as_mut_slice());
                    let sealed = share.seal_to(user, ephemeral);
                    ShareText::new(&sealed.map_err(|_| VaultError::WeakUser(user.to_string()))?.to_text())
                }
            };
            lines.push((share.name(), user.copied(), text));
        }
        Ok(lines)
    })
    .await?;
    log::info!(
        threshold = threshold, total = total, set:% = lines.first().map(|(name, ..)| name.set.to_string()).unwrap_or_default();
        "the key of keys was shared out to an operator"
    );
    for (name, user, text) in lines {
        out.event(Event::Share { index: name.index, user, text }).await?;
    }
    Ok(())
}

//! Backups of this node: making a snapshot, listing them, reading one again. Restoring is done while no node runs, see
//! `bibd restore`.
//!
//! One thing at a time is done with backups, on a thread of its own, so that a slow disk holds up nothing else.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bib_core::api::event::{BackupMade, Progress};
use bib_core::api::request::Secret;
use bib_core::api::{ErrorCode, Event, Failure};
use bib_core::id::UserId;
use bib_core::limits::MAX_PASSPHRASE_LEN;
use bib_core::time::Timestamp;
use futures::channel::oneshot;
use zeroize::Zeroizing;

use super::require_operator;
use crate::backup::{self, BackupError, Place, Repository, Source, Unlock};
use crate::control::{Caller, Output};
use crate::identity;
use crate::node::Context;
use crate::runtime::timestamp;

type Result<T, E = Failure> = std::result::Result<T, E>;

/// Name of the thread.
const THREAD: &str = "bib-backup";
/// For the index of a backup in one file, in the data directory.
const SCRATCH: &str = "backup-index";

/// Tells the thread to stop when nobody waits for it any more.
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Works on a thread of its own; what it says of its progress goes to `out`.
async fn apart<T: Send + 'static>(
    ctx: &Context,
    out: Option<&Output>,
    work: impl FnOnce(&mut dyn FnMut(u64), &AtomicBool) -> Result<T, BackupError> + Send + 'static,
) -> Result<T> {
    let _place = ctx.backup_credits.borrow(1).await;
    let stop = Stop(Arc::default());
    let (tell, told) = async_channel::bounded::<u64>(1);
    let (answer, answered) = oneshot::channel();
    let stopped = stop.0.clone();
    let thread = std::thread::Builder::new().name(THREAD.to_owned()).spawn(move || {
        // Who does not keep up with the progress hears of the next one.
        let mut progress = |bytes| {
            let _ = tell.try_send(bytes);
        };
        let done = work(&mut progress, &stopped);
        drop(tell);
        // Whoever waited may have gone away.
        let _ = answer.send(done);
    });
    thread.map_err(|error| {
        log::error!(error:% = error; "no thread can be started");
        Failure::new(ErrorCode::Internal, "the node could not start a thread")
    })?;
    while let Ok(done) = told.recv().await {
        if let Some(out) = out {
            out.try_event(Event::Progress(Progress { done, ..Progress::default() }));
        }
    }
    match answered.await {
        Ok(done) => Ok(done?),
        Err(_) => Err(Failure::new(ErrorCode::Internal, "the node failed at the backup; its log says more")),
    }
}

/// Where a backup is: as asked for, or as configured. It lies outside of the data directory.
fn place(ctx: &Context, asked: Option<String>) -> Result<(PathBuf, bool)> {
    let configured = ctx.config().backup.to.clone();
    let is_configured = asked.is_none();
    let path = asked.map(PathBuf::from).or(configured).ok_or_else(|| {
        Failure::new(ErrorCode::Invalid, "there is no place for a backup")
            .hinted("name one with `--to <folder>`, or set `backup.to` in bibd.toml")
    })?;
    let bad = |reason| Failure::from(BackupError::BadPlace { path: path.clone(), reason });
    if !path.is_absolute() {
        return Err(bad("a full path is needed"));
    }
    let there = path.ancestors().find_map(|path| path.canonicalize().ok()).unwrap_or_default();
    let data_dir = ctx.data_dir.canonicalize().unwrap_or_else(|_| ctx.data_dir.clone());
    let holds_data = path.canonicalize().is_ok_and(|path| data_dir.starts_with(path));
    if there.starts_with(&data_dir) || holds_data {
        return Err(bad("it and the data directory lie in each other"));
    }
    Ok((path, is_configured))
}

fn check(passphrase: Option<&Secret>) -> Result<()> {
    match passphrase {
        Some(Secret(text)) if text.is_empty() || text.len() > MAX_PASSPHRASE_LEN => {
            Err(Failure::new(ErrorCode::Invalid, "a passphrase has 1 to 4,096 bytes").hinted("choose another one"))
        }
        _ => Ok(()),
    }
}

/// Opens a backup by the passphrase that is given, so that nobody learns on a bad day that it is another one; else by the
/// node's own key.
fn open(place: &Place, data_dir: &Path, passphrase: Option<&Secret>) -> Result<Repository, BackupError> {
    let scratch = data_dir.join(SCRATCH);
    if let Some(Secret(text)) = passphrase {
        return Repository::open(place, &Unlock::Passphrase(text), &scratch);
    }
    let secret = identity::load(data_dir).map_err(|error| BackupError::Damaged(error.to_string()))?;
    Repository::open(place, &Unlock::Secret(&secret), &scratch)
}

fn warn(text: &str) {
    log::warn!("{text}");
}

/// What becomes of old snapshots.
#[derive(Debug, Clone, Copy)]
struct Keep {
    newest: usize,
    younger_than: std::time::Duration,
}

struct Wanted {
    path: PathBuf,
    passphrase: Option<Secret>,
    users: Vec<UserId>,
    keep: Option<Keep>,
}

async fn back_up(ctx: &Rc<Context>, wanted: Wanted, out: Option<&Output>) -> Result<BackupMade> {
    let config = ctx.config();
    let settings =
        config.settings.iter().map(|setting| format!("{} = {} # {}\n", setting.key, setting.value, setting.origin));
    let (settings, node, data_dir) = (settings.collect::<String>(), ctx.id, ctx.data_dir.clone());
    let stores = ctx.store.stores();
    let made = apart(ctx, out, move |progress, stop| {
        let Wanted { path, passphrase, users, keep } = wanted;
        let place = Place::of(&path);
        backup::with_sound_index(&place, &mut warn, || {
            let now = timestamp();
            // A node cannot be made from a backup that holds another identity than its own, or none.
            let identity = identity::load(&data_dir).map_err(|error| BackupError::Damaged(error.to_string()))?;
            if identity.node_id() != node {
                return Err(BackupError::Damaged("identity.pem is not that of the node that runs".to_owned()));
            }
            let text = passphrase.as_ref().map(|Secret(text)| text.as_str());
            let opened = match &place {
                Place::Folder(_) => open(&place, &data_dir, passphrase.as_ref()),
                Place::File(path) => Err(BackupError::Absent(path.clone())),
            };
            let mut backup = match opened {
                Err(BackupError::Absent(_)) => Repository::create(&place, node, text, &users, now)?,
                Err(BackupError::Closed(_)) if passphrase.is_none() => {
                    return Err(BackupError::OtherNode(path.clone()));
                }
                opened => opened?,
            };
            // Two nodes in one backup are told apart by nobody who restores the newest snapshot.
            if !backup.is_of(node) {
                return Err(BackupError::OtherNode(path.clone()));
            }
            let source = Source {
                catalog: stores.catalog(),
                chunks: stores.chunks(),
                data_dir: &data_dir,
                node,
                settings: settings.clone(),
            };
            let made = backup::make(&source, &mut backup, now, progress, stop)?;
            let (mut removed, mut freed_bytes) = (0, 0);
            // An older snapshot may have whole what this one has not.
            if let Some(Keep { newest, younger_than }) = keep.filter(|_| made.snapshot.n_incomplete == 0) {
                removed = backup::prune(&backup, newest, younger_than, now)?.len() as u64;
                if removed > 0 {
                    freed_bytes = backup::collect(&backup, now.0.unsigned_abs(), now, stop)?;
                }
            }
            let backup::Made { snapshot, new_bytes, stored_bytes } = made;
            let to = path.display().to_string();
            Ok(BackupMade { to, snapshot, new_bytes, stored_bytes, removed, freed_bytes })
        })
    })
    .await?;
    log::info!(
        to = made.to.as_str(), new_bytes = made.new_bytes, stored_bytes = made.stored_bytes, removed = made.removed;
        "a snapshot was added to the backup"
    );
    if made.snapshot.n_incomplete > 0 {
        log::warn!(contents = made.snapshot.n_incomplete; "some content was not whole and is not in the snapshot; older snapshots are kept");
    }
    Ok(made)
}

fn keep(ctx: &Context) -> Keep {
    let config = ctx.config();
    Keep { newest: config.backup.keep.max(1), younger_than: config.backup.keep_for }
}

/// Adds a snapshot as configured.
pub(crate) async fn by_itself(ctx: &Rc<Context>) -> Result<BackupMade> {
    let (path, _) = place(ctx, None)?;
    let config = ctx.config();
    let passphrase = match &config.backup.passphrase_file {
        None => None,
        Some(file) => {
            let file = file.clone();
            let read = ctx.pool.run("read passphrase", move || read_passphrase(&file)).await;
            Some(read.map_err(|error| Failure::new(ErrorCode::Internal, error.to_string()))??)
        }
    };
    check(passphrase.as_ref())?;
    let users = config.backup.users.clone();
    back_up(ctx, Wanted { path, passphrase, users, keep: Some(keep(ctx)) }, None).await
}

/// The first line of a file.
fn read_passphrase(file: &Path) -> Result<Secret, BackupError> {
    let bytes = Zeroizing::new(std::fs::read(file).map_err(BackupError::io("read", file))?);
    // What is not text here would be another passphrase on the day when it is typed.
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| BackupError::Damaged(format!("the passphrase in `{}` is not UTF-8 text", file.display())))?;
    Ok(Secret(text.lines().next().unwrap_or_default().to_owned()))
}

pub(crate) async fn make(
    ctx: &Rc<Context>,
    caller: &Caller,
    to: Option<String>,
    passphrase: Option<Secret>,
    users: Vec<UserId>,
    out: &Output,
) -> Result<()> {
    require_operator(caller, "make a backup")?;
    check(passphrase.as_ref())?;
    let (path, is_configured) = place(ctx, to)?;
    let keep = is_configured.then(|| keep(ctx));
    let made = back_up(ctx, Wanted { path, passphrase, users, keep }, Some(out)).await?;
    out.event(Event::BackupMade(Box::new(made))).await
}

pub(crate) async fn list(
    ctx: &Rc<Context>,
    caller: &Caller,
    at: Option<String>,
    passphrase: Option<Secret>,
    out: &Output,
) -> Result<()> {
    require_operator(caller, "see its backups")?;
    check(passphrase.as_ref())?;
    let ((path, _), data_dir) = (place(ctx, at)?, ctx.data_dir.clone());
    let snapshots = apart(ctx, None, move |_, _| {
        let place = Place::of(&path);
        backup::with_sound_index(&place, &mut warn, || {
            let backup = open(&place, &data_dir, passphrase.as_ref())?;
            backup.times()?.into_iter().map(|time| backup.snapshot(time)).collect::<Result<Vec<_>, BackupError>>()
        })
    })
    .await?;
    for snapshot in snapshots {
        out.event(Event::Snapshot(Box::new(snapshot))).await?;
    }
    Ok(())
}

pub(crate) async fn verify(
    ctx: &Rc<Context>,
    caller: &Caller,
    at: Option<String>,
    passphrase: Option<Secret>,
    snapshot: Option<Timestamp>,
    out: &Output,
) -> Result<()> {
    require_operator(caller, "read its backups")?;
    check(passphrase.as_ref())?;
    let ((path, _), data_dir) = (place(ctx, at)?, ctx.data_dir.clone());
    let read = apart(ctx, Some(out), move |progress, stop| {
        let place = Place::of(&path);
        backup::with_sound_index(&place, &mut warn, || {
            let backup = open(&place, &data_dir, passphrase.as_ref())?;
            let times: Vec<Timestamp> =
                backup.times()?.into_iter().filter(|time| snapshot.is_none_or(|wanted| wanted == *time)).collect();
            if times.is_empty() {
                return Err(BackupError::NoSnapshot(snapshot));
            }
            backup::scrub(&backup, progress, stop)?;
            let verified = times.into_iter().map(|time| match backup::verify(&backup, time, &mut |_| {}, stop) {
                Err(BackupError::Stopped) => Err(BackupError::Stopped),
                verified => Ok((time, verified.map(|verified| verified.bytes).map_err(|error| error.to_string()))),
            });
            verified.collect::<Result<Vec<_>, BackupError>>()
        })
    })
    .await?;
    let n_bad = read.iter().filter(|(_, verified)| verified.is_err()).count();
    for (time, verified) in read {
        let (bytes, fault) = verified.map_or_else(|fault| (0, Some(fault)), |bytes| (bytes, None));
        out.event(Event::SnapshotVerified { time, bytes, fault }).await?;
    }
    if n_bad == 0 { Ok(()) } else { Err(BackupError::Damaged(format!("{n_bad} snapshots are not whole")).into()) }
}

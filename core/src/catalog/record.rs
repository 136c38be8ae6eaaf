//! The records of the catalog: typed reading and writing of what `keys` places.
//!
//! Stability: each stored type is a versioned encoding with a golden fixture in `core/fixtures`. Of version 1, but for
//! [`Pin`], which is of version 2 and reads version 1.

use std::ops::{Bound, ControlFlow};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::catalog::keys;
use crate::encode::{DecodeError, Versioned, decode, decode_exact};
use crate::id::{DatasetId, ManifestId, TopicId, UserId, VersionId};
use crate::limits;
use crate::model::{Dataset, Topic, Version};
use crate::op::Role;
use crate::port::{CatalogRead, KeyRange, Order, StoreError, Table};
use crate::time::Timestamp;

impl Versioned for Topic {
    const WHAT: &'static str = "topic";
    const MAX_LEN: usize = limits::MAX_RECORD_LEN;
}

impl Versioned for Dataset {
    const WHAT: &'static str = "dataset";
    const MAX_LEN: usize = limits::MAX_RECORD_LEN;
}

impl Versioned for Version {
    const WHAT: &'static str = "version";
    const MAX_LEN: usize = limits::MAX_RECORD_LEN;
}

/// What is known of the content of a manifest. Its times are of the [`GraceClock`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Pin {
    /// Whether all its chunks are here.
    pub is_here: bool,
    /// Until when it is kept for an operation that has not come yet.
    pub staged_until: Option<Timestamp>,
    /// Versions of the catalog that name it.
    pub n_versions: u32,
    /// How many of them are withdrawn.
    pub n_withdrawn: u32,
    /// Since when no version that users can see names it, while it is kept all the same.
    pub released_at: Option<Timestamp>,
    /// Whether a user of this node keeps it, whatever becomes of its versions.
    pub is_kept: bool,
    /// Whether it was published at this node.
    pub is_own: bool,
    /// Whether its content was given up, though versions name it.
    pub is_evicted: bool,
    /// When it was fetched, or read by users.
    pub used_at: Option<Timestamp>,
    /// Whose quota its bytes count in, while it is here.
    pub charge: Option<Charge>,
}

/// The topic and the user whose quota some content counts in: those of the first version that named it here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charge {
    /// The topic of the version.
    pub topic: TopicId,
    /// Who published it.
    pub user: UserId,
    /// Bytes of its files, at most [`limits::MAX_CHARGE`].
    pub size: u64,
}

impl Charge {
    /// What a version is charged.
    pub fn of(topic: TopicId, user: UserId, size: u64) -> Self {
        Self { topic, user, size: size.min(limits::MAX_CHARGE) }
    }
}

impl Pin {
    /// What counts in quotas now.
    pub const fn charged(&self) -> Option<Charge> {
        if self.is_here { self.charge } else { None }
    }

    /// Whether nothing is known that is worth a record.
    pub const fn is_empty(&self) -> bool {
        let is_held = self.is_here || self.is_kept || self.staged_until.is_some() || self.released_at.is_some();
        self.n_versions == 0 && !is_held
    }

    /// Whether it keeps its chunks: those that are here, be it all or some.
    pub const fn is_root(&self) -> bool {
        let is_named = self.n_versions > 0 && !self.is_evicted;
        is_named || self.is_kept || self.staged_until.is_some() || self.released_at.is_some()
    }

    /// Begins the grace of what is held and named by nothing.
    pub(crate) fn release_unnamed(&mut self, steady: Timestamp) {
        if self.is_here && self.n_versions == 0 && self.staged_until.is_none() && !self.is_kept {
            self.released_at = self.released_at.or(Some(steady));
        }
    }

    /// What is left of it when the clock of grace says `steady` and released content is kept for `min_age`.
    #[must_use]
    pub fn expired(self, steady: Timestamp, min_age: Duration) -> Self {
        let mut next = self;
        if next.staged_until.is_some_and(|end| end <= steady) {
            next.staged_until = None;
            // Staged and never named: it had its grace.
            if next.n_versions == 0 && !next.is_kept && next.released_at.is_none() {
                return Self::default();
            }
        }
        next.release_unnamed(steady);
        let step = if min_age.is_zero() { Duration::ZERO } else { limits::MAX_GRACE_STEP };
        if next.released_at.is_some_and(|since| since.saturating_add(min_age.saturating_add(step)) <= steady) {
            next.released_at = None;
            let is_wanted = next.is_kept || next.staged_until.is_some();
            if next.n_versions == 0 && !is_wanted {
                return Self::default();
            }
            // Named only by versions that nobody can see.
            if !is_wanted {
                next = next.given_up();
            }
        }
        next
    }

    /// After its content was given up on purpose. What it was here does not count any more: who wants it again begins
    /// without it, and misses nothing that is still on its way.
    #[must_use]
    pub(crate) fn given_up(self) -> Self {
        Self { is_here: false, is_own: false, used_at: None, is_evicted: true, released_at: None, ..self }
    }

    /// Whether its content may be given up where space is short: fetched here, and of withdrawn versions alone.
    pub const fn is_evictable(&self) -> bool {
        let is_withdrawn = self.n_versions > 0 && self.n_withdrawn >= self.n_versions;
        let is_wanted = self.is_kept || self.is_own || self.staged_until.is_some();
        self.is_here && is_withdrawn && !is_wanted && !self.is_evicted
    }
}

impl Versioned for Pin {
    const WHAT: &'static str = "pin";
    const VERSION: u8 = 2;
    const MAX_LEN: usize = 192;

    fn decode_old(version: u8, bytes: &[u8]) -> Result<Self, DecodeError> {
        if version != 1 {
            return Err(DecodeError::Unsupported { what: Self::WHAT, version, known: Self::VERSION });
        }
        let (is_here, staged_until, n_versions) = decode_exact(Self::WHAT, bytes)?;
        // Who published it was not noted: it counts as published here, so that it is never given up.
        Ok(Self { is_here, staged_until, n_versions, is_own: is_here, ..Self::default() })
    }
}

/// The clock of periods of grace: it goes as the clock of the system does, but never back, and never forth by more than
/// [`limits::MAX_GRACE_STEP`] at once, so that a system clock that is set does not end what is kept for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GraceClock {
    /// What the system clock said last.
    pub system: Timestamp,
    /// What this clock said then.
    pub steady: Timestamp,
}

impl GraceClock {
    /// This clock when the system clock says `now`.
    #[must_use]
    pub fn at(self, now: Timestamp) -> Self {
        let most = i64::try_from(limits::MAX_GRACE_STEP.as_micros()).unwrap_or(i64::MAX);
        let passed = now.0.saturating_sub(self.system.0).clamp(0, most);
        Self { system: now, steady: Timestamp(self.steady.0.saturating_add(passed)) }
    }
}

impl Versioned for GraceClock {
    const WHAT: &'static str = "clock of grace";
    const MAX_LEN: usize = 64;
}

/// Content that a user of this node keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The version by which it was named.
    pub version: VersionId,
    /// How it was called then: `topic/dataset@1.2.0`.
    pub reference: String,
    /// Bytes of its files.
    pub size: u64,
    /// Since when, by the clock of the system.
    pub since: Timestamp,
}

impl Versioned for Kept {
    const WHAT: &'static str = "kept content";
    const MAX_LEN: usize = limits::MAX_REFERENCE_LEN + 128;
}

/// What work that a node does by itself remembers between two starts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WorkerNote {
    /// When it last came to an end.
    pub last_run: Timestamp,
    /// Where it goes on, in its own form.
    pub position: Option<serde_bytes::ByteBuf>,
    /// What its last run came to, by name.
    pub figures: Vec<(String, u64)>,
}

impl Versioned for WorkerNote {
    const WHAT: &'static str = "note of a worker";
    const MAX_LEN: usize = 4 << 10;
}

/// The rights of one user on one resource, ordered.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Grants(pub Vec<(Role, Option<Timestamp>)>);

impl Versioned for Grants {
    const WHAT: &'static str = "grants";
    const MAX_LEN: usize = limits::MAX_GRANTS_LEN;
}

/// An operation that waits for others, or for its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parked {
    /// When it came, by the clock of this node.
    pub since: Timestamp,
    /// Whose figures it counts in: its topic, or [`UNKNOWN_TOPICS`].
    pub counted_in: TopicId,
    /// The operation.
    pub op: serde_bytes::ByteBuf,
}

impl Versioned for Parked {
    const WHAT: &'static str = "waiting operation";
    const MAX_LEN: usize = limits::MAX_OP_LEN + 256;
}

/// Operations of topics whose creation is not here are counted together: an id costs nothing to invent.
pub const UNKNOWN_TOPICS: TopicId = TopicId::from_bytes([0; 32]);

/// Number and bytes of operations that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ParkedFigures {
    /// How many.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Versioned for ParkedFigures {
    const WHAT: &'static str = "figures of waiting operations";
    const MAX_LEN: usize = 64;
}

/// The error of a record that does not read back.
pub(crate) fn corrupt(what: &str) -> StoreError {
    StoreError::Corrupt(format!("{what} in the catalog does not read back"))
}

/// A record.
///
/// # Errors
/// [`StoreError`] when the store cannot be read or holds something else.
pub fn get<T: Versioned>(read: &dyn CatalogRead, table: Table, key: &[u8]) -> Result<Option<T>, StoreError> {
    let Some(bytes) = read.get(table, key)? else { return Ok(None) };
    read_value(&bytes).map(Some)
}

/// A record from its stored form.
///
/// # Errors
/// [`StoreError`] when it is something else.
pub fn read_value<T: Versioned>(bytes: &[u8]) -> Result<T, StoreError> {
    decode(bytes).map_err(|error| match error {
        crate::encode::DecodeError::Unsupported { .. } => StoreError::Unsupported(error.to_string()),
        _ => corrupt(T::WHAT),
    })
}

/// A topic; a tombstone where it was deleted or its creation does not count.
///
/// # Errors
/// [`StoreError`] when the store cannot be read or holds something else.
pub fn topic(read: &dyn CatalogRead, id: &TopicId) -> Result<Option<Topic>, StoreError> {
    get(read, Table::Topics, id.as_bytes())
}

/// A dataset; a tombstone where it was deleted.
///
/// # Errors
/// [`StoreError`] when the store cannot be read or holds something else.
pub fn dataset(read: &dyn CatalogRead, id: &DatasetId) -> Result<Option<Dataset>, StoreError> {
    get(read, Table::Datasets, id.as_bytes())
}

/// A version.
///
/// # Errors
/// [`StoreError`] when the store cannot be read or holds something else.
pub fn version(read: &dyn CatalogRead, id: &VersionId) -> Result<Option<Version>, StoreError> {
    get(read, Table::Versions, id.as_bytes())
}

/// What is known of the content of a manifest.
///
/// # Errors
/// [`StoreError`] when the store cannot be read or holds something else.
pub fn pin(read: &dyn CatalogRead, id: &ManifestId) -> Result<Pin, StoreError> {
    Ok(get(read, Table::Pins, &keys::pin(id))?.unwrap_or_default())
}

/// What records are shown to.
pub type VisitRecords<'a> = dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, StoreError> + 'a;

/// Shows the keys and values that begin with `prefix` until `visit` breaks or fails.
///
/// # Errors
/// [`StoreError`] of the store or of `visit`.
pub fn visit_prefix(
    read: &dyn CatalogRead,
    table: Table,
    prefix: &[u8],
    order: Order,
    visit: &mut VisitRecords<'_>,
) -> Result<(), StoreError> {
    let end = keys::after_prefix(prefix);
    let upper = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
    let mut failed = None;
    read.scan(table, (Bound::Included(prefix), upper), order, &mut |key, value| match visit(key, value) {
        Ok(flow) => flow,
        Err(error) => {
            failed = Some(error);
            ControlFlow::Break(())
        }
    })?;
    failed.map_or(Ok(()), Err)
}

/// At most `limit` keys that begin with `prefix` and lie behind `after`, ascending.
///
/// # Errors
/// [`StoreError`] when the store cannot be read.
pub fn keys_after(
    read: &dyn CatalogRead,
    table: Table,
    prefix: &[u8],
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<Vec<u8>>, StoreError> {
    let end = keys::after_prefix(prefix);
    let upper = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
    let lower = after.map_or(Bound::Included(prefix), Bound::Excluded);
    first_keys(read, table, (lower, upper), limit)
}

/// The first `limit` keys of a range.
///
/// # Errors
/// [`StoreError`] when the store cannot be read.
pub fn first_keys(
    read: &dyn CatalogRead,
    table: Table,
    range: KeyRange<'_>,
    limit: usize,
) -> Result<Vec<Vec<u8>>, StoreError> {
    let mut found = Vec::new();
    if limit > 0 {
        read.scan(table, range, Order::Ascending, &mut |key, _| {
            found.push(key.to_vec());
            if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
    }
    Ok(found)
}

/// A number under a key; 0 where there is none.
///
/// # Errors
/// [`StoreError`] when the store cannot be read or holds something else.
pub fn number(read: &dyn CatalogRead, table: Table, key: &[u8]) -> Result<u64, StoreError> {
    let Some(bytes) = read.get(table, key)? else { return Ok(0) };
    Ok(u64::from_be_bytes(bytes.as_slice().try_into().map_err(|_| corrupt("a number"))?))
}

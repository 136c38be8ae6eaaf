//! How much more the node may store.

use std::path::Path;

use bib_core::api::{ErrorCode, Failure};
use bib_core::machine::collect::evict::Usage;
use bib_core::port::StoreError;

use crate::node::Context;
use crate::store::Stores;

/// What the configuration allows, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allowed {
    /// For the chunk store; `None` = 80 % of the file system.
    pub(crate) max_bytes: Option<u64>,
    /// What stays free.
    pub(crate) min_free: u64,
}

/// Of what stays free, the catalog takes no more of peers when only this part of it is left.
const CATALOG_RESERVE: u64 = 8;

/// Whether there is room for operations of peers, which anybody may publish: not for the last of the disk, which what
/// users of this node do needs to get out of that.
pub(crate) async fn takes_operations(ctx: &Context) -> bool {
    let (data_dir, min_free) = (ctx.data_dir.clone(), ctx.allowed().min_free);
    let look = ctx.store.blocking("disk space", move |_| {
        let system = rustix::fs::statvfs(&data_dir).map_err(std::io::Error::from)?;
        Ok::<_, StoreError>(has_room_for_catalog(system.f_bavail.saturating_mul(system.f_frsize), min_free))
    });
    // A disk that cannot be looked at says so when it is written.
    let takes = look.await.unwrap_or(true);
    if ctx.refuses_operations.replace(!takes) == takes {
        if takes {
            log::info!("operations of peers are taken again");
        } else {
            log::error!("the disk is all but full: operations of peers are not taken");
        }
    }
    takes
}

const fn has_room_for_catalog(free: u64, min_free: u64) -> bool {
    free > min_free / CATALOG_RESERVE
}

/// What there is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Disk {
    /// What the chunk store takes.
    pub(crate) stored: u64,
    /// Size of the file system.
    pub(crate) total: u64,
    /// What is free on it for this user.
    pub(crate) free: u64,
    /// What records that nothing names any more still take; it is not part of what is stored.
    pub(crate) dead: u64,
    /// What of the stored no content named when that was counted last.
    pub(crate) unreferenced: u64,
}

impl Disk {
    /// Looks at the disk: for a thread that may wait.
    pub(crate) fn look(stores: &Stores, data_dir: &Path) -> Result<Self, StoreError> {
        let system = rustix::fs::statvfs(data_dir).map_err(std::io::Error::from)?;
        let bytes = |blocks: u64| blocks.saturating_mul(system.f_frsize);
        let chunks = stores.chunks().stats()?;
        let (stored, dead) = (chunks.stored_bytes, chunks.dead_bytes);
        Ok(Self { stored, total: bytes(system.f_blocks), free: bytes(system.f_bavail), dead, unreferenced: 0 })
    }

    /// Bytes that may still be stored.
    pub(crate) fn room(&self, allowed: &Allowed) -> u64 {
        self.within_quota(allowed).min(self.free.saturating_sub(allowed.min_free))
    }

    /// How full the chunk store is.
    pub(crate) fn usage(&self, allowed: &Allowed) -> Usage {
        // What the disk has not counts as used: then it is short as well.
        let quota = self.quota(allowed).min(self.stored.saturating_add(self.free.saturating_sub(allowed.min_free)));
        Usage { used: self.stored, quota }
    }

    /// Bytes that the chunk store may take.
    pub(crate) fn quota(&self, allowed: &Allowed) -> u64 {
        allowed.max_bytes.unwrap_or(self.total / 5 * 4)
    }

    fn within_quota(&self, allowed: &Allowed) -> u64 {
        self.quota(allowed).saturating_sub(self.stored)
    }

    /// Whether so many bytes more may be stored; if not, why.
    pub(crate) fn check(&self, allowed: &Allowed, more: u64) -> Result<(), Failure> {
        if more <= self.room(allowed) {
            return Ok(());
        }
        let (why, garbage, hint) = if more > self.within_quota(allowed) {
            let quota = self.quota(allowed);
            (
                format!("the node may store {quota} bytes and holds {}", self.stored),
                self.unreferenced,
                "raise `storage.max_bytes` in bibd.toml",
            )
        } else {
            (
                format!("the node's disk has {} bytes free, of which {} stay free", self.free, allowed.min_free),
                self.dead.saturating_add(self.unreferenced),
                "free space on the node's disk, or lower `storage.min_free` in bibd.toml",
            )
        };
        let message = if more > 1 { format!("{more} bytes more do not fit: {why}") } else { why };
        let failure = Failure::new(ErrorCode::Quota, message);
        Err(match garbage {
            0 => failure.hinted(hint),
            _ => failure.hinted(format!("give back with `bib admin gc` what nothing needs any more, or {hint}")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn the_tighter_bound_counts_and_is_named() {
        let disk = Disk { stored: 70 * GIB, total: 100 * GIB, free: 20 * GIB, dead: 0, unreferenced: 0 };
        let automatic = Allowed { max_bytes: None, min_free: GIB };
        assert_eq!(disk.room(&automatic), 10 * GIB);
        assert!(disk.check(&automatic, 10 * GIB).is_ok());
        let over_quota = disk.check(&automatic, 11 * GIB).unwrap_err();
        assert_eq!(over_quota.code, ErrorCode::Quota);
        assert!(over_quota.hint.unwrap().contains("max_bytes"));
        let generous = Allowed { max_bytes: Some(1_000 * GIB), min_free: 15 * GIB };
        assert_eq!(disk.room(&generous), 5 * GIB);
        assert!(disk.check(&generous, 6 * GIB).unwrap_err().hint.unwrap().contains("min_free"));
    }

    #[test]
    fn catalog_takes_of_what_stays_free_but_not_the_last_of_it() {
        assert!(has_room_for_catalog(GIB, GIB) && has_room_for_catalog(GIB / 8 + 1, GIB));
        assert!(!has_room_for_catalog(GIB / 8, GIB) && !has_room_for_catalog(0, 0));
        assert!(has_room_for_catalog(1, 0));
    }

    #[test]
    fn collection_is_named_where_it_would_make_room() {
        let clean = Disk { stored: 70 * GIB, total: 100 * GIB, free: 20 * GIB, dead: 0, unreferenced: 0 };
        let (by_quota, by_disk) = (
            Allowed { max_bytes: Some(70 * GIB), min_free: 0 },
            Allowed { max_bytes: Some(1_000 * GIB), min_free: 20 * GIB },
        );
        let names_gc = |disk: Disk, allowed: &Allowed| {
            let hint = disk.check(allowed, 2).unwrap_err().hint.unwrap();
            assert!(hint.contains("in bibd.toml"), "{hint}");
            hint.contains("`bib admin gc`")
        };
        assert_eq!([&by_quota, &by_disk].map(|allowed| names_gc(clean, allowed)), [false, false]);
        let unreferenced = Disk { unreferenced: 1, ..clean };
        assert_eq!([&by_quota, &by_disk].map(|allowed| names_gc(unreferenced, allowed)), [true, true]);
        let dead = Disk { dead: 1, ..clean };
        let named = [&by_quota, &by_disk].map(|allowed| names_gc(dead, allowed));
        assert_eq!(named, [false, true], "what is dead counts in no quota");
    }

    #[test]
    fn nothing_underflows_when_more_is_held_than_allowed() {
        let disk = Disk { stored: 70 * GIB, total: 100 * GIB, free: 0, dead: 0, unreferenced: 0 };
        let tight = Allowed { max_bytes: Some(GIB), min_free: u64::MAX };
        assert_eq!(disk.room(&tight), 0);
        assert!(disk.check(&tight, 0).is_ok(), "what needs no room is never refused");
        assert!(disk.check(&tight, 1).is_err());
    }
}

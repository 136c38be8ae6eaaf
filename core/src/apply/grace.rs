//! What is kept, and for how long: the pins of manifests.
//!
//! Invariant: a pin that keeps its chunks goes only when nothing names it and its period of grace is over, by a clock
//! that no setting of the system clock moves forth by more than [`limits::MAX_GRACE_STEP`]. Content that was published
//! at this node, or is kept, staged or named by a version that is not withdrawn, is never given up for space.
//!
//! Deliberately absent: the chunks themselves, and when there is too little space.

use std::time::Duration;

use super::store::{change_pin, put};
use crate::catalog::record::{Charge, GraceClock, Kept, Pin, corrupt, keys_after};
use crate::catalog::{keys, record};
use crate::id::ManifestId;
use crate::limits;
use crate::model::Version;
use crate::port::{CatalogRead, CatalogTxn, StoreError, Table};
use crate::time::Timestamp;

fn clock(read: &dyn CatalogRead, now: Timestamp) -> Result<(Option<GraceClock>, GraceClock), StoreError> {
    let noted = record::get::<GraceClock>(read, Table::Meta, keys::GRACE_CLOCK)?;
    let next = noted.map_or(GraceClock { system: now, steady: now }, |noted| noted.at(now));
    Ok((noted, next))
}

/// What the clock of grace says; from now on it goes on from here.
pub(super) fn steady(txn: &mut dyn CatalogTxn, now: Timestamp) -> Result<Timestamp, StoreError> {
    let (noted, next) = clock(&*txn, now)?;
    if noted != Some(next) {
        put(txn, Table::Meta, keys::GRACE_CLOCK, &next)?;
    }
    Ok(next.steady)
}

/// Keeps content that is complete here for the operation that will name it.
pub(super) fn stage(txn: &mut dyn CatalogTxn, manifest: &ManifestId, now: Timestamp) -> Result<(), StoreError> {
    let until = steady(txn, now)?.saturating_add(limits::STAGED_FOR + limits::MAX_GRACE_STEP);
    change_pin(txn, manifest, |pin| {
        *pin = Pin {
            is_here: true,
            is_own: true,
            is_evicted: false,
            staged_until: pin.staged_until.max(Some(until)),
            ..*pin
        };
    })
}

/// All chunks of a manifest are here.
pub(super) fn here(txn: &mut dyn CatalogTxn, manifest: &ManifestId, now: Timestamp) -> Result<(), StoreError> {
    let steady = steady(txn, now)?;
    change_pin(txn, manifest, |pin| {
        *pin = Pin { is_here: true, is_evicted: false, used_at: Some(steady), ..*pin };
        pin.release_unnamed(steady);
    })
}

/// All chunks of a version were fetched.
pub(super) fn fetched(
    txn: &mut dyn CatalogTxn,
    manifest: &ManifestId,
    charge: Charge,
    now: Timestamp,
) -> Result<(), StoreError> {
    here(txn, manifest, now)?;
    change_pin(txn, manifest, |pin| pin.charge = pin.charge.or(Some(charge)))
}

/// Some chunks of a manifest are missing or damaged; the others are kept as they were.
pub(super) fn lost(txn: &mut dyn CatalogTxn, manifest: &ManifestId) -> Result<(), StoreError> {
    change_pin(txn, manifest, |pin| *pin = Pin { is_here: false, staged_until: None, ..*pin })
}

/// Users read content that was fetched.
pub(super) fn used(txn: &mut dyn CatalogTxn, manifest: &ManifestId, now: Timestamp) -> Result<(), StoreError> {
    let pin = record::pin(&*txn, manifest)?;
    let (_, next) = clock(&*txn, now)?;
    let is_recent = pin.used_at.is_some_and(|used| next.steady < used.saturating_add(limits::USE_INTERVAL));
    if !pin.is_here || is_recent {
        return Ok(());
    }
    let steady = steady(txn, now)?;
    change_pin(txn, manifest, |pin| pin.used_at = Some(steady))
}

/// A user keeps content, or does no more.
pub(super) fn keep(
    txn: &mut dyn CatalogTxn,
    manifest: &ManifestId,
    kept: Option<&Kept>,
    now: Timestamp,
) -> Result<(), StoreError> {
    match kept {
        Some(kept) => put(txn, Table::Meta, &keys::kept(manifest), kept)?,
        None => txn.remove(Table::Meta, &keys::kept(manifest))?,
    }
    let steady = steady(txn, now)?;
    change_pin(txn, manifest, |pin| {
        *pin = Pin { is_kept: kept.is_some(), is_evicted: pin.is_evicted && kept.is_none(), ..*pin };
        pin.release_unnamed(steady);
    })
}

/// Gives up content that may be given up.
pub(super) fn evict(txn: &mut dyn CatalogTxn, manifest: &ManifestId) -> Result<(), StoreError> {
    change_pin(txn, manifest, |pin| {
        if pin.is_evictable() {
            *pin = pin.given_up();
        }
    })
}

/// Begins the grace of content whose versions nobody can see, and ends it where they can again.
pub(super) fn release(
    txn: &mut dyn CatalogTxn,
    hidden: &[ManifestId],
    shown: &[ManifestId],
    now: Timestamp,
) -> Result<(), StoreError> {
    let steady = steady(txn, now)?;
    for manifest in hidden {
        change_pin(txn, manifest, |pin| {
            if pin.n_versions > 0 && !pin.is_evicted {
                pin.released_at = pin.released_at.or(Some(steady));
            }
        })?;
    }
    for manifest in shown {
        change_pin(txn, manifest, |pin| {
            if pin.n_versions > 0 {
                pin.released_at = None;
                pin.is_evicted &= pin.n_withdrawn >= pin.n_versions;
            }
        })?;
    }
    Ok(())
}

/// A version that names a manifest came.
pub(super) fn name(txn: &mut dyn CatalogTxn, manifest: &ManifestId, charge: Charge) -> Result<(), StoreError> {
    change_pin(txn, manifest, |pin| {
        if pin.is_here {
            pin.charge = pin.charge.or(Some(charge));
        }
        // This is the operation that staged content waited for.
        let n_versions = pin.n_versions.saturating_add(1);
        *pin = Pin { n_versions, staged_until: None, released_at: None, is_evicted: false, ..*pin };
    })
}

/// A version that names a manifest was withdrawn.
pub(super) fn withdraw(txn: &mut dyn CatalogTxn, manifest: &ManifestId) -> Result<(), StoreError> {
    change_pin(txn, manifest, |pin| pin.n_withdrawn = pin.n_withdrawn.saturating_add(1).min(pin.n_versions))
}

/// A version that named a manifest went.
pub(super) fn unname(
    txn: &mut dyn CatalogTxn,
    manifest: &ManifestId,
    was_withdrawn: bool,
    now: Timestamp,
) -> Result<(), StoreError> {
    let pin = record::pin(&*txn, manifest)?;
    // A node that has nothing of it needs no clock for it.
    let steady = if pin.is_here { steady(txn, now)? } else { now };
    change_pin(txn, manifest, |pin| {
        pin.n_versions = pin.n_versions.saturating_sub(1);
        pin.n_withdrawn = pin.n_withdrawn.saturating_sub(u32::from(was_withdrawn)).min(pin.n_versions);
        if pin.n_versions == 0 {
            pin.is_evicted = false;
        }
        pin.release_unnamed(steady);
    })
}

/// Counts content in quotas that was here before they were counted.
pub(super) fn charge_all(txn: &mut dyn CatalogTxn) -> Result<(), StoreError> {
    // A new catalog has nothing to count.
    if txn.len(Table::Versions)? == 0 || txn.get(Table::Meta, keys::CHARGED)?.is_some() {
        return Ok(());
    }
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = keys_after(&*txn, Table::Versions, &[], after.as_deref(), limits::MAX_SCANNED)?;
        let Some(last) = page.last() else { break };
        for key in &page {
            let version: Version = record::get(&*txn, Table::Versions, key)?.ok_or_else(|| corrupt("a version"))?;
            let charge = Charge::of(version.topic, version.created_by, version.size);
            change_pin(txn, &version.manifest, |pin| {
                if pin.is_here {
                    pin.charge = pin.charge.or(Some(charge));
                }
            })?;
        }
        after = Some(last.clone());
    }
    txn.put(Table::Meta, keys::CHARGED, &[])
}

/// Ends what was kept for a time that is over.
pub(super) fn expire(txn: &mut dyn CatalogTxn, min_age: Duration, now: Timestamp) -> Result<(), StoreError> {
    let (noted, next) = clock(&*txn, now)?;
    let (mut n_changed, mut waits) = (0, false);
    let mut after: Option<Vec<u8>> = None;
    while n_changed < limits::MAX_EXPIRED_PER_COMMAND {
        let page = keys_after(&*txn, Table::Pins, &[], after.as_deref(), limits::MAX_SCANNED)?;
        let Some(last) = page.last() else { break };
        for key in &page {
            let manifest = ManifestId::from_slice(key).ok_or_else(|| corrupt("a pin"))?;
            let pin = record::pin(&*txn, &manifest)?;
            let left = pin.expired(next.steady, min_age);
            waits |= left.staged_until.is_some() || left.released_at.is_some();
            if left != pin {
                n_changed += 1;
                change_pin(txn, &manifest, |pin| *pin = left)?;
            }
        }
        after = Some(last.clone());
    }
    // The clock is written with what it decides, and now and then while something waits for it.
    let is_due = noted.is_none_or(|noted| {
        let interval = i64::try_from(limits::GRACE_CLOCK_INTERVAL.as_micros()).unwrap_or(i64::MAX);
        now < noted.system || now.0.saturating_sub(noted.system.0) >= interval
    });
    if n_changed > 0 || (waits && is_due) {
        steady(txn, now)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const START: Timestamp = Timestamp(1_000_000_000_000_000);

    #[test]
    fn clock_of_grace_follows_the_system_clock_but_not_its_jumps() {
        let clock = GraceClock { system: START, steady: START };
        let hour = Duration::from_secs(3_600);
        assert_eq!(clock.at(START.saturating_add(hour)).steady, START.saturating_add(hour));
        let forth = clock.at(START.saturating_add(DAY * 3_650));
        assert_eq!(forth.steady, START.saturating_add(limits::MAX_GRACE_STEP));
        let back = forth.at(START);
        assert_eq!(back.steady, forth.steady, "it never goes back");
        assert_eq!(back.at(START.saturating_add(hour)).steady, forth.steady.saturating_add(hour), "and goes on");
    }

    #[test]
    fn one_jump_of_the_clock_does_not_shorten_a_period() {
        let pin = Pin { is_here: true, released_at: Some(START), ..Pin::default() };
        let after = |time: Duration| pin.expired(START.saturating_add(time), DAY * 7);
        assert_eq!(after(DAY * 7), pin, "half a day of it may have been a jump");
        assert_eq!(after(DAY * 7 + limits::MAX_GRACE_STEP), Pin::default());
        assert_eq!(pin.expired(START, Duration::ZERO), Pin::default(), "who asks for no grace gets none");
    }

    #[test]
    fn what_was_given_up_on_purpose_is_not_missed_by_who_wants_it_again() {
        let used = Pin { is_here: true, is_own: true, n_versions: 1, used_at: Some(START), ..Pin::default() };
        let hidden = Pin { released_at: Some(START), ..used };
        for given_up in [used.given_up(), hidden.expired(START, Duration::ZERO)] {
            let wanted = Pin { is_kept: true, is_evicted: false, ..given_up };
            assert_eq!((wanted.is_here, wanted.is_own, wanted.used_at), (false, false, None), "{given_up:?}");
            assert!(given_up.is_evicted && !given_up.is_root() && wanted.is_root());
        }
    }

    #[test]
    fn what_is_wanted_is_never_given_up() {
        let cached = Pin { is_here: true, n_versions: 2, n_withdrawn: 2, ..Pin::default() };
        assert!(cached.is_evictable());
        let wanted = [
            Pin { n_withdrawn: 1, ..cached },
            Pin { is_kept: true, ..cached },
            Pin { is_own: true, ..cached },
            Pin { staged_until: Some(START), ..cached },
            Pin { is_here: false, ..cached },
        ];
        assert!(wanted.iter().all(|pin| !pin.is_evictable()));
        let far = START.saturating_add(DAY * 365);
        for pin in wanted {
            assert!(pin.expired(far, Duration::ZERO).n_versions == 2, "a version names it: {pin:?}");
        }
    }
}

//! Looks whether the catalog can be believed before something is given up that it does not name.
//!
//! The signed operations prove themselves by their hashes. So each is hashed; and each version that one of them made, and
//! that the catalog still has, must name the manifest that was signed, and that manifest must be kept.
//!
//! Deliberately absent: rows that are gone without a trace; the catalog's store says when one of its pages is damaged.

use std::ops::{Bound, ControlFlow};

use crate::catalog::keys;
use crate::catalog::record;
use crate::id::{OpId, VersionId};
use crate::op::{Body, Operation};
use crate::port::{CatalogRead, Order, StoreError, Table};

/// Operations that one step looks at.
const STEP: usize = 512;
/// The first byte of the value of an operation that counts.
const VALID: u8 = 0;

/// Where the next step begins; `None` when all was seen.
pub type Next = Option<OpId>;

fn damaged(what: &str) -> StoreError {
    StoreError::Corrupt(format!("the catalog is damaged: {what}"))
}

/// Checks the next operations behind `after`, and what the catalog made of them.
///
/// # Errors
/// [`StoreError::Corrupt`] when something is not what was signed; others when the catalog cannot be read.
pub fn step(read: &dyn CatalogRead, after: Option<OpId>) -> Result<Next, StoreError> {
    let mut found: Vec<(OpId, Vec<u8>)> = Vec::new();
    let mut bad_key = false;
    let from = after.as_ref().map_or(Bound::Unbounded, |after| Bound::Excluded(after.as_bytes().as_slice()));
    read.scan(Table::Ops, (from, Bound::Unbounded), Order::Ascending, &mut |key, value| {
        match OpId::from_slice(key) {
            Some(id) => found.push((id, value.to_vec())),
            None => bad_key = true,
        }
        if found.len() < STEP && !bad_key { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    if bad_key {
        return Err(damaged("an operation has no id"));
    }
    for (id, value) in &found {
        check(read, id, value)?;
    }
    Ok(found.last().filter(|_| found.len() >= STEP).map(|(id, _)| *id))
}

fn check(read: &dyn CatalogRead, id: &OpId, value: &[u8]) -> Result<(), StoreError> {
    let (status, bytes) = value.split_first().ok_or_else(|| damaged("an operation is empty"))?;
    let op = Operation::decode_trusted(bytes).map_err(|_| damaged("an operation does not read back"))?;
    if op.id() != *id {
        return Err(damaged("an operation is not the one that was signed"));
    }
    let Body::PublishVersion(new) = &op.body else { return Ok(()) };
    if *status != VALID {
        return Ok(());
    }
    let Some(version) = record::version(read, &VersionId::from(*id))? else { return Ok(()) };
    if version.manifest != new.manifest {
        return Err(damaged("a version names another manifest than was signed"));
    }
    if read.get(Table::Pins, &keys::pin(&new.manifest))?.is_none() {
        return Err(damaged("the manifest of a version is not kept"));
    }
    Ok(())
}

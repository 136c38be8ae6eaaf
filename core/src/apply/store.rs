//! Typed writing of records.

use crate::encode::{Versioned, encode};
use crate::id::ManifestId;
use crate::port::{CatalogTxn, StoreError, Table};

use crate::catalog::{keys, record};

pub(super) fn put<T: Versioned>(
    txn: &mut dyn CatalogTxn,
    table: Table,
    key: &[u8],
    value: &T,
) -> Result<(), StoreError> {
    txn.put(table, key, &encode(value))
}

/// Adds to a number; one that becomes 0 has no record.
pub(super) fn add(txn: &mut dyn CatalogTxn, table: Table, key: &[u8], n: i64) -> Result<(), StoreError> {
    let sum = record::number(&*txn, table, key)?.saturating_add_signed(n);
    if sum == 0 { txn.remove(table, key) } else { txn.put(table, key, &sum.to_be_bytes()) }
}

fn charge(txn: &mut dyn CatalogTxn, charge: Option<record::Charge>, sign: i64) -> Result<(), StoreError> {
    let Some(charge) = charge else { return Ok(()) };
    let bytes = i64::try_from(charge.size).unwrap_or(i64::MAX).saturating_mul(sign);
    add(txn, Table::Meta, &keys::topic_bytes(&charge.topic), bytes)?;
    add(txn, Table::Meta, &keys::user_bytes(&charge.user), bytes)
}

/// Changes what is known of the content of a manifest.
pub(super) fn change_pin(
    txn: &mut dyn CatalogTxn,
    manifest: &ManifestId,
    change: impl FnOnce(&mut record::Pin),
) -> Result<(), StoreError> {
    let before = record::pin(&*txn, manifest)?;
    let mut pin = before;
    change(&mut pin);
    if let (charged, now) = (before.charged(), pin.charged())
        && charged != now
    {
        charge(txn, charged, -1)?;
        charge(txn, now, 1)?;
    }
    if pin == before {
        Ok(())
    } else if pin.is_empty() {
        txn.remove(Table::Pins, &keys::pin(manifest))
    } else {
        put(txn, Table::Pins, &keys::pin(manifest), &pin)
    }
}

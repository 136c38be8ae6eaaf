//! The check values of a keyring in a database: a wrong key is refused at open, and not taken for damage.

use bib_core::port::StoreError;
use redb::{ReadableTable, TableDefinition, WriteTransaction};

use super::{Keyring, refused};
use crate::database::{Store, guarded, redb_error};

/// By what they are of.
const CHECKS: TableDefinition<'_, &str, &[u8; 16]> = TableDefinition::new("keys");

/// Notes the check values of all keys.
pub(crate) fn record_checks(txn: &WriteTransaction, name: &'static str, keyring: &Keyring) -> Result<(), StoreError> {
    guarded(name, || {
        let mut table = txn.open_table(CHECKS).map_err(|error| redb_error(name, error))?;
        for (key, check) in keyring.checks() {
            table.insert(key.as_str(), &check).map_err(|error| redb_error(name, error))?;
        }
        Ok(())
    })
}

/// Compares a keyring with the check values that were noted. Whether it has keys that were not.
pub(crate) fn check_keys(store: &Store, name: &'static str, keyring: &Keyring) -> Result<bool, StoreError> {
    let mut checks = keyring.checks();
    let read = store.read()?;
    guarded(name, || {
        let failed = |error: redb::StorageError| redb_error(name, error);
        let table = read.open_table(CHECKS).map_err(|error| redb_error(name, error))?;
        for entry in table.iter().map_err(failed)? {
            let (key, check) = entry.map_err(failed)?;
            match checks.remove(key.value()) {
                Some(at_hand) if at_hand == *check.value() => {}
                Some(_) => {
                    return Err(refused(format!("the {} is not the one that {name} was sealed with", key.value())));
                }
                None => return Err(refused(format!("{} of {name} is not among the keys", key.value()))),
            }
        }
        Ok(!checks.is_empty())
    })
}

//! Whether a program is one that a package for a target may hold: an ELF file for that machine, little endian, which
//! needs no other file of the system to run.

use std::path::Path;

use bib_benches::failure::During;
use bib_benches::{Failure, Result};

use super::target::Target;

/// The kind of a program header that names the loader of a program with dynamic parts.
const INTERPRETER: u32 = 3;
/// The kind of one that names bytes to load.
const LOADED: u32 = 1;

/// Reads a program that must be static and for this target.
pub fn read(path: &Path, target: Target) -> Result<Vec<u8>> {
    let bytes = std::fs::read(path).during(format!("read {}", path.display()))?;
    match fault(&bytes, target) {
        None => Ok(bytes),
        Some(fault) => Err(Failure(format!("{} {fault}", path.display()))),
    }
}

/// What keeps a program out of a package for this target.
fn fault(elf: &[u8], target: Target) -> Option<String> {
    let (class, machine) = target.elf();
    if !elf.starts_with(&[0x7f, b'E', b'L', b'F', class, 1]) || number(elf, 0x12, 2) != Some(machine.into()) {
        return Some(format!("is no program for {target}"));
    }
    match kinds(elf, class) {
        Some(kinds) if kinds.contains(&INTERPRETER) => {
            Some("needs libraries of the system; packages hold static programs".to_owned())
        }
        Some(kinds) if kinds.contains(&LOADED) => None,
        _ => Some("is damaged: not all that its program headers name is there".to_owned()),
    }
}

/// The kinds of its program headers, if all that they name lies in the file.
fn kinds(elf: &[u8], class: u8) -> Option<Vec<u32>> {
    let (table, len_at) = if class == 2 { (number(elf, 0x20, 8)?, 0x36) } else { (number(elf, 0x1c, 4)?, 0x2a) };
    let (len, n_headers) = (number(elf, len_at, 2)?, number(elf, len_at + 2, 2)?);
    let mut kinds = Vec::new();
    for n in 0..n_headers {
        let header = usize::try_from(table.checked_add(n * len)?).ok()?;
        let (offset, size) = if class == 2 {
            (number(elf, header.checked_add(8)?, 8)?, number(elf, header.checked_add(32)?, 8)?)
        } else {
            (number(elf, header.checked_add(4)?, 4)?, number(elf, header.checked_add(16)?, 4)?)
        };
        let end = usize::try_from(offset.checked_add(size)?).ok()?;
        elf.get(..end)?;
        kinds.push(u32::try_from(number(elf, header, 4)?).ok()?);
    }
    Some(kinds)
}

/// A number of so many bytes, little endian.
fn number(bytes: &[u8], at: usize, len: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(len)?)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// The least that is taken for a program: a header, and one program header of this kind.
    pub fn program(target: Target, kind: u32) -> Vec<u8> {
        let (class, machine) = target.elf();
        let mut elf = vec![0; 0x80];
        elf[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, 1]);
        elf[0x12..0x14].copy_from_slice(&machine.to_le_bytes());
        let (table_at, len_at) = if class == 2 { (0x20, 0x36) } else { (0x1c, 0x2a) };
        elf[table_at] = 0x40;
        elf[len_at..len_at + 4].copy_from_slice(&[0x20, 0, 1, 0]);
        elf[0x40..0x44].copy_from_slice(&kind.to_le_bytes());
        elf
    }

    #[test]
    fn static_programs_of_the_target_are_taken_and_no_others() {
        for target in Target::ALL {
            assert_eq!(fault(&program(target, 1), target), None);
            assert!(fault(&program(target, INTERPRETER), target).unwrap().contains("static programs"));
            for other in Target::ALL.into_iter().filter(|other| *other != target) {
                assert!(fault(&program(other, 1), target).unwrap().contains("no program for"), "{other} for {target}");
            }
            assert!(fault(&program(target, 1)[..0x40], target).unwrap().contains("damaged"));
            assert!(fault(&program(target, 4), target).unwrap().contains("damaged"), "nothing to load");
            let mut cut = program(target, 1);
            let size_at = 0x40 + if target.elf().0 == 2 { 32 } else { 16 };
            cut[size_at] = 0x81;
            assert!(fault(&cut, target).unwrap().contains("damaged"), "bytes to load are not there");
        }
        assert!(fault(b"#!/bin/sh\n", Target::Amd64).is_some());
    }

    #[test]
    fn the_tests_themselves_are_no_static_program() {
        if cfg!(all(target_arch = "x86_64", target_env = "gnu")) {
            let error = read(&std::env::current_exe().unwrap(), Target::Amd64).unwrap_err();
            assert!(error.to_string().contains("needs libraries"), "{error}");
        }
    }
}

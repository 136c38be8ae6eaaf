//! Which crate how much of a program comes from, read from its table of symbols.
//!
//! What generic code became is counted where it was written, not where it is used; a symbol that names no crate is
//! counted as `C and others`.

use std::collections::BTreeMap;

use bib_benches::Result;
use bib_benches::failure::During;
use object::{Object, ObjectSymbol};

/// Bytes of each crate, the largest first.
pub fn by_crate(elf: &[u8]) -> Result<Vec<(String, u64)>> {
    let mut sizes: BTreeMap<String, u64> = BTreeMap::new();
    // The same code may have several names.
    let mut seen = BTreeMap::new();
    for symbol in object::File::parse(elf).during("read a program")?.symbols() {
        if symbol.size() > 0 && symbol.is_definition() && seen.insert(symbol.address(), ()).is_none() {
            let name = symbol.name().ok().and_then(crate_of).unwrap_or("C and others");
            *sizes.entry(name.to_owned()).or_default() += symbol.size();
        }
    }
    if sizes.is_empty() {
        return Err("the program has no symbols".into());
    }
    let mut sizes: Vec<_> = sizes.into_iter().collect();
    sizes.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
    Ok(sizes)
}

/// The crate that a mangled name begins with, in either of the compiler's two ways.
fn crate_of(symbol: &str) -> Option<&str> {
    if let Some(path) = symbol.strip_prefix("_ZN") {
        let len: usize = path.get(..path.find(|c: char| !c.is_ascii_digit())?)?.parse().ok()?;
        let first = path.get(path.len() - path.trim_start_matches(|c: char| c.is_ascii_digit()).len()..)?.get(..len)?;
        // An implementation: `_$LT$alloc..vec..Vec…`.
        let inner = first.trim_start_matches('_');
        let inner = ["$LT$", "$RF$", "$BP$", "mut$u20$", "dyn$u20$", "$u5b$", "$LP$", "const$u20$"]
            .iter()
            .cycle()
            .take(32)
            .fold(inner, |inner, prefix| inner.strip_prefix(prefix).unwrap_or(inner));
        let named = |path: &'_ str| path.find(['.', '$']).unwrap_or(path.len());
        let name = inner.get(..named(inner))?;
        // For any type at all, such as `<T as core::convert::Into<U>>`: what counts is where the trait is from.
        let is_parameter = name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit());
        let of_trait = inner.split_once("$u20$as$u20$").and_then(|(_, path)| path.get(..named(path)));
        return if is_parameter { of_trait } else { Some(name) }.filter(|name| !name.is_empty());
    }
    let mangled = symbol.strip_prefix("_R")?;
    // A crate is `C`, a number that tells versions apart, the length of its name and the name.
    for (at, _) in mangled.match_indices('C') {
        let rest = &mangled[at + 1..];
        let rest = rest.strip_prefix('s').and_then(|rest| rest.split_once('_')).map_or(rest, |(_, rest)| rest);
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(0);
        if let Ok(len) = rest[..digits].parse::<usize>() {
            let name = rest[digits..].trim_start_matches('_');
            return name.get(..len).filter(|name| !name.is_empty());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_are_found_in_both_kinds_of_names() {
        assert_eq!(crate_of("_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE"), Some("core"));
        assert_eq!(crate_of("_ZN58_$LT$alloc..vec..Vec$LT$u8$GT$$u20$as$u20$core..fmt..Debug17h0E"), Some("alloc"));
        assert_eq!(crate_of("_ZN50_$LT$T$u20$as$u20$core..convert..Into$LT$U$GT$$GT$4into17h0E"), Some("core"));
        assert_eq!(crate_of("_RNvCs9ltgdHTiPiY_5redb23abc"), Some("redb2"));
        assert_eq!(crate_of("_RNvNtCs4fqI2P2rA04_4core3fmt5write"), Some("core"));
        assert_eq!(crate_of("ZSTD_compress"), None);
    }

    #[test]
    fn own_program_consists_of_known_crates() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let sizes = by_crate(&own).unwrap();
        assert!(sizes.iter().any(|(name, size)| name == "xtask" && *size > 1_000), "{sizes:?}");
        assert!(sizes.iter().any(|(name, size)| name == "std" && *size > 10_000), "{sizes:?}");
        assert!(sizes.windows(2).all(|pair| pair[0].1 >= pair[1].1));
    }
}

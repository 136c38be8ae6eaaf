//! What was asked for, checked before anything is made.

use std::path::Path;
use std::str::FromStr;

use bib_benches::failure::During;
use bib_benches::{Failure, Result};

/// Who opens the data partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Luks {
    /// Somebody who types a passphrase, at the console or over SSH.
    Passphrase,
    /// A file on a USB stick.
    Usb,
}

impl Luks {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Passphrase => "passphrase",
            Self::Usb => "usb",
        }
    }
}

impl FromStr for Luks {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "passphrase" => Ok(Self::Passphrase),
            "usb" => Ok(Self::Usb),
            _ => Err(Failure(format!("`{text}` is neither `passphrase` nor `usb`"))),
        }
    }
}

/// A number of bytes, such as `4GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self> {
        let (digits, shift) = [("MiB", 20), ("GiB", 30)]
            .into_iter()
            .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, shift)))
            .ok_or_else(|| Failure(format!("`{text}` is no size such as `4GiB`")))?;
        let n: u64 = digits.trim().parse().during(text)?;
        n.checked_mul(1 << shift).map(Self).ok_or_else(|| Failure(format!("`{text}` is too large")))
    }
}

/// A name that a machine may have.
pub fn hostname(name: &str) -> Result<&str> {
    let fits = (1..=63).contains(&name.len());
    let ends = name.starts_with('-') || name.ends_with('-');
    let letters = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if fits && letters && !ends {
        Ok(name)
    } else {
        Err(Failure(format!("`{name}` is no name of a machine: a-z, 0-9 and - inside, at most 63")))
    }
}

/// The lines of a file with public SSH keys; a private one that was named by mistake goes nowhere.
pub fn public_keys(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path).during(format!("read {}", path.display()))?;
    check_public_keys(&text).map_err(|failure| Failure(format!("{}: {failure}", path.display())))?;
    Ok(text.trim_end().to_owned() + "\n")
}

fn check_public_keys(text: &str) -> Result<()> {
    if text.contains("PRIVATE KEY") {
        return Err(Failure("this is a private key; the public one ends in .pub".to_owned()));
    }
    let is_key = |line: &&str| {
        let mut words = line.split_whitespace();
        let kind = words.next().is_some_and(|word| ["ssh-", "ecdsa-", "sk-"].iter().any(|kind| word.starts_with(kind)));
        kind && words.next().is_some_and(|word| word.starts_with("AAAA"))
    };
    let mut lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')).peekable();
    if lines.peek().is_some() && lines.all(|line| is_key(&line)) {
        Ok(())
    } else {
        Err(Failure("there must be public SSH keys in it, one a line, and nothing else".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_unit() {
        assert_eq!("4GiB".parse::<Size>().unwrap(), Size(4 << 30));
        assert_eq!("1536MiB".parse::<Size>().unwrap(), Size(1536 << 20));
        for wrong in ["", "4", "GiB", "4GB", "-1GiB", "99999999999999GiB"] {
            assert!(wrong.parse::<Size>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_of_machines_are_what_networks_take() {
        assert_eq!(hostname("shed-2").unwrap(), "shed-2");
        for wrong in ["", "-a", "a-", "A", "a b", "a.b", "a\n", &"a".repeat(64)] {
            assert!(hostname(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn only_public_keys_get_into_an_image() {
        check_public_keys("# mine\nssh-ed25519 AAAAC3Nza me@here\n\necdsa-sha2-nistp256 AAAAE2Vj x\n").unwrap();
        for wrong in ["", "# nothing\n", "-----BEGIN OPENSSH PRIVATE KEY-----\n", "ssh-ed25519\n", "hello world\n"] {
            assert!(check_public_keys(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn there_are_two_ways_to_open_the_data_partition() {
        for luks in [Luks::Passphrase, Luks::Usb] {
            assert_eq!(luks.name().parse::<Luks>().unwrap(), luks);
        }
        assert!("tpm".parse::<Luks>().is_err());
    }
}

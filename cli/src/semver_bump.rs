//! The number of the next version.

use std::str::FromStr;

use semver::{BuildMetadata, Prerelease, Version};

/// Which part of the number grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Bump {
    /// Other users must adapt.
    Major,
    /// Something was added.
    Minor,
    /// The same, newer.
    #[default]
    Patch,
}

impl FromStr for Bump {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "major" => Ok(Self::Major),
            "minor" => Ok(Self::Minor),
            "patch" => Ok(Self::Patch),
            _ => Err(format!("`{text}` is none of major, minor, patch")),
        }
    }
}

/// The number after `latest`. A pre-release is followed by its release, if that is the part that grows.
pub(crate) fn next(latest: Option<&Version>, bump: Bump) -> Version {
    let Some(latest) = latest else { return Version::new(1, 0, 0) };
    let mut next = Version { pre: Prerelease::EMPTY, build: BuildMetadata::EMPTY, ..latest.clone() };
    let before_release = !latest.pre.is_empty();
    match bump {
        Bump::Patch if before_release => {}
        Bump::Minor if before_release && latest.patch == 0 => {}
        Bump::Major if before_release && latest.minor == 0 && latest.patch == 0 => {}
        Bump::Patch => next.patch = next.patch.saturating_add(1),
        Bump::Minor => (next.minor, next.patch) = (next.minor.saturating_add(1), 0),
        Bump::Major => (next.major, next.minor, next.patch) = (next.major.saturating_add(1), 0, 0),
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_numbers_follow_semantic_versioning() {
        assert_eq!(next(None, Bump::Major).to_string(), "1.0.0");
        for (latest, bump, expected) in [
            ("1.2.3", Bump::Patch, "1.2.4"),
            ("1.2.3", Bump::Minor, "1.3.0"),
            ("1.2.3", Bump::Major, "2.0.0"),
            ("2.0.0-rc.1", Bump::Patch, "2.0.0"),
            ("2.0.0-rc.1", Bump::Major, "2.0.0"),
            ("2.1.0-rc.1", Bump::Major, "3.0.0"),
            ("2.1.3-rc.1", Bump::Minor, "2.2.0"),
        ] {
            assert_eq!(next(Some(&latest.parse().unwrap()), bump).to_string(), expected, "{latest} {bump:?}");
        }
    }
}

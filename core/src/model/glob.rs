//! Patterns for paths inside a dataset: `*` and `?` stay within a folder, `**` crosses folders. A pattern that
//! matches a folder takes everything below it; one without `/` may match at any depth.

use serde::{Deserialize, Serialize};

use crate::limits::{MAX_DATASET_PATH_LEN, MAX_PATH_PATTERNS};

/// More or longer patterns than are accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at most 32 patterns of at most 1,024 bytes are accepted")]
pub struct TooManyPatterns;

/// Which paths are meant: all of them when there is no pattern, else those that one pattern matches. Bounded when
/// made and when decoded.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct PathPatterns(Vec<String>);

impl PathPatterns {
    /// Checks the bounds.
    ///
    /// # Errors
    /// [`TooManyPatterns`] when there are too many or one is too long.
    pub fn new(patterns: Vec<String>) -> Result<Self, TooManyPatterns> {
        let fits = patterns.iter().all(|pattern| pattern.len() <= MAX_DATASET_PATH_LEN);
        if fits && patterns.len() <= MAX_PATH_PATTERNS { Ok(Self(patterns)) } else { Err(TooManyPatterns) }
    }

    /// Whether every path is meant.
    pub const fn is_all(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `path` is meant.
    pub fn matches(&self, path: &str) -> bool {
        self.is_all() || self.0.iter().any(|pattern| matches_one(pattern, path))
    }
}

impl TryFrom<Vec<String>> for PathPatterns {
    type Error = TooManyPatterns;

    fn try_from(patterns: Vec<String>) -> Result<Self, Self::Error> {
        Self::new(patterns)
    }
}

impl From<PathPatterns> for Vec<String> {
    fn from(patterns: PathPatterns) -> Self {
        patterns.0
    }
}

fn matches_one(pattern: &str, path: &str) -> bool {
    let pattern = pattern.trim_end_matches('/');
    if pattern.contains('/') {
        prefixes(path).any(|prefix| matches_whole(pattern, prefix))
    } else {
        path.split('/').any(|segment| matches_whole(pattern, segment)) || pattern == "**"
    }
}

/// The path and the folders above it.
fn prefixes(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(end, _)| &path[..end]).chain(std::iter::once(path))
}

/// Matches as a whole. Keeps the set of reachable positions instead of going back, so that the time is bounded by the
/// product of the lengths.
fn matches_whole(pattern: &str, path: &str) -> bool {
    let pattern: Vec<char> = pattern.trim_start_matches('/').chars().collect();
    let path: Vec<char> = path.chars().collect();
    // reachable[j]: whether what was read of the pattern matches the first j characters of the path.
    let mut reachable = vec![false; path.len() + 1];
    reachable[0] = true;
    let mut i = 0;
    while i < pattern.len() {
        let mut next = vec![false; path.len() + 1];
        match pattern[i] {
            '*' => {
                let crosses = pattern.get(i + 1) == Some(&'*');
                // `**/` also matches no folder at all.
                let folders = crosses && pattern.get(i + 2) == Some(&'/');
                let mut open = false;
                for j in 0..=path.len() {
                    if j > 0 && path[j - 1] == '/' && !crosses {
                        open = false;
                    }
                    open |= reachable[j];
                    next[j] = if folders { reachable[j] || (open && j > 0 && path[j - 1] == '/') } else { open };
                }
                i += if folders {
                    2
                } else if crosses {
                    1
                } else {
                    0
                };
            }
            wanted => {
                for j in 0..path.len() {
                    next[j + 1] = reachable[j] && (path[j] == wanted || (wanted == '?' && path[j] != '/'));
                }
            }
        }
        reachable = next;
        i += 1;
    }
    reachable[path.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_people_expect() {
        for (pattern, path) in [
            ("*.csv", "a.csv"),
            ("*.csv", "2024/01/a.csv"),
            ("2024", "2024/01/a.csv"),
            ("2024/", "2024/01/a.csv"),
            ("2024/*", "2024/01/a.csv"),
            ("2024/*/a.csv", "2024/01/a.csv"),
            ("**/a.csv", "a.csv"),
            ("**/a.csv", "x/y/a.csv"),
            ("x/**/a.csv", "x/a.csv"),
            ("x/**", "x/y/z"),
            ("**", "x/y"),
            ("größe-?.txt", "größe-é.txt"),
            ("a b/c", "a b/c"),
        ] {
            assert!(matches_one(pattern, path), "{pattern} {path}");
        }
        for (pattern, path) in [
            ("*.csv", "a.csv.gz"),
            ("2024/*.csv", "2024/01/a.csv"),
            ("2024/a", "x/2024/a"),
            ("a?c", "a/c"),
            ("x/**/a.csv", "x/ya.csv"),
            ("", "a"),
        ] {
            assert!(!matches_one(pattern, path), "{pattern} {path}");
        }
    }

    #[test]
    fn hostile_patterns_do_not_explode() {
        let (pattern, path) = ("a*".repeat(500), "a".repeat(1_000));
        assert!(matches_one(&pattern, &path));
        assert!(!matches_one(&(pattern + "b"), &path));
    }

    #[test]
    fn patterns_are_bounded_when_made_and_when_decoded() {
        let fits = vec!["x".repeat(MAX_DATASET_PATH_LEN); MAX_PATH_PATTERNS];
        let decoded =
            |patterns: &[String]| postcard::from_bytes::<PathPatterns>(&postcard::to_stdvec(patterns).unwrap()).is_ok();
        assert!(PathPatterns::new(fits.clone()).is_ok() && decoded(&fits));
        for wrong in [vec!["x".repeat(MAX_DATASET_PATH_LEN + 1)], vec![String::new(); MAX_PATH_PATTERNS + 1]] {
            assert_eq!(PathPatterns::new(wrong.clone()), Err(TooManyPatterns));
            assert!(!decoded(&wrong));
        }
        assert!(PathPatterns::default().matches("anything"));
    }
}

//! Patterns for paths inside a dataset: `*` and `?` stay within a folder, `**` crosses folders. A pattern that
//! matches a folder takes everything below it; one without `/` may match at any depth.

/// Whether `path` is meant by `pattern`.
pub(crate) fn matches(pattern: &str, path: &str) -> bool {
    let pattern = pattern.trim_end_matches('/');
    if pattern.contains('/') {
        prefixes(path).any(|prefix| segments(pattern, prefix))
    } else {
        path.split('/').any(|segment| segments(pattern, segment)) || pattern == "**"
    }
}

/// The path and the folders above it.
fn prefixes(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(end, _)| &path[..end]).chain(std::iter::once(path))
}

/// Matches as a whole. Keeps the set of reachable positions instead of going back, so that the time is bounded by the
/// product of the lengths.
fn segments(pattern: &str, path: &str) -> bool {
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
            assert!(matches(pattern, path), "{pattern} {path}");
        }
        for (pattern, path) in [
            ("*.csv", "a.csv.gz"),
            ("2024/*.csv", "2024/01/a.csv"),
            ("2024/a", "x/2024/a"),
            ("a?c", "a/c"),
            ("x/**/a.csv", "x/ya.csv"),
            ("", "a"),
        ] {
            assert!(!matches(pattern, path), "{pattern} {path}");
        }
    }

    #[test]
    fn hostile_patterns_do_not_explode() {
        let (pattern, path) = ("a*".repeat(500), "a".repeat(1_000));
        assert!(matches(&pattern, &path));
        assert!(!matches(&(pattern + "b"), &path));
    }
}

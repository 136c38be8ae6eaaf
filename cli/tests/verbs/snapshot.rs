//! Compares what people see with checked-in files.

use std::path::Path;

/// Fails unless `text` is what the file says; rewrites the file when BIB_BLESS is set.
#[track_caller]
pub(crate) fn check(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/verbs/snapshots").join(format!("{name}.txt"));
    if std::env::var_os("BIB_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        expected == text,
        "{name} differs from its snapshot; if that is meant: BIB_BLESS=1 cargo test -p bib-cli\n--- expected\n{expected}\n--- found\n{text}"
    );
}

/// Replaces what differs from run to run: times, ids and keys.
pub(crate) fn masked(text: &str) -> String {
    let word = |word: &str| -> String {
        let is_id = word.len() == 53
            && word.chars().all(|c| c.is_ascii_alphanumeric())
            && word.starts_with(['u', 't', 'd', 'v', 'o']);
        // Behind `by` stands the short form of a user.
        let is_short = word.len() == 9 && word.starts_with('u') && text.contains(&format!("by {word}"));
        let is_hex = word.len() == 64 && word.chars().all(|c| c.is_ascii_hexdigit());
        let shape: String = word.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
        match shape.as_str() {
            "9999-99-99" => "<date>....".to_owned(),
            "99:99" => "<at>.".to_owned(),
            _ if is_id || is_short => format!("<{}>", &word[..1]),
            _ if is_hex => "<hash>".to_owned(),
            _ if word.starts_with("AAAA") => "<key>".to_owned(),
            _ => word.to_owned(),
        }
    };
    let line = |line: &str| line.split(' ').map(word).collect::<Vec<_>>().join(" ");
    text.lines().map(line).collect::<Vec<_>>().join("\n") + "\n"
}

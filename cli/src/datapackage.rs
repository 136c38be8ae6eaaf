//! What `datapackage.json` in the root of a tree says of it, as defaults for a publication. Fields of another shape
//! than the specification's are ignored: the file is the user's, not ours.

use bib_core::limits;
use serde_json::Value;

/// Longest file that is looked at, in bytes.
pub(crate) const MAX_LEN: u64 = 1 << 20;

/// The defaults.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct DataPackage {
    pub(crate) name: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) license: Option<String>,
    pub(crate) source: Option<String>,
    pub(crate) keywords: Vec<String>,
}

impl DataPackage {
    /// Reads the text of the file.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, serde_json::Error> {
        let value: Value = serde_json::from_slice(text)?;
        let text = |value: &Value, max: usize| {
            value.as_str().map(str::trim).filter(|text| !text.is_empty() && text.len() <= max).map(str::to_owned)
        };
        let first_of = |list: &Value, fields: [&str; 3]| {
            let first = list.get(0)?;
            fields.into_iter().find_map(|field| text(first.get(field)?, limits::MAX_ATTRIBUTION_LEN))
        };
        let keywords = value["keywords"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(Self {
            name: text(&value["name"], limits::MAX_NAME_CHARS * 4),
            description: text(&value["description"], limits::MAX_DESCRIPTION_LEN)
                .or_else(|| text(&value["title"], limits::MAX_DESCRIPTION_LEN)),
            license: first_of(&value["licenses"], ["name", "path", "title"])
                .or_else(|| text(&value["license"], limits::MAX_ATTRIBUTION_LEN)),
            source: first_of(&value["sources"], ["path", "web", "title"]),
            keywords: keywords
                .iter()
                .filter_map(|word| text(word, limits::MAX_TAG_LEN))
                .take(limits::MAX_TAGS)
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_fields_become_defaults_and_odd_ones_are_ignored() {
        let package = DataPackage::parse(
            br#"{"name": "temps", "title": "T", "licenses": [{"name": "CC0-1.0", "path": "x"}],
                "sources": [{"title": "NOAA", "path": "https://example.org"}], "keywords": ["a", 7, ""], "resources": 5}"#,
        )
        .unwrap();
        assert_eq!(package.name.as_deref(), Some("temps"));
        assert_eq!(package.description.as_deref(), Some("T"));
        assert_eq!(package.license.as_deref(), Some("CC0-1.0"));
        assert_eq!(package.source.as_deref(), Some("https://example.org"));
        assert_eq!(package.keywords, ["a"]);
        assert_eq!(DataPackage::parse(b"[1]").unwrap(), DataPackage::default());
        assert!(DataPackage::parse(b"{").is_err());
    }
}

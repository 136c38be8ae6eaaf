//! The configuration as text: layers of values, each with where it comes from. Later layers win.
//!
//! Invariant: a layer is taken as a whole or not at all, and every value has the kind that its key asks for.
//!
//! Deliberately absent: files and the environment of the process. Texts and variables are arguments.

use std::fmt;

use bib_core::limits::MAX_CONFIG_LEN;
use toml::de::{DeTable, DeValue};

/// The built-in values, and the documentation of the settings.
pub const DEFAULTS: &str = include_str!("default.toml");

/// Values of one list: more addresses or users than that are no configuration.
const MAX_LIST: usize = 256;

/// What values a key takes.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Any text but the empty one.
    Text,
    /// A number of bytes such as `32MiB`.
    Size,
    /// A number of bytes, or `auto`.
    SizeOrAuto,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A list of texts.
    List,
}

/// Every key, ascending, with what it takes.
const KEYS: [(&str, Kind); 26] = [
    ("access.admins", Kind::List),
    ("backup.at", Kind::Text),
    ("backup.keep", Kind::Text),
    ("backup.keep_for", Kind::Text),
    ("backup.passphrase_file", Kind::Text),
    ("backup.to", Kind::Text),
    ("backup.users", Kind::List),
    ("control.socket", Kind::Text),
    ("crypto.enabled", Kind::Word(SWITCH)),
    ("gc.at", Kind::Text),
    ("gc.min_age", Kind::Text),
    ("limits.memory", Kind::Size),
    ("log.format", Kind::Word(&["text", "json"])),
    ("log.level", Kind::Word(&["error", "warn", "info", "debug", "trace"])),
    ("node.mode", Kind::Word(&["full", "selective", "proxy"])),
    ("node.name", Kind::Text),
    ("p2p.listen", Kind::List),
    ("p2p.peers", Kind::List),
    ("p2p.security", Kind::Word(&["auto", "noise", "tls"])),
    ("scrub.share_per_day", Kind::Text),
    ("storage.chunk_avg", Kind::Size),
    ("storage.data_dir", Kind::Text),
    ("storage.max_bytes", Kind::SizeOrAuto),
    ("storage.max_bytes_per_user", Kind::SizeOrAuto),
    ("storage.min_free", Kind::Size),
    ("storage.topics", Kind::List),
];

/// Keys that only a start reads.
const RESTART: [&str; 7] = [
    "control.socket",
    "crypto.enabled",
    "limits.memory",
    "node.mode",
    "p2p.listen",
    "p2p.security",
    "storage.data_dir",
];

/// Whether a changed value waits for the next start.
pub fn needs_restart(key: &str) -> bool {
    RESTART.contains(&key)
}

/// Why the configuration cannot be used. The message names the place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read the configuration `{file}`: {source}")]
    Unreadable {
        /// Its name.
        file: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is no configuration.
    #[error("`{file}` is not a configuration: {reason}")]
    NoConfig {
        /// Its name.
        file: String,
        /// What it is.
        reason: &'static str,
    },
    /// A text is not TOML.
    #[error("{at}: {message}")]
    Syntax {
        /// File and line.
        at: String,
        /// What the parser said.
        message: String,
    },
    /// There is no such key.
    #[error("{at}: there is no setting `{key}`")]
    UnknownKey {
        /// File and line, variable or flag.
        at: String,
        /// The key.
        key: String,
        /// The known one that is most like it.
        nearest: &'static str,
    },
    /// The value cannot be used.
    #[error("{at}: {key}: {fault}")]
    Value {
        /// File and line, variable or flag.
        at: String,
        /// The key.
        key: String,
        /// What is wrong.
        fault: String,
    },
    /// The environment lacks what a value rests on.
    #[error("{0}")]
    Environment(String),
}

impl ConfigError {
    /// What to do next.
    pub fn hint(&self) -> String {
        match self {
            Self::Unreadable { .. } => "check the path and who may read it with `ls -l`".to_owned(),
            Self::NoConfig { .. } | Self::Syntax { .. } => "the configuration is written in TOML".to_owned(),
            Self::UnknownKey { nearest, .. } => format!("did you mean `{nearest}`?"),
            Self::Value { .. } => "correct the value; `bibd --help` names the documentation of all settings".to_owned(),
            Self::Environment(_) => "name the path in the configuration or with a flag".to_owned(),
        }
    }
}

/// A value of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A text, a word or a size as it was written.
    Text(String),
    /// A list.
    List(Vec<String>),
}

impl fmt::Display for Value {
    /// As TOML.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => toml::Value::from(text.as_str()).fmt(f),
            Self::List(list) => toml::Value::from(list.clone()).fmt(f),
        }
    }
}

/// A value with where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The dotted key.
    pub key: &'static str,
    /// The value.
    pub value: Value,
    /// `built-in`, a file with line, an environment variable or a flag.
    pub origin: String,
}

/// All settings, layer over layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layers {
    settings: Vec<Setting>,
}

impl Layers {
    /// The built-in values.
    pub fn built_in() -> Self {
        let mut layers = Self { settings: Vec::new() };
        layers.add_toml(DEFAULTS, None).expect("the built-in values are those of a tested file");
        layers
    }

    /// All settings by key.
    pub fn settings(&self) -> &[Setting] {
        &self.settings
    }

    /// The setting of a key.
    pub(crate) fn setting(&self, key: &str) -> &Setting {
        let found = self.settings.iter().find(|setting| setting.key == key);
        found.expect("the built-in values have every key")
    }

    /// Lays a file over what is there.
    ///
    /// # Errors
    /// [`ConfigError`] with the line; then nothing was changed.
    pub fn add_file(&mut self, text: &str, file: &str) -> Result<(), ConfigError> {
        let mut next = self.clone();
        next.add_toml(text, Some(file))?;
        *self = next;
        Ok(())
    }

    fn add_toml(&mut self, text: &str, file: Option<&str>) -> Result<(), ConfigError> {
        let place = |offset: usize| match file {
            None => "built-in".to_owned(),
            Some(file) => {
                let line = 1 + text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count();
                format!("{file}:{line}")
            }
        };
        if text.len() > MAX_CONFIG_LEN {
            let file = file.unwrap_or("built-in").to_owned();
            return Err(ConfigError::NoConfig { file, reason: "it is longer than 256 KiB" });
        }
        let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
            at: place(error.span().map_or(0, |span| span.start)),
            message: error.message().to_owned(),
        })?;
        let mut values = Vec::new();
        flatten("", table.get_ref(), &mut values);
        for (key, offset, value) in values {
            let at = place(offset);
            match value {
                Some(value) => self.set(&key, value, at)?,
                None => {
                    known(&key, &at)?;
                    let fault = "the value must be text, a number of bytes, or a list of texts".to_owned();
                    return Err(ConfigError::Value { at, key, fault });
                }
            }
        }
        Ok(())
    }

    /// Lays the variables `BIBD_*` over what is there; `__` stands for the dot. Lists are separated by commas.
    ///
    /// # Errors
    /// [`ConfigError`] with the variable; then nothing was changed.
    pub fn add_environment<'a>(&mut self, vars: impl Iterator<Item = (&'a str, &'a str)>) -> Result<(), ConfigError> {
        let mut next = self.clone();
        for (name, value) in vars {
            // Variables without `__` name no setting.
            let Some(key) = name.strip_prefix("BIBD_").filter(|rest| rest.contains("__")) else { continue };
            let (key, at) = (key.replace("__", ".").to_lowercase(), format!("environment {name}"));
            let value = match known(&key, &at)?.1 {
                Kind::List => Value::List(
                    value.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect(),
                ),
                _ => Value::Text(value.to_owned()),
            };
            next.set(&key, value, at)?;
        }
        *self = next;
        Ok(())
    }

    /// Sets the value of a flag.
    ///
    /// # Errors
    /// [`ConfigError`] with the flag.
    pub fn add_flag(&mut self, flag: &str, key: &str, value: Value) -> Result<(), ConfigError> {
        self.set(key, value, format!("flag {flag}"))
    }

    fn set(&mut self, key: &str, value: Value, origin: String) -> Result<(), ConfigError> {
        let (key, kind) = known(key, &origin)?;
        if let Some(fault) = fault(kind, &value) {
            return Err(ConfigError::Value { at: origin, key: key.to_owned(), fault });
        }
        match self.settings.binary_search_by_key(&key, |setting| setting.key) {
            Ok(at) => self.settings[at] = Setting { key, value, origin },
            Err(at) => self.settings.insert(at, Setting { key, value, origin }),
        }
        Ok(())
    }

    /// Replaces `env://VARIABLE` and `file:///path` by what is there, once.
    ///
    /// # Errors
    /// [`ConfigError`] when it is not there, or the value is not of its kind.
    pub fn resolve_indirections(
        &mut self,
        variable: impl Fn(&str) -> Option<String>,
        file: impl Fn(&str) -> Result<String, std::io::Error>,
    ) -> Result<(), ConfigError> {
        for setting in &mut self.settings {
            let Setting { key, origin, .. } = setting;
            let (key, at) = (*key, origin.clone());
            let resolve = |text: &mut String| -> Result<(), ConfigError> {
                let wrong = |fault: String| ConfigError::Value { at: at.clone(), key: key.to_owned(), fault };
                if let Some(name) = text.strip_prefix("env://") {
                    *text = variable(name).ok_or_else(|| wrong(format!("the variable `{name}` is not set")))?;
                } else if let Some(path) = text.strip_prefix("file://") {
                    let content = file(path).map_err(|error| wrong(format!("cannot read `{path}`: {error}")))?;
                    *text = content.trim_end().to_owned();
                }
                Ok(())
            };
            match &mut setting.value {
                Value::Text(text) => resolve(text)?,
                Value::List(list) => list.iter_mut().try_for_each(resolve)?,
            }
            let kind = known(key, &setting.origin)?.1;
            if let Some(fault) = fault(kind, &setting.value) {
                return Err(ConfigError::Value { at: setting.origin.clone(), key: key.to_owned(), fault });
            }
        }
        Ok(())
    }
}

fn known(key: &str, at: &str) -> Result<(&'static str, Kind), ConfigError> {
    KEYS.iter().find(|(known, _)| *known == key).copied().ok_or_else(|| {
        let nearest = KEYS.iter().map(|(known, _)| *known).min_by_key(|known| distance(known, key)).unwrap_or_default();
        let key = key.chars().take(120).collect();
        ConfigError::UnknownKey { at: at.to_owned(), key, nearest }
    })
}

/// Characters to insert, remove or replace to make one text of the other; of a long text only the beginning counts.
fn distance(known: &str, typed: &str) -> usize {
    let typed: Vec<char> = typed.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=typed.len()).collect();
    for (i, a) in known.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in typed.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[typed.len()]
}

/// The words of a key that is on or off.
const SWITCH: &[&str] = &["true", "false"];

fn is_switch(key: &str) -> bool {
    KEYS.iter().any(|(known, kind)| *known == key && matches!(kind, Kind::Word(words) if *words == SWITCH))
}

fn is_indirect(text: &str) -> bool {
    text.starts_with("env://") || text.starts_with("file://")
}

fn fault(kind: Kind, value: &Value) -> Option<String> {
    match (kind, value) {
        (Kind::List, Value::Text(text)) if is_indirect(text) => None,
        (Kind::List, Value::Text(_)) => Some("a list is expected, such as [\"...\"]".to_owned()),
        (Kind::List, Value::List(list)) if list.len() > MAX_LIST => Some(format!("at most {MAX_LIST} are accepted")),
        (Kind::List, Value::List(_)) => None,
        (_, Value::List(_)) => Some("one value is expected, not a list".to_owned()),
        (_, Value::Text(text)) if is_indirect(text) => None,
        (_, Value::Text(text)) if text.is_empty() => Some("it is empty".to_owned()),
        (Kind::Text, Value::Text(_)) => None,
        (Kind::SizeOrAuto, Value::Text(text)) if text == "auto" => None,
        (Kind::Size | Kind::SizeOrAuto, Value::Text(text)) => parse_size(text).err(),
        (Kind::Word(words), Value::Text(text)) if words.contains(&text.as_str()) => None,
        (Kind::Word(words), Value::Text(text)) => {
            let text: String = text.chars().take(80).collect();
            Some(format!("`{text}` is none of {}", words.join(", ")))
        }
    }
}

/// Bytes in a text such as `512`, `64KiB`, `2GiB`.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let refuse = || {
        let text: String = text.chars().take(80).collect();
        format!("`{text}` is not a size: expected for instance 4096, 512KiB, 32MiB or 2GiB")
    };
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let number: u64 = number.replace('_', "").parse().map_err(|_| refuse())?;
    let shift = match unit.trim() {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return Err(refuse()),
    };
    number.checked_mul(1 << shift).ok_or_else(refuse)
}

type Flat = (String, usize, Option<Value>);

fn flatten(prefix: &str, table: &DeTable<'_>, values: &mut Vec<Flat>) {
    for (name, value) in table.iter() {
        let key = if prefix.is_empty() { name.get_ref().to_string() } else { format!("{prefix}.{}", name.get_ref()) };
        let value = match value.get_ref() {
            DeValue::Table(inner) => {
                flatten(&key, inner, values);
                continue;
            }
            DeValue::String(text) => Some(Value::Text(text.to_string())),
            DeValue::Integer(number) => Some(Value::Text(number.to_string())),
            DeValue::Boolean(word) if is_switch(&key) => Some(Value::Text(word.to_string())),
            DeValue::Array(items) => {
                let texts = items.iter().map(|item| item.get_ref().as_str().map(str::to_owned));
                texts.collect::<Option<Vec<_>>>().map(Value::List)
            }
            _ => None,
        };
        values.push((key, name.span().start, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        let mut layers = Layers::built_in();
        let before = layers.clone();
        let error = layers.add_file(text, "f").unwrap_err();
        assert_eq!(layers, before, "a refused layer changes nothing");
        format!("{error} ({})", error.hint())
    }

    #[test]
    fn built_in_values_have_every_key_and_no_other() {
        let layers = Layers::built_in();
        let keys: Vec<&str> = layers.settings().iter().map(|setting| setting.key).collect();
        assert_eq!(keys, KEYS.map(|(key, _)| key));
        for key in KEYS.map(|(key, _)| key) {
            let (_, name) = key.split_once('.').unwrap();
            let line = DEFAULTS.lines().position(|line| line.starts_with(&format!("{name} = "))).unwrap();
            let above = DEFAULTS.lines().nth(line - 1).unwrap();
            assert!(above.starts_with("# "), "{key} is explained");
            assert_eq!(above.ends_with("(restart)"), needs_restart(key), "{key}");
        }
    }

    #[test]
    fn later_layers_win_and_say_where_they_come_from() {
        let mut layers = Layers::built_in();
        layers.add_file("# mine\n[node]\nname = \"attic\"\n", "a.toml").unwrap();
        layers.add_file("node.name = 'cellar'\nlimits.memory = 67108864\n", "b.toml").unwrap();
        layers.add_environment([("BIBD_P2P__PEERS", "/a, /b"), ("BIBD_OTHER", "x")].into_iter()).unwrap();
        layers.add_flag("--log-level", "log.level", Value::Text("debug".to_owned())).unwrap();
        let shown = |key: &str| {
            let setting = layers.setting(key);
            format!("{} from {}", setting.value, setting.origin)
        };
        assert_eq!(shown("node.name"), "\"cellar\" from b.toml:1");
        assert_eq!(shown("limits.memory"), "\"67108864\" from b.toml:2");
        assert_eq!(shown("p2p.peers"), "[\"/a\", \"/b\"] from environment BIBD_P2P__PEERS");
        assert_eq!(shown("log.level"), "\"debug\" from flag --log-level");
        assert_eq!(shown("log.format"), "\"text\" from built-in");
    }

    #[test]
    fn wrong_layers_name_the_line_and_what_was_probably_meant() {
        assert_eq!(message("\n[node]\nnmae = 'x'"), "f:3: there is no setting `node.nmae` (did you mean `node.name`?)");
        assert!(message("[storage]\nmaxbytes = 1").ends_with("(did you mean `storage.max_bytes`?)"));
        assert!(message("[limits]\nmemory = \"lots\"").starts_with("f:2: limits.memory: `lots` is not a size"));
        assert!(message("log.level = 'loud'").contains("`loud` is none of error, warn, info, debug, trace"));
        assert!(message("p2p.peers = '/x'").contains("a list is expected"));
        assert!(message("p2p.peers = [1]").contains("f:1: p2p.peers: the value must be"));
        assert!(message("node.name = true").contains("the value must be text"));
        assert!(message("node.name = ''").contains("it is empty"));
        assert!(message("[node]\n=").starts_with("f:2: "));
        assert!(message(&"#".repeat(MAX_CONFIG_LEN + 1)).contains("longer than 256 KiB"));
        let mut layers = Layers::built_in();
        let refused = layers.add_environment([("BIBD_NODE__SPEED", "1")].into_iter());
        assert_eq!(refused.unwrap_err().to_string(), "environment BIBD_NODE__SPEED: there is no setting `node.speed`");
    }

    #[test]
    fn indirections_are_followed_once_and_checked() {
        let mut layers = Layers::built_in();
        layers.add_file("node.name = 'env://NAME'\nlimits.memory = 'file:///mem'", "f").unwrap();
        let mut good = layers.clone();
        good.resolve_indirections(|name| Some(format!("env://{name}2")), |_| Ok("64MiB\n".to_owned())).unwrap();
        assert_eq!(good.setting("node.name").value, Value::Text("env://NAME2".to_owned()));
        assert_eq!(good.setting("limits.memory").value, Value::Text("64MiB".to_owned()));
        let wrong = layers.clone().resolve_indirections(|_| Some("x".to_owned()), |_| Ok("much".to_owned()));
        assert!(wrong.unwrap_err().to_string().contains("`much` is not a size"));
        let absent = layers.resolve_indirections(|_| None, |_| Ok("1MiB".to_owned())).unwrap_err();
        assert_eq!(absent.to_string(), "f:1: node.name: the variable `NAME` is not set");
    }

    #[test]
    fn sizes_are_read_exactly() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("32MiB"), Ok(32 << 20));
        assert_eq!(parse_size(" 2 GiB "), Ok(2 << 30));
        for wrong in ["", "MiB", "1.5GiB", "-1", "1 MB", "20000000TiB"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }
}

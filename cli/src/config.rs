//! The configuration of `bib`: layers of text, each value with where it comes from. Later layers win: built-in,
//! `/etc/bib/bib.toml`, `$XDG_CONFIG_HOME/bib/bib.toml`, `BIB_*` variables (`__` stands for the dot), flags.
//! An unknown key is an error with its position.

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bib_core::api::ErrorCode;
use bib_core::limits::MAX_CONFIG_LEN;
use toml::de::{DeTable, DeValue};

use crate::args::{Globals, parse_duration};
use crate::error::{CliError, Result};
use crate::ui::Color;

/// The file for all users.
const SYSTEM_FILE: &str = "/etc/bib/bib.toml";
/// Bytes of a file named by `file:///`.
const MAX_INDIRECT_LEN: u64 = 64 << 10;

/// What values a key takes.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Any text.
    Text,
    /// A time such as `30s`.
    Time,
    /// One of these words.
    Word(&'static [&'static str]),
}

/// Every key with its built-in value and what it is for.
const KEYS: [(&str, Kind, &str, &str); 5] = [
    ("identity.key", Kind::Text, "auto", "the key to sign with: auto, a file, or agent:"),
    ("node.default", Kind::Text, "auto", "the node to ask: auto, or unix:/path/to/bibd.sock"),
    ("node.timeout", Kind::Time, "30s", "how long to wait for a short answer"),
    ("output.color", Kind::Word(&["auto", "always", "never"]), "auto", "when to colour"),
    ("output.format", Kind::Word(&["table", "json"]), "table", "how to print results"),
];

/// A value with where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) key: &'static str,
    pub(crate) value: String,
    pub(crate) origin: String,
    pub(crate) about: &'static str,
}

/// All settings, resolved.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    settings: Vec<Setting>,
}

/// The part of the environment that the configuration reads.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment {
    pub(crate) vars: Vec<(String, String)>,
}

impl Environment {
    /// That of the process. What is not UTF-8 is nothing of ours.
    pub(crate) fn of_process() -> Self {
        let text = |value: OsString| value.into_string().ok();
        let vars = env::vars_os().filter_map(|(name, value)| Some((text(name)?, text(value)?)));
        Self { vars: vars.collect() }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.vars
            .iter()
            .find(|(candidate, value)| candidate == name && !value.is_empty())
            .map(|(_, value)| value.as_str())
    }
}

/// The folder for the configuration and the key of the user.
pub(crate) fn user_dir(environment: &Environment) -> Result<PathBuf> {
    let absolute = |name| environment.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CONFIG_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".config")))
        .map(|dir| dir.join("bib"))
        .ok_or_else(|| {
            CliError::new(ErrorCode::Precondition, "neither XDG_CONFIG_HOME nor HOME names an absolute folder")
                .hint("set HOME, or name the files with `--config` and `--key`")
        })
}

/// The configuration files in use, in the order in which they are read; they need not exist. A process without a home, such
/// as a service that looks after the node, has the one for all users.
pub(crate) fn files(globals: &Globals, environment: &Environment) -> Vec<PathBuf> {
    let user = globals.config.clone().or_else(|| Some(user_dir(environment).ok()?.join("bib.toml")));
    std::iter::once(PathBuf::from(SYSTEM_FILE)).chain(user).collect()
}

impl Config {
    /// Reads all layers.
    pub(crate) fn load(globals: &Globals, environment: &Environment) -> Result<Self> {
        let mut config = Self::built_in();
        for path in files(globals, environment) {
            match read_bounded(&path) {
                Ok(text) => config.layer_file(&text, &path.display().to_string())?,
                // Only a file that the user named has to be there.
                Err(error)
                    if error.code() == Some(ErrorCode::NotFound)
                        && globals.config.as_deref() != Some(path.as_path()) => {}
                Err(error) => return Err(error),
            }
        }
        config.layer_environment(environment)?;
        config.layer_flags(globals);
        config.resolve_indirections(environment)?;
        Ok(config)
    }

    fn built_in() -> Self {
        let setting = |(key, _, value, about): &(&'static str, Kind, &str, &'static str)| Setting {
            key,
            value: (*value).to_owned(),
            origin: "built-in".to_owned(),
            about,
        };
        Self { settings: KEYS.iter().map(setting).collect() }
    }

    fn set(&mut self, key: &str, value: &str, origin: String) -> Result<()> {
        let Some((_, kind, _, _)) = KEYS.iter().find(|(known, ..)| *known == key) else {
            let known: Vec<&str> = KEYS.iter().map(|(key, ..)| *key).collect();
            return Err(CliError::invalid(format!("{origin}: there is no setting `{key}`"))
                .hint(format!("the settings are {}; remove or correct the line", known.join(", "))));
        };
        let fault = match kind {
            Kind::Text if value.is_empty() => Some("it is empty".to_owned()),
            Kind::Text => None,
            Kind::Time => parse_duration(value).err(),
            Kind::Word(words) if words.contains(&value) => None,
            Kind::Word(words) => Some(format!("`{value}` is none of {}", words.join(", "))),
        };
        if let Some(fault) = fault {
            return Err(CliError::invalid(format!("{origin}: {key}: {fault}"))
                .hint("correct the value; `bib config show --origin` shows what is in force"));
        }
        if let Some(setting) = self.settings.iter_mut().find(|setting| setting.key == key) {
            setting.value = value.to_owned();
            setting.origin = origin;
        }
        Ok(())
    }

    fn layer_file(&mut self, text: &str, file: &str) -> Result<()> {
        let position = |offset: usize| {
            let line = 1 + text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count();
            format!("{file}:{line}")
        };
        let table = DeTable::parse(text).map_err(|error| {
            let at = error.span().map_or_else(|| file.to_owned(), |span| position(span.start));
            CliError::invalid(format!("{at}: {}", error.message()))
                .hint(format!("correct `{file}`: it is written in TOML"))
        })?;
        let mut values = Vec::new();
        flatten("", table.get_ref(), &mut values);
        for (key, offset, value) in values {
            let origin = position(offset);
            match value {
                Some(value) => self.set(&key, &value, origin)?,
                None => {
                    return Err(CliError::invalid(format!("{origin}: {key}: the value must be text or a number"))
                        .hint("write it in quotes, such as `timeout = \"30s\"`"));
                }
            }
        }
        Ok(())
    }

    fn layer_environment(&mut self, environment: &Environment) -> Result<()> {
        for (name, value) in &environment.vars {
            // Variables without `__` name no setting: they serve other purposes, such as BIB_PASSPHRASE.
            let Some(key) = name.strip_prefix("BIB_").filter(|rest| rest.contains("__")) else { continue };
            let key = key.replace("__", ".").to_lowercase();
            self.set(&key, value, format!("environment {name}"))?;
        }
        // https://no-color.org: any value that is not empty. It speaks for all programs, so bib's own `always` wins.
        if environment.get("NO_COLOR").is_some() && self.setting("output.color").value != "always" {
            self.set("output.color", "never", "environment NO_COLOR".to_owned())?;
        }
        Ok(())
    }

    fn layer_flags(&mut self, globals: &Globals) {
        let mut set = |key: &str, value: String, flag: &str| {
            if let Some(setting) = self.settings.iter_mut().find(|setting| setting.key == key) {
                setting.value = value;
                setting.origin = format!("flag {flag}");
            }
        };
        if let Some(node) = &globals.node {
            set("node.default", node.clone(), "--node");
        }
        if let Some(key) = &globals.key {
            set("identity.key", key.clone(), "--key");
        }
        if let Some(timeout) = globals.timeout {
            set("node.timeout", format!("{}ms", timeout.as_millis()), "--timeout");
        }
        if globals.json {
            set("output.format", "json".to_owned(), "--json");
        }
        if globals.no_color {
            set("output.color", "never".to_owned(), "--no-color");
        }
    }

    /// `env://VAR` and `file:///path` stand for what is there.
    fn resolve_indirections(&mut self, environment: &Environment) -> Result<()> {
        for setting in &mut self.settings {
            if let Some(name) = setting.value.strip_prefix("env://") {
                let value = environment.get(name).ok_or_else(|| {
                    CliError::invalid(format!("{}: {}: the variable `{name}` is not set", setting.origin, setting.key))
                        .hint(format!("set it: `export {name}=...`"))
                })?;
                setting.value = value.to_owned();
            } else if let Some(path) = setting.value.strip_prefix("file://") {
                let path = PathBuf::from(path);
                let mut text = String::new();
                File::open(&path)
                    .and_then(|file| file.take(MAX_INDIRECT_LEN).read_to_string(&mut text))
                    .map_err(|error| CliError::io("read", &path, &error))?;
                setting.value = text.trim_end().to_owned();
            }
        }
        Ok(())
    }

    /// All settings by key.
    pub(crate) fn settings(&self) -> &[Setting] {
        &self.settings
    }

    fn setting(&self, key: &str) -> &Setting {
        self.settings.iter().find(|setting| setting.key == key).expect("asked for a key of the table above")
    }

    /// The node to ask, as text.
    pub(crate) fn node(&self) -> &str {
        &self.setting("node.default").value
    }

    /// The key to sign with, as text.
    pub(crate) fn key(&self) -> &str {
        &self.setting("identity.key").value
    }

    /// How long to wait for a short answer.
    pub(crate) fn timeout(&self) -> Duration {
        // An indirection may have put anything there.
        parse_duration(&self.setting("node.timeout").value).unwrap_or(Duration::from_secs(30))
    }

    /// Whether results are JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.setting("output.format").value == "json"
    }

    /// When to colour.
    pub(crate) fn color(&self) -> Color {
        match self.setting("output.color").value.as_str() {
            "always" => Color::Always,
            "never" => Color::Never,
            _ => Color::Auto,
        }
    }
}

fn flatten(prefix: &str, table: &DeTable<'_>, values: &mut Vec<(String, usize, Option<String>)>) {
    for (name, value) in table.iter() {
        let key = if prefix.is_empty() { name.get_ref().to_string() } else { format!("{prefix}.{}", name.get_ref()) };
        match value.get_ref() {
            DeValue::Table(inner) => flatten(&key, inner, values),
            DeValue::String(text) => values.push((key, name.span().start, Some(text.to_string()))),
            DeValue::Integer(number) => values.push((key, name.span().start, Some(number.to_string()))),
            _ => values.push((key, name.span().start, None)),
        }
    }
}

fn read_bounded(path: &Path) -> Result<String> {
    let fail = |error| CliError::io("read", path, &error);
    let mut bytes = Vec::new();
    File::open(path).map_err(fail)?.take(MAX_CONFIG_LEN as u64 + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() > MAX_CONFIG_LEN {
        return Err(CliError::invalid(format!("`{}` is longer than 256 KiB", path.display()))
            .hint("is it the right file? `bib config path` shows where bib looks"));
    }
    String::from_utf8(bytes).map_err(|_| {
        CliError::invalid(format!("`{}` is not UTF-8 text", path.display()))
            .hint("is it the right file? `bib config path` shows where bib looks")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(vars: &[(&str, &str)]) -> Environment {
        Environment { vars: vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect() }
    }

    #[test]
    fn later_layers_win_and_say_where_they_come_from() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("bib.toml");
        std::fs::write(&file, "# mine\n[node]\ntimeout = \"7s\"\ndefault = \"unix:/a\"\n").unwrap();
        let globals = Globals { config: Some(file.clone()), json: true, ..Globals::default() };
        let config =
            Config::load(&globals, &environment(&[("BIB_NODE__DEFAULT", "unix:/b"), ("BIB_PASSPHRASE", "x")])).unwrap();
        assert_eq!(config.timeout(), Duration::from_secs(7));
        assert_eq!(config.setting("node.timeout").origin, format!("{}:3", file.display()));
        assert_eq!(config.node(), "unix:/b");
        assert_eq!(config.setting("node.default").origin, "environment BIB_NODE__DEFAULT");
        assert_eq!(config.setting("output.format").origin, "flag --json");
        assert_eq!(config.setting("identity.key").origin, "built-in");
    }

    #[test]
    fn wrong_files_name_the_line() {
        let message = |text: &str| Config::built_in().layer_file(text, "f").unwrap_err().to_string();
        assert_eq!(message("[node]\n\nspeed = \"x\""), "f:3: there is no setting `node.speed`");
        assert_eq!(
            message("[node]\ntimeout = \"soon\""),
            "f:2: node.timeout: `soon` is not a time: expected for instance 500ms, 30s, 5m or 2h"
        );
        assert_eq!(message("output.color = \"pink\""), "f:1: output.color: `pink` is none of auto, always, never");
        assert_eq!(message("output.color = true"), "f:1: output.color: the value must be text or a number");
        assert!(message("[node]\n=").starts_with("f:2: "));
    }

    #[test]
    fn unknown_variables_are_refused_and_no_color_is_honoured() {
        let load = |vars: &[(&str, &str)]| {
            let dir = [("HOME", "/nonexistent")];
            Config::load(&Globals::default(), &environment(&[&dir, vars].concat()))
        };
        assert!(load(&[("BIB_NODE__SPEED", "1")]).unwrap_err().to_string().contains("environment BIB_NODE__SPEED"));
        assert_eq!(load(&[("NO_COLOR", "1")]).unwrap().color(), Color::Never);
        assert_eq!(load(&[("NO_COLOR", "1"), ("BIB_OUTPUT__COLOR", "always")]).unwrap().color(), Color::Always);
        assert_eq!(load(&[("NO_COLOR", "")]).unwrap().color(), Color::Auto);
    }

    #[test]
    fn process_without_a_home_has_the_settings_for_all() {
        assert_eq!(files(&Globals::default(), &environment(&[])), [PathBuf::from(SYSTEM_FILE)]);
        let globals = Globals { config: Some(PathBuf::from("/own.toml")), ..Globals::default() };
        assert_eq!(files(&globals, &environment(&[])), [PathBuf::from(SYSTEM_FILE), PathBuf::from("/own.toml")]);
    }

    #[test]
    fn indirections_are_followed_once() {
        let config = Config::load(
            &Globals { node: Some("env://MY_NODE".to_owned()), ..Globals::default() },
            &environment(&[("HOME", "/nonexistent"), ("MY_NODE", "unix:/c")]),
        );
        assert_eq!(config.unwrap().node(), "unix:/c");
    }
}

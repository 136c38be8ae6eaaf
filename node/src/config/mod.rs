//! The configuration of `bibd`: text with positions and origins becomes ready values. `default.toml` is the
//! documentation of all settings.

pub mod budget;
pub mod layer;
pub mod resolved;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bib_core::limits::MAX_CONFIG_LEN;

pub use budget::Budget;
pub use layer::{ConfigError, Layers, Setting, Value};
pub use resolved::{Config, LogFormat, Surroundings};

/// The file for all users.
pub const SYSTEM_FILE: &str = "/etc/bib/bibd.toml";
/// Bytes of a file named by `file:///`.
const MAX_INDIRECT_LEN: u64 = 64 << 10;

/// Where the configuration comes from; it is read again from there when the node is told to.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file that the user named, instead of their own.
    pub file: Option<PathBuf>,
    /// Flags: name, key, value.
    pub flags: Vec<(&'static str, &'static str, Value)>,
    /// The process.
    pub around: Surroundings,
}

impl Sources {
    /// Reads all layers and makes values of them.
    ///
    /// # Errors
    /// [`ConfigError`] when one of them cannot be used.
    pub fn load(&self) -> Result<Config, ConfigError> {
        let mut layers = Layers::built_in();
        self.add(&mut layers, Path::new(SYSTEM_FILE), false)?;
        match (&self.file, self.around.user_file()) {
            (Some(file), _) => self.add(&mut layers, file, true)?,
            (None, Some(file)) => self.add(&mut layers, &file, false)?,
            (None, None) => {}
        }
        layers.add_environment(self.around.vars.iter().map(|(name, value)| (name.as_str(), value.as_str())))?;
        for (flag, key, value) in &self.flags {
            layers.add_flag(flag, key, value.clone())?;
        }
        let variable = |name: &str| self.around.var(name).map(str::to_owned);
        layers.resolve_indirections(variable, |path| read(Path::new(path), MAX_INDIRECT_LEN))?;
        Config::resolve(&layers, &self.around)
    }

    fn add(&self, layers: &mut Layers, path: &Path, required: bool) -> Result<(), ConfigError> {
        let file = path.display().to_string();
        match read(path, MAX_CONFIG_LEN as u64) {
            Ok(text) => layers.add_file(&text, &file),
            // Only a file that the user named has to be there.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !required => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Err(ConfigError::NoConfig { file, reason: "it is not UTF-8 text" })
            }
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                Err(ConfigError::NoConfig { file, reason: "it is longer than 256 KiB" })
            }
            Err(source) => Err(ConfigError::Unreadable { file, source }),
        }
    }
}

/// Takes a text as the only file over the built-in values, on a machine that is always the same: for tools that check
/// or try configurations.
///
/// # Errors
/// [`ConfigError`] when it cannot be used.
pub fn check_text(text: &str) -> Result<Config, ConfigError> {
    let vars = vec![("HOME".to_owned(), "/home/user".to_owned())];
    let around = Surroundings { vars, uid: 1_000, host_name: "host".to_owned() };
    let mut layers = Layers::built_in();
    layers.add_file(text, "bibd.toml")?;
    layers.resolve_indirections(|_| None, |_| Err(io::ErrorKind::NotFound.into()))?;
    Config::resolve(&layers, &around)
}

fn read(path: &Path, max_len: u64) -> io::Result<String> {
    let mut text = String::new();
    let n = File::open(path)?.take(max_len + 1).read_to_string(&mut text)?;
    if n as u64 > max_len { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_file_must_be_there_and_be_text() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("bibd.toml");
        let around =
            Surroundings { vars: vec![("HOME".to_owned(), "/nonexistent".to_owned())], ..Surroundings::default() };
        let sources = Sources { file: Some(file.clone()), flags: Vec::new(), around };
        let message = || sources.load().unwrap_err().to_string();
        assert!(message().contains("cannot read the configuration"), "{}", message());
        std::fs::write(&file, [0xff, 0xfe]).unwrap();
        assert!(message().contains("not UTF-8"), "{}", message());
        std::fs::write(&file, vec![b'#'; MAX_CONFIG_LEN + 1]).unwrap();
        assert!(message().contains("longer than 256 KiB"), "{}", message());
        std::fs::write(&file, "node.name = 'attic'").unwrap();
        assert_eq!(sources.load().unwrap().name, "attic");
    }

    #[test]
    fn flags_win_over_everything() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("bibd.toml");
        std::fs::write(&file, "log.level = 'warn'").unwrap();
        let vars = [("HOME", "/nonexistent"), ("BIBD_LOG__LEVEL", "error")];
        let vars = vars.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let mut sources =
            Sources { file: Some(file), flags: Vec::new(), around: Surroundings { vars, ..Surroundings::default() } };
        assert_eq!(sources.load().unwrap().log_level, log::LevelFilter::Error);
        sources.flags.push(("--log-level", "log.level", Value::Text("debug".to_owned())));
        assert_eq!(sources.load().unwrap().log_level, log::LevelFilter::Debug);
    }
}

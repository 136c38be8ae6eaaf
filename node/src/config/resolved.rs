//! The configuration as ready values.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use bib_core::api::socket::{SYSTEM_SOCKET, user_socket};
use bib_core::chunker::ChunkerParams;
use bib_core::id::UserId;
use bib_core::wire::message::NodeMode;
use libp2p::Multiaddr;

use super::budget::MIN_MEMORY;
use super::layer::{ConfigError, Layers, Setting, Value, needs_restart, parse_size};
use crate::net::Security;
use crate::quota::TopicQuota;

/// Where the data of a node is that runs as a service of the system.
const SYSTEM_DATA: &str = "/var/lib/bib";
/// Bytes of a node's name.
const MAX_NAME_LEN: usize = 128;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What `auto` stands for: facts of the process, given by whoever starts the node.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// The environment.
    pub vars: Vec<(String, String)>,
    /// The user that the process runs as.
    pub uid: u32,
    /// The name of the machine.
    pub host_name: String,
}

impl Surroundings {
    /// A variable that is set and not empty.
    pub fn var(&self, name: &str) -> Option<&str> {
        let found = self.vars.iter().find(|(known, value)| known == name && !value.is_empty());
        found.map(|(_, value)| value.as_str())
    }

    /// Whether the process is of the system: run by root, or by the user who has no other home than the data.
    fn is_of_system(&self) -> bool {
        self.uid == 0 || self.var("HOME") == Some(SYSTEM_DATA)
    }

    /// The folder that a variable names, or one below the home folder.
    fn dir(&self, name: &str, below_home: &str) -> Option<PathBuf> {
        let absolute = |name| self.var(name).map(PathBuf::from).filter(|path| path.is_absolute());
        absolute(name).or_else(|| absolute("HOME").map(|home| home.join(below_home)))
    }

    /// The configuration file of the user.
    pub fn user_file(&self) -> Option<PathBuf> {
        self.dir("XDG_CONFIG_HOME", ".config").map(|dir| dir.join("bib").join("bibd.toml"))
    }
}

/// Snapshots that a node makes by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupConfig {
    /// The folder; `None` makes none.
    pub to: Option<PathBuf>,
    /// When each day: the time since midnight, UTC.
    pub at: Duration,
    /// Snapshots that stay, however old.
    pub keep: usize,
    /// How long the others stay.
    pub keep_for: Duration,
    /// A file with the passphrase of a new backup.
    pub passphrase_file: Option<PathBuf>,
    /// Users who can open a new backup.
    pub users: Vec<UserId>,
}

/// The configuration of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What people see.
    pub name: String,
    /// How it takes part.
    pub mode: NodeMode,
    /// Ceiling of the memory, in bytes.
    pub memory: u64,
    /// Least important messages that are logged.
    pub log_level: log::LevelFilter,
    /// How they look.
    pub log_format: LogFormat,
    /// Where everything is.
    pub data_dir: PathBuf,
    /// Bytes that the chunk store may take; `None` = 80 % of the file system.
    pub max_bytes: Option<u64>,
    /// Bytes of the file system that stay free.
    pub min_free: u64,
    /// Bytes that each user may have published of what is stored; `None` = no bound.
    pub max_bytes_per_user: Option<u64>,
    /// Bytes that topics may have here; the first that matches counts.
    pub topic_quotas: Vec<TopicQuota>,
    /// When space is given back each day: the time since midnight, UTC.
    pub gc_at: Duration,
    /// How long released and unnamed content is kept.
    pub gc_min_age: Duration,
    /// How much of what is stored is checked each day, in thousandths.
    pub scrub_share: u16,
    /// Snapshots that the node makes by itself.
    pub backup: BackupConfig,
    /// How new datasets are cut.
    pub chunker: ChunkerParams,
    /// Whether what is stored is encrypted.
    pub encrypt: bool,
    /// Where to listen for peers.
    pub listen: Vec<Multiaddr>,
    /// Whom to stay connected to.
    pub peers: Vec<Multiaddr>,
    /// The encryption offered to other nodes.
    pub security: Security,
    /// The control socket.
    pub socket: PathBuf,
    /// Operators besides root and the node's own user.
    pub admins: BTreeSet<UserId>,
    /// All settings with their origins.
    pub settings: Vec<Setting>,
}

fn wrong(setting: &Setting, fault: impl Into<String>) -> ConfigError {
    ConfigError::Value { at: setting.origin.clone(), key: setting.key.to_owned(), fault: fault.into() }
}

fn text(setting: &Setting) -> Result<&str, ConfigError> {
    match &setting.value {
        Value::Text(text) => Ok(text),
        Value::List(_) => Err(wrong(setting, "one value is expected, not a list")),
    }
}

fn size(setting: &Setting) -> Result<u64, ConfigError> {
    parse_size(text(setting)?).map_err(|fault| wrong(setting, fault))
}

fn parsed<T>(setting: &Setting, parse: impl Fn(&str) -> Option<T>, fault: &str) -> Result<T, ConfigError> {
    parse(text(setting)?).ok_or_else(|| wrong(setting, fault))
}

const COUNT: &str = "a number of at most 100000 is expected";

/// A full path, or a word that stands for none.
fn full_path(setting: &Setting, none: &str) -> Result<Option<PathBuf>, ConfigError> {
    match text(setting)? {
        text if text == none => Ok(None),
        text if text.starts_with('/') => Ok(Some(PathBuf::from(text))),
        _ => Err(wrong(setting, format!("a full path such as /backup/bib is expected, or \"{none}\""))),
    }
}

/// `hh:mm`, as the time since midnight.
fn time_of_day(text: &str) -> Option<Duration> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |text: &str, below: u64| {
        let is_right = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u64>().ok().filter(|number| is_right && *number < below)
    };
    Some(Duration::from_secs(number(hours, 24)? * 3_600 + number(minutes, 60)? * 60))
}

/// A number of days, hours, minutes or seconds.
fn age(text: &str) -> Option<Duration> {
    let unit = match text.bytes().last()? {
        b'd' => 86_400,
        b'h' => 3_600,
        b'm' => 60,
        b's' => 1,
        _ => return None,
    };
    let number = text.get(..text.len() - 1).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    let seconds = number.parse::<u64>().ok()?.checked_mul(unit)?;
    (seconds <= 3_650 * 86_400).then(|| Duration::from_secs(seconds))
}

/// A share in percent, with at most one digit behind the point, in thousandths.
fn per_mille(text: &str) -> Option<u16> {
    let number = text.strip_suffix('%')?;
    let (whole, tenths) = number.split_once('.').unwrap_or((number, "0"));
    let digits =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u16>().ok()).flatten();
    let tenths = Some(tenths).filter(|tenths| tenths.len() == 1).and_then(digits)?;
    digits(whole)?.checked_mul(10)?.checked_add(tenths).filter(|share| *share <= 1_000)
}

fn list<T>(setting: &Setting, parse: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, ConfigError> {
    let Value::List(items) = &setting.value else { return Err(wrong(setting, "a list is expected")) };
    items.iter().map(|item| parse(item).map_err(|fault| wrong(setting, fault))).collect()
}

fn address(text: &str) -> Result<Multiaddr, String> {
    let text: String = text.chars().take(512).collect();
    text.parse().map_err(|error| format!("`{text}` is not a multiaddr such as /ip4/192.168.1.20/tcp/4001: {error}"))
}

impl Config {
    /// Makes values of the settings.
    ///
    /// # Errors
    /// [`ConfigError`] naming the setting that cannot be used and where it comes from.
    pub fn resolve(layers: &Layers, around: &Surroundings) -> Result<Self, ConfigError> {
        let setting = |key| layers.setting(key);
        let name = match text(setting("node.name"))? {
            "auto" if around.host_name.is_empty() => "bib".to_owned(),
            "auto" => around.host_name.chars().take(MAX_NAME_LEN / 4).collect(),
            name if name.len() > MAX_NAME_LEN || name.chars().any(char::is_control) => {
                return Err(wrong(setting("node.name"), "a name has at most 128 bytes and no control characters"));
            }
            name => name.to_owned(),
        };
        let mode = match text(setting("node.mode"))? {
            "full" => NodeMode::Full,
            other => {
                let fault = format!("the mode `{other}` is not in this build of bibd; it has `full`");
                return Err(wrong(setting("node.mode"), fault));
            }
        };
        let memory = size(setting("limits.memory"))?;
        if memory < MIN_MEMORY {
            return Err(wrong(setting("limits.memory"), "bibd needs at least 32MiB"));
        }
        let log_level = match text(setting("log.level"))? {
            "error" => log::LevelFilter::Error,
            "warn" => log::LevelFilter::Warn,
            "debug" => log::LevelFilter::Debug,
            "trace" => log::LevelFilter::Trace,
            _ => log::LevelFilter::Info,
        };
        let log_format = if text(setting("log.format"))? == "json" { LogFormat::Json } else { LogFormat::Text };
        let data_dir = match text(setting("storage.data_dir"))? {
            "auto" if around.is_of_system() => PathBuf::from(SYSTEM_DATA),
            "auto" => around.dir("XDG_DATA_HOME", ".local/share").map(|dir| dir.join("bib")).ok_or_else(|| {
                ConfigError::Environment("neither XDG_DATA_HOME nor HOME says where the data belongs".to_owned())
            })?,
            path => PathBuf::from(path),
        };
        let max_bytes = match text(setting("storage.max_bytes"))? {
            "auto" => None,
            _ => Some(size(setting("storage.max_bytes"))?),
        };
        let average = setting("storage.chunk_avg");
        let chunker = u32::try_from(size(average)?)
            .ok()
            .filter(|avg| (4 << 10..=256 << 10).contains(avg))
            .map(ChunkerParams::with_average)
            .filter(ChunkerParams::is_valid)
            .ok_or_else(|| wrong(average, "an even number of bytes from 4KiB to 256KiB is expected"))?;
        let socket = match text(setting("control.socket"))? {
            "auto" if around.is_of_system() => PathBuf::from(SYSTEM_SOCKET),
            "auto" => user_socket(around.var("XDG_RUNTIME_DIR").map(AsRef::as_ref), around.uid),
            path => PathBuf::from(path),
        };
        let user = |text: &str| text.parse::<UserId>().map_err(|error| error.to_string());
        Ok(Self {
            name,
            mode,
            memory,
            log_level,
            log_format,
            data_dir,
            max_bytes,
            min_free: size(setting("storage.min_free"))?,
            max_bytes_per_user: match text(setting("storage.max_bytes_per_user"))? {
                "auto" => None,
                _ => Some(size(setting("storage.max_bytes_per_user"))?),
            },
            topic_quotas: list(setting("storage.topics"), TopicQuota::parse)?,
            gc_at: parsed(setting("gc.at"), time_of_day, "a time such as 02:00 is expected")?,
            gc_min_age: parsed(
                setting("gc.min_age"),
                age,
                "a time such as 7d, 12h, 30m or 0s is expected, at most 3650d",
            )?,
            scrub_share: parsed(
                setting("scrub.share_per_day"),
                per_mille,
                "a share such as 5% or 0.5% is expected, at most 100%",
            )?,
            backup: BackupConfig {
                to: full_path(setting("backup.to"), "off")?,
                at: parsed(setting("backup.at"), time_of_day, "a time such as 02:00 is expected")?,
                keep: parsed(setting("backup.keep"), |text| text.parse().ok().filter(|keep| *keep <= 100_000), COUNT)?,
                keep_for: parsed(setting("backup.keep_for"), age, "a time such as 30d is expected, at most 3650d")?,
                passphrase_file: full_path(setting("backup.passphrase_file"), "none")?,
                users: list(setting("backup.users"), user)?,
            },
            chunker,
            encrypt: text(setting("crypto.enabled"))? == "true",
            listen: list(setting("p2p.listen"), address)?,
            peers: list(setting("p2p.peers"), address)?,
            security: match text(setting("p2p.security"))? {
                "noise" => Security::Noise,
                "tls" => Security::Tls,
                _ => Security::Auto,
            },
            socket,
            admins: list(setting("access.admins"), user)?.into_iter().collect(),
            settings: layers.settings().to_vec(),
        })
    }

    /// This configuration with what of another one can be taken while the node runs.
    pub fn with_live_values_of(&self, next: Self) -> Self {
        let Self { mode, memory, data_dir, encrypt, listen, security, socket, .. } = self.clone();
        let restart = |(old, new): (&Setting, &Setting)| if needs_restart(old.key) { old.clone() } else { new.clone() };
        let settings = self.settings.iter().zip(&next.settings).map(restart).collect();
        Self { mode, memory, data_dir, encrypt, listen, security, socket, settings, ..next }
    }

    /// Keys whose values differ.
    pub fn changes(&self, next: &Self) -> Vec<&'static str> {
        let pairs = self.settings.iter().zip(&next.settings);
        pairs.filter(|(old, new)| old.value != new.value).map(|(old, _)| old.key).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around(uid: u32) -> Surroundings {
        let vars = [("HOME", "/home/ann"), ("XDG_RUNTIME_DIR", "/run/user/7")];
        let vars = vars.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        Surroundings { vars, uid, host_name: "attic".to_owned() }
    }

    fn resolve(text: &str) -> Result<Config, ConfigError> {
        let mut layers = Layers::built_in();
        layers.add_file(text, "f").unwrap();
        Config::resolve(&layers, &around(7))
    }

    #[test]
    fn automatic_values_follow_the_user() {
        let user = resolve("").unwrap();
        assert_eq!(user.name, "attic");
        assert_eq!(user.data_dir, PathBuf::from("/home/ann/.local/share/bib"));
        assert_eq!(user.socket, PathBuf::from("/run/user/7/bib/bibd.sock"));
        assert_eq!((user.memory, user.max_bytes, user.chunker), (128 << 20, None, ChunkerParams::default()));
        let vars = vec![("HOME".to_owned(), "/var/lib/bib".to_owned())];
        for system in [around(0), Surroundings { vars, ..around(7) }] {
            let system = Config::resolve(&Layers::built_in(), &system).unwrap();
            assert_eq!(system.data_dir, PathBuf::from("/var/lib/bib"));
            assert_eq!(system.socket, PathBuf::from(SYSTEM_SOCKET));
        }
        let nobody = Config::resolve(&Layers::built_in(), &Surroundings { uid: 7, ..Surroundings::default() });
        assert!(nobody.unwrap_err().to_string().contains("HOME"));
    }

    #[test]
    fn values_that_cannot_be_used_name_their_line() {
        let refused = |text: &str| resolve(text).unwrap_err().to_string();
        assert_eq!(
            refused("node.mode = 'proxy'"),
            "f:1: node.mode: the mode `proxy` is not in this build of bibd; it has `full`"
        );
        assert!(refused("\nlimits.memory = '1MiB'").starts_with("f:2: limits.memory: bibd needs at least"));
        assert!(refused("storage.chunk_avg = '1MiB'").contains("from 4KiB to 256KiB"));
        assert!(refused("storage.chunk_avg = 4097").contains("even number"));
        assert!(refused("p2p.listen = ['0.0.0.0:4001']").contains("is not a multiaddr"));
        assert!(refused("storage.topics = ['weather']").contains("weather/** 10GiB"));
        assert!(refused("gc.at = '24:00'").contains("02:00"));
        assert!(refused("gc.at = '2:00'").contains("02:00"));
        assert!(refused("gc.min_age = '7'").contains("7d"));
        assert!(refused("gc.min_age = '4000d'").contains("3650d"));
        assert!(refused("scrub.share_per_day = '101%'").contains("5%"));
        assert!(refused("scrub.share_per_day = '5'").contains("5%"));
        assert!(refused("access.admins = ['bob']").contains("`bob` is not a UserId"));
        assert!(refused("node.name = \"a\\nb\"").contains("control characters"));
    }

    #[test]
    fn times_and_shares_of_care_are_read() {
        let usual = resolve("").unwrap();
        let day = Duration::from_secs(86_400);
        assert_eq!((usual.gc_at, usual.gc_min_age, usual.scrub_share), (day / 12, day * 7, 50));
        let other = resolve("gc.at = '23:59'\ngc.min_age = '90m'\nscrub.share_per_day = '0.5%'").unwrap();
        let minute = day / 1_440;
        assert_eq!((other.gc_at, other.gc_min_age, other.scrub_share), (day - minute, minute * 90, 5));
    }

    #[test]
    fn encryption_is_switched_by_a_word() {
        assert!(!resolve("").unwrap().encrypt);
        assert!(resolve("crypto.enabled = true").unwrap().encrypt);
        assert!(resolve("crypto.enabled = 'true'").unwrap().encrypt);
        let old = resolve("").unwrap();
        assert!(!old.with_live_values_of(resolve("crypto.enabled = true").unwrap()).encrypt);
    }

    #[test]
    fn what_needs_a_restart_stays_as_it_is() {
        let old = resolve("").unwrap();
        let new = resolve("node.name = 'b'\nstorage.data_dir = '/x'\nlimits.memory = '64MiB'").unwrap();
        let live = old.with_live_values_of(new);
        assert_eq!((live.name.as_str(), &live.data_dir, live.memory), ("b", &old.data_dir, old.memory));
        assert_eq!(old.changes(&live), ["node.name"]);
    }

    #[test]
    fn changes_name_the_keys() {
        let (old, new) = (resolve("").unwrap(), resolve("node.name = 'b'\nlog.level = 'warn'").unwrap());
        assert_eq!(old.changes(&new), ["log.level", "node.name"]);
        assert!(old.changes(&old).is_empty());
    }
}

//! The log of `bibd`: one line for each message on stderr, values as `key=value` fields behind it.
//!
//! Invariant: a message is one line, whatever a peer or a user put into its values. In the journal of systemd each line
//! begins with its priority, `<3>` to `<7>`, which the journal takes off again; text has no time there, since the journal
//! has its own.
//!
//! Deliberately absent: files and rotation; who keeps logs reads stderr.

use std::cell::Cell;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

use bib_core::limits::SELDOM;
use bib_core::time::Instant;
use log::kv::{Key, Value, VisitSource};
use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::config::{Config, LogFormat};
use crate::runtime::timestamp;

/// Libraries below speak of what is routine for them as if it were news: they are heard one level later.
const QUIET: [&str; 9] =
    ["libp2p", "multistream", "yamux", "netlink", "if_watch", "polling", "async_io", "redb", "snow"];

static JSON: AtomicBool = AtomicBool::new(false);
static JOURNAL: AtomicBool = AtomicBool::new(false);

/// Keeps what others cause as often as they like from filling the log: the first time is said, then at most a count in
/// each [`SELDOM`].
#[derive(Debug, Default)]
pub(crate) struct Seldom {
    last: Cell<Option<Instant>>,
    unsaid: Cell<u64>,
}

impl Seldom {
    /// Whether a line may be written now, and how many were not since the last one.
    pub(crate) fn may_speak(&self, now: Instant) -> Option<u64> {
        if self.last.get().is_some_and(|last| now.saturating_duration_since(last) < SELDOM) {
            self.unsaid.set(self.unsaid.get().saturating_add(1));
            return None;
        }
        self.last.set(Some(now));
        Some(self.unsaid.take())
    }

    /// The level of a line that is a warning when it may be written, and the number of those that were not.
    pub(crate) fn warning(&self, now: Instant) -> (Level, u64) {
        self.may_speak(now).map_or((Level::Debug, 0), |unsaid| (Level::Warn, unsaid))
    }
}

struct Stderr;

/// Takes the log of this process; a second call changes nothing but level and form.
pub fn init(config: &Config) {
    // Another logger of an embedding program stays.
    let _ = log::set_logger(&Stderr);
    apply(config);
}

/// Uses the level and the form of a configuration from now on.
pub fn apply(config: &Config) {
    JSON.store(config.log_format == LogFormat::Json, Ordering::Relaxed);
    log::set_max_level(config.log_level);
}

/// From now on lines are for the journal of systemd, which stderr is.
pub fn write_to_journal() {
    JOURNAL.store(true, Ordering::Relaxed);
}

/// What a line on stderr begins with: its priority for the journal, nothing for others.
pub fn priority(level: Level) -> &'static str {
    if JOURNAL.load(Ordering::Relaxed) { syslog(level) } else { "" }
}

/// A level as the numbers of syslog have it.
const fn syslog(level: Level) -> &'static str {
    match level {
        Level::Error => "<3>",
        Level::Warn => "<4>",
        Level::Info => "<6>",
        Level::Debug | Level::Trace => "<7>",
    }
}

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let max = log::max_level();
        if QUIET.iter().any(|name| metadata.target().starts_with(name)) {
            let quieter = match max {
                LevelFilter::Trace => LevelFilter::Debug,
                LevelFilter::Debug => LevelFilter::Info,
                _ => LevelFilter::Error,
            };
            return metadata.level() <= quieter;
        }
        metadata.level() <= max
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let priority = priority(record.level());
        let line = match JSON.load(Ordering::Relaxed) {
            true => json(record),
            false if priority.is_empty() => format!("{} {}", timestamp(), text(record)),
            false => text(record),
        };
        let line = format!("{priority}{line}\n");
        // There is nowhere to say that nothing can be said.
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }

    fn flush(&self) {}
}

fn text(record: &Record<'_>) -> String {
    let level = match record.level() {
        Level::Error => "ERROR",
        Level::Warn => "WARN ",
        Level::Info => "INFO ",
        Level::Debug => "DEBUG",
        Level::Trace => "TRACE",
    };
    let mut line = format!("{level} {}", one_line(&record.args().to_string()));
    // A field that cannot be shown is left out.
    let _ = record.key_values().visit(&mut Fields(|key: &str, value: String| {
        let plain = !value.is_empty() && value.chars().all(|c| c.is_alphanumeric() || "._-:/+@~%".contains(c));
        let shown = if plain { value } else { format!("{value:?}") };
        let _ = write!(line, " {key}={shown}");
    }));
    line
}

fn json(record: &Record<'_>) -> String {
    let level = record.level().as_str().to_ascii_lowercase();
    let mut line = format!(r#"{{"time":"{}","level":"{level}","message":"#, timestamp());
    quote(&record.args().to_string(), &mut line);
    let _ = record.key_values().visit(&mut Fields(|key: &str, value: String| {
        line.push(',');
        quote(key, &mut line);
        line.push(':');
        quote(&value, &mut line);
    }));
    line.push('}');
    line
}

struct Fields<F>(F);

impl<'kvs, F: FnMut(&str, String)> VisitSource<'kvs> for Fields<F> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
        (self.0)(key.as_str(), value.to_string());
        Ok(())
    }
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(render: fn(&Record<'_>) -> String) -> String {
        let fields = [("peer", "12D3"), ("why", "a \"bad\"\nframe")];
        render(
            &Record::builder()
                .args(format_args!("session ended\nERROR forged"))
                .level(Level::Warn)
                .key_values(&fields)
                .build(),
        )
    }

    #[test]
    fn worse_messages_have_smaller_numbers_in_the_journal() {
        assert_eq!(priority(Level::Error), "", "elsewhere lines begin with their text");
        let levels = [Level::Error, Level::Warn, Level::Info, Level::Debug, Level::Trace];
        assert_eq!(levels.map(syslog), ["<3>", "<4>", "<6>", "<7>", "<7>"]);
    }

    #[test]
    fn what_comes_often_is_said_once_and_then_counted() {
        let seldom = Seldom::default();
        let said = [0, 1, 59, 60, 61, 200].map(|second| seldom.may_speak(Instant(second * 1_000_000)));
        assert_eq!(said, [Some(0), None, None, Some(2), None, Some(1)]);
    }

    #[test]
    fn a_message_is_one_line_with_its_fields() {
        assert_eq!(shown(text), "WARN  session ended\u{fffd}ERROR forged peer=12D3 why=\"a \\\"bad\\\"\\nframe\"");
    }

    #[test]
    fn json_lines_are_json() {
        let line = shown(json);
        assert!(!line.contains('\n'));
        assert!(line.ends_with(r#""level":"warn","message":"session ended\u000aERROR forged","peer":"12D3","why":"a \"bad\"\u000aframe"}"#), "{line}");
    }
}

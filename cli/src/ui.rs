//! The only writer to stdout and stderr. Results go to stdout, everything else to stderr; what a machine reads is
//! never coloured, and a reader that goes away ends the command quietly.

use std::io::{self, BufRead, IsTerminal, Read, Write};

use bib_core::api::Failure;
use serde_json::{Value, json};
use unicode_width::UnicodeWidthStr;
use zeroize::Zeroizing;

use crate::error::{CliError, Result, default_hint};

/// Columns assumed where the terminal does not say.
const DEFAULT_WIDTH: usize = 80;
/// Narrower terminals get lines that wrap.
const MIN_WIDTH: usize = 40;
/// Longest line that is typed, in bytes: what a terminal hands over at once.
const MAX_ANSWER: usize = 4_096;

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Color {
    /// On terminals.
    Auto,
    /// Everywhere.
    Always,
    /// Nowhere.
    Never,
}

/// How much to say, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ui {
    json: bool,
    quiet: bool,
    verbose: bool,
    color_out: bool,
    color_err: bool,
    err_is_terminal: bool,
    /// Columns to fit in; `None` when the output is no terminal and lines may be as long as they are.
    width: Option<usize>,
}

impl Ui {
    /// Looks at what the streams are.
    pub(crate) fn new(json: bool, quiet: bool, verbose: bool, color: Color) -> Self {
        let (out, err) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        let colored = |terminal| match color {
            Color::Auto => terminal,
            Color::Always => true,
            Color::Never => false,
        };
        let width = out.then(|| {
            rustix::termios::tcgetwinsize(io::stdout())
                .map_or(DEFAULT_WIDTH, |size| if size.ws_col == 0 { DEFAULT_WIDTH } else { usize::from(size.ws_col) })
                .max(MIN_WIDTH)
        });
        Self {
            json,
            quiet,
            verbose,
            color_out: colored(out) && !json,
            color_err: colored(err),
            err_is_terminal: err,
            width,
        }
    }

    /// Whether results are JSON.
    pub(crate) const fn is_json(&self) -> bool {
        self.json
    }

    /// Columns to fit in, if any.
    pub(crate) const fn width(&self) -> Option<usize> {
        self.width
    }

    /// Whether a progress bar would be seen and wanted.
    pub(crate) const fn shows_progress(&self) -> bool {
        self.err_is_terminal && !self.quiet && !self.json
    }

    /// A line of result.
    pub(crate) fn line(&self, text: &str) -> Result<()> {
        self.raw_line(text.as_bytes())
    }

    fn raw_line(&self, bytes: &[u8]) -> Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.write_all(b"\n")).map_err(|error| stdout_error(&error))
    }

    /// A JSON value on a line of its own.
    pub(crate) fn json(&self, value: &Value) -> Result<()> {
        self.line(&value.to_string())
    }

    /// Bytes of content to stdout.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<()> {
        io::stdout().lock().write_all(bytes).map_err(|error| stdout_error(&error))
    }

    /// Hands over what is buffered.
    pub(crate) fn flush(&self) -> Result<()> {
        io::stdout().lock().flush().map_err(|error| stdout_error(&error))
    }

    /// Text that stands out on stdout.
    pub(crate) fn bold(&self, text: &str) -> String {
        if self.color_out { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A remark on stderr; silenced by `-q`.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet {
            self.err_line(text);
        }
    }

    /// A remark for `-v` only.
    pub(crate) fn detail(&self, text: &str) {
        if self.verbose && !self.quiet {
            self.err_line(text);
        }
    }

    /// A warning on stderr; shown also with `-q`, since it says that the result is not all that was asked for.
    pub(crate) fn warn(&self, text: &str) {
        if self.json {
            self.err_line(&json!({ "warning": text }).to_string());
        } else {
            self.err_line(&format!("{} {text}", self.err_style("33", "warning:")));
        }
    }

    /// A failure with its hint on stderr.
    pub(crate) fn failure(&self, failure: &Failure) {
        let hint = failure.hint.as_deref().unwrap_or_else(|| default_hint(failure.code));
        if self.json {
            let value = json!({ "code": failure.code.as_str(), "message": failure.message, "hint": hint });
            self.err_line(&value.to_string());
        } else {
            self.err_line(&format!("{} {}", self.err_style("1;31", "error:"), printable(&failure.message)));
            self.err_line(&format!("{} {}", self.err_style("36", "hint:"), printable(hint)));
        }
    }

    fn err_style(&self, style: &str, text: &str) -> String {
        if self.color_err { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn err_line(&self, text: &str) {
        // Nothing can be said about a stderr that does not take it.
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// Draws over the current line of stderr; an empty text clears it.
    pub(crate) fn redraw(&self, text: &str) {
        let mut err = io::stderr().lock();
        let _ = write!(err, "\r\x1b[K{text}").and_then(|()| err.flush());
    }

    /// Columns of stderr, for a progress bar.
    pub(crate) fn err_width(&self) -> usize {
        rustix::termios::tcgetwinsize(io::stderr())
            .ok()
            .map(|size| usize::from(size.ws_col))
            .filter(|columns| *columns > 0)
            .unwrap_or(DEFAULT_WIDTH)
    }

    /// Whether there is somebody to ask.
    pub(crate) fn can_ask(&self) -> bool {
        self.err_is_terminal && io::stdin().is_terminal()
    }

    /// Asks for a line on the terminal, which shows what is typed; `None` at the end of the input.
    pub(crate) fn ask(&self, question: &str) -> Result<Option<Zeroizing<String>>> {
        let mut err = io::stderr().lock();
        let _ = write!(err, "{question}").and_then(|()| err.flush());
        let mut answer = Zeroizing::new(String::with_capacity(MAX_ANSWER));
        let n_bytes = io::stdin()
            .lock()
            .take(MAX_ANSWER as u64)
            .read_line(&mut answer)
            .map_err(|error| CliError::io("read", "the terminal", &error))?;
        Ok((n_bytes > 0).then_some(answer))
    }

    /// Asks a yes-or-no question on the terminal; without one, the answer is the error.
    pub(crate) fn confirm(&self, question: &str) -> Result<bool> {
        if !self.can_ask() {
            return Err(CliError::new(
                bib_core::api::ErrorCode::Precondition,
                format!("{question} There is no terminal to ask on"),
            )
            .hint("repeat the command with `--yes`"));
        }
        let mut err = io::stderr().lock();
        let _ = write!(err, "{question} [y/N] ").and_then(|()| err.flush());
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).map_err(|error| CliError::io("read", "the terminal", &error))?;
        Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
    }
}

/// What others wrote must not move the cursor or colour the screen.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// Columns that a text takes.
pub(crate) fn width(text: &str) -> usize {
    UnicodeWidthStr::width(text)
}

fn stdout_error(error: &io::Error) -> CliError {
    match error.kind() {
        io::ErrorKind::BrokenPipe => CliError::BrokenPipe,
        _ => CliError::io("write to", "stdout", error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_of_others_are_not_shown() {
        assert_eq!(printable("a\x1b[31mb\r\x07"), "a\u{fffd}[31mb\u{fffd}\u{fffd}");
        assert_eq!(printable("two\nlines"), "two\nlines");
    }
}

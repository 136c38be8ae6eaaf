//! A progress line on terminals: what is done, of how much, how fast, and how long it will take. Redrawn at most ten
//! times a second, and cleared before anything else is said.

use std::time::{Duration, Instant};

use bib_core::api::event::Progress;

use crate::render::human;
use crate::ui::{Ui, width};

const REDRAW: Duration = Duration::from_millis(100);
const BAR_WIDTH: usize = 24;

/// The progress line of one command.
#[derive(Debug)]
pub(crate) struct Bar {
    ui: Ui,
    verb: &'static str,
    started: Instant,
    drawn: Option<Instant>,
    /// Used when the node does not know the total.
    expected: Option<u64>,
}

impl Bar {
    /// A line that begins with `verb`.
    pub(crate) fn new(ui: Ui, verb: &'static str, expected: Option<u64>) -> Self {
        Self { ui, verb, started: Instant::now(), drawn: None, expected }
    }

    /// Shows how far it is.
    pub(crate) fn update(&mut self, progress: &Progress) {
        if !self.ui.shows_progress() || self.drawn.is_some_and(|drawn| drawn.elapsed() < REDRAW) {
            return;
        }
        self.drawn = Some(Instant::now());
        let progress = Progress { total: progress.total.or(self.expected), ..*progress };
        let columns = self.ui.err_width();
        self.ui.redraw(&line(self.verb, &progress, self.started.elapsed(), columns.saturating_sub(1)));
    }

    /// Takes the line away.
    pub(crate) fn clear(&mut self) {
        if self.drawn.take().is_some() {
            self.ui.redraw("");
        }
    }

    /// Time since the beginning.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}

fn line(verb: &str, progress: &Progress, elapsed: Duration, columns: usize) -> String {
    let mut parts = vec![verb.to_owned()];
    let done = progress.done;
    match progress.total {
        Some(total) if total > 0 => {
            let filled = (u128::from(done.min(total)) * BAR_WIDTH as u128 / u128::from(total)) as usize;
            parts.push(format!("[{}{}]", "=".repeat(filled), " ".repeat(BAR_WIDTH - filled)));
            parts.push(format!("{} of {}", human::size(done), human::size(total)));
        }
        _ => parts.push(human::size(done)),
    }
    let moved = done.saturating_sub(progress.reused);
    let per_second = (u128::from(moved) * 1_000 / elapsed.as_millis().max(1)) as u64;
    parts.push(format!("{}/s", human::size(per_second)));
    if let (Some(total), true) = (progress.total, per_second > 0) {
        parts.push(format!("{} left", human::duration(Duration::from_secs(total.saturating_sub(done) / per_second))));
    }
    if progress.files > 1 {
        parts.push(format!("{} files", progress.files));
    }
    if progress.providers > 0 {
        parts.push(format!("{} providers", progress.providers));
    }
    // What does not fit is left away from the end, as a wrapped line could not be drawn over.
    while parts.len() > 1 && width(&parts.join("  ")) > columns {
        parts.pop();
    }
    parts.join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_fits_the_terminal_and_shows_the_most_important_first() {
        let progress = Progress { done: 50 << 20, total: Some(100 << 20), files: 3, reused: 0, providers: 2 };
        let shown = |columns| line("fetching", &progress, Duration::from_secs(10), columns);
        assert_eq!(
            shown(200),
            "fetching  [============            ]  50.0 MiB of 100.0 MiB  5.0 MiB/s  10 s left  3 files  2 providers"
        );
        assert_eq!(shown(70), "fetching  [============            ]  50.0 MiB of 100.0 MiB  5.0 MiB/s");
        assert_eq!(shown(5), "fetching");
    }

    #[test]
    fn totals_that_are_wrong_do_not_overflow_the_bar() {
        let progress = Progress { done: u64::MAX, total: Some(1), reused: 7, ..Progress::default() };
        assert!(line("x", &progress, Duration::ZERO, 200).contains("[========================]"));
    }
}

//! Catches what rooms log as an error: in a world, that fails the run.

use std::cell::RefCell;

use log::{Level, Log, Metadata, Record};

thread_local! {
    static ERRORS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

struct Catcher;

impl Log for Catcher {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() == Level::Error
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            ERRORS.with_borrow_mut(|errors| errors.push(record.args().to_string()));
        }
    }

    fn flush(&self) {}
}

/// Begins to catch on this thread.
pub(super) fn begin() {
    // Where a program has a logger of its own, its errors are its own business.
    if log::set_logger(&Catcher).is_ok() {
        log::set_max_level(log::LevelFilter::Error);
    }
    ERRORS.with_borrow_mut(Vec::clear);
}

/// What was caught since.
pub(super) fn end() -> Vec<String> {
    ERRORS.take()
}

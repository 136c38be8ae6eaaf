//! A step that went wrong, as a sentence for a developer.

use std::fmt::{self, Debug, Display, Formatter};

/// What went wrong.
#[derive(thiserror::Error)]
#[error("{0}")]
pub struct Failure(pub String);

impl Debug for Failure {
    /// The sentence with its lines, as a failed test prints it.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

/// The result of a step.
pub type Result<T> = std::result::Result<T, Failure>;

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Failure {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// Says what was being done when something failed.
pub trait During<T> {
    /// The error becomes `doing: error`.
    ///
    /// # Errors
    /// A [`Failure`] when this is an error.
    fn during(self, doing: impl Display) -> Result<T>;
}

impl<T, E: Display> During<T> for std::result::Result<T, E> {
    fn during(self, doing: impl Display) -> Result<T> {
        self.map_err(|error| Failure(format!("{doing}: {error}")))
    }
}

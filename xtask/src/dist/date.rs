//! The one time that is in packages: that of the sources, so that it does not depend on when they were made.

use bib_benches::failure::During;
use bib_benches::{Failure, Result};

use crate::process::{output, root};

const DAY: u64 = 86_400;

/// Seconds since 1970: `SOURCE_DATE_EPOCH` where it is set, else when the last commit was made.
pub fn of_sources() -> Result<Date> {
    let text = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text,
        Err(_) => output(std::process::Command::new("git").current_dir(root()).args(["log", "-1", "--format=%ct"]))
            .map_err(|error| Failure(format!("{error}\nhint: without git, or with a repository of somebody else, set SOURCE_DATE_EPOCH=<seconds since 1970>")))?,
    };
    let seconds: u64 = text.trim().parse().during("SOURCE_DATE_EPOCH")?;
    // What tar and ar have room for.
    if seconds < 1 << 33 { Ok(Date(seconds)) } else { Err(Failure("SOURCE_DATE_EPOCH is too far ahead".to_owned())) }
}

/// A time in seconds since 1970, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Date(pub u64);

impl Date {
    /// `2026-11-26`.
    pub fn day(self) -> String {
        let (year, month, day) = self.civil();
        format!("{year:04}-{month:02}-{day:02}")
    }

    /// `2026-11-26T03:00:00Z`.
    pub fn rfc3339(self) -> String {
        format!("{}T{}Z", self.day(), self.clock())
    }

    /// `Thu, 26 Nov 2026 03:00:00 +0000`, as changelogs of Debian have it.
    pub fn rfc2822(self) -> String {
        const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
        const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        let (year, month, day) = self.civil();
        let (weekday, month) = (DAYS[(self.0 / DAY % 7) as usize], MONTHS[month as usize - 1]);
        format!("{weekday}, {day:02} {month} {year:04} {} +0000", self.clock())
    }

    fn clock(self) -> String {
        let seconds = self.0 % DAY;
        format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
    }

    /// Year, month and day. Counted from a 1st of March, so that a leap day is the last of its year.
    fn civil(self) -> (u64, u64, u64) {
        let days = self.0 / DAY + 719_468;
        let (era, of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * of_year + 2) / 153;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        (era * 400 + year_of_era + u64::from(month <= 2), month, of_year - (153 * from_march + 2) / 5 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_each_format_has_them() {
        assert_eq!(Date(0).rfc3339(), "1970-01-01T00:00:00Z");
        assert_eq!(Date(951_782_400).day(), "2000-02-29");
        assert_eq!(Date(1_795_663_330).rfc2822(), "Thu, 26 Nov 2026 03:22:10 +0000");
        assert_eq!(Date(4_102_444_799).rfc3339(), "2099-12-31T23:59:59Z");
    }
}

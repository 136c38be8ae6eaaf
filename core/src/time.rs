//! Time as data. Nothing here asks a clock.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point in UTC, in microseconds since 1970-01-01.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// This time and a duration; stays at the last representable time instead of overflowing.
    pub fn saturating_add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }

    /// This time less a duration; stays at the first representable time instead of overflowing.
    pub fn saturating_sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }
}

/// A text that names no time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a time such as 2026-11-24T14:00:00Z or 2026-11-24 is expected")]
pub struct BadTime;

impl std::str::FromStr for Timestamp {
    type Err = BadTime;

    /// A day, or a time of a day in UTC with or without seconds: `2026-11-24`, `2026-11-24T14:00Z`.
    fn from_str(text: &str) -> Result<Self, BadTime> {
        let number = |text: &str, digits: usize| {
            let is_right = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
            if is_right { text.parse::<i64>().map_err(|_| BadTime) } else { Err(BadTime) }
        };
        let (date, time) = match text.split_once(['T', ' ']) {
            Some((date, time)) => (date, time.strip_suffix('Z').ok_or(BadTime)?),
            None => (text, "00:00"),
        };
        let mut parts = date.split('-');
        let mut next = |digits| number(parts.next().unwrap_or_default(), digits);
        let (year, month, day) = (next(4)?, next(2)?, next(2)?);
        let mut parts = time.split(':');
        let (hour, minute) =
            (number(parts.next().unwrap_or_default(), 2)?, number(parts.next().unwrap_or_default(), 2)?);
        let second = parts.next().map_or(Ok(0), |second| number(second, 2))?;
        let in_range = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second < 60;
        if !in_range || parts.next().is_some() {
            return Err(BadTime);
        }
        // As in `Display`, with years that begin on 1 March.
        let (year, shifted) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
        let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let day_of_year = (153 * shifted + 2) / 5 + day - 1;
        let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year - 719_468;
        let parsed = Self((days * 86_400 + hour * 3_600 + minute * 60 + second) * 1_000_000);
        // A day that its month does not have would be another one.
        if parsed.to_string().starts_with(date) { Ok(parsed) } else { Err(BadTime) }
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with seconds, such as `2026-11-24T14:00:00Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.div_euclid(1_000_000);
        let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        // Days to a civil date over eras of 400 years that begin on 1 March, so that the leap day comes last.
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

/// A point on a clock that never steps, in microseconds since the node (or the simulation) started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(pub u64);

impl Instant {
    /// The time since an earlier instant; zero if that one is later.
    pub fn saturating_duration_since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_read_as_they_are_shown() {
        for seconds in [0, 951_782_400, 1_795_530_245, 4_102_444_799] {
            let time = Timestamp(seconds * 1_000_000);
            assert_eq!(time.to_string().parse(), Ok(time));
        }
        assert_eq!("2026-11-24T14:24Z".parse(), Ok(Timestamp(1_795_530_240_000_000)));
        assert_eq!("2026-11-24".parse::<Timestamp>().map(|day| day.to_string()).as_deref(), Ok("2026-11-24T00:00:00Z"));
        for bad in [
            "",
            "2026",
            "2026-02-30",
            "2026-13-01",
            "2026-11-24T25:00Z",
            "2026-11-24T14:00",
            "x-11-24",
            "2026-11-24T14:00:00:00Z",
        ] {
            assert_eq!(bad.parse::<Timestamp>(), Err(BadTime), "{bad}");
        }
    }

    #[test]
    fn timestamps_show_as_rfc_3339() {
        let shown = |seconds: i64| Timestamp(seconds * 1_000_000).to_string();
        assert_eq!(shown(0), "1970-01-01T00:00:00Z");
        assert_eq!(shown(-1), "1969-12-31T23:59:59Z");
        assert_eq!(shown(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(shown(1_795_530_245), "2026-11-24T14:24:05Z");
        assert!(!Timestamp(i64::MIN).to_string().is_empty());
        assert!(!Timestamp(i64::MAX).to_string().is_empty());
    }
}

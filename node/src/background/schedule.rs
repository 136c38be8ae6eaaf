//! When work comes round that is done once a day, on a node that may be off at any time.
//!
//! Invariant: what was missed while the node was off is done soon after the next start, and a clock that is set puts
//! nothing off for more than a day.

use std::time::Duration;

use bib_core::time::Timestamp;

/// Workers that say themselves when they ran and when they will.
pub(super) const KEEPS_CALENDAR: [&str; 3] = ["gc", "scrub", "backup"];
/// A node that has just started has other things to do first.
pub(super) const AFTER_START: Duration = Duration::from_secs(600);
/// The clock of the system is looked at again after this, since it may be set.
const LOOK: Duration = Duration::from_secs(3_600);
const DAY: i64 = 86_400_000_000;

/// When work that is due at a time of the day (after midnight, UTC) comes round again, on a node that has run for
/// `uptime`.
pub(super) fn next_at(last_run: Option<Timestamp>, at: Duration, now: Timestamp, uptime: Duration) -> Timestamp {
    let at = i64::try_from(at.as_micros()).unwrap_or(0) % DAY;
    let of_day = |day: i64| Timestamp(day.saturating_mul(DAY).saturating_add(at));
    let today = now.0.div_euclid(DAY);
    let last_due = if of_day(today) <= now { of_day(today) } else { of_day(today - 1) };
    match last_run {
        // A run that lies ahead of the clock says nothing.
        Some(last) if last >= last_due && last <= now => Timestamp(last_due.0.saturating_add(DAY)),
        // A node that never ran it has nothing that could be old enough.
        None => Timestamp(last_due.0.saturating_add(DAY)),
        Some(_) => now.saturating_add(AFTER_START.saturating_sub(uptime)),
    }
}

/// How long to wait for a time: no longer than until the clock is looked at again.
pub(super) fn wait_for(next: Timestamp, now: Timestamp) -> Duration {
    let micros = u64::try_from(next.0.saturating_sub(now.0)).unwrap_or(0);
    Duration::from_micros(micros).min(LOOK)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = DAY / 24;
    const TWO: Duration = Duration::from_secs(7_200);
    const LONG: Duration = Duration::from_secs(86_400);

    fn day(day: i64, hour: i64) -> Timestamp {
        Timestamp(day * DAY + hour * HOUR)
    }

    #[test]
    fn daily_work_comes_at_its_time_of_the_day() {
        assert_eq!(next_at(Some(day(10, 2)), TWO, day(10, 5), LONG), day(11, 2));
        assert_eq!(next_at(Some(day(10, 23)), TWO, day(11, 1), LONG), day(11, 2));
        assert_eq!(next_at(None, TWO, day(10, 1), LONG), day(10, 2));
        assert_eq!(next_at(None, TWO, day(10, 3), LONG), day(11, 2));
    }

    #[test]
    fn what_was_missed_comes_soon_after_the_start() {
        let started = day(10, 8);
        let next = next_at(Some(day(9, 2)), TWO, started, Duration::ZERO);
        assert_eq!(next, started.saturating_add(AFTER_START));
        assert!(next_at(Some(day(9, 2)), TWO, next, AFTER_START) <= next, "then it is due");
        assert_eq!(next_at(Some(next), TWO, next, AFTER_START), day(11, 2));
    }

    #[test]
    fn clock_that_is_set_puts_nothing_off_for_more_than_a_day() {
        let now = day(10, 12);
        for last in [day(4_000, 0), day(0, 0), day(10, 12), day(10, 1)] {
            let next = next_at(Some(last), TWO, now, Duration::ZERO);
            assert!(next > now && next.0 - now.0 <= DAY, "{last}: {next}");
        }
        assert_eq!(wait_for(day(11, 0), now), LOOK);
        assert_eq!(wait_for(day(9, 0), now), Duration::ZERO);
    }
}

//! Sizes, times and counts for people.

use std::time::Duration;

use bib_core::time::Timestamp;

/// `1.5 MiB`: one digit after the point, none for bytes.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1_024 {
        return format!("{bytes} B");
    }
    // Tenths of the unit, rounded, in integers: a float would show 1024.0 KiB for almost a mebibyte.
    let mut unit = 0;
    let tenths = |shift: u32| (u128::from(bytes) * 10 + (1u128 << (shift - 1))) >> shift;
    let mut shown = tenths(10);
    while shown >= 10_240 && unit + 1 < UNITS.len() {
        unit += 1;
        shown = tenths(10 * (unit as u32 + 1));
    }
    format!("{}.{} {}", shown / 10, shown % 10, UNITS[unit])
}

/// `12 s`, `3 min 5 s`, `2 h 7 min`, `4 d 3 h`; below ten seconds with a digit after the point.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{}.{} s", seconds, duration.subsec_millis() / 100),
        10..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut shown = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// `3 files`, `1 file`.
pub(crate) fn n(number: u64, one: &str) -> String {
    format!("{} {one}{}", count(number), if number == 1 { "" } else { "s" })
}

/// `2026-11-24 14:24`, UTC.
pub(crate) fn minute(time: Timestamp) -> String {
    let shown = time.to_string();
    // Years beyond 9999 are longer; they are shown as they are.
    match shown.get(..16) {
        Some(minute) if shown.len() == 20 => minute.replace('T', " "),
        _ => shown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_round_at_their_borders() {
        for (bytes, shown) in [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1_024, "1.0 KiB"),
            (1_536, "1.5 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(size(bytes), shown);
        }
    }

    #[test]
    fn times_and_counts_are_short() {
        assert_eq!(duration(Duration::from_millis(1_250)), "1.2 s");
        assert_eq!(duration(Duration::from_secs(185)), "3 min 5 s");
        assert_eq!(duration(Duration::from_secs(90_000)), "1 d 1 h");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(count(999), "999");
        assert_eq!(n(1, "file"), "1 file");
        assert_eq!(minute(Timestamp(0)), "1970-01-01 00:00");
    }
}

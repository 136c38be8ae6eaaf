//! Figures as people read them.

use std::time::Duration;

/// Bytes with a fitting unit.
pub fn bytes(n: u64) -> String {
    let n = n as f64;
    match n {
        n if n < 1_024.0 => format!("{n} B"),
        n if n < 1_048_576.0 => format!("{:.1} KiB", n / 1_024.0),
        n if n < 1_073_741_824.0 => format!("{:.1} MiB", n / 1_048_576.0),
        n => format!("{:.2} GiB", n / 1_073_741_824.0),
    }
}

/// A time with a fitting unit.
pub fn time(duration: Duration) -> String {
    match duration.as_secs_f64() {
        s if s < 0.01 => format!("{:.1} ms", s * 1_000.0),
        s if s < 1.0 => format!("{:.0} ms", s * 1_000.0),
        s => format!("{s:.1} s"),
    }
}

/// A share in percent.
pub fn percent(part: u64, whole: u64) -> String {
    format!("{:.1} %", 100.0 * part as f64 / whole.max(1) as f64)
}

//! Content of any size, the same for the same seed on every machine.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use crate::failure::{During, Result};

/// A small generator of numbers (SplitMix64): the content must not change with the version of a library.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// One for a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; its bias is far below what matters here.
    pub const fn below(&mut self, bound: u64) -> u64 {
        self.next_u64() % bound
    }

    /// Fills `out` with bytes that no compression shortens.
    pub fn fill(&mut self, out: &mut [u8]) {
        for piece in out.chunks_mut(8) {
            piece.copy_from_slice(&self.next_u64().to_le_bytes()[..piece.len()]);
        }
    }
}

/// The first line of a table.
const HEAD: &[u8] = b"station,time,temperature,humidity,pressure,wind,rain\n";

/// Adds what a station reports; returns how many minutes later the next one does.
fn write_row(out: &mut Vec<u8>, minute: u64, rng: &mut Rng) -> u64 {
    let r = rng.next_u64();
    let (day, hour) = (1 + minute / 1_440 % 28, minute / 60 % 24);
    // A vector takes everything.
    let _ = writeln!(
        out,
        "S{:04},2026-{:02}-{day:02}T{hour:02}:{:02}:00Z,{}.{},{},{}.{},{}.{},{}",
        r % 2_000,
        1 + minute / 40_320 % 12,
        minute % 60,
        (r >> 11) % 45,
        (r >> 17) % 10,
        (r >> 20) % 100,
        950 + (r >> 27) % 100,
        (r >> 34) % 10,
        (r >> 38) % 30,
        (r >> 43) % 10,
        (r >> 47) % 60,
    );
    r >> 63
}

/// A table that changes a little every day.
#[derive(Debug, Clone)]
pub struct Table {
    bytes: Vec<u8>,
    minute: u64,
    rng: Rng,
    /// Rows that should have been edited and are fewer than a cluster.
    owed: f64,
}

/// Rows of one cluster of edits, one after another: some 22 KiB.
pub const CLUSTER_ROWS: usize = 400;

impl Table {
    /// One of `len` bytes, the last row whole.
    pub fn new(len: usize, seed: u64) -> Self {
        let mut table = Self { bytes: HEAD.to_vec(), minute: 0, rng: Rng::new(seed), owed: 0.0 };
        table.grow(len.saturating_sub(HEAD.len()));
        table
    }

    /// The table as a file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Adds rows at the end until there are `len` bytes more, the last row whole.
    pub fn grow(&mut self, len: usize) {
        let end = self.bytes.len() + len;
        while self.bytes.len() < end {
            self.minute += write_row(&mut self.bytes, self.minute, &mut self.rng);
        }
    }

    /// Writes so many rows of a thousand anew, in clusters of [`CLUSTER_ROWS`] at random places; what does not fill a
    /// cluster is done another day.
    pub fn edit(&mut self, per_mille: f64) {
        let rows = self.bytes.iter().filter(|byte| **byte == b'\n').count();
        self.owed += rows as f64 * per_mille / 1_000.0;
        while self.owed >= CLUSTER_ROWS as f64 {
            self.owed -= CLUSTER_ROWS as f64;
            let at = usize::try_from(self.rng.below(self.bytes.len() as u64)).unwrap_or(0);
            let Some(start) = line_end(&self.bytes, at) else { continue };
            let mut end = start;
            let mut rows = Vec::new();
            let mut minute = self.rng.below(400_000);
            for _ in 0..CLUSTER_ROWS {
                let Some(next) = line_end(&self.bytes, end) else { break };
                end = next;
                minute += write_row(&mut rows, minute, &mut self.rng);
            }
            self.bytes.splice(start..end, rows);
        }
    }
}

/// Behind the next end of a line.
fn line_end(bytes: &[u8], from: usize) -> Option<usize> {
    bytes[from..].iter().position(|byte| *byte == b'\n').map(|n| from + n + 1)
}

/// Writes rows as weather stations would report them until `len` bytes are reached, the last row whole. With `extra`,
/// one more row stands in the middle. Returns how many bytes were written.
///
/// # Errors
/// When the file cannot be written.
pub fn csv(path: &Path, len: u64, seed: u64, extra: Option<&str>) -> Result<u64> {
    let doing = || format!("write {}", path.display());
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path).during(doing())?);
    let mut rng = Rng::new(seed);
    let mut written = 0u64;
    let mut extra = extra.map(|row| (len / 2, row));
    let mut put = |out: &mut BufWriter<File>, row: &[u8]| {
        written += row.len() as u64;
        out.write_all(row).map(|()| written)
    };
    let mut n = put(&mut out, HEAD).during(doing())?;
    let mut minute = 0u64;
    let mut row = Vec::with_capacity(128);
    while n < len {
        row.clear();
        minute += write_row(&mut row, minute, &mut rng);
        n = put(&mut out, &row).during(doing())?;
        if let Some((at, text)) = extra
            && n >= at
        {
            n = put(&mut out, text.as_bytes()).during(doing())?;
            extra = None;
        }
    }
    out.flush().during(doing())?;
    Ok(n)
}

/// Writes `len` bytes that no compression shortens.
///
/// # Errors
/// When the file cannot be written.
pub fn noise(path: &Path, len: u64, seed: u64) -> Result<()> {
    let doing = || format!("write {}", path.display());
    let mut out = File::create(path).during(doing())?;
    noise_to(&mut out, len, seed).during(doing())
}

/// The same into anything.
///
/// # Errors
/// As `out` says.
pub fn noise_to(out: &mut impl Write, len: u64, seed: u64) -> std::io::Result<()> {
    let mut rng = Rng::new(seed);
    let mut buf = vec![0; 1 << 20];
    let mut left = len;
    while left > 0 {
        let n = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        rng.fill(&mut buf[..n]);
        out.write_all(&buf[..n])?;
        left -= n as u64;
    }
    Ok(())
}

/// Writes `n_files` files of 1 to 4 KiB of text below `dir`, a thousand to a folder. Returns their bytes in all.
///
/// # Errors
/// When something cannot be written.
pub fn small_files(dir: &Path, n_files: u64, seed: u64) -> Result<u64> {
    let mut rng = Rng::new(seed);
    let mut total = 0;
    let mut buf = Vec::with_capacity(4 << 10);
    for n in 0..n_files {
        let folder = dir.join(format!("{:03}", n / 1_000));
        if n % 1_000 == 0 {
            std::fs::create_dir_all(&folder).during(format!("make {}", folder.display()))?;
        }
        let len = 1_024 + usize::try_from(rng.below(3_073)).unwrap_or(0);
        buf.clear();
        while buf.len() < len {
            writeln!(buf, "{n},{},{}", rng.below(1_000_000), rng.below(100)).during("format a row")?;
        }
        buf.truncate(len);
        let path = folder.join(format!("{n:06}.csv"));
        std::fs::write(&path, &buf).during(format!("write {}", path.display()))?;
        total += len as u64;
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_bytes_and_an_extra_row_only_that_difference() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let n = csv(&path("a"), 100_000, 7, None).unwrap();
        csv(&path("b"), 100_000, 7, None).unwrap();
        let a = std::fs::read(path("a")).unwrap();
        assert_eq!(a.len() as u64, n);
        assert!((100_000..100_128).contains(&n));
        assert_eq!(a, std::fs::read(path("b")).unwrap());

        let row = "S9999,2026-01-01T00:00:00Z,0.0,0,950.0,0.0,0\n";
        csv(&path("c"), 100_000, 7, Some(row)).unwrap();
        let c = String::from_utf8(std::fs::read(path("c")).unwrap()).unwrap();
        let lines = c.lines().filter(|line| *line != row.trim_end());
        let kept: Vec<&str> = lines.collect();
        let a = String::from_utf8(a).unwrap();
        let before: Vec<&str> = a.lines().take(kept.len()).collect();
        assert_eq!(kept, before);
    }

    #[test]
    fn a_table_grows_at_its_end_and_is_edited_in_clusters_of_whole_rows() {
        let mut table = Table::new(1 << 20, 5);
        let first = table.bytes().to_vec();
        table.grow(1_000);
        assert!(table.bytes().starts_with(&first));
        assert!((1_000..1_128).contains(&(table.bytes().len() - first.len())));

        let rows = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count();
        let before = table.clone();
        // Some 19,000 rows: 19 a day fill a cluster on the 22nd.
        let days = (1..=40).find(|_| {
            table.edit(1.0);
            table.bytes() != before.bytes()
        });
        assert!((18..=26).contains(&days.unwrap()), "{days:?}");
        assert_eq!(rows(table.bytes()), rows(before.bytes()));
        let old: std::collections::BTreeSet<&[u8]> = before.bytes().split(|byte| *byte == b'\n').collect();
        let new = table.bytes().split(|byte| *byte == b'\n').filter(|row| !old.contains(row)).count();
        assert!((1..=CLUSTER_ROWS).contains(&new), "{new}");
    }

    #[test]
    fn noise_has_the_length_that_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("noise");
        noise(&path, (1 << 20) + 5, 1).unwrap();
        assert_eq!(path.metadata().unwrap().len(), (1 << 20) + 5);
    }
}

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
    let mut n = put(&mut out, b"station,time,temperature,humidity,pressure,wind,rain\n").during(doing())?;
    let mut minute = 0u64;
    let mut row = Vec::with_capacity(128);
    while n < len {
        let r = rng.next_u64();
        let (day, hour) = (1 + minute / 1_440 % 28, minute / 60 % 24);
        row.clear();
        writeln!(
            row,
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
        )
        .during(doing())?;
        n = put(&mut out, &row).during(doing())?;
        minute += r >> 63;
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
    let mut rng = Rng::new(seed);
    let mut buf = vec![0; 1 << 20];
    let mut left = len;
    while left > 0 {
        let n = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        rng.fill(&mut buf[..n]);
        out.write_all(&buf[..n]).during(doing())?;
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
    fn noise_has_the_length_that_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("noise");
        noise(&path, (1 << 20) + 5, 1).unwrap();
        assert_eq!(path.metadata().unwrap().len(), (1 << 20) + 5);
    }
}

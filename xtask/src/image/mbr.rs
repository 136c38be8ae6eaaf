//! The partition table of the image: a classical one, because the boot ROM of a Raspberry Pi 3 knows no other, and
//! UEFI reads it as well.
//!
//! Invariant: partitions follow one another without a gap, so what the first boot appends lies behind all of them.

use bib_benches::{Failure, Result};

/// Bytes of a sector.
pub const SECTOR: u64 = 512;
/// Where the first partition begins, and what every length is a multiple of: cards erase in blocks of this or less.
pub const ALIGNMENT: u64 = 1 << 20;
/// FAT32 with LBA: what firmware reads.
pub const FAT32: u8 = 0x0c;
/// A file system of Linux.
pub const LINUX: u8 = 0x83;

/// Where a partition lies, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    /// What is in it.
    pub kind: u8,
    /// Its first byte.
    pub start: u64,
    /// How many bytes it has.
    pub len: u64,
}

/// Puts partitions of these kinds and lengths behind one another.
pub fn lay_out(parts: &[(u8, u64)]) -> Vec<Partition> {
    let mut start = ALIGNMENT;
    let mut laid_out = Vec::new();
    for &(kind, len) in parts {
        let len = len.next_multiple_of(ALIGNMENT);
        laid_out.push(Partition { kind, start, len });
        start += len;
    }
    laid_out
}

/// The first sector of the disk.
pub fn sector(id: u32, parts: &[Partition]) -> Result<[u8; 512]> {
    let mut sector = [0; 512];
    sector[440..444].copy_from_slice(&id.to_le_bytes());
    if parts.len() > 4 {
        return Err(Failure("a partition table has room for four".to_owned()));
    }
    for (n, part) in parts.iter().enumerate() {
        let entry = &mut sector[446 + 16 * n..][..16];
        entry[1..4].copy_from_slice(&BY_LBA);
        entry[4] = part.kind;
        entry[5..8].copy_from_slice(&BY_LBA);
        entry[8..12].copy_from_slice(&sectors(part.start)?.to_le_bytes());
        entry[12..16].copy_from_slice(&sectors(part.len)?.to_le_bytes());
    }
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    Ok(sector)
}

/// The cylinder, head and sector that say: look at the number of the block.
const BY_LBA: [u8; 3] = [0xfe, 0xff, 0xff];

fn sectors(bytes: u64) -> Result<u32> {
    u32::try_from(bytes / SECTOR).map_err(|_| Failure(format!("{bytes} bytes are too many for this partition table")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn partitions_follow_one_another_without_a_gap_from_the_first_mebibyte_on() {
        let parts = lay_out(&[(FAT32, 256 * MIB), (LINUX, 100 * MIB + 1)]);
        assert_eq!(parts[0], Partition { kind: FAT32, start: MIB, len: 256 * MIB });
        assert_eq!(parts[1], Partition { kind: LINUX, start: 257 * MIB, len: 101 * MIB });
    }

    #[test]
    fn the_sector_is_what_a_partition_table_is() {
        let sector = sector(0x6269_6200, &lay_out(&[(FAT32, MIB), (LINUX, 2 * MIB)])).unwrap();
        assert_eq!(sector[440..444], [0x00, 0x62, 0x69, 0x62]);
        assert_eq!(sector[446..462], [0, 0xfe, 0xff, 0xff, 0x0c, 0xfe, 0xff, 0xff, 0, 8, 0, 0, 0, 8, 0, 0]);
        assert_eq!(sector[462..478], [0, 0xfe, 0xff, 0xff, 0x83, 0xfe, 0xff, 0xff, 0, 16, 0, 0, 0, 16, 0, 0]);
        assert_eq!(sector[478..510], [0; 32]);
        assert_eq!(sector[510..], [0x55, 0xaa]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(sector(1, &lay_out(&[(LINUX, MIB); 5])).is_err());
        assert!(sector(1, &lay_out(&[(LINUX, 3 << 40)])).is_err());
    }
}

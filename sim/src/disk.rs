//! A folder in memory that fails as real ones do: power cuts, lost and torn writes, failed syncs, no space.
//!
//! Every change (write, cut or growth of a file, sync, new name, rename, removal) is one step. A power cut happens
//! during a step; what survives it is what was synced, and of the rest any part: each change is kept, lost or torn by
//! itself, so that later ones may survive earlier ones. A name that was not synced survives or not in the same way, and
//! without a name a file is gone. The same seed leaves the same survivors.
//!
//! A failed sync is the nasty kind: the bytes can still be read, some never reach the medium, and the next sync succeeds
//! without them. Only [`DiskFile::settle`] shows what is really there. Names wait for the next sync of the folder.
//!
//! Deliberately absent: damage of what was synced. Tests flip those bytes themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bib_storage_redb::disk::{Disk, DiskFile, Unreadable};

use crate::rng::Rng;

/// Unit in which space is taken, in bytes.
const BLOCK: u64 = 4_096;
/// Unit in which a medium writes, in bytes.
const SECTOR: u64 = 512;

/// A change of a file's bytes.
#[derive(Debug, Clone)]
enum Change {
    Write {
        offset: u64,
        bytes: Arc<[u8]>,
    },
    SetLen(u64),
    /// A hole.
    Punch {
        offset: u64,
        len: u64,
    },
}

fn zero(bytes: &mut [u8], offset: u64, len: u64) {
    let end = bytes.len().min((offset + len) as usize);
    if let Some(part) = bytes.get_mut(offset as usize..end) {
        part.fill(0);
    }
}

impl Change {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Self::SetLen(len) => to.resize(*len as usize, 0),
            Self::Punch { offset, len } => zero(to, *offset, *len),
            Self::Write { offset, bytes } => {
                let (start, end) = (*offset as usize, *offset as usize + bytes.len());
                if to.len() < end {
                    to.resize(end, 0);
                }
                to[start..end].copy_from_slice(bytes);
            }
        }
    }

    /// Applies what a power cut leaves of the change.
    fn apply_torn(&self, to: &mut Vec<u8>, rng: &mut Rng) {
        let (offset, bytes) = match self {
            Self::Write { offset, bytes } => (offset, bytes),
            Self::SetLen(_) => return self.apply(to),
            Self::Punch { offset, len } => {
                // A file system gives blocks back one by one.
                for block in *offset / BLOCK..(*offset + *len).div_ceil(BLOCK) {
                    let (from, end) = ((block * BLOCK).max(*offset), ((block + 1) * BLOCK).min(offset + len));
                    if rng.chance(1, 2) {
                        zero(to, from, end - from);
                    }
                }
                return;
            }
        };
        let part = |from: usize, len: usize, to: &mut Vec<u8>| {
            let bytes = bytes[from..from + len].into();
            Self::Write { offset: offset + from as u64, bytes }.apply(to);
        };
        if rng.chance(1, 2) {
            return part(0, rng.below(bytes.len() as u64 + 1) as usize, to);
        }
        let mut from = 0;
        while from < bytes.len() {
            let in_sector = SECTOR - (offset + from as u64) % SECTOR;
            let len = (in_sector as usize).min(bytes.len() - from);
            if rng.chance(1, 2) {
                part(from, len, to);
            }
            from += len;
        }
    }
}

/// A change of the folder.
#[derive(Debug, Clone)]
enum Naming {
    Make(String, u64),
    Rename(String, String),
    Remove(String),
}

impl Naming {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Make(name, file) => drop(names.insert(name.clone(), *file)),
            Self::Remove(name) => drop(names.remove(name)),
            Self::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
        }
    }
}

#[derive(Debug, Clone, Default)]
struct FileState {
    /// What reads show.
    visible: Vec<u8>,
    /// What certainly survives.
    durable: Vec<u8>,
    /// What may survive, in the order in which it was done.
    unsynced: Vec<Change>,
    /// Blocks that take space.
    blocks: BTreeSet<u64>,
}

/// One step.
#[derive(Debug, Clone)]
enum Step {
    Change(u64, Change),
    Sync(u64),
    Naming(Naming),
    SyncFolder,
}

/// How much of what was not synced a power cut keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mercy {
    All,
    Nothing,
    Some,
}

#[derive(Debug, Clone, Default)]
struct State {
    files: BTreeMap<u64, FileState>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    unsynced_names: Vec<Naming>,
}

impl State {
    fn apply(&mut self, step: &Step) {
        match step {
            Step::Change(file, change) => {
                let file = self.files.entry(*file).or_default();
                change.apply(&mut file.visible);
                file.unsynced.push(change.clone());
            }
            Step::Sync(file) => {
                let file = self.files.entry(*file).or_default();
                for change in std::mem::take(&mut file.unsynced) {
                    change.apply(&mut file.durable);
                }
            }
            Step::Naming(naming) => {
                if let Naming::Make(_, file) = naming {
                    self.files.entry(*file).or_default();
                }
                naming.apply(&mut self.names);
                self.unsynced_names.push(naming.clone());
            }
            Step::SyncFolder => {
                for naming in std::mem::take(&mut self.unsynced_names) {
                    naming.apply(&mut self.durable_names);
                }
            }
        }
    }

    /// Begins a step that the power cut does not let end.
    fn begin(&mut self, step: &Step) {
        if !matches!(step, Step::Sync(_) | Step::SyncFolder) {
            self.apply(step);
        }
    }

    fn survivors(&self, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mercy = match rng.below(6) {
            0 => Mercy::All,
            1 => Mercy::Nothing,
            _ => Mercy::Some,
        };
        let keeps = |rng: &mut Rng| match mercy {
            Mercy::All => true,
            Mercy::Nothing => false,
            Mercy::Some => rng.chance(1, 2),
        };
        let mut names = self.durable_names.clone();
        for naming in &self.unsynced_names {
            if keeps(&mut rng) {
                naming.apply(&mut names);
            }
        }
        let mut files = BTreeMap::new();
        for number in names.values() {
            let Some(file) = self.files.get(number) else { continue };
            let mut bytes = file.durable.clone();
            for change in &file.unsynced {
                if mercy == Mercy::Some && rng.chance(1, 3) {
                    change.apply_torn(&mut bytes, &mut rng);
                } else if keeps(&mut rng) {
                    change.apply(&mut bytes);
                }
            }
            let blocks = bytes.chunks(BLOCK as usize).zip(0..).filter(|(block, _)| block.iter().any(|byte| *byte != 0));
            let blocks = blocks.map(|(_, number)| number).collect();
            files.insert(*number, FileState { visible: bytes.clone(), durable: bytes, unsynced: Vec::new(), blocks });
        }
        Self { files, durable_names: names.clone(), names, unsynced_names: Vec::new() }
    }
}

#[derive(Debug, Default)]
struct World {
    state: State,
    next_file: u64,
    next_handle: u64,
    /// The handle that has taken a file.
    locks: BTreeMap<u64, u64>,
    steps: u64,
    syncs: u64,
    read_bytes: u64,
    written_bytes: u64,
    /// Steps since a recording began, with the state before them.
    recording: Option<(State, Vec<Step>)>,
    cut_at: Option<u64>,
    off: bool,
    fail_syncs: BTreeSet<u64>,
    fail_reads: bool,
    no_holes: bool,
    /// A byte of a file that cannot be read any more.
    bad: BTreeMap<u64, u64>,
    capacity_blocks: Option<u64>,
    rng: Option<Rng>,
}

fn no_power() -> io::Error {
    io::Error::other("the power is off")
}

fn absent(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{name}: no such file"))
}

impl World {
    fn step(&mut self, step: Step) -> io::Result<()> {
        if self.off {
            return Err(no_power());
        }
        self.steps += 1;
        match &step {
            Step::Change(_, Change::Write { bytes, .. }) => self.written_bytes += bytes.len() as u64,
            Step::Sync(_) | Step::SyncFolder => self.syncs += 1,
            Step::Change(_, Change::SetLen(_) | Change::Punch { .. }) | Step::Naming(_) => {}
        }
        if self.cut_at.is_some_and(|at| self.steps >= at) {
            self.off = true;
            self.state.begin(&step);
            return Err(no_power());
        }
        if matches!(step, Step::Sync(_) | Step::SyncFolder) && self.fail_syncs.remove(&self.syncs) {
            self.fail_sync(&step);
            return Err(io::Error::other("the medium did not take what was written"));
        }
        self.state.apply(&step);
        if let Some((_, steps)) = &mut self.recording {
            steps.push(step);
        }
        Ok(())
    }

    /// The system forgets what it still had to write of a file, and writes a part of it. It never forgets names.
    fn fail_sync(&mut self, step: &Step) {
        let rng = self.rng.get_or_insert_with(|| Rng::new(0));
        let Step::Sync(file) = step else { return };
        let Some(file) = self.state.files.get_mut(file) else { return };
        for change in std::mem::take(&mut file.unsynced) {
            if rng.chance(1, 2) {
                change.apply_torn(&mut file.durable, rng);
            }
        }
    }

    fn used_blocks(&self) -> u64 {
        self.state.files.values().map(|file| file.blocks.len() as u64).sum()
    }

    /// How many of `len` bytes at `offset` there is space for; takes it.
    fn take_space(&mut self, file: u64, offset: u64, len: u64) -> u64 {
        let used = self.used_blocks();
        let mut free = self.capacity_blocks.map_or(u64::MAX, |capacity| capacity.saturating_sub(used));
        let Some(file) = self.state.files.get_mut(&file) else { return 0 };
        for block in offset / BLOCK..(offset + len).div_ceil(BLOCK) {
            if file.blocks.contains(&block) {
                continue;
            }
            if free == 0 {
                return (block * BLOCK).saturating_sub(offset);
            }
            free -= 1;
            file.blocks.insert(block);
        }
        len
    }
}

/// See the module. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct FaultyDisk(Arc<Mutex<World>>);

impl FaultyDisk {
    /// An empty folder without faults.
    pub fn new() -> Self {
        Self::default()
    }

    fn over(state: State) -> Self {
        let next_file = state.files.last_key_value().map_or(0, |(number, _)| number + 1);
        Self(Arc::new(Mutex::new(World { state, next_file, ..World::default() })))
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Steps so far.
    pub fn steps(&self) -> u64 {
        self.world().steps
    }

    /// Syncs so far, failed ones included.
    pub fn syncs(&self) -> u64 {
        self.world().syncs
    }

    /// Bytes read so far.
    pub fn read_bytes(&self) -> u64 {
        self.world().read_bytes
    }

    /// Bytes written so far.
    pub fn written_bytes(&self) -> u64 {
        self.world().written_bytes
    }

    /// Cuts the power during a step, counted from 1 over the life of this disk.
    pub fn cut_at(&self, step: u64) {
        self.world().cut_at = Some(step);
    }

    /// Whether the power has been cut.
    pub fn is_off(&self) -> bool {
        self.world().off
    }

    /// Lets a sync fail, counted from 1 over the life of this disk; `seed` chooses what reaches the medium anyway.
    pub fn fail_sync(&self, sync: u64, seed: u64) {
        let mut world = self.world();
        world.fail_syncs.insert(sync);
        world.rng = Some(Rng::new(seed));
    }

    /// Lets all reads fail, or no longer.
    pub fn fail_reads(&self, fail: bool) {
        self.world().fail_reads = fail;
    }

    /// Lets no read of a byte of a file succeed any more, as over a bad sector.
    pub fn spoil(&self, name: &str, at: u64) {
        let mut world = self.world();
        if let Some(file) = world.state.names.get(name).copied() {
            world.bad.insert(file, at);
        }
    }

    /// Lets files have no holes, as on some file systems.
    pub fn forbid_holes(&self) {
        self.world().no_holes = true;
    }

    /// Leaves space for so many bytes more; `None` for any number.
    pub fn set_free(&self, bytes: Option<u64>) {
        let mut world = self.world();
        world.capacity_blocks = bytes.map(|bytes| world.used_blocks() + bytes / BLOCK);
    }

    /// Remembers all steps from here on, for [`FaultyDisk::cuts`].
    pub fn record(&self) {
        let mut world = self.world();
        world.recording = Some((world.state.clone(), Vec::new()));
    }

    /// A power cut during each step since [`FaultyDisk::record`], in order, and one behind the last.
    pub fn cuts(&self) -> Cuts {
        let world = self.world();
        let (before, steps) = world.recording.clone().unwrap_or_else(|| (world.state.clone(), Vec::new()));
        Cuts { state: before, first: world.steps - steps.len() as u64, steps, done: 0 }
    }

    /// The disk that a machine finds when the power is back.
    pub fn survivors(&self, seed: u64) -> Self {
        Self::over(self.world().state.survivors(seed))
    }

    /// The disk that a process finds after another one was killed: all that was written, nothing of it synced.
    pub fn after_kill(&self) -> Self {
        Self::over(self.world().state.clone())
    }

    /// The bytes of a file as reads show them.
    pub fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        let world = self.world();
        let file = world.state.names.get(name)?;
        Some(world.state.files.get(file)?.visible.clone())
    }

    /// A content of the folder in bytes that are equal when all files and names are, durable and visible.
    pub fn fingerprint(&self) -> [u8; 32] {
        let world = self.world();
        let mut hasher = blake3::Hasher::new();
        for (name, file) in &world.state.names {
            hasher.update(name.as_bytes()).update(&[0]);
            if let Some(file) = world.state.files.get(file) {
                hasher.update(&(file.visible.len() as u64).to_le_bytes()).update(&file.visible);
                hasher.update(&(file.durable.len() as u64).to_le_bytes()).update(&file.durable);
            }
        }
        *hasher.finalize().as_bytes()
    }
}

/// Power cuts during each of some steps. See [`FaultyDisk::cuts`].
#[derive(Debug)]
pub struct Cuts {
    state: State,
    first: u64,
    steps: Vec<Step>,
    done: usize,
}

impl Cuts {
    /// The next cut: how many steps had ended before it, and what a machine finds after it, by seed.
    pub fn next_cut(&mut self) -> Option<Cut<'_>> {
        if self.done > self.steps.len() {
            return None;
        }
        if let Some(ended) = self.done.checked_sub(1) {
            self.state.apply(&self.steps[ended]);
        }
        self.done += 1;
        Some(Cut { ended: self.first + self.done as u64 - 1, state: &self.state, step: self.steps.get(self.done - 1) })
    }
}

/// One power cut.
#[derive(Debug)]
pub struct Cut<'a> {
    /// Steps that had ended before it.
    pub ended: u64,
    state: &'a State,
    step: Option<&'a Step>,
}

impl Cut<'_> {
    /// The disk that a machine finds when the power is back.
    pub fn survivors(&self, seed: u64) -> FaultyDisk {
        let mut state = self.state.clone();
        if let Some(step) = self.step {
            state.begin(step);
        }
        FaultyDisk::over(state.survivors(seed))
    }
}

struct FaultyFile {
    disk: FaultyDisk,
    name: String,
    file: u64,
    handle: u64,
}

impl FaultyFile {
    fn change(&self, world: &mut World, change: Change) -> io::Result<()> {
        world.step(Step::Change(self.file, change))
    }
}

impl Drop for FaultyFile {
    fn drop(&mut self) {
        let mut world = self.disk.world();
        if world.locks.get(&self.file) == Some(&self.handle) {
            world.locks.remove(&self.file);
        }
    }
}

impl DiskFile for FaultyFile {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut world = self.disk.world();
        if world.off {
            return Err(no_power());
        }
        if world.fail_reads {
            return Err(io::Error::other(format!("{}: the medium does not answer", self.name)));
        }
        let bad = world.bad.get(&self.file);
        if bad.is_some_and(|at| (offset..offset + buf.len() as u64).contains(at)) {
            return Err(io::Error::other(Unreadable(format!("{}: a sector cannot be read", self.name))));
        }
        world.read_bytes += buf.len() as u64;
        let visible = world.state.files.get(&self.file).map(|file| file.visible.as_slice()).unwrap_or_default();
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let held = start.checked_add(buf.len()).and_then(|end| visible.get(start..end));
        let early = || io::Error::new(io::ErrorKind::UnexpectedEof, format!("{}: ends too early", self.name));
        buf.copy_from_slice(held.ok_or_else(early)?);
        Ok(())
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut world = self.disk.world();
        let room = world.take_space(self.file, offset, bytes.len() as u64) as usize;
        if room > 0 || bytes.is_empty() {
            self.change(&mut world, Change::Write { offset, bytes: bytes[..room].into() })?;
        }
        if room < bytes.len() {
            return Err(io::Error::new(io::ErrorKind::StorageFull, format!("{}: no space left", self.name)));
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.world().step(Step::Sync(self.file))
    }

    fn settle(&self) -> io::Result<()> {
        self.sync()?;
        let mut world = self.disk.world();
        if let Some(file) = world.state.files.get_mut(&self.file) {
            file.visible = file.durable.clone();
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let world = self.disk.world();
        if world.off {
            return Err(no_power());
        }
        Ok(world.state.files.get(&self.file).map_or(0, |file| file.visible.len() as u64))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut world = self.disk.world();
        self.change(&mut world, Change::SetLen(len))?;
        if let Some(file) = world.state.files.get_mut(&self.file) {
            file.blocks.split_off(&len.div_ceil(BLOCK));
        }
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut world = self.disk.world();
        if world.no_holes {
            return Err(io::Error::new(io::ErrorKind::Unsupported, format!("{}: no holes here", self.name)));
        }
        self.change(&mut world, Change::Punch { offset, len })?;
        if let Some(file) = world.state.files.get_mut(&self.file) {
            let whole = offset.div_ceil(BLOCK)..(offset + len) / BLOCK;
            file.blocks.retain(|block| !whole.contains(block));
        }
        Ok(())
    }

    fn allocated(&self) -> io::Result<u64> {
        let world = self.disk.world();
        if world.off {
            return Err(no_power());
        }
        Ok(world.state.files.get(&self.file).map_or(0, |file| file.blocks.len() as u64 * BLOCK))
    }

    fn try_lock(&self) -> io::Result<bool> {
        let mut world = self.disk.world();
        Ok(*world.locks.entry(self.file).or_insert(self.handle) == self.handle)
    }
}

impl Disk for FaultyDisk {
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let mut world = self.world();
        if world.off {
            return Err(no_power());
        }
        let file = match world.state.names.get(name) {
            Some(file) => *file,
            None if !create => return Err(absent(name)),
            None => {
                let file = world.next_file;
                world.next_file += 1;
                world.step(Step::Naming(Naming::Make(name.to_owned(), file)))?;
                file
            }
        };
        world.next_handle += 1;
        let handle = world.next_handle;
        Ok(Arc::new(FaultyFile { disk: self.clone(), name: name.to_owned(), file, handle }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let world = self.world();
        if world.off { Err(no_power()) } else { Ok(world.state.names.keys().cloned().collect()) }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut world = self.world();
        if !world.state.names.contains_key(from) {
            return Err(absent(from));
        }
        world.step(Step::Naming(Naming::Rename(from.to_owned(), to.to_owned())))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut world = self.world();
        if !world.state.names.contains_key(name) {
            return Err(absent(name));
        }
        let file = world.state.names.get(name).copied();
        world.step(Step::Naming(Naming::Remove(name.to_owned())))?;
        if let Some(file) = file.and_then(|file| world.state.files.get_mut(&file)) {
            file.blocks.clear();
        }
        Ok(())
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.world().step(Step::SyncFolder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(disk: &FaultyDisk, name: &str, bytes: &[u8], offset: u64) -> io::Result<()> {
        disk.open(name, true)?.write_all_at(bytes, offset)
    }

    #[test]
    fn synced_bytes_and_names_survive_every_cut() {
        let disk = FaultyDisk::new();
        write(&disk, "a", b"first", 0).unwrap();
        disk.open("a", false).unwrap().sync().unwrap();
        disk.sync_folder().unwrap();
        write(&disk, "a", b"second", 100).unwrap();
        write(&disk, "b", b"third", 0).unwrap();
        let (mut lost, mut kept) = (0, 0);
        for seed in 0..100 {
            let found = disk.survivors(seed);
            let bytes = found.bytes("a").unwrap();
            assert_eq!(&bytes[..5], b"first");
            match bytes.get(100..106) {
                Some(b"second") => kept += 1,
                _ => lost += 1,
            }
            assert_eq!(found.fingerprint(), disk.survivors(seed).fingerprint());
        }
        assert!(lost > 10 && kept > 10, "{lost} lost, {kept} kept");
        assert!((0..100).any(|seed| disk.survivors(seed).bytes("b").is_none()));
        assert!((0..100).any(|seed| disk.survivors(seed).bytes("b").as_deref() == Some(b"third")));
    }

    #[test]
    fn a_cut_is_live_or_found_in_the_recording_with_the_same_steps() {
        let script = |disk: &FaultyDisk| -> io::Result<()> {
            let file = disk.open("new", true)?;
            file.write_all_at(&[7; 2_000], 0)?;
            file.sync()?;
            disk.rename("new", "name")?;
            disk.sync_folder()
        };
        let recorded = FaultyDisk::new();
        recorded.record();
        script(&recorded).unwrap();
        assert_eq!(recorded.steps(), 5);
        let mut cuts = recorded.cuts();
        let mut n_cuts = 0;
        while let Some(cut) = cuts.next_cut() {
            let live = FaultyDisk::new();
            live.cut_at(cut.ended + 1);
            assert_eq!(script(&live).is_err(), cut.ended < 5);
            for seed in 0..20 {
                assert_eq!(live.survivors(seed).fingerprint(), cut.survivors(seed).fingerprint());
            }
            n_cuts += 1;
        }
        assert_eq!(n_cuts, 6);
    }

    #[test]
    fn failed_sync_hides_what_it_lost_until_the_file_is_settled() {
        let mut seen = BTreeSet::new();
        for seed in 0..20 {
            let disk = FaultyDisk::new();
            let file = disk.open("a", true).unwrap();
            disk.fail_sync(1, seed);
            file.write_all_at(b"x", 0).unwrap();
            assert!(file.sync().is_err());
            file.sync().unwrap();
            assert_eq!(disk.bytes("a").unwrap(), b"x");
            file.settle().unwrap();
            seen.insert(disk.bytes("a").unwrap());
        }
        assert_eq!(seen, BTreeSet::from([Vec::new(), b"x".to_vec()]));
    }

    #[test]
    fn full_disk_takes_what_fits_and_writes_in_place() {
        let disk = FaultyDisk::new();
        disk.set_free(Some(2 * BLOCK));
        let file = disk.open("a", true).unwrap();
        file.set_len(1 << 20).unwrap();
        let full = file.write_all_at(&[1; 3 * BLOCK as usize], 0).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        file.write_all_at(&[2; 2 * BLOCK as usize], 0).unwrap();
        assert!(file.write_all_at(&[3], 1 << 19).is_err());
        file.set_len(BLOCK).unwrap();
        file.write_all_at(&[3], 1 << 19).unwrap();
    }

    #[test]
    fn a_file_is_taken_by_one_handle() {
        let disk = FaultyDisk::new();
        let (first, second) = (disk.open("a", true).unwrap(), disk.open("a", false).unwrap());
        assert!(first.try_lock().unwrap() && first.try_lock().unwrap());
        assert!(!second.try_lock().unwrap());
        drop(first);
        assert!(second.try_lock().unwrap());
    }
}

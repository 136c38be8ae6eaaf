//! What happens when there is no room.

use std::process::Command;

use bib_benches::failure::During;
use bib_benches::{Result, generate, same};

use crate::world::{One, ensure, get, publish, refused, write};

#[test]
fn publication_beyond_the_quota_is_refused_and_what_was_there_stays() -> Result<()> {
    let one = One::configured("storage.max_bytes = \"4MiB\"\nstorage.min_free = \"0\"")?;
    let kept = one.home.work("kept.bin");
    generate::noise(&kept, 1 << 20, 1)?;
    publish(&one.home, &kept, "t/kept")?;
    generate::noise(&one.home.work("large.bin"), 16 << 20, 2)?;
    let ran = one.home.run(["publish", "large.bin", "t/large"])?;
    refused(&ran, 1)?;
    ensure(one.home.run(["dataset", "show", "t/large"])?.code == Some(3), || "a dataset was made".to_owned())?;
    let small = write(&one.home, "small", "there is room for this")?;
    publish(&one.home, &small, "t/small")?;

    // Also when nobody knows before how much will come.
    let large = std::fs::read(one.home.work("large.bin")).during("read")?;
    refused(&one.home.run_with_stdin(["publish", "-", "t/large"], &large)?, 1)?;
    let stored = one.home.figure("stored_bytes")?;
    ensure(stored <= 6 << 20, || format!("{stored} bytes are stored where 4 MiB are allowed"))?;
    same::file(&kept, &get(&one.home, "t/kept", "out")?)?;
    same::file(&small, &get(&one.home, "t/small", "small-out")?)
}

/// A small file system below a folder; unmounted in the end.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    /// `None` where this process may not mount.
    fn mount(dir: &std::path::Path, size: &str) -> Result<Option<Self>> {
        std::fs::create_dir_all(dir).during("mkdir")?;
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={size}"), "bib-e2e"]).arg(dir);
        Ok(command.output().is_ok_and(|out| out.status.success()).then(|| Self(dir.to_owned())))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the node that used it may not be quite gone.
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[test]
#[allow(clippy::print_stderr, reason = "a test that is left out says why")]
fn full_disk_is_one_clear_error_and_what_was_acknowledged_stays() -> Result<()> {
    let lab = crate::world::lab()?;
    let home = lab.home("a")?;
    let Some(_disk) = SmallDisk::mount(&home.data_dir(), "24m")? else {
        // Always run: the quota test above. This one needs a file system of its own.
        eprintln!("skipped: this user may not mount a small file system, so that no disk can be full");
        return Ok(());
    };
    home.configure("storage.min_free = \"0\"\nstorage.max_bytes = \"1GiB\"")?;
    let node = home.start()?;
    home.bib(["key", "new"])?;
    home.bib(["topic", "create", "t"])?;
    let kept = home.work("kept.bin");
    generate::noise(&kept, 2 << 20, 1)?;
    publish(&home, &kept, "t/kept")?;
    let large = home.work("large.bin");
    generate::noise(&large, 64 << 20, 2)?;
    let large = std::fs::read(&large).during("read")?;
    let ran = home.run_with_stdin(["publish", "-", "t/large"], &large)?;
    refused(&ran, 1)?;
    same::file(&kept, &get(&home, "t/kept", "out")?)?;
    node.stop()?;
    let _node = home.start()?;
    same::file(&kept, &get(&home, "t/kept", "again")?)
}

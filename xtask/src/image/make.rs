//! From packages to an image: Debian into a folder, the folder into file systems, these into one file.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use bib_benches::failure::During;
use bib_benches::{Failure, Result, show};

use super::Image;
use super::mbr::{self, FAT32, LINUX};
use super::namespace::Namespace;
use super::plan;
use super::sources::{self, Source};
use crate::process::{output, root, step};

/// Programs that are used, and the Debian package of each.
const NEEDS: [(&str, &str); 10] = [
    ("unshare", "util-linux"),
    ("mmdebstrap", "mmdebstrap"),
    ("mke2fs", "e2fsprogs"),
    ("debugfs", "e2fsprogs"),
    ("dumpe2fs", "e2fsprogs"),
    ("mkfs.vfat", "dosfstools"),
    ("mcopy", "mtools"),
    ("tar", "tar"),
    ("git", "git"),
    ("dpkg-deb", "dpkg"),
];

/// What is installed: a system that boots, has a network and a clock, and can be kept up to date. The kernel is the one
/// that knows boards, not the smaller one for clouds.
const PACKAGES: [&str; 16] = [
    "systemd-sysv",
    "systemd-resolved",
    "systemd-timesyncd",
    "udev",
    "kmod",
    "iproute2",
    "netbase",
    "e2fsprogs",
    "dosfstools",
    "fdisk",
    "procps",
    "zstd",
    "initramfs-tools",
    "linux-image-arm64",
    "systemd-boot-efi",
    "dbus",
];

/// Bytes of the boot partition: three kernels, and the firmware of a Pi.
const BOOT_LEN: u64 = 256 << 20;
/// Of the file systems, so that they are known again.
const ROOT_UUID: &str = "b1b00000-0000-4000-8000-000000000002";
const BOOT_ID: u32 = 0xb1b0_0001;
const DISK_ID: u32 = 0xb1b0_0000;

/// What is done in the finished tree: services that Debian leaves off are switched on, and what would write for nothing off.
const SETTLE: &str = r#"set -e
chroot "$1" update-initramfs -c -k all
chroot "$1" systemctl --quiet enable systemd-networkd.service systemd-timesyncd.service systemd-resolved.service bib-first-boot.service bib-hello.service
chroot "$1" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service
if [ -e "$1/lib/systemd/system/ssh.socket" ]; then
    chroot "$1" systemctl --quiet disable ssh.service
    chroot "$1" systemctl --quiet enable ssh.socket
fi
if [ "$LUKS" = passphrase ]; then
    # It would take the question from the console.
    chroot "$1" systemctl --quiet mask systemd-ask-password-wall.path
fi
rm -f "$1"/etc/ssh/ssh_host_* "$1/etc/hostname" "$1/etc/hosts"
[ -z "$NAME" ] || echo "$NAME" >"$1/etc/hostname"
ln -sf ../run/systemd/resolve/stub-resolv.conf "$1/etc/resolv.conf"
: >"$1/etc/machine-id"
rm -f "$1/var/lib/dbus/machine-id" "$1/var/lib/systemd/random-seed" "$1"/var/log/*.log "$1"/var/log/apt/*
rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/* "$1"/var/cache/debconf/*-old "$1"/var/lib/dpkg/*-old"#;

/// Brings the firmware of a Raspberry Pi, which the board reads from the boot partition. The package is not installed: it
/// would put kernels there by itself, in another way.
const FIRMWARE: &str = r#"set -e
chroot "$1" sh -c 'cd /tmp && apt-get download raspi-firmware'
mkdir -p "$WORK/firmware"
dpkg-deb --fsys-tarfile "$1"/tmp/raspi-firmware_*.deb | tar -C "$WORK/firmware" -x
rm "$1"/tmp/raspi-firmware_*.deb"#;

/// Makes an archive and a file system of the tree, and takes out what goes on the boot partition.
const PACK: &str = r#"set -e
tree=$1 work=$2
find "$tree" -newermt "@$SOURCE_DATE_EPOCH" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
mkdir -p "$work/boot"
cp "$tree"/boot/vmlinuz-* "$work/boot/vmlinuz"
cp "$tree"/boot/initrd.img-* "$work/boot/initrd.img"
mkdir -p "$work/boot/EFI/BOOT"
cp "$tree/usr/lib/systemd/boot/efi/systemd-bootaa64.efi" "$work/boot/EFI/BOOT/BOOTAA64.EFI"
if [ -d "$work/firmware" ]; then
    cp -r "$work"/firmware/usr/lib/raspi-firmware/. "$work/boot/"
    cp "$work"/firmware/usr/share/doc/raspi-firmware/copyright "$work/boot/firmware-copyright.txt"
    cp "$tree"/usr/lib/linux-image-*/broadcom/bcm2*-rpi-*.dtb "$work/boot/"
fi
tar --sort=name --numeric-owner --format=posix --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime \
    --xattrs --xattrs-include='*' -C "$tree" -cf "$work/root.tar" .
E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH mke2fs -q -t ext4 -d "$tree" -L bib-root -U "$UUID" \
    -E "hash_seed=$UUID,lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0" -m 1 "$work/root.ext4" "$BLOCKS"
du -sm "$tree" | cut -f 1 >"$work/used"
rm -rf "$tree"
chmod -R a+rX "$work""#;

/// Makes the image that the arguments ask for.
pub fn run(args: &Image) -> Result<()> {
    check_needs()?;
    let namespace = Namespace::for_arm64()?;
    let sources = mirrors(args)?;
    check_deb(&args.deb, &args.arch)?;
    std::fs::create_dir_all(&args.out).during(format!("make {}", args.out.display()))?;
    let out = args.out.canonicalize().during(format!("look at {}", args.out.display()))?;
    let work = out.join("work");
    let overlay = work.join("overlay");
    // What a run before left may belong to ids of the namespace.
    namespace.run("clear the work folder", &[], &[Path::new("rm"), Path::new("-rf"), &work])?;
    copy_tree(&root().join("packaging/image/root"), &overlay)?;
    write_overlay(args, &overlay)?;

    let epoch = epoch()?;
    let blocks = format!("{}k", args.size.0 >> 10);
    let env = [
        ("SOURCE_DATE_EPOCH", epoch.as_str()),
        ("LUKS", args.luks.map_or("no", plan::Luks::name)),
        ("NAME", args.hostname.as_deref().unwrap_or_default()),
        ("UUID", ROOT_UUID),
        ("BLOCKS", &blocks),
        ("WORK", work.to_str().ok_or("the name of the folder is not UTF-8")?),
        // Made once, in the end: it takes long in emulation.
        ("INITRD", "No"),
    ];
    let tree = work.join("tree");
    namespace.run("Debian into a folder (mmdebstrap)", &env, &debian(args, &sources, &overlay, &tree)?)?;
    namespace.run(
        "the folder into a file system",
        &env,
        &["sh".as_ref(), "-c".as_ref(), PACK.as_ref(), "sh".as_ref(), tree.as_os_str(), work.as_os_str()],
    )?;
    loader(args, &work.join("boot"), &epoch)?;
    let boot = work.join("boot.fat");
    boot_partition(&work.join("boot"), &boot, &epoch)?;
    even_out_times(&work.join("root.ext4"), &epoch)?;

    let image = out.join("bib-arm64.img");
    let written = assemble(&image, &[(FAT32, &boot), (LINUX, &work.join("root.ext4"))])?;
    std::fs::rename(work.join("root.tar"), out.join("bib-arm64.tar")).during("move the archive")?;
    let used = std::fs::read_to_string(work.join("used")).during("read how large it is")?;
    std::fs::remove_dir_all(&work).during("remove the work folder")?;
    println!("{}: {}, of which {} MiB are files", image.display(), show::bytes(written), used.trim());
    println!("write it to a card:  sudo dd if={} of=/dev/<card> bs=4M conv=fsync", image.display());
    Ok(())
}

fn check_needs() -> Result<()> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let is_there = |program: &str| path.split(':').any(|dir| Path::new(dir).join(program).is_file());
    let missing: Vec<&str> =
        NEEDS.iter().filter(|(program, _)| !is_there(program)).map(|(_, package)| *package).collect();
    if missing.is_empty() { Ok(()) } else { Err(Failure(format!("apt-get install {}", missing.join(" ")))) }
}

fn mirrors(args: &Image) -> Result<Vec<Source>> {
    let own = match (&args.mirror, &args.suite) {
        (None, _) => sources::of_this_machine()?,
        (Some(uri), Some(suite)) => vec![Source { uri: uri.clone(), suite: suite.clone() }],
        (Some(_), None) => return Err(Failure("`--mirror` needs a `--suite`, such as bookworm".to_owned())),
    };
    Ok(args.suite.as_ref().map_or_else(|| own.clone(), |suite| sources::for_suite(&own, suite)))
}

fn check_deb(deb: &Path, arch: &str) -> Result<()> {
    if arch != "arm64" {
        return Err(Failure(format!(
            "images are made for arm64, not for {arch}: install the package on a Debian there"
        )));
    }
    if !deb.is_file() {
        return Err(Failure(format!("{} is not there: cargo xtask dist --target arm64", deb.display())));
    }
    let field = |name: &str| output(Command::new("dpkg-deb").arg("-f").arg(deb).arg(name));
    let (package, of) = (field("Package")?, field("Architecture")?);
    if (package.trim(), of.trim()) == ("bib", arch) {
        Ok(())
    } else {
        Err(Failure(format!("{} is {} for {}, not bib for {arch}", deb.display(), package.trim(), of.trim())))
    }
}

/// The time that everything has which is made: that of the last commit.
fn epoch() -> Result<String> {
    if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH") {
        return Ok(epoch);
    }
    let time = output(Command::new("git").arg("-C").arg(root()).args(["log", "-1", "--format=%ct"]))?;
    Ok(time.trim().to_owned())
}

/// The command that makes the tree.
fn debian(args: &Image, sources: &[Source], overlay: &Path, tree: &Path) -> Result<Vec<String>> {
    let suite = sources::suite(sources).ok_or("no suite")?;
    let mut packages = PACKAGES.to_vec();
    if args.luks.is_some() {
        packages.push("cryptsetup-bin");
    }
    if args.ssh_key.is_some() {
        packages.push("openssh-server");
    }
    if sources.iter().any(|source| source.uri.starts_with("https:")) {
        packages.push("ca-certificates");
    }
    let quoted = |path: &Path| format!("'{}'", path.display());
    let mut command: Vec<String> =
        ["mmdebstrap", "--mode=root", "--variant=apt", "--architectures=arm64"].map(String::from).into();
    command.push("--aptopt=APT::Install-Recommends \"false\"".to_owned());
    // Before the first package, so that what it says of packages holds for all of them.
    command.push(format!("--setup-hook=cp -r --preserve=mode {}/. \"$1/\"", quoted(overlay)));
    command.push(format!("--include={}", packages.join(",")));
    command.push(format!(
        "--customize-hook=cp {} \"$1/tmp/bib.deb\"",
        quoted(&args.deb.canonicalize().during("find the package")?)
    ));
    command.push("--customize-hook=chroot \"$1\" dpkg -i /tmp/bib.deb".to_owned());
    command.push("--customize-hook=rm \"$1/tmp/bib.deb\"".to_owned());
    if let Some(config) = &args.config {
        let config = quoted(&config.canonicalize().during(format!("find {}", config.display()))?);
        command
            .push(format!("--customize-hook=cp {config} \"$1/etc/bib/bibd.toml\"; chmod 644 \"$1/etc/bib/bibd.toml\""));
    }
    if args.pi {
        command.push(format!("--customize-hook={FIRMWARE}"));
    }
    command.push(format!("--customize-hook={SETTLE}"));
    command.extend([suite.to_owned(), tree.display().to_string()]);
    let components = if args.pi { "main non-free-firmware" } else { "main" };
    command.extend(sources.iter().map(|source| source.line(components)));
    Ok(command)
}

/// What differs from image to image.
fn write_overlay(args: &Image, overlay: &Path) -> Result<()> {
    let write = |name: &str, text: &str, mode: u32| {
        let path = overlay.join(name);
        std::fs::create_dir_all(path.parent().ok_or("a file without a folder")?).during("make a folder")?;
        std::fs::write(&path, text).during(format!("write {}", path.display()))?;
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).during(format!("protect {}", path.display()))
    };
    let luks = args.luks.map_or("no", plan::Luks::name);
    write(
        "etc/bib/appliance.conf",
        &format!("# How the data partition is opened: no, passphrase or usb.\nLUKS={luks}\n"),
        0o644,
    )?;
    if let Some(name) = &args.hostname {
        plan::hostname(name)?;
    }
    if let Some(path) = &args.ssh_key {
        write("root/.ssh/authorized_keys", &plan::public_keys(path)?, 0o600)?;
        std::fs::set_permissions(overlay.join("root/.ssh"), PermissionsExt::from_mode(0o700)).during("protect .ssh")?;
        std::fs::set_permissions(overlay.join("root"), PermissionsExt::from_mode(0o700)).during("protect /root")?;
    }
    Ok(())
}

/// Sets the times at which each inode was last changed and read: in the folder they are those of making and packing it.
fn even_out_times(filesystem: &Path, epoch: &str) -> Result<()> {
    let described = output(Command::new("dumpe2fs").env("PATH", SEARCH).arg(filesystem))?;
    let mut script = String::new();
    for inode in used_inodes(&described)? {
        for time in ["ctime", "atime"] {
            script.push_str(&format!("set_inode_field <{inode}> {time} @{epoch}\n"));
        }
    }
    let commands = filesystem.with_extension("debugfs");
    std::fs::write(&commands, script).during("write commands for debugfs")?;
    let mut debugfs = Command::new("debugfs");
    debugfs.env("PATH", SEARCH).env("E2FSPROGS_FAKE_TIME", epoch).args(["-w", "-f"]).arg(&commands).arg(filesystem);
    step("even out times", debugfs.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()))
}

/// The inodes in use, of what dumpe2fs says: the root, and all behind the reserved ones that are not free.
fn used_inodes(described: &str) -> Result<Vec<u64>> {
    let number = |text: &str| text.trim().parse::<u64>().during(format!("a number of dumpe2fs: `{text}`"));
    let total = described.lines().find_map(|line| line.strip_prefix("Inode count:")).ok_or("no number of inodes")?;
    let mut used = vec![true; usize::try_from(number(total)?).during("the number of inodes")? + 1];
    for range in
        described.lines().filter_map(|line| line.strip_prefix("  Free inodes: ")).flat_map(|line| line.split(", "))
    {
        if range.trim().is_empty() {
            continue;
        }
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        for inode in number(first)?..=number(last)? {
            *used.get_mut(usize::try_from(inode).during("an inode")?).ok_or("an inode behind the last")? = false;
        }
    }
    let in_use = used.iter().enumerate().skip(FIRST_INODE).filter(|(_, used)| **used);
    Ok(std::iter::once(ROOT_INODE).chain(in_use.map(|(inode, _)| inode as u64)).collect())
}

/// The inode of the root folder.
const ROOT_INODE: u64 = 2;
/// The first inode that is not reserved.
const FIRST_INODE: usize = 11;

/// What tells firmware and boot loader what to start.
fn loader(args: &Image, boot: &Path, epoch: &str) -> Result<()> {
    let mut options = "root=LABEL=bib-root ro rootwait panic=10 loglevel=4".to_owned();
    match &args.serial {
        Some(port) => options.push_str(&format!(" console=tty0 console={port},115200")),
        None => options.push_str(" systemd.getty_auto=no"),
    }
    let write = |name: &str, text: &str| {
        let path = boot.join(name);
        std::fs::create_dir_all(path.parent().ok_or("a file without a folder")?).during("make a folder")?;
        std::fs::write(&path, text).during(format!("write {}", path.display()))
    };
    write("loader/loader.conf", "default bib.conf\ntimeout 0\n")?;
    write("loader/entries/bib.conf", &format!("title bib\nlinux /vmlinuz\ninitrd /initrd.img\noptions {options}\n"))?;
    if args.pi {
        write("cmdline.txt", &format!("{options}\n"))?;
        write(
            "config.txt",
            "arm_64bit=1\nkernel=vmlinuz\ninitramfs initrd.img followkernel\nupstream_kernel=1\nenable_uart=1\ngpu_mem=16\n",
        )?;
    }
    write("made-at.txt", &format!("{epoch}\n"))
}

/// A FAT file system with the files of a folder.
fn boot_partition(from: &Path, to: &Path, epoch: &str) -> Result<()> {
    File::create(to).and_then(|file| file.set_len(BOOT_LEN)).during(format!("make {}", to.display()))?;
    let mut mkfs = Command::new("mkfs.vfat");
    mkfs.args(["-F", "32", "--invariant", "-n", "BIB-BOOT", "-i", &format!("{BOOT_ID:08x}")]).arg(to);
    step("the boot partition", mkfs.env("PATH", SEARCH).stdout(std::process::Stdio::null()))?;
    let mtools = |program: &str| {
        let mut command = Command::new(program);
        command.env("SOURCE_DATE_EPOCH", epoch).env("TZ", "UTC").env("PATH", SEARCH).arg("-i").arg(to);
        command
    };
    for path in files_below(from, Path::new(""))? {
        let (inner, outer) = (format!("::{}", path.display()), from.join(&path));
        if outer.is_dir() {
            output(mtools("mmd").arg(inner))?;
        } else {
            output(mtools("mcopy").arg(&outer).arg(inner))?;
        }
    }
    Ok(())
}

const SEARCH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Folders and files of a folder, each folder before what is in it, in the order of their names.
fn files_below(dir: &Path, inner: &Path) -> Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir.join(inner)).during(format!("read {}", dir.display()))? {
        names.push(inner.join(entry.during("read a folder")?.file_name()));
    }
    names.sort();
    let mut paths = Vec::new();
    for name in names {
        let is_dir = dir.join(&name).is_dir();
        paths.push(name.clone());
        if is_dir {
            paths.extend(files_below(dir, &name)?);
        }
    }
    Ok(paths)
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).during(format!("make {}", to.display()))?;
    for path in files_below(from, Path::new(""))? {
        let (source, copy) = (from.join(&path), to.join(&path));
        if source.is_dir() {
            std::fs::create_dir(&copy).during(format!("make {}", copy.display()))?;
        } else {
            std::fs::copy(&source, &copy).during(format!("copy {}", source.display()))?;
            let is_program = std::fs::metadata(&source).during("look at a file")?.permissions().mode() & 0o100 != 0;
            let mode = if is_program { 0o755 } else { 0o644 };
            std::fs::set_permissions(&copy, PermissionsExt::from_mode(mode)).during("set a mode")?;
        }
    }
    Ok(())
}

/// Puts the partitions into one file; what is zero stays a hole. Returns the length of the file.
fn assemble(image: &Path, parts: &[(u8, &Path)]) -> Result<u64> {
    let mut lens = Vec::new();
    for (kind, path) in parts {
        lens.push((*kind, std::fs::metadata(path).during(format!("look at {}", path.display()))?.len()));
    }
    let laid_out = mbr::lay_out(&lens);
    let end = laid_out.last().map_or(mbr::ALIGNMENT, |part| part.start + part.len);
    let mut out = File::create(image).during(format!("make {}", image.display()))?;
    out.set_len(end).during("make room")?;
    out.write_all(&mbr::sector(DISK_ID, &laid_out)?).during("write the partition table")?;
    for ((_, path), part) in parts.iter().zip(&laid_out) {
        copy_with_holes(&mut File::open(path).during(format!("open {}", path.display()))?, &mut out, part.start)?;
    }
    out.sync_all().during("write the image")?;
    Ok(end)
}

fn copy_with_holes(from: &mut File, to: &mut File, start: u64) -> Result<()> {
    let (mut block, mut at) = (vec![0; 1 << 20], start);
    loop {
        let mut n = 0;
        while n < block.len() {
            match from.read(&mut block[n..]).during("read a partition")? {
                0 => break,
                read => n += read,
            }
        }
        if n == 0 {
            return Ok(());
        }
        if block[..n].iter().any(|byte| *byte != 0) {
            to.seek(SeekFrom::Start(at)).during("find a place in the image")?;
            to.write_all(&block[..n]).during("write the image")?;
        }
        at += n as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_each_partition_at_its_place_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        std::fs::write(&one, [1; 5]).unwrap();
        let mut middle = vec![0; 3 << 20];
        middle[(1 << 20) + 7] = 2;
        std::fs::write(&two, &middle).unwrap();
        let image = dir.path().join("image");
        assert_eq!(assemble(&image, &[(FAT32, &one), (LINUX, &two)]).unwrap(), 5 << 20);
        let bytes = std::fs::read(&image).unwrap();
        assert_eq!(bytes.len(), 5 << 20);
        assert_eq!(bytes[510..512], [0x55, 0xaa]);
        assert_eq!(bytes[1 << 20..][..6], [1, 1, 1, 1, 1, 0]);
        assert_eq!(bytes[2 << 20..], middle);
    }

    #[test]
    fn a_folder_comes_before_what_is_in_it_and_names_are_sorted() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("b")).unwrap();
        for name in ["c", "b/y", "b/x", "a"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let paths = files_below(dir.path(), Path::new("")).unwrap();
        assert_eq!(paths, ["a", "b", "b/x", "b/y", "c"].map(PathBuf::from));
    }

    #[test]
    fn inodes_in_use_are_those_that_are_not_free() {
        let described = "Inode count:              24\nGroup 0:\n  Free inodes: 13-15, 17\nGroup 1:\n  Free inodes: 21-24\n\
            Group 2:\n  Free inodes: \n";
        assert_eq!(used_inodes(described).unwrap(), [2, 11, 12, 16, 18, 19, 20]);
        for wrong in
            ["", "Inode count: x\n", "Inode count: 5\n  Free inodes: 4-9\n", "Inode count: 5\n  Free inodes: a\n"]
        {
            assert!(used_inodes(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_overlay_is_whole() {
        let paths = files_below(&root().join("packaging/image/root"), Path::new("")).unwrap();
        for named in ["first-boot", "data", "hello"] {
            assert!(paths.contains(&Path::new("usr/lib/bib/appliance").join(named)), "{named}");
        }
    }
}

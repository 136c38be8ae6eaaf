//! `cargo xtask image`: a bootable Debian for arm64 boards with bib in it; `cargo xtask boot`: the proof by booting it.
//!
//! What goes into the image beside Debian and the package lies in `packaging/image/`, with its documentation.
//! Deliberately absent: loop devices, mounts and root, so that it works in containers too.

mod check;
mod console;
mod machine;
mod make;
mod mbr;
mod namespace;
mod plan;
mod sources;

use std::path::PathBuf;

use argh::FromArgs;
use bib_benches::Result;

use plan::{Luks, Size};

/// Makes an image of a Debian arm64 with bib that boots from a card or disk: packaging/image/README.md.
#[derive(FromArgs)]
#[argh(subcommand, name = "image")]
pub struct Image {
    /// the package to put in (such as dist/bib_0.1.0_arm64.deb)
    #[argh(option)]
    deb: PathBuf,
    /// where the image goes (default: dist/image)
    #[argh(option, default = "PathBuf::from(\"dist/image\")")]
    out: PathBuf,
    /// the architecture; there is only arm64
    #[argh(option, default = "String::from(\"arm64\")")]
    arch: String,
    /// the suite of Debian (default: the one of this machine)
    #[argh(option)]
    suite: Option<String>,
    /// a mirror of Debian instead of those of this machine's apt
    #[argh(option)]
    mirror: Option<String>,
    /// bytes of the root file system, as 1536MiB (the default)
    #[argh(option, default = "Size(1536 << 20)")]
    size: Size,
    /// encrypt the data partition: `passphrase` asks for one at each boot, `usb` reads a key from a USB stick
    #[argh(option)]
    luks: Option<Luks>,
    /// public SSH keys that may log in as root; without it nobody can
    #[argh(option)]
    ssh_key: Option<PathBuf>,
    /// the name of the machine (default: bib- and six digits of its own)
    #[argh(option)]
    hostname: Option<String>,
    /// what becomes /etc/bib/bibd.toml: peers, admins, limits
    #[argh(option)]
    config: Option<PathBuf>,
    /// put the firmware of Raspberry Pi 3 and 4 on the boot partition, from Debian's non-free-firmware
    #[argh(switch)]
    pi: bool,
    /// kernel messages and a login prompt on this serial port, such as ttyAMA0 or ttyS1
    #[argh(option)]
    serial: Option<String>,
}

/// Boots an image in an emulated machine, asks it over the network, and cuts its power: takes some minutes.
#[derive(FromArgs)]
#[argh(subcommand, name = "boot")]
pub struct Boot {
    /// the image (default: dist/image/bib-arm64.img)
    #[argh(option, default = "PathBuf::from(\"dist/image/bib-arm64.img\")")]
    image: PathBuf,
    /// the private key to one of the --ssh-key that the image was made with
    #[argh(option)]
    identity: PathBuf,
    /// what the image was made with
    #[argh(option)]
    luks: Option<Luks>,
    /// memory of the machine (default: 512MiB)
    #[argh(option, default = "Size(512 << 20)")]
    memory: Size,
    /// size of the card (default: 4GiB)
    #[argh(option, default = "Size(4 << 30)")]
    card: Size,
    /// minutes in which writes of the idle machine are counted (default 3)
    #[argh(option, default = "3")]
    idle: u64,
}

/// Makes the image.
pub fn image(args: &Image) -> Result<()> {
    make::run(args)
}

/// Boots it.
pub fn boot(args: &Boot) -> Result<()> {
    check::run(args)
}

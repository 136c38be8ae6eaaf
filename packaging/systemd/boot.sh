#!/bin/bash
# Runs check.sh on a machine of its own: a Debian that is made here, with systemd and its own kernel, in qemu. As root:
#   boot.sh <bib.deb | folder with bibd and bib> [suite [check ...]]      suite: bookworm (default), trixie, ...
# Needs mmdebstrap, qemu-system-x86 and e2fsprogs, some 2 GB in the folder for temporary files, and minutes: without KVM
# everything is emulated. ACCEL=kvm uses KVM. Ends with the exit code of check.sh, the number of checks that failed.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
what=$(realpath "$1")
suite=${2:-bookworm}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tree=$work/tree

mmdebstrap --quiet --variant=minbase --format=directory \
    --include=systemd-sysv,dbus,linux-image-cloud-amd64,initramfs-tools,procps,iproute2,udev,kmod "$suite" "$tree"
if [ -d "$what" ]; then
    install -m 755 "$what/bibd" "$what/bib" "$tree/usr/bin/"
    install -Dm 644 "$here/bibd.service" -t "$tree/usr/lib/systemd/system/"
    install -Dm 644 "$here/bib.conf" -t "$tree/usr/lib/sysusers.d/"
    install -d "$tree/etc/bib" && touch "$tree/etc/bib/bibd.toml"
    chroot "$tree" systemd-sysusers
    chroot "$tree" systemctl --quiet enable bibd.service
else
    cp "$what" "$tree/root/bib.deb"
    chroot "$tree" dpkg --install /root/bib.deb
fi
install -m 755 "$here/check.sh" "$tree/root/"
cat > "$tree/etc/systemd/system/check.service" <<'UNIT'
[Unit]
After=multi-user.target
SuccessAction=poweroff-force
FailureAction=poweroff-force
[Service]
Type=oneshot
StandardOutput=file:/dev/ttyS0
StandardError=inherit
ExecStart=/bin/bash -c 'echo "$(systemctl --version | head -n 1), Linux $(uname -r)"; /root/check.sh $(cat /root/checks); echo "failed: $?"'
[Install]
WantedBy=graphical.target
UNIT
echo "${@:3}" > "$tree/root/checks"
chroot "$tree" systemctl --quiet enable check.service
chroot "$tree" systemctl --quiet mask serial-getty@ttyS0.service
echo "/dev/vda / ext4 rw 0 1" > "$tree/etc/fstab"
truncate -s 4G "$work/disk"
mkfs.ext4 -q -d "$tree" "$work/disk"
cp "$tree"/boot/vmlinuz-* "$work/kernel"
cp "$tree"/boot/initrd.img-* "$work/initrd"
rm -r "$tree"

qemu-system-x86_64 -accel "${ACCEL:-tcg}" -cpu max -m 1536 -smp 2 -nographic -no-reboot -nic none \
    -kernel "$work/kernel" -initrd "$work/initrd" -append "root=/dev/vda rw console=ttyS0 quiet loglevel=3" \
    -drive "file=$work/disk,if=virtio,format=raw,cache=unsafe" < /dev/null | tee "$work/said"
failed=$(sed -n 's/^failed: \([0-9]*\).*/\1/p' "$work/said")
exit "${failed:-99}"

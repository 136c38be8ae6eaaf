#!/bin/sh
# Copies bib from this folder to the system, as root: programs, manual pages, completions, and the unit of systemd where
# it runs. Settings that are there stay. Nothing is fetched, and nothing is started.
set -eu
cd "$(dirname "$0")"
[ "$(id -u)" = 0 ] || { echo "install.sh: run it as root; or use the programs in usr/bin from where they are" >&2; exit 1; }
umask 022
find usr -type f | while read -r file; do
    mode=644
    [ -x "$file" ] && mode=755
    mkdir -p "/${file%/*}"
    # Written beside and renamed: a program that runs cannot be written to.
    cp "$file" "/$file.new"
    chmod "$mode" "/$file.new"
    mv "/$file.new" "/$file"
done
mkdir -p /etc/bib
[ -e /etc/bib/bibd.toml ] || cp etc/bib/bibd.toml /etc/bib/bibd.toml
echo "bib and bibd are in /usr/bin, the settings in /etc/bib/bibd.toml"
if [ -d /run/systemd/system ]; then
    systemd-sysusers bib.conf
    systemctl daemon-reload
    echo "start the node, now and with the machine: systemctl enable --now bibd"
    echo "let a user talk to it: usermod -aG bib <user>"
fi

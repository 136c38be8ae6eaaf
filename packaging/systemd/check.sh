#!/bin/bash
# Tries what bibd.service promises, on a machine that systemd runs and that may be disturbed: nodes are killed, users and
# files made, drop-ins written and removed. The package is installed. As root: ./check.sh [name ...]; without names all.
# Prints a line for each check; the exit code is the number of those that failed.
# shellcheck disable=SC2317,SC2086 # functions are called by name; names here have no blanks
set -u
failed=0
export HOME=/root
unit=bibd.service
toml=/etc/bib/bibd.toml

property() { systemctl show -P "$1" $unit; }
# Waits for something, as long as it may take on a slow machine.
await() { for _ in $(seq 600); do "$@" && return 0; sleep 0.2; done; echo "   never: $*"; return 1; }
is() { [ "$(property "$1")" = "$2" ]; }
status_has() { [[ "$(property StatusText)" == *"$1"* ]]; }
journal_has() { journalctl -q -u $unit --since "@$since" -o cat "${@:2}" | grep -q -- "$1"; }
mark() { since=$(date +%s.%N); }
as() { runuser -u "$1" -- env HOME="/home/$1" "${@:2}"; }
settings() { cp -p $toml $toml.kept; printf '%s\n' "$@" >> $toml; }
settings_back() { mv $toml.kept $toml; }
dropin() { mkdir -p /run/systemd/system/$unit.d; printf '%s\n' "$@" > /run/systemd/system/$unit.d/check.conf; systemctl daemon-reload; }
dropin_back() { rm -rf /run/systemd/system/$unit.d; systemctl daemon-reload; }
fresh() { systemctl stop $unit; systemctl reset-failed $unit 2> /dev/null; dropin_back; systemctl start $unit; }

# It is ready when it answers, and says what it serves.
ready() {
    fresh
    is ActiveState active && status_has "serving " && bib status > /dev/null
}

# Who may talk to it is root and the group; others are told what to do.
group() {
    as bib-check-in bib status > /dev/null || return 1
    as bib-check-out bib status 2> /tmp/said && return 1
    grep -q "usermod -aG bib" /tmp/said || return 1
    as bib-check-in bib admin shutdown --yes 2> /dev/null
    [ $? = 5 ] || return 1
    [ "$(stat -c '%U:%G %a' /run/bib)" = "bib:bib 750" ] && [ "$(stat -c '%U:%G %a' /run/bib/bibd.sock)" = "bib:bib 660" ] &&
        [ "$(stat -c '%U:%G %a' /var/lib/bib)" = "bib:bib 700" ]
}

# Addresses that come later are noticed: netlink works.
addresses() {
    ip link add bib-check type dummy && ip addr add 10.213.7.1/24 dev bib-check && ip link set bib-check up
    noticed() { bib status --json | grep -q 10.213.7.1; }
    await noticed
    local result=$?
    ip link del bib-check
    return $result
}

# A reload is taken; a wrong one is refused and says so until it is mended.
reload() {
    mark
    settings '[log]' 'level = "debug"'
    systemctl reload $unit && await journal_has "configuration was read again" || return 1
    settings_back
    settings '[node]' 'nome = "x"'
    systemctl reload $unit && await status_has "no setting \`node.nome\`" && is ActiveState active || return 1
    settings_back
    mended() { ! status_has "is wrong"; }
    systemctl reload $unit && await mended && await is SubState running
}

# Lines of the journal have their level and no time of their own.
journal() {
    mark
    systemctl restart $unit
    await journal_has "^INFO  listening for users" -p info || return 1
    systemctl stop $unit
    mark
    settings 'log.format = 7'
    systemctl start $unit 2> /dev/null
    settings_back
    await journal_has "^hint: " -p err
}

# A configuration that is wrong ends it for good; what may pass is tried again.
restart() {
    fresh
    settings 'log.format = 7'
    systemctl restart $unit 2> /dev/null
    settings_back
    await is ActiveState failed && is Result exit-code && is ExecMainStatus 2 && is NRestarts 0 || return 1
    fresh
    mark
    kill -KILL "$(property MainPID)"
    await is NRestarts 1 && await is ActiveState active && bib status > /dev/null
}

# A node whose loop is stuck is killed and started again.
watchdog() {
    dropin '[Service]' 'WatchdogSec=4' 'RestartSec=1'
    systemctl restart $unit || return 1
    local pid
    pid=$(property MainPID)
    # It lives while it runs.
    sleep 12
    is MainPID "$pid" && is NRestarts 0 || return 1
    kill -STOP "$pid"
    await is NRestarts 1 && await is ActiveState active && bib status > /dev/null
    local result=$?
    journalctl -q -u $unit -o cat | grep -i watchdog | tail -n 2 | sed 's/^/   /'
    dropin_back
    return $result
}

# What was published is there after each of these.
content() {
    fresh
    as bib-check-in bib key new > /dev/null 2>&1
    as bib-check-in bib topic create check > /dev/null 2>&1
    as bib-check-in bib publish /usr/bin/bib check/program > /dev/null || return 1
    systemctl restart $unit
    as bib-check-in bib cat check/program | cmp - /usr/bin/bib
}

# More passes through a node than the kernel allows it, without a kill.
memory() {
    [ "$(cat "/sys/fs/cgroup$(property ControlGroup)/memory.max")" = $((256 << 20)) ] || return 1
    settings '[limits]' 'memory = "32MiB"'
    dropin '[Service]' 'MemoryMax=64M'
    systemctl restart $unit || return 1
    head -c 128M /dev/urandom > /home/bib-check-in/big
    as bib-check-in bib publish /home/bib-check-in/big check/big > /dev/null || return 1
    as bib-check-in bib get check/big -o /home/bib-check-in/again > /dev/null || return 1
    find /home/bib-check-in/again -type f -exec cmp {} /home/bib-check-in/big \; || return 1
    local events
    events="/sys/fs/cgroup$(property ControlGroup)"
    echo "   of 64M: peak $(($(cat "$events/memory.peak" 2> /dev/null || echo 0) >> 20)) MiB, now anonymous $(($(sed -n 's/^anon //p' "$events/memory.stat") >> 10)) KiB," \
        "high water of bibd $(sed -n 's/^VmHWM:[[:space:]]*//p' "/proc/$(property MainPID)/status")"
    grep -q "^oom_kill 0$" "$events/memory.events" && is NRestarts 0
    local result=$?
    settings_back
    dropin_back
    return $result
}

# One that the kernel kills for its memory is started again.
oom() {
    fresh
    mark
    dropin '[Service]' 'RestartSec=1'
    systemctl set-property --runtime $unit MemoryMax=2M
    restarted() { [ "$(property NRestarts)" -ge 1 ]; }
    local tries=0
    while ! restarted && [ $tries -lt 50 ]; do bib status > /dev/null 2>&1; tries=$((tries + 1)); sleep 0.2; done
    await restarted || return 1
    rm -rf /run/systemd/system.control/$unit.d
    dropin_back
    await is ActiveState active && bib status > /dev/null && journal_has "oom-kill"
}

# A start that reads all it has, far longer than a start may take, is let end.
long_start() {
    local device
    device=$(findmnt -no SOURCE -T /var/lib/bib)
    systemctl stop $unit
    rm /var/lib/bib/segments/index.redb
    sync
    echo 3 > /proc/sys/vm/drop_caches
    # What is slow is its data, not the program.
    cat /usr/bin/bibd > /dev/null
    dropin '[Service]' 'TimeoutStartSec=10' "IOReadBandwidthMax=$device 1500K"
    local begin
    begin=$(date +%s)
    systemctl start $unit || return 1
    echo "   $(($(date +%s) - begin)) s for a start that has 10"
    dropin_back
    is ActiveState active && as bib-check-in bib dataset verify check/big > /dev/null && [ $(($(date +%s) - begin)) -gt 65 ]
}

# Files of users are read in place where the unit is told to show them.
reference() {
    fresh
    local dir=/home/bib-check-in/shown
    mkdir -p $dir && head -c 1M /dev/urandom > $dir/file && chmod 711 /home/bib-check-in && chmod -R a+rX $dir
    as bib-check-in bib publish --reference $dir/file check/shown > /tmp/said 2>&1 && return 1
    dropin '[Service]' 'ProtectHome=tmpfs' "BindReadOnlyPaths=$dir"
    systemctl restart $unit
    as bib-check-in bib publish --reference $dir/file check/shown > /dev/null || return 1
    as bib-check-in bib cat check/shown | cmp - $dir/file
    local result=$?
    dropin_back
    return $result
}

# A backup goes where the unit lets it write.
backup() {
    fresh
    install -d -o bib -g bib /srv/bib-backup
    echo secret > /tmp/passphrase
    bib admin backup --to /srv/bib-backup/b --passphrase-file /tmp/passphrase > /dev/null 2>&1 && return 1
    dropin '[Service]' 'ReadWritePaths=/srv/bib-backup'
    systemctl restart $unit
    bib admin backup --to /srv/bib-backup/b --passphrase-file /tmp/passphrase > /dev/null
    local result=$?
    dropin_back
    return $result
}

# Who stops it by its own command has it stopped.
stop() {
    fresh
    bib admin shutdown --yes > /dev/null && await is ActiveState inactive && is Result success && is NRestarts 0 || return 1
    systemctl start $unit
}

verify() {
    local said
    said=$(systemd-analyze verify --man=no $unit 2>&1)
    [ -z "$said" ] || { echo "$said"; return 1; }
    echo "   exposure: $(systemd-analyze security $unit | tail -n 1)"
}

for user in bib-check-in bib-check-out; do id $user > /dev/null 2>&1 || useradd -m -s /bin/bash $user; done
usermod -aG bib bib-check-in
checks=(ready group addresses reload journal restart watchdog content memory oom long_start reference backup stop verify)
[ $# -gt 0 ] && checks=("$@")
for check in "${checks[@]}"; do
    if "$check"; then echo "ok      $check"; else
        failed=$((failed + 1))
        echo "FAILED  $check"
        systemctl status --no-pager -n 20 $unit | sed 's/^/   /'
        [ -e $toml.kept ] && settings_back
        dropin_back
    fi
done
exit $failed

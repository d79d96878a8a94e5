#!/bin/sh
# boot.sh LOWER SCRATCH REPOSITORY: becomes the PID 1 of a lab. Runs as the first process of new mount, pid, uts,
# ipc, net and cgroup namespaces. The root is an overlay of LOWER whose changes live on a tmpfs at SCRATCH, the lab's
# disk, and end with that. Where it has been booted from before, it is as it was left.
set -eu
lower=$1 scratch=$2 repository=$3

mount --make-rprivate /
root=$scratch/root
units=$root/etc/systemd/system
wants=$units/multi-user.target.wants
mount -t overlay -o "lowerdir=$lower,upperdir=$scratch/upper,workdir=$scratch/work" overlay "$root"

mount_kernel_file_systems() {
    mount -t proc proc "$root/proc"
    mount -t sysfs sysfs "$root/sys"
    mkdir -p "$root/sys/fs/cgroup"
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
    mount -t bpf bpf "$root/sys/fs/bpf" || true
    mount -t tmpfs -o mode=755 tmpfs "$root/run"
    mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
}

make_dev() {
    dev=$root/dev
    mount -t tmpfs -o mode=755 tmpfs "$dev"
    mkdir "$dev/pts" "$dev/shm" "$dev/net"
    # Bound, not made: a container may not make device nodes.
    for node in null zero full random urandom tty net/tun vsock fuse; do
        [ -e "/dev/$node" ] || continue
        : >"$dev/$node"
        mount --bind "/dev/$node" "$dev/$node"
    done
    mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$dev/pts"
    mount -t tmpfs -o mode=1777 tmpfs "$dev/shm"
    ln -s pts/ptmx "$dev/ptmx"
    ln -s /proc/self/fd "$dev/fd"
    ln -s /proc/self/fd/0 "$dev/stdin"
    ln -s /proc/self/fd/1 "$dev/stdout"
    ln -s /proc/self/fd/2 "$dev/stderr"
}

show_repository() {
    mkdir -p "$root$repository"
    mount --bind "$repository" "$root$repository"
    mount -o remount,ro,bind "$root$repository"
}

# Nothing that the image's owner has enabled starts, nor anything that would touch the machine itself.
quieten() {
    rm -rf "$units"/*.wants "$units"/*.requires "$root"/etc/rc?.d/S*
    mkdir "$wants"
    : >"$root/etc/fstab"
    for unit in console-getty.service getty.target getty@.service systemd-modules-load.service kmod.service \
        modprobe@.service systemd-udevd.service systemd-udev-trigger.service systemd-sysctl.service procps.service \
        systemd-binfmt.service systemd-networkd.service systemd-timesyncd.service systemd-random-seed.service \
        systemd-pstore.service systemd-firstboot.service hwclock.service tor.service tor@default.service; do
        ln -sf /dev/null "$units/$unit"
    done
    mkdir -p "$root/etc/systemd/journald.conf.d"
    printf '[Journal]\nStorage=volatile\nForwardToSyslog=no\nRateLimitBurst=0\n' \
        >"$root/etc/systemd/journald.conf.d/lab.conf"
}

identify() {
    tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id"
    echo lab >"$root/etc/hostname"
    printf '127.0.0.1 localhost lab\n::1 localhost ip6-localhost\n' >"$root/etc/hosts"
}

make_run() {
    # Says to everything inside that addresses such as 8.8.8.8 lead to the lab's own world.
    mkdir -p "$root/run/appfw-lab" "$root/run/udev/rules.d"
    cp "$repository/target/lab/ca/ca.pem" "$root/run/appfw-lab/"
}

set_up_resolver() {
    rm -f "$root/etc/resolv.conf"
    if [ -e "$root/lib/systemd/system/systemd-resolved.service" ]; then
        mkdir -p "$root/etc/systemd/resolved.conf.d"
        printf '[Resolve]\nDNS=203.0.113.53\nFallbackDNS=\nDNSSEC=no\nLLMNR=no\nMulticastDNS=no\nCache=no\n' \
            >"$root/etc/systemd/resolved.conf.d/lab.conf"
        ln -s /run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
        ln -sf /lib/systemd/system/systemd-resolved.service "$units/dbus-org.freedesktop.resolve1.service"
        sed -i 's/^hosts:.*/hosts: files resolve [!UNAVAIL=return] dns/' "$root/etc/nsswitch.conf"
        ln -s /lib/systemd/system/systemd-resolved.service "$wants/"
    else
        echo 'nameserver 203.0.113.53' >"$root/etc/resolv.conf"
        sed -i 's/^hosts:.*/hosts: files dns/' "$root/etc/nsswitch.conf"
    fi
    if [ -e "$root/lib/systemd/system/nscd.service" ]; then
        ln -s /lib/systemd/system/nscd.service "$wants/"
        # By itself it asks again for names that once were asked for, in the middle of whatever test.
        echo "reload-count 0" >>"$root/etc/nscd.conf"
    fi
}

add_users() {
    mkdir -p "$root/var/lib/systemd/linger"
    for user in bob eve; do
        chroot "$root" id "$user" >/dev/null 2>&1 || chroot "$root" useradd --create-home --shell /bin/bash "$user"
        : >"$root/var/lib/systemd/linger/$user"
    done
    # Who have no session: one with a home, and one without.
    chroot "$root" id ann >/dev/null 2>&1 || chroot "$root" useradd --create-home --shell /bin/bash ann
    chroot "$root" id dan >/dev/null 2>&1 ||
        chroot "$root" useradd --no-create-home --home-dir / --shell /bin/bash dan
}

add_bait() {
    mkdir -p "$root/etc/cron.d"
    cat >"$units/lab-bait.service" <<UNIT
[Service]
Type=notify
ExecStart=/usr/bin/python3 $repository/tests/lab/bait.py
UNIT
    # A process of each user outside of any confinement, for those who look for one to take over.
    cat >"$units/lab-neighbour@.service" <<UNIT
[Service]
User=%i
ExecStart=/usr/bin/python3 $repository/tests/lab/bait.py --neighbour
UNIT
    ln -s ../lab-bait.service "$wants/"
    for user in root bob; do
        ln -s ../lab-neighbour@.service "$wants/lab-neighbour@$user.service"
    done
}

mount_kernel_file_systems
make_dev
show_repository
make_run
if [ ! -e "$scratch/installed" ]; then
    quieten
    identify
    set_up_resolver
    add_users
    add_bait
    : >"$scratch/installed"
fi
hostname lab
ip link set lo up
# As systemd's own sysctl file has it, which is masked here: anyone may ping.
echo 0 2147483647 >"$root/proc/sys/net/ipv4/ping_group_range"
# The world joins its wire meanwhile (world_daemon.py). If that came after systemd-resolved 257, it would go on
# saying "Network is down".
until [ -n "$(ip -6 route show default)" ]; do
    sleep 0.02
done
cd "$root"
mkdir -p .outside
pivot_root . .outside
umount --lazy /.outside
rmdir /.outside
# As every real boot has them, which systemd sees to except in a container: it hands credentials over by a mount that
# must propagate (src/core/credential.c).
mount --make-rshared /
exec env -i container=appfw-lab PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --unit=multi-user.target </dev/null

#!/usr/bin/python3
"""Further ways out, for probe.py's command line: over other users' processes, and under what hides the sockets.

Root's, for the most part: an ordinary user is refused by any kernel.
"""

import ctypes
import fcntl
import json
import os
import pathlib
import pwd
import struct
import sys

import probe
import probe_changes  # noqa: F401  all of its probes are tried as well
from probe import Blocked, NotHere, check, command, first_that_works, libc

HANDLE = pathlib.Path("/run/appfw-lab/handle")  # the system bus's socket, as name_to_handle_at(2) has it
PR_SET_DUMPABLE = 4
TUNSETIFF, IFF_TAP = 0x400454CA, 0x0002
O_PATH = 0o10000000
BUS = "/run/dbus/system_bus_socket"


class Handle(ctypes.Structure):
    """struct file_handle"""
    _fields_ = [("bytes", ctypes.c_uint), ("type", ctypes.c_int), ("data", ctypes.c_ubyte * 128)]


def become_bob():
    """As root can by CAP_SETUID alone."""
    bob = pwd.getpwnam("bob")
    os.setgroups([])
    os.setgid(bob.pw_gid)
    os.setuid(bob.pw_uid)
    libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
    probe.UID = bob.pw_uid


def as_bob(name):
    """The same probe, in a process that has become bob."""
    return json.loads(command(sys.executable, __file__, "--as-bob", name))


def report_as_bob(name):
    become_bob()
    result = probe.attempt(name)
    if result["outcome"] != "reached":
        sys.exit(result["detail"])
    print(json.dumps("as bob, " + result["detail"]))


for name in "proc-root-system-bus", "pidfd-getfd", "proc-mem":
    probe.probe(f"takeover-bob-{name}")(lambda name=name: as_bob(name))


@probe.probe("takeover-others-memory")
def takeover_others_memory():
    """Whoever owns a user namespace has every capability over the processes in it: root, over those of its services."""
    own = probe.own_cgroup()
    seen = []
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if entry.stat().st_uid in (0, probe.UID) or probe.own_cgroup(entry.name) == own:
                continue
            with open(entry / "mem", "r+b"):
                return f"{(entry / 'cmdline').read_bytes().split(bytes(1))[0].decode()} is open for writing"
        except OSError as error:
            seen.append(str(error))
    raise Blocked("; ".join(seen) or "no other user's process is visible")


@probe.probe("mount-unmount")
def mount_unmount():
    """Takes away what is mounted over the sockets, with a user namespace's capabilities."""
    script = "umount -l /run/dbus /run/systemd /run/user /run; exec python3 -c 'import socket, sys; " \
             f"socket.socket(socket.AF_UNIX).connect(sys.argv[1])' {BUS}"
    return command("unshare", "-Urm", "sh", "-c", script)


@probe.probe("mount-bind")
def mount_bind():
    """Shows /run a second time, without what is mounted in it."""
    script = "mount --bind /run /mnt && exec python3 -c 'import socket, sys; " \
             "socket.socket(socket.AF_UNIX).connect(sys.argv[1])' /mnt/dbus/system_bus_socket"
    return first_that_works([("in a user namespace", lambda: command("unshare", "-Urm", "sh", "-c", script)),
                             ("in a mount namespace", lambda: command("unshare", "-m", "sh", "-c", script))])


@probe.probe("file-handle")
def file_handle():
    """The hidden socket's inode, by a number that can be guessed (CAP_DAC_READ_SEARCH)."""
    if not HANDLE.exists():
        raise NotHere(f"no {HANDLE}")
    kind, data = HANDLE.read_text().split()
    handle = Handle(len(data) // 2, int(kind))
    ctypes.memmove(handle.data, bytes.fromhex(data), len(data) // 2)
    mount = os.open("/run", os.O_RDONLY | os.O_DIRECTORY)
    try:
        opened = check(libc.open_by_handle_at(mount, ctypes.byref(handle), O_PATH))
        try:
            return probe.unix(f"/proc/self/fd/{opened}")
        finally:
            os.close(opened)
    finally:
        os.close(mount)


def write_handle():
    """Run outside, before file-handle is tried."""
    handle, mount = Handle(128), ctypes.c_int()
    check(libc.name_to_handle_at(-100, BUS.encode(), ctypes.byref(handle), ctypes.byref(mount), 0))
    HANDLE.write_text(f"{handle.type} {bytes(handle.data[:handle.bytes]).hex()}\n")


@probe.probe("host-wildcard-by-forwarders-address")
def wildcard():
    """A service on 0.0.0.0 listens at the forwarder's address as well, where both are in one network namespace."""
    return probe.tcp(probe.forwarder["address"][0], 8022)


@probe.probe("tun")
def tun():
    """A network interface of one's own making."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    try:
        fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", b"probe%d", IFF_TAP))
        return "an interface was made"
    finally:
        os.close(descriptor)


@probe.probe("credentials")
def credentials():
    """Another unit's secrets: the forwarder's password."""
    found = [str(path) for path in pathlib.Path("/run/credentials").glob("*/*") if path.read_bytes()]
    if not found:
        raise Blocked("none is visible")
    return " ".join(found)


@probe.probe("unix-screen")
def unix_screen():
    """A terminal multiplexer runs commands for whoever connects, in the session it was started in."""
    paths = [f"/tmp/tmux-{uid}/default" for uid in (probe.UID, 1000, 1001)]
    return probe.any_unix(*paths, *map(str, pathlib.Path("/run/screen").glob("S-*/*")))


probe.probe("bpf")(lambda: check(libc.syscall(321, 0, ctypes.create_string_buffer(
    struct.pack("=IIIII", 1, 4, 8, 1, 0) + bytes(100)), 120)) and "a map was made")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--write-handle"]:
            write_handle()
        case ["--as-bob", name]:
            report_as_bob(name)
        case _:
            probe.main()

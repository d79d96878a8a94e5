#!/usr/bin/python3
"""Further ways out, for probe.py's command line: of a wall of namespaces that no PID 1 has built."""

import ctypes
import os
import pathlib
import mmap
import platform
import pwd
import socket
import sys

import probe
import probe_takeover  # noqa: F401  all of its probes, and of probe_changes, are tried as well
from probe import Blocked, check, command, first_that_works, libc, tcp

INIT = 1  # the first process of the PID namespace
PIDFD_OPEN = 434
X32 = 0x40000000
CORE_PATTERN = "/proc/sys/kernel/core_pattern"


@probe.probe("others-visible")
def others_visible():
    """Processes that are not the app's: the lab has some that everybody sees."""
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            found += [entry.name] if b"bait.py" in (entry / "cmdline").read_bytes() else []
        except OSError:
            continue
    if not found:
        raise Blocked("none")
    return " ".join(found)


@probe.probe("init-descriptors")
def init_descriptors():
    """Init holds the launcher's socket. Root may list their numbers, no more."""
    return first_that_works([
        ("0", lambda: os.readlink(f"/proc/{INIT}/fd/0")),
        ("mem", lambda: open(f"/proc/{INIT}/mem", "r+b").close() or "open for writing"),
        ("root", lambda: os.listdir(f"/proc/{INIT}/root") and "can be entered"),
    ])


@probe.probe("init-getfd")
def init_getfd():
    pidfd = check(libc.syscall(PIDFD_OPEN, INIT, 0))
    return first_that_works([(f"descriptor {number}",
                              lambda number=number: check(libc.syscall(probe.SYS_PIDFD_GETFD, pidfd, number, 0)))
                             for number in range(16)])


@probe.probe("init-ptrace")
def init_ptrace():
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    return check(libc.ptrace(probe.PTRACE_SEIZE, INIT, None, None))


@probe.probe("interfaces")
def interfaces():
    """One that leads somewhere."""
    others = {name for _, name in socket.if_nameindex()} - {"lo", "appfw0", "appfw1"}
    if not others:
        raise Blocked("none")
    return " ".join(others)


# System calls of another binary interface

@probe.probe("x32-socket")
def x32_socket():
    if platform.machine() != "x86_64":
        raise Blocked("there is no x32 here")
    return check(libc.syscall(X32 | 41, socket.AF_PACKET, socket.SOCK_RAW, 0))


@probe.probe("x32-io-uring")
def x32_io_uring():
    if platform.machine() != "x86_64":
        raise Blocked("there is no x32 here")
    return check(libc.syscall(X32 | probe.SYS_IO_URING_SETUP, 1, ctypes.create_string_buffer(120)))


I386_SOCKET = 359
# mov eax, 359; mov ebx, AF_PACKET; mov ecx, SOCK_RAW; xor edx, edx; int 0x80; ret, rbx kept
I386 = b"\x53\xb8\x67\x01\x00\x00\xbb\x11\x00\x00\x00\xb9\x03\x00\x00\x00\x31\xd2\xcd\x80\x5b\xc3"


def call_as_i386():
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(I386)
    function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    sys.exit(f"error {-function()}" if function() < 0 else 0)


@probe.probe("i386-socket")
def i386_socket():
    if platform.machine() != "x86_64":
        raise Blocked("there is no i386 here")
    return command(sys.executable, __file__, "--as-i386")


# Mounts that hide, taken away or gone round

def mounts(name, script):
    probe.probe(f"mounts-{name}")(lambda: command("unshare", "-Urmpf", "sh", "-c", script))


mounts("a-proc-of-its-own", "mount -t proc x /mnt && ls /mnt")
mounts("core-pattern", f"mount -t proc x /mnt && read -r p <{CORE_PATTERN} && "
                       "echo \"$p\" >/mnt/sys/kernel/core_pattern")
mounts("sysctl-again", f"umount -l /proc/sys; mount -o remount,rw,bind /proc/sys; "
                       f"read -r p <{CORE_PATTERN} && echo \"$p\" >{CORE_PATTERN}")
mounts("a-sys-of-its-own", "mount -t sysfs x /mnt")
mounts("run-writable", "mount -o remount,rw,bind /run && touch /run/probe")
mounts("resolv-conf", "umount /etc/resolv.conf && cat /etc/resolv.conf")
mounts("move", "mount --move /run /mnt && ls /mnt")
mounts("unmount-all", "umount -l /run && ls /run/dbus/system_bus_socket")


@probe.probe("mount")
def mount():
    return command("mount", "-t", "tmpfs", "x", "/mnt")


@probe.probe("request-key")
def request_key():
    return check(libc.syscall(249, b"user", b"probe", b"", -2))


@probe.probe("state-directory")
def state_directory():
    """The launch's own, with its plan and the way out's password, and others'."""
    found = []
    bob = pwd.getpwnam("bob").pw_uid
    for base in "/run/appfw", f"/run/user/{bob}/appfw", f"/tmp/appfw-{bob}":
        try:
            found += [f"{base}/{name}" for name in os.listdir(base)]
        except OSError:
            continue
    if not found:
        raise Blocked("none is visible")
    return " ".join(found)


@probe.probe("controlling-terminal")
def controlling_terminal():
    return os.open("/dev/tty", os.O_RDWR)


probe.probe("tcp-second-address")(lambda: tcp("127.100.90.51", 1080))

if __name__ == "__main__":
    if sys.argv[1:] == ["--as-i386"]:
        call_as_i386()
    else:
        probe.main()

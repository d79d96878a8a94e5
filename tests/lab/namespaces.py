"""The namespace calls that Python's standard library lacks before 3.12."""

import contextlib
import ctypes
import os

CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result):
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _setns(path, kind):
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(descriptor, kind))
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def children_in_pid_namespace(pid=None):
    """Children that this thread starts in the block are born in PID's pid namespace, or in a new one.

    nsenter and unshare must fork to get there, and a signal sent to them does not reach the program. This way
    the child is the program itself, so its pid, its signals and its exit status are the caller's to handle.
    """
    if pid is None:
        _check(_libc.unshare(CLONE_NEWPID))
    else:
        _setns(f"/proc/{pid}/ns/pid", CLONE_NEWPID)
    try:
        yield
    finally:
        _setns("/proc/self/ns/pid", CLONE_NEWPID)


@contextlib.contextmanager
def network_namespace(pid):
    """Sockets that this thread makes in the block belong to PID's network namespace, for as long as they live."""
    own = f"/proc/{os.getpid()}/task/{_gettid()}/ns/net"
    home = os.open(own, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(f"/proc/{pid}/ns/net", CLONE_NEWNET)
        try:
            yield
        finally:
            _check(_libc.setns(home, CLONE_NEWNET))
    finally:
        os.close(home)


def _gettid():
    return _libc.gettid()

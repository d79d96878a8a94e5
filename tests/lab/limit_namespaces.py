"""Becomes root's program in a user namespace of everybody's that has a limit of its own: the machine's stays as it is.

    limit_namespaces.py user|net|mnt|pid NUMBER COMMAND…
"""

import ctypes
import os
import pathlib
import sys

CLONE_NEWUSER = 0x10000000


def tell(pipe):
    os.write(pipe[1], b"x")


def wait(pipe):
    os.read(pipe[0], 1)


kind, number, *command = sys.argv[1:]
entered, mapped = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    tell(entered)
    wait(mapped)
    pathlib.Path(f"/proc/sys/user/max_{kind}_namespaces").write_text(number)
    os.execvp(command[0], command)
wait(entered)
for one in "uid", "gid":
    pathlib.Path(f"/proc/{child}/{one}_map").write_text("0 0 4294967295")
tell(mapped)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

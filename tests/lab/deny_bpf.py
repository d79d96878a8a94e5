"""deny_bpf.py COMMAND…: runs COMMAND where bpf(2) fails with EPERM.

A systemd started like this is the "lying kernel": it cannot attach an IP filter, warns, and starts the unit all
the same. NoNewPrivs stays unset (root may install a filter without it), so set-user-ID programs go on working.
"""

import ctypes
import errno
import os
import platform
import struct
import sys

PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
RET_ALLOW = 0x7FFF0000
RET_ERRNO = 0x00050000
LOAD_NUMBER = 0x20  # BPF_LD | BPF_W | BPF_ABS, offset 0 of seccomp_data is the call's number
JUMP_IF_EQUAL = 0x15
RETURN = 0x06
BPF_CALL = {"x86_64": 321, "aarch64": 280}[platform.machine()]


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def deny_bpf():
    instructions = [
        (LOAD_NUMBER, 0, 0, 0),
        (JUMP_IF_EQUAL, 0, 1, BPF_CALL),
        (RETURN, 0, 0, RET_ERRNO | errno.EPERM),
        (RETURN, 0, 0, RET_ALLOW),
    ]
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(Program(len(instructions), code))) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_SECCOMP")


if __name__ == "__main__":
    deny_bpf()
    os.execvp(sys.argv[1], sys.argv[1:])

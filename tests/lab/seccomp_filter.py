"""A filter of system calls for this process and all that it becomes: seccomp(2) by prctl(2), as classic BPF.

NoNewPrivs stays unset (root may install a filter without it), so set-user-ID programs go on working.
"""

import ctypes
import errno
import struct

PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
RET_ALLOW = 0x7FFF0000
RET_ERRNO = 0x00050000
LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS: a word of seccomp_data
JUMP_IF_EQUAL = 0x15
RETURN = 0x06


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def deny(conditions):
    """Has system calls fail with EPERM that meet all CONDITIONS: pairs of an offset into seccomp_data and a value."""
    instructions = []
    for number, (offset, value) in enumerate(conditions):
        # One that isn't met leads past the rest of them, and past the refusal.
        to_the_end = 2 * (len(conditions) - number) - 1
        instructions += [(LOAD, 0, 0, offset), (JUMP_IF_EQUAL, 0, to_the_end, value)]
    instructions += [(RETURN, 0, 0, RET_ERRNO | errno.EPERM), (RETURN, 0, 0, RET_ALLOW)]
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(Program(len(instructions), code))) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_SECCOMP")

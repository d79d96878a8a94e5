"""Becomes the program in its arguments, with system calls refused as a container's filter refuses them.

    deny_calls.py docker|user-namespaces COMMAND…

docker: what Docker's default profile (moby/profiles, seccomp/default.json) takes from who has no CAP_SYS_ADMIN, as far
as a program that makes namespaces asks for it. user-namespaces: only unshare(2) of such a one.
"""

import os
import platform
import sys

import seccomp_filter

NUMBER, FIRST_ARGUMENT = 0, 16  # offsets into struct seccomp_data; the argument's low half on little-endian machines
CLONE_NEWUSER, CLONE_NEWPID = 0x10000000, 0x20000000
COMMON = {"open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
          "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "mount_setattr": 442}
CALLS = {
    "x86_64": {"unshare": 272, "setns": 308, "mount": 165, "umount2": 166, "pivot_root": 155, "bpf": 321,
               "keyctl": 250, "add_key": 248, "request_key": 249, **COMMON},
    "aarch64": {"unshare": 97, "setns": 268, "mount": 40, "umount2": 39, "pivot_root": 41, "bpf": 280,
                "keyctl": 219, "add_key": 217, "request_key": 218, **COMMON},
}[platform.machine()]

match sys.argv[1]:
    case "docker":
        for number in CALLS.values():
            seccomp_filter.deny([(NUMBER, number)])
    case "user-namespaces":
        seccomp_filter.deny([(NUMBER, CALLS["unshare"]), (FIRST_ARGUMENT, CLONE_NEWUSER | CLONE_NEWPID)])
os.execvp(sys.argv[2], sys.argv[2:])

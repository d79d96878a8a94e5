"""deny_netns.py COMMAND…: runs COMMAND where unshare(CLONE_NEWNET) fails with EPERM, as where no network namespaces may
be made. Only that one flag by itself, as systemd asks for a unit's: what boots the lab asks for several kinds at once.
"""

import os
import platform
import sys

import seccomp_filter
from namespaces import CLONE_NEWNET

CALL, FIRST_ARGUMENT = 0, 16  # of seccomp_data: the call's number, and the low half of an argument, little-endian
UNSHARE = {"x86_64": 272, "aarch64": 97}[platform.machine()]

if __name__ == "__main__":
    seccomp_filter.deny([(CALL, UNSHARE), (FIRST_ARGUMENT, CLONE_NEWNET)])
    os.execvp(sys.argv[1], sys.argv[1:])

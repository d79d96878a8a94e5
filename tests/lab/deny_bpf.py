"""deny_bpf.py COMMAND…: runs COMMAND where bpf(2) fails with EPERM.

A systemd started like this is the "lying kernel": it cannot attach an IP filter, warns, and starts the unit all
the same.
"""

import os
import platform
import sys

import seccomp_filter

CALL = 0  # of seccomp_data: the call's number
BPF = {"x86_64": 321, "aarch64": 280}[platform.machine()]

if __name__ == "__main__":
    seccomp_filter.deny([(CALL, BPF)])
    os.execvp(sys.argv[1], sys.argv[1:])

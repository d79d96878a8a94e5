"""deny_nftables.py COMMAND…: runs COMMAND where nf_tables can't be asked for anything, as where the kernel has none: no
netlink socket of netfilter's is made."""

import os
import platform
import sys

import seccomp_filter

CALL, FAMILY, PROTOCOL = 0, 16, 32  # of seccomp_data: the call's number, and the low halves of its arguments
SOCKET = {"x86_64": 41, "aarch64": 198}[platform.machine()]
AF_NETLINK, NETLINK_NETFILTER = 16, 12

if __name__ == "__main__":
    seccomp_filter.deny([(CALL, SOCKET), (FAMILY, AF_NETLINK), (PROTOCOL, NETLINK_NETFILTER)])
    os.execvp(sys.argv[1], sys.argv[1:])

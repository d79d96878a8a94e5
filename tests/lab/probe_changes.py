"""Further ways out, which probe_takeover.py has among its own: what a program starts to be lost sight of, and changes
of the network that it finds. Started itself, it is what some of them run in a namespace that they own."""

import os
import pathlib
import socket
import struct
import sys

import probe
from probe import ORIGIN, Blocked, command, connect_command, first_that_works

HERE = pathlib.Path(__file__)
OWN_NETWORK = os.stat("/proc/self/ns/net").st_ino
AF_BLUETOOTH = 31
# A user namespace's owner has every capability in it. Root's number cannot be given one there without CAP_SETFCAP, so
# root goes in without a number, and keeps them over execve(2).
OWNER = ["unshare", "-U", "--keep-caps"] if probe.UID == 0 else ["unshare", "-Ur"]


# Lost sight of

@probe.probe("double-fork")
def double_fork():
    """Whoever watches a session or a process's children has lost this one."""
    script = "import os, socket\n" \
             "if os.fork(): os._exit(0)\n" \
             "os.setsid()\n" \
             "if os.fork(): os._exit(0)\n" \
             f"try: socket.create_connection(({ORIGIN!r}, 80), {probe.LIMIT})\n" \
             "except ConnectionResetError: pass\n" \
             "print('connected', flush=True)"
    said = command(sys.executable, "-c", script)
    # Its parents are over at once; it holds the output until it has tried. Reset is taken, as probe.tcp() has it.
    if "connected" not in said:
        raise Blocked(said)
    return said


def in_own(*options):
    return lambda: command(*OWNER, *options, *connect_command())


probe.probe("unshare-user-network")(in_own("-n"))
probe.probe("unshare-all")(in_own("-mnipuC", "--fork"))


@probe.probe("others-network")
def others_network():
    """The network namespace of any process that is to be seen, entered."""
    def enter(pid):
        if os.stat(f"/proc/{pid}/ns/net").st_ino == OWN_NETWORK:
            raise Blocked("it is this one")
        return command("nsenter", f"--net=/proc/{pid}/ns/net", *connect_command())

    pids = [entry.name for entry in pathlib.Path("/proc").glob("[0-9]*")]
    return first_that_works([(pid, lambda pid=pid: enter(pid)) for pid in pids])


# Changes of the network that is there

IP = ["link set lo down", "link del appfw0", "link set appfw0 netns 1", "addr add 203.0.113.9/24 dev appfw0",
      "route add default dev appfw0", "route add 10.9.9.0/24 dev lo", "route del local default dev lo table local",
      "link add probe0 type veth", "rule add pref 1 table 7"]
for words in IP:
    probe.probe("ip-" + words.replace(" ", "-"))(lambda words=words: command("ip", *words.split()))
    probe.probe("ip-as-owner-of-a-namespace-" + words.replace(" ", "-"))(
        lambda words=words: command(*OWNER, "ip", *words.split()))


@probe.probe("frame-by-the-second-interface")
def frame():
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind(("appfw0", 0x88B5))
        return sender.send(b"\xff" * 64)


probe.probe("af-bluetooth")(lambda: socket.socket(AF_BLUETOOTH, socket.SOCK_RAW, 1).close() or "made")

# Numbers of linux/netfilter/nfnetlink.h, nf_tables.h and linux/netlink.h.
NETLINK_NETFILTER, NF_TABLES = 12, 10
BATCH_BEGIN, BATCH_END = 16, 17
NEW_TABLE, DELETE_TABLE, TABLE_NAME = 0, 2, 1
REQUEST, ACKNOWLEDGE = 1, 4
NFPROTO_UNSPEC, NFPROTO_INET = 0, 1


def change_tables(kind, family, attributes=b""):
    """A transaction of nf_tables of one message, whose outcome the kernel acknowledges."""
    def message(kind, flags, family, resource, attributes=b""):
        body = struct.pack("!BBH", family, 0, resource) + attributes
        return struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body

    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as client:
        client.settimeout(probe.LIMIT)
        client.send(message(BATCH_BEGIN, REQUEST, 0, NF_TABLES)
                    + message(NF_TABLES << 8 | kind, REQUEST | ACKNOWLEDGE, family, 0, attributes)
                    + message(BATCH_END, REQUEST, 0, NF_TABLES))
        code, = struct.unpack_from("=i", client.recv(4096), 16)
    if code:
        raise OSError(-code, os.strerror(-code))
    return "changed"


def add_table():
    return change_tables(NEW_TABLE, NFPROTO_INET, struct.pack("=HH", 10, TABLE_NAME) + b"probe\0\0\0")


def delete_tables():
    """All that there are, what captures among them."""
    return change_tables(DELETE_TABLE, NFPROTO_UNSPEC)


probe.probe("nft-add")(add_table)
probe.probe("nft-delete-all")(delete_tables)
probe.probe("nft-as-owner-of-a-namespace")(lambda: command(*OWNER, sys.executable, HERE))


@probe.probe("own-network-changed")
def own_network_changed():
    """Routes and rules of a network of one's own are one's own to change, and lead nowhere, at times slowly."""
    script = f"ip link set lo up; ip route add local default dev lo; {sys.executable} {HERE}; exec timeout 0.5 \"$@\""
    return command(*OWNER, "-n", "sh", "-c", script, "sh", *connect_command())


if __name__ == "__main__":
    print(first_that_works([("add", add_table), ("delete all", delete_tables)]))

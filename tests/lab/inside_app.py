#!/usr/bin/python3
"""The program that asks its forwarder for the inside, in every spelling and by every protocol.

inside_app.py [SPELLING…]       prints JSON: how each of them, or of all, is answered, by protocol and by spelling
"""

import concurrent.futures
import functools
import ipaddress
import json
import os
import socket
import struct
import sys

FORWARDER = "127.100.90.50"
PORT = 8022  # where the lab's host has something to reach, on all of its addresses (bait.py)
LIMIT = 20  # seconds; only what is wrong takes any time at all
REACHED = "reached"

NAMES = [
    "localhost", "LOCALHOST", "localhost.", "x.localhost", "a.b.LocalHost.", "localhost.localdomain", "localhost4",
    "localhost6", "ip6-localhost", "ip6-loopback", "ip6-allnodes", "lab", "LAB.", "lab.local", "lab.localdomain",
    "_gateway", "_outbound", "_localdnsstub",
]
# What the kernel, libc or a gateway on the way may take for one of these addresses.
LOOPBACK = [
    "127.0.0.1", "127.0.0.1.", "127.1", "127.0.1", "127.255.255.254", "127.100.90.50", "2130706433", "0x7f000001",
    "0X7F.0.0.1", "0x7f.1", "0177.0.0.1", "017700000001", "0177.0.0x1", "0000177.1", "0", "0x0", "0.0.0.0", "0.0.0.0.",
    "::1", "0:0:0:0:0:0:0:1", "::", "::1%lo", "::ffff:127.0.0.1", "::FFFF:7f00:1", "::127.0.0.1", "::ffff:0:127.0.0.1",
    "64:ff9b::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::", "2001:0:7f00:1::",
    "2001:db8::5efe:127.0.0.1",
]
PRIVATE = [
    "10.0.0.7", "10.7", "0xa.7", "012.0.0.7", "167772167", "10.0.0.7.", "172.16.0.1", "172.31.255.254", "192.168.0.1",
    "::ffff:10.0.0.7", "64:ff9b::10.0.0.7", "2002:a00:7::1", "fd00::7", "fec0::1",
    "169.254.10.10", "169.254.169.254", "0xa9fea9fe", "2852039166", "fe80::10", "fe80::10%lab0", "::ffff:169.254.10.10",
    "100.64.0.1", "100.127.255.254", "0x64.0x40.0.1", "192.0.0.192",
    "224.0.0.1", "239.1.2.3", "255.255.255.255", "240.0.0.1", "ff02::1", "ff05::1:3",
]
# The lab's own addresses, as its world_map.py has them.
OWN = [
    "203.0.113.2", "203.0.113.2.", "203.0.28930", "3405803778", "0xcb007102", "0313.0.0161.2", "10.0.0.2",
    "169.254.10.2", "2001:db8::2", "2001:DB8:0:0::2", "fe80::2", "::ffff:203.0.113.2", "64:ff9b::203.0.113.2",
    "2002:cb00:7102::1",
]
# Folded to ASCII by whoever speaks IDNA.
FOLDED = ["１２７.0.0.1", "127。0。0。1", "①②⑦.⓪.⓪.①", "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ", "ｌocalhost"]
INSIDE = NAMES + LOOPBACK + PRIVATE + OWN + FOLDED
# No host at all, unless somebody behind the forwarder takes it for one.
NO_HOST = [
    "127.0.0.08", "127.0.0.256", "127.0.0.1.0", "0x7f.0.0.0x", "127.0x", "%31%32%37.0.0.1", "127%2e0.0.1",
    "localhost%2e", "127.0.0.1%00.test", "127.0.0.1\0.test", "localhost\0.test", "[127.0.0.1]", "[localhost]",
    "127..0.1", ".localhost", "localhost..", "127.0.0.1\t", " localhost", "127.0.0.1;.test", "127.0.0.1\\.test",
]


def address_of(text):
    """The address that is written so in the usual way, as protocols carry it; no scope."""
    try:
        return ipaddress.ip_address(text.partition("%")[0] if ":" in text else text)
    except ValueError:
        return None


def dial():
    client = socket.create_connection((FORWARDER, 1080), LIMIT)
    return client, client.makefile("rb")


def served(client, answer):
    """What an open tunnel leads to."""
    client.sendall(b"GET / HTTP/1.0\r\n\r\n")
    return REACHED if answer.read() else "connected"


def by_socks5(target, kind, command=1):
    client, answer = dial()
    with client, answer:
        client.sendall(b"\5\1\0" + struct.pack("!BBBB", 5, command, 0, kind) + target + struct.pack("!H", PORT))
        assert answer.read(2) == b"\5\0"
        reply = answer.read(10)[1]
        return reply if reply or command != 1 else served(client, answer)


def by_socks5_name(target):
    name = target.encode()
    return by_socks5(bytes([len(name)]) + name, 3)


def by_socks5_address(target):
    address = address_of(target)
    return by_socks5(address.packed, 1 if address.version == 4 else 4)


def by_resolve(target):
    """Tor's lookup; 0 would be an answer."""
    name = target.encode()
    return by_socks5(bytes([len(name)]) + name, 3, 0xF0)


def by_resolve_ptr(target):
    address = address_of(target)
    return by_socks5(address.packed, 1 if address.version == 4 else 4, 0xF1)


def by_socks4(address, name=b""):
    client, answer = dial()
    with client, answer:
        client.sendall(struct.pack("!BBH4s", 4, 1, PORT, address) + b"me\0" + name)
        reply = answer.read(8)[1]
        return reply if reply != 0x5A else served(client, answer)


def by_socks4_address(target):
    return by_socks4(address_of(target).packed)


def by_socks4a(target):
    return by_socks4(b"\0\0\0\1", target.encode() + b"\0")


def by_http(request):
    """The status, and by what right it is refused; REACHED where the bait has answered."""
    client, answer = dial()
    with client, answer:
        client.sendall(request)
        _, status, *_ = answer.readline().split()
        if request.startswith(b"CONNECT ") and status == b"200":
            while answer.readline().strip():
                pass
            return served(client, answer)
        return REACHED if b"bait" in answer.read() else int(status)


def authority(target):
    return (f"[{target}]:{PORT}" if ":" in target else f"{target}:{PORT}").encode()


def by_connect(target):
    return by_http(b"CONNECT %s HTTP/1.1\r\nHost: web.test\r\n\r\n" % authority(target))


def by_connect_without_brackets(target):
    return by_http(b"CONNECT %s:%d HTTP/1.1\r\n\r\n" % (target.encode(), PORT))


def by_request(target):
    return by_http(b"GET http://%s/ HTTP/1.1\r\nHost: web.test\r\nConnection: close\r\n\r\n" % authority(target))


def by_request_with_a_user(target):
    return by_http(b"GET http://web.test@%s/ HTTP/1.1\r\nConnection: close\r\n\r\n" % authority(target))


def by_dns(kind, target):
    """Asks as a resolver does, and then for a connection to what it got."""
    labels = [label.encode() for label in target.rstrip(".").split(".")]
    question = b"".join(bytes([len(label)]) + label for label in labels) + b"\0" + struct.pack("!HH", kind, 1)
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.settimeout(LIMIT)
        client.sendto(struct.pack("!HHHHHH", 7, 0x100, 1, 0, 0, 0) + question, (FORWARDER, 53))
        answer = client.recv(4096)
    code, count = answer[3] & 15, struct.unpack_from("!H", answer, 6)[0]
    if not count:
        return code
    length = {1: 4, 28: 16}[kind]
    return by_socks5(answer[12 + len(question):][12:12 + length], {1: 1, 28: 4}[kind])


def by_libc(target):
    """As a program does that resolves by itself: /etc/hosts and spellings of its own included."""
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(target, PORT, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return "unresolved"
    replies = {by_socks5_address(address) for address in found}
    return REACHED if REACHED in replies else max(replies, key=str)


PROTOCOLS = {
    "SOCKS5 by name": by_socks5_name, "SOCKS4a": by_socks4a, "RESOLVE": by_resolve, "CONNECT": by_connect,
    "a request": by_request, "a request with a user": by_request_with_a_user, "DNS, A": functools.partial(by_dns, 1),
    "DNS, AAAA": functools.partial(by_dns, 28), "libc": by_libc,
}
OF_ADDRESSES = {"SOCKS5 by address": by_socks5_address, "RESOLVE_PTR": by_resolve_ptr}


def ways(target):
    """The protocols that can carry it."""
    address = address_of(target)
    found = dict(PROTOCOLS)
    if address:
        found |= OF_ADDRESSES
    if address and address.version == 4:
        found["SOCKS4"] = by_socks4_address
    if address and address.version == 6:
        found["CONNECT without brackets"] = by_connect_without_brackets
    return found


def attempt(way):
    target, protocol, function = way
    try:
        return function(target)
    except (OSError, IndexError, ValueError) as error:
        return f"{type(error).__name__}: {error}"


def main():
    if not os.path.isdir("/run/appfw-lab"):
        sys.exit("inside_app: this is not the lab, and what it asks for is someone's elsewhere")
    targets = sys.argv[1:] or INSIDE + NO_HOST
    attempts = [(target, protocol, function) for target in targets for protocol, function in ways(target).items()]
    results = {}
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        for (target, protocol, _), reply in zip(attempts, pool.map(attempt, attempts)):
            results.setdefault(protocol, {})[target] = reply
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()

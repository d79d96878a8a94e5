#!/usr/bin/python3
"""The program behind a list of rules: says what it reaches, or serves whoever reaches it.

rules_app.py client PORT        prints JSON: "tcp 203.0.113.10" and its like, each with how it went; comes from
                                PORT on, each from one of its own, by which the world's observer tells whose it is
rules_app.py server PORT        answers everyone by TCP and UDP, version 4 and 6; says "ready"
"""

import asyncio
import concurrent.futures
import errno
import itertools
import json
import os
import socket
import sys

from world_map import LAB_LINK, MULTICAST, MULTICAST6

LIMIT = 1.5  # seconds for an answer; on a veth it takes microseconds
STREAM_PORT, DATAGRAM_PORT = 7, 7  # the world's echo
HOST_PORT = 8023  # what listens on the host's loopback
DATAGRAM_SINK = 9
WORLD = ["203.0.113.10", "8.8.8.8", "1.1.1.1", "9.9.9.9", "10.0.0.7", "10.0.0.9", "10.1.2.3", "169.254.10.10",
         "2001:db8::10", "2001:db8:8::8", "2001:db8:1::1", "2001:db8:9::9", "fd00::7", "fe80::10"]
LOOPBACK = ["127.0.0.1", "::1"]
GROUPS = [MULTICAST, MULTICAST6]
TARGETS = [f"{kind} {address}" for kind in ("tcp", "udp") for address in WORLD + LOOPBACK] \
    + [f"udp {group}" for group in GROUPS]


def place(address, port):
    """What connect(2) takes, and the family."""
    if ":" not in address:
        return socket.AF_INET, (address, port)
    scope = socket.if_nametoindex(LAB_LINK) if address.startswith(("fe80:", "ff")) else 0
    return socket.AF_INET6, (address, port, 0, scope)


def how(attempt):
    try:
        return attempt()
    except TimeoutError:
        return "silence"
    except OSError as error:
        return errno.errorcode[error.errno]


def by_tcp(address, port):
    family, target = place(address, HOST_PORT if address in LOOPBACK else STREAM_PORT)
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(LIMIT)
        client.bind(("", port))
        client.connect(target)
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return "answer" if client.recv(64) else "end"


def by_udp(address, port):
    if address in LOOPBACK:
        return to_itself(address)
    family, target = place(address, DATAGRAM_SINK if address in GROUPS else DATAGRAM_PORT)
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(LIMIT)
        client.bind(("", port))
        client.sendto(b"probe", target)
        if address in GROUPS:
            return "sent"
        return "answer" if client.recv(64) == b"probe" else "nonsense"


def to_itself(address):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as receiver, socket.socket(family, socket.SOCK_DGRAM) as sender:
        receiver.bind((address, 0))
        receiver.settimeout(LIMIT)
        sender.sendto(b"probe", receiver.getsockname())
        return "answer" if receiver.recv(64) == b"probe" else "nonsense"


def client(first):
    ways = {"tcp": by_tcp, "udp": by_udp}

    def attempt(target, port):
        kind, address = target.split()
        return how(lambda: ways[kind](address, port))

    with concurrent.futures.ThreadPoolExecutor(len(TARGETS)) as pool:
        json.dump(dict(zip(TARGETS, pool.map(attempt, TARGETS, itertools.count(first)))), sys.stdout)


class Answering(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, peer):
        self.transport.sendto(b"served", peer)


async def server(port):
    async def answer(reader, writer):
        writer.write(b"served")
        await writer.drain()
        writer.close()

    loop = asyncio.get_running_loop()
    for family, everywhere in (socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::"):
        await asyncio.start_server(answer, everywhere, port, family=family)
        datagrams = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        datagrams.bind((everywhere, port))
        await loop.create_datagram_endpoint(Answering, sock=datagrams)
    print("ready", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    if not os.path.isdir("/run/appfw-lab"):
        sys.exit("rules_app: this is not the lab, and the addresses it tries are someone's elsewhere")
    port = int(sys.argv[2])
    client(port) if sys.argv[1] == "client" else asyncio.run(server(port))

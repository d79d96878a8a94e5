"""The world at the other end of a lab's only wire, as tests see it.

Its network namespace, its servers and its packet capture are one process, world_daemon.py, which writes what it
sees to a log of JSON lines. A leak is a packet that arrives there and should not: `watch()` tells.
"""

import functools
import json
import os
import pathlib
import socket
import sys
import uuid

import world_map
from namespaces import network_namespace
from waiting import wait_until

CONNECT_LIMIT = 1.5  # seconds; on a veth an answer takes microseconds


class World:
    """The world of one lab."""

    def __init__(self, lab):
        self._lab = lab
        self.log = lab.directory / "world.jsonl"

    def start(self):
        """Returns when every server listens and the wire is up. Begins a new log."""
        self.log.write_bytes(b"")
        self.__dict__.pop("pid", None)
        errors = self._lab.directory / "world.err"
        daemon = [sys.executable, pathlib.Path(__file__).with_name("world_daemon.py")]
        process = self._lab.start_companion(["unshare", "--net", *daemon, str(self._lab.pid), self.log], errors)

        def ready():
            if process.poll() is not None:
                raise RuntimeError(f"the world has ended: {errors.read_text()}")
            return any(event["kind"] == "ready" for event in self.read()[0])

        wait_until(ready, 10, "the world")

    @functools.cached_property
    def pid(self):
        """The daemon's process id, by which its network namespace can be entered."""
        events, _ = self.read()
        return next(event["pid"] for event in events if event["kind"] == "ready")

    def read(self, start=0, end=None):
        """All that was logged from the byte START on, to the byte END if there is one, and the byte after it."""
        with self.log.open("rb") as log:
            log.seek(start)
            text = log.read(-1 if end is None else end - start)
        text = text[: text.rfind(b"\n") + 1]
        return [json.loads(line) for line in text.splitlines()], start + len(text)

    def watch(self):
        """`with world.watch() as w:` observes what happens in the block."""
        return Watch(self)

    def settle(self):
        """Returns when all that the lab has sent so far is in the log.

        Each processor has a queue of its own for received packets, so a marker goes through each. Twice, because
        a server may take up a connection after the marker that came with it.
        """
        for _ in range(2):
            _, start = self.read()
            tokens = set(self._send_markers())

            def arrived(kind):
                return {event["token"] for event in self.read(start)[0] if event["kind"] == kind}

            wait_until(lambda: tokens <= arrived("marker-captured"), 5, "the capture")
            wait_until(lambda: tokens <= arrived("marker-served"), 5, "the servers")

    def _send_markers(self):
        with self._socket(self._lab.pid, world_map.LAB_LINK, socket.AF_INET, socket.SOCK_DGRAM) as sender:
            processors = os.sched_getaffinity(0)
            try:
                for processor in processors:
                    os.sched_setaffinity(0, {processor})
                    token = uuid.uuid4().hex
                    sender.sendto(token.encode(), world_map.SETTLE)
                    yield token
            finally:
                os.sched_setaffinity(0, processors)

    def connect(self, src, dst, port, proto="tcp", payload=b"hello\n", timeout=CONNECT_LIMIT):
        """Sends PAYLOAD from the world's address SRC and returns the first bytes of the answer, b"" if it ends
        without any. Raises TimeoutError, ConnectionRefusedError and their like."""
        family = socket.AF_INET6 if ":" in dst else socket.AF_INET
        kind = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}[proto]
        with self._socket(self.pid, world_map.WORLD_LINK, family, kind) as client:
            client.settimeout(timeout)
            client.bind((src, 0))
            client.connect((dst, port))
            client.sendall(payload)
            return client.recv(65536)

    @staticmethod
    def _socket(pid, link, family, kind):
        """A socket in that namespace, tied to the lab's wire: it can't send anywhere else, whoever has erred."""
        with network_namespace(pid):
            made = socket.socket(family, kind)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link.encode())
        except OSError:
            made.close()
            raise
        return made


def connection_of(packet):
    return tuple(packet.get(key) for key in ("proto", "src", "sport", "dst", "dport"))


class Watch:
    """What the world has seen since the block began, up to the block's end or, inside it, to now."""

    def __init__(self, world):
        self._world = world
        self._start = 0
        self._seen = None

    def __enter__(self):
        self._world.settle()
        _, self._start = self._world.read()
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self._seen = self._read()

    def _read(self):
        if self._seen is not None:
            return self._seen
        self._world.settle()
        seen = self._world.read(self._start)[0]
        if any(event["kind"] == "lost" for event in seen):
            raise RuntimeError("the capture has lost packets")
        return seen

    def events(self, **match):
        """What the servers have logged: dicts of time, server, kind, peer and more. MATCH: fields they must have."""
        return [event for event in self._read() if "server" in event and match.items() <= event.items()]

    def packets(self, **match):
        """Every packet that came from the lab, as dicts of proto, src, sport, dst, dport, flags, length."""
        return [event for event in self._read() if event["kind"] == "packet" and match.items() <= event.items()]

    def foreign(self, allow=()):
        """The packets whose destination isn't in ALLOW: pairs of address and port, or of address and None for any.

        The lab's Tor client talks to its relays whenever it likes; that is nobody's leak. Nor is what ends a connection
        that was made before, whose first packet somebody else has had to answer for.
        """
        allowed = {*allow, *((relay, None) for relay in world_map.TOR_RELAYS)}
        found = [packet for packet in self.packets()
                 if not {(packet["dst"], packet.get("dport")), (packet["dst"], None)} & allowed]
        before = self._made_before() if found else ()
        return [packet for packet in found if packet.get("flags") == "S" or connection_of(packet) not in before]

    def _made_before(self):
        """The TCP connections whose first packet came before the block began."""
        return {connection_of(event) for event in self._world.read(0, self._start)[0]
                if event["kind"] == "packet" and event.get("flags") == "S"}

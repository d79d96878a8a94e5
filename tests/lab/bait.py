"""Services of the lab's own host that a confined program must not reach. They log each connection they get.

bait.py               serves; systemd is told when everything listens
bait.py --neighbour   just lives, with a socket to the world: a process to take over
"""

import asyncio
import json
import os
import pathlib
import pwd
import signal
import socket
import sys
import time

LOG = pathlib.Path("/run/appfw-lab/bait.jsonl")
STREAMS = [("0.0.0.0", 8022), ("::", 8022), ("127.0.0.1", 8023), ("::1", 8023)]
DATAGRAMS = STREAMS[:2]
UNIX = {"abstract": "\0appfw-lab", "docker": "/run/docker.sock", "ssh-agent": "/tmp/ssh-bob/agent"}
REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nbait\n"


def log(server, **fields):
    with LOG.open("a") as file:
        file.write(json.dumps({"time": time.time(), "server": server, **fields}) + "\n")


def handler(server):
    async def handle(reader, writer):
        # An IP peer is an address; a Unix one is nobody that could be told.
        log(server, peer=str(writer.get_extra_info("peername")))
        writer.write(REPLY)
        try:
            await writer.drain()
            await reader.read(1)
        except OSError:
            pass
        writer.close()

    return handle


class Datagrams(asyncio.DatagramProtocol):
    """Sends back what comes."""

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, peer):
        log("datagrams", peer=str(peer))
        self.transport.sendto(data, peer)


def datagram_socket(address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    made.bind((address, port))
    return made


async def serve():
    LOG.touch()
    for address, port in STREAMS:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        await asyncio.start_server(handler(f"{address}:{port}"), address, port, family=family)
    for place in DATAGRAMS:
        await asyncio.get_running_loop().create_datagram_endpoint(Datagrams, sock=datagram_socket(*place))
    for server, path in UNIX.items():
        if not path.startswith("\0"):
            os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        await asyncio.start_unix_server(handler(server), path)
    os.chmod(UNIX["docker"], 0o666)
    bob = pwd.getpwnam("bob")
    for path in UNIX["ssh-agent"], os.path.dirname(UNIX["ssh-agent"]):
        os.chown(path, bob.pw_uid, bob.pw_gid)
    tell_systemd(b"READY=1")
    await asyncio.Event().wait()


def tell_systemd(state):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(state, os.environ["NOTIFY_SOCKET"])


def neighbour():
    unconfined = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    unconfined.bind(("0.0.0.0", 0))
    os.chdir("/")
    signal.pause()


if __name__ == "__main__":
    neighbour() if "--neighbour" in sys.argv else asyncio.run(serve())

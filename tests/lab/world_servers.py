"""The world's HTTP, HTTPS, echo, DNS and multicast servers. They log each request, and whom it reached."""

import asyncio
import collections
import functools
import ipaddress
import pathlib
import socket
import ssl
import struct

import world_map

STORE = pathlib.Path(__file__).resolve().parents[2] / "target/lab"
CERTIFICATE = STORE / "ca/world.pem"
FILES = STORE / "web"  # a git repository to clone
DNS_TYPES = {1: "A", 28: "AAAA", 12: "PTR", 65: "HTTPS"}
NO_ERROR, NAME_ERROR = 0, 3

hosts_served = set()
flips = collections.Counter()


async def start(log):
    """Returns when all of them listen."""
    for family, everywhere in (socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::"):
        await serve(http, log, "http", everywhere, 80, family)
        await serve(http, log, "https", everywhere, 443, family, tls())
        await serve(echo, log, "echo", everywhere, 7, family)
        await serve(dns_stream, log, "dns", everywhere, 53, family, names=world_map.NAMES)
    # A datagram is answered from the address it was sent to, so each address has its own socket.
    for address in world_map.plain(world_map.ON_LINK + world_map.ROUTED):
        await _listen(Echo(log, "udp-echo", address), address, 7)
        await _listen(Datagrams(log, "udp-sink", address), address, 9)
        await _listen(Dns(log, "dns", address, world_map.NAMES), address, 53)
    await _listen(Dns(log, "exit-dns", world_map.DNS, world_map.EXIT_NAMES), *world_map.EXIT_DNS)
    await _listen(Marker(log), *world_map.SETTLE)
    await _join_multicast(log)


async def serve(handler, log, server, address, port, family, context=None, **more):
    handle = functools.partial(_handled, handler, log, server, more)
    await asyncio.start_server(handle, address, port, family=family, ssl=context)


async def _handled(handler, log, server, more, reader, writer):
    at, peer = writer.get_extra_info("sockname"), writer.get_extra_info("peername")
    here = {"server": server, "at": at[0], "port": at[1], "peer": peer[0], "peer_port": peer[1]}
    log("accept", **here)
    try:
        await handler(functools.partial(log, **here), reader, writer, **more)
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        pass  # the client is gone or talks nonsense: its own business
    finally:
        writer.close()


def tls():
    """The world's certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


# Streams

async def read_head(reader):
    """An HTTP message's first line, as its words, and its fields with names in lower case."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip().split("\r\n")
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return first.split(), fields


async def http(log, reader, writer):
    """Says which address was reached and who came; /bytes/N sends N zero bytes, /repository.git/ has a git repository.
    Keeps the connection."""
    while True:
        (method, target, version), fields = await read_head(reader)
        log("request", method=method, target=target, host=fields.get("host"), fields=fields)
        hosts_served.add(fields.get("host"))
        await reader.readexactly(int(fields.get("content-length", 0)))
        if target.startswith("/bytes/"):
            length = int(target.removeprefix("/bytes/"))
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n".encode())
            while length > 0:
                writer.write(bytes(min(length, 65536)))
                length -= 65536
                await writer.drain()
        elif target.startswith("/repository.git/"):
            answer_with_file(writer, target.partition("?")[0])
        else:
            at, peer = writer.get_extra_info("sockname")[0], writer.get_extra_info("peername")[0]
            body = f"world {at} sees {peer}\n".encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        # RFC 9112, section 9.3: an HTTP/1.0 client reads to the end.
        if fields.get("connection", "keep-alive" if version == "HTTP/1.1" else "close").lower() == "close":
            return


def answer_with_file(writer, target):
    """The file of that name below FILES."""
    path = FILES.joinpath(target[1:]).resolve()
    if not path.is_file() or FILES not in path.parents:
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        return
    body = path.read_bytes()
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


async def echo(log, reader, writer):
    """Sends back what comes."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def dns_stream(log, reader, writer, names):
    """DNS over TCP."""
    while True:
        length, = struct.unpack("!H", await reader.readexactly(2))
        reply = answer(await reader.readexactly(length), names, log)
        if reply is None:
            continue
        writer.write(struct.pack("!H", len(reply)) + reply)


# Datagrams

class Datagrams(asyncio.DatagramProtocol):
    """Logs each datagram; heirs answer."""

    def __init__(self, log, server, address):
        self.log = functools.partial(log, server=server, at=address)

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, peer):
        self.log("datagram", peer=peer[0], peer_port=peer[1], length=len(data))
        self.reply(data, peer)

    def reply(self, data, peer):
        """Nothing, here."""


class Echo(Datagrams):
    def reply(self, data, peer):
        self.transport.sendto(data, peer)


class Marker(asyncio.DatagramProtocol):
    """Where World.settle() sends to. Not a server whose events anyone asks for."""

    def __init__(self, log):
        self.log = log

    def datagram_received(self, data, peer):
        self.log("marker-served", token=data.decode())


class Dns(Datagrams):
    def __init__(self, log, server, address, names):
        super().__init__(log, server, address)
        self.names = names

    def reply(self, data, peer):
        log = functools.partial(self.log, peer=peer[0], peer_port=peer[1])
        if reply := answer(data, self.names, log):
            self.transport.sendto(reply, peer)


async def _listen(protocol, address, port):
    scope = socket.if_nametoindex(world_map.WORLD_LINK) if address.startswith("fe80") else 0
    where = (address, port, 0, scope) if ":" in address else (address, port)
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    listener.setblocking(False)
    listener.bind(where)
    await asyncio.get_running_loop().create_datagram_endpoint(lambda: protocol, sock=listener)


async def _join_multicast(log):
    link = socket.if_nametoindex(world_map.WORLD_LINK)
    for group in world_map.MULTICAST, world_map.MULTICAST6:
        protocol = Datagrams(log, "multicast", group)
        await _listen(protocol, group, 9)
        member = protocol.transport.get_extra_info("socket")
        packed = ipaddress.ip_address(group).packed
        if ":" in group:
            member.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, packed + struct.pack("i", link))
        else:
            member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, struct.pack("4s4si", packed, bytes(4), link))


# DNS

def answer(query, names, log):
    """The reply to one question, if it gets one. Letter case is kept and ignored: resolvers randomise it against
    forgers."""
    identifier, = struct.unpack_from("!H", query)
    labels, offset = [], 12
    while length := query[offset]:
        labels.append(query[offset + 1 : offset + 1 + length].decode("latin-1"))
        offset += 1 + length
    kind, = struct.unpack_from("!H", query, offset + 1)
    question = query[12 : offset + 5]
    name = ".".join(labels).lower()
    log("query", name=name, type=DNS_TYPES.get(kind, str(kind)))
    if name.endswith(world_map.UNANSWERED):
        return None
    found = addresses_now(name, kind, names)
    addresses = [ipaddress.ip_address(address) for address in found or []]
    records = [address.packed for address in addresses if kind == {4: 1, 6: 28}[address.version]]
    # The name as a pointer to the question, class IN, no time to live: nothing is cached between tests.
    body = b"".join(struct.pack("!HHHIH", 0xC00C, kind, 1, 0, len(packed)) + packed for packed in records)
    code = NAME_ERROR if found is None else NO_ERROR
    return struct.pack("!HHHHHH", identifier, 0x8580 | code, 1, len(records), 0, 0) + question + body


def addresses_now(name, kind, names):
    """Where a name leads at this moment; None if there is no such name."""
    if name in world_map.REBOUND:
        return world_map.REBOUND[name][name in hosts_served]
    if name in world_map.FLIPPING:
        flips[name, kind] += 1
        return world_map.FLIPPING[name][1 - flips[name, kind] % 2]
    return names.get(name)

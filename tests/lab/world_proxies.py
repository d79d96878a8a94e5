"""The upstream proxies: SOCKS5, HTTP and HTTPS, each without and with a password, SOCKS4a, and what is none.

They resolve names by the world's own table, never by a resolver, and log whether they were given a name or an
address.
"""

import asyncio
import base64
import ipaddress
import socket
import struct

import world_map
from world_servers import read_head, serve, tls

SOCKS5 = 5
NO_PASSWORD, PASSWORD, NONE_SUITS = 0, 2, 255
CONNECT, UDP_ASSOCIATE = 1, 3
V4, NAME, V6 = 1, 3, 4
SUCCEEDED, UNREACHABLE, REFUSED, NO_SUCH_COMMAND = 0, 4, 5, 7


async def start(log):
    """Returns when all of them listen."""
    def here(handler, server, port, context=None, **more):
        return serve(handler, log, server, world_map.UPSTREAM, port, socket.AF_INET, context, **more)

    password = world_map.PASSWORD
    await here(socks, "socks5", 1080, secret=None)
    await here(socks, "socks5-password", 1081, secret=password)
    await here(socks4a, "socks4a", 1082)
    await here(http_proxy, "http-proxy", 3128, secret=None)
    await here(http_proxy, "http-proxy-password", 3129, secret=password)
    await here(http_proxy, "https-proxy", 3130, tls(), secret=None)
    await here(http_proxy, "https-proxy-password", 3131, tls(), secret=password)
    await here(garbage, "garbage", 1090)
    await here(hang_up, "hang-up", 1091)
    await here(hang, "hang", 1092)


async def _dial(host, port):
    """Connects to a name of the table, or to an address."""
    return await asyncio.open_connection(_address(host), port)


def _address(host):
    """Of a name of the table, or the address that it is."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        if host not in world_map.NAMES:
            raise OSError(f"no such name: {host}") from None
        return world_map.NAMES[host][0]


def _requested(host, port):
    """How a destination is logged: `name` or `ip`, never both."""
    try:
        return {"ip": str(ipaddress.ip_address(host)), "name": None, "dport": port}
    except ValueError:
        return {"ip": None, "name": host, "dport": port}


async def _relay(reader, writer, far_reader, far_writer):
    async def copy(source, sink):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
        # Under TLS there is no half of an end.
        sink.write_eof() if sink.can_write_eof() else sink.close()

    try:
        await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))
    finally:
        far_writer.close()


# SOCKS5

async def socks(log, reader, writer, secret):
    _, count = await reader.readexactly(2)
    offered = await reader.readexactly(count)
    method = PASSWORD if secret or PASSWORD in offered and NO_PASSWORD not in offered else NO_PASSWORD
    if method not in offered:
        log("refused", methods=list(offered))
        writer.write(bytes([SOCKS5, NONE_SUITS]))
        return
    writer.write(bytes([SOCKS5, method]))
    auth = None
    if method == PASSWORD:
        auth = await _read_password(reader)
        right = not secret or tuple(auth) == secret
        writer.write(bytes([1, 0 if right else 1]))
        if not right:
            log("refused", auth=auth)
            return
    _, command, _, kind = await reader.readexactly(4)
    host = await _read_host(reader, kind)
    port, = struct.unpack("!H", await reader.readexactly(2))
    log("socks", command=command, auth=auth, **_requested(host, port))
    if command == UDP_ASSOCIATE:
        await _associate(log, reader, writer)
        return
    if command != CONNECT:
        writer.write(_socks_reply(NO_SUCH_COMMAND))
        return
    try:
        far = await _dial(host, port)
    except OSError as error:
        writer.write(_socks_reply(REFUSED if isinstance(error, ConnectionRefusedError) else UNREACHABLE))
        return
    writer.write(_socks_reply(SUCCEEDED))
    await _relay(reader, writer, *far)


async def _read_password(reader):
    async def text():
        length, = await reader.readexactly(1)
        return (await reader.readexactly(length)).decode()

    await reader.readexactly(1)
    return [await text(), await text()]


async def _read_host(reader, kind):
    if kind == NAME:
        length, = await reader.readexactly(1)
        return (await reader.readexactly(length)).decode()
    return str(ipaddress.ip_address(await reader.readexactly({V4: 4, V6: 16}[kind])))


def _socks_reply(code, port=0):
    return struct.pack("!BBBB4sH", SOCKS5, code, 0, V4, bytes(4), port)


async def _associate(log, reader, writer):
    """Carries datagrams as long as the connection lives. Their answers say by address whom they are from."""
    loop = asyncio.get_running_loop()
    near = _Datagrams()
    far = {family: _Datagrams() for family in (socket.AF_INET, socket.AF_INET6)}
    client = None

    def there(data, source):
        nonlocal client
        client = source
        if data[2] == 0:
            host, port, payload = _read_datagram(data)
            log("socks-datagram", length=len(payload), **_requested(host, port))
            address = _address(host)
            far[socket.AF_INET6 if ":" in address else socket.AF_INET].transport.sendto(payload, (address, port))

    def back(data, source):
        packed = ipaddress.ip_address(source[0]).packed
        header = bytes([0, 0, 0, V4 if len(packed) == 4 else V6]) + packed + struct.pack("!H", source[1])
        near.transport.sendto(header + data, client)

    near.received = there
    await loop.create_datagram_endpoint(lambda: near, (world_map.UPSTREAM, 0))
    for family, protocol in far.items():
        protocol.received = back
        await loop.create_datagram_endpoint(lambda: protocol, ("::" if family == socket.AF_INET6 else "0.0.0.0", 0))
    try:
        writer.write(_socks_reply(SUCCEEDED, near.transport.get_extra_info("sockname")[1]))
        while await reader.read(64):
            pass
    finally:
        for protocol in near, *far.values():
            protocol.transport.close()


class _Datagrams(asyncio.DatagramProtocol):
    """Hands each datagram to `received`."""

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, source):
        self.received(data, source)


def _read_datagram(data):
    """Where it goes, and the payload."""
    kind, rest = data[3], data[4:]
    if kind == NAME:
        host, rest = rest[1:1 + rest[0]].decode(), rest[1 + rest[0]:]
    else:
        length = {V4: 4, V6: 16}[kind]
        host, rest = str(ipaddress.ip_address(rest[:length])), rest[length:]
    port, = struct.unpack_from("!H", rest)
    return host, port, rest[2:]


# SOCKS4a

async def socks4a(log, reader, writer):
    async def text():
        return (await reader.readuntil(b"\0"))[:-1].decode()

    _, command, port, address = struct.unpack("!BBH4s", await reader.readexactly(8))
    user = await text()
    host = await text() if address[:3] == bytes(3) else str(ipaddress.ip_address(address))
    log("socks", command=command, auth=user, **_requested(host, port))
    try:
        far = await _dial(host, port)
    except OSError:
        writer.write(b"\0\x5b" + bytes(6))
        return
    writer.write(b"\0\x5a" + bytes(6))
    await _relay(reader, writer, *far)


# HTTP

async def http_proxy(log, reader, writer, secret):
    (method, target, version), fields = await read_head(reader)
    auth = fields.get("proxy-authorization")
    wanted = secret and "Basic " + base64.b64encode(":".join(secret).encode()).decode()
    host, port, path = _destination(method, target)
    right = not wanted or auth == wanted
    log("http" if right else "refused", method=method, target=target, auth=auth, host=fields.get("host"),
        **_requested(host, port))
    if not right:
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n"
                     b"Proxy-Authenticate: Basic realm=lab\r\nContent-Length: 0\r\n\r\n")
        return
    try:
        far_reader, far_writer = await _dial(host, port)
    except OSError:
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
        return
    if method == "CONNECT":
        writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
    else:
        # One request a connection, so that each is logged.
        kept = {name: value for name, value in fields.items() if name not in ("proxy-authorization", "connection")}
        lines = [f"{method} {path} {version}", *(f"{name}: {value}" for name, value in kept.items())]
        far_writer.write("\r\n".join([*lines, "connection: close", "", ""]).encode("latin-1"))
    await _relay(reader, writer, far_reader, far_writer)


def _destination(method, target):
    """Host, port and path of `host:port` or `http://host:port/path`."""
    authority, slash, path = target.removeprefix("http://").partition("/")
    host, _, port = authority.rpartition(":") if authority[-1:] != "]" and ":" in authority else (authority, "", "")
    return host.strip("[]"), int(port or (443 if method == "CONNECT" else 80)), slash + path or "/"


# None

async def garbage(log, reader, writer):
    await reader.read(1)
    writer.write(b"x" * 100_000)
    await writer.drain()


async def hang_up(log, reader, writer):
    await reader.read(1)


async def hang(log, reader, writer):
    await reader.read()

"""What a program does that speaks SOCKS5's UDP ASSOCIATE. Prints JSON: the reply's code, and from where each answer
says that it is; null where none came.

udp_app.py TARGET…      a target is HOST/PORT: a name, an address, or =NAME, which the program resolves first;
                        with ! before it, no answer is waited for
"""

import ipaddress
import json
import os
import socket
import struct
import sys

LIMIT = 5  # seconds for an answer; on a veth it takes microseconds
REST = 0.5  # for one that should not come
V4, NAME, V6 = 1, 3, 4


def associate(forwarder):
    """The connection, the reply's code, and where datagrams are to go."""
    control = socket.create_connection(forwarder, timeout=20)
    control.sendall(b"\5\1\0" b"\5\3\0\1\0\0\0\0\0\0")
    reply = b""
    while len(reply) < 12:
        reply += control.recv(12 - len(reply))
    return control, reply[3], (str(ipaddress.ip_address(reply[6:10])), *struct.unpack("!H", reply[10:]))


def header(host, port):
    try:
        packed = ipaddress.ip_address(host).packed
        return bytes([0, 0, 0, V4 if len(packed) == 4 else V6]) + packed + struct.pack("!H", port)
    except ValueError:
        name = host.encode()
        return bytes([0, 0, 0, NAME, len(name)]) + name + struct.pack("!H", port)


def source(datagram):
    """Whom a datagram is from, and its payload."""
    length = {V4: 4, V6: 16}[datagram[3]]
    port, = struct.unpack_from("!H", datagram, 4 + length)
    return f"{ipaddress.ip_address(datagram[4:4 + length])}/{port}", datagram[6 + length:]


def resolved(host):
    return socket.getaddrinfo(host[1:], None, socket.AF_INET)[0][4][0] if host.startswith("=") else host


def exchange(client, relay, targets):
    """Sends to one target after the other. Waits for an answer of each, and for those that should have none at the
    end, when they have had longer than the others."""
    answers = dict.fromkeys(targets)

    def receive(limit, wanted=None):
        client.settimeout(limit)
        try:
            while wanted is None or answers[wanted] is None:
                datagram, sender = client.recvfrom(65536)
                assert sender == relay, sender
                who, payload = source(datagram)
                answers[targets[int(payload)]] = who
        except TimeoutError:
            pass

    for number, target in enumerate(targets):
        host, _, port = target.removeprefix("!").rpartition("/")
        client.sendto(header(resolved(host), int(port)) + str(number).encode(), relay)
        if not target.startswith("!"):
            receive(LIMIT, target)
    receive(REST)
    return answers


def main():
    host, _, port = os.environ["http_proxy"].removeprefix("http://").rpartition(":")
    control, code, relay = associate((host, int(port)))
    answers = {}
    if code == 0:
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            answers = exchange(client, relay, sys.argv[1:])
    print(json.dumps({"code": code, "answers": answers}))
    control.close()


if __name__ == "__main__":
    main()

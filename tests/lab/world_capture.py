"""Records every packet that the lab sends, at the world's end of the wire."""

import ipaddress
import socket
import struct

import world_map

ETH_P_ALL = 3
SOL_PACKET, PACKET_STATISTICS, SO_RCVBUFFORCE = 263, 6, 33
BUFFER = 32 << 20  # bytes; a burst waits here while Python writes lines
HEADERS = 256  # bytes of a packet that are looked at

IPV4, ARP, IPV6 = 0x0800, 0x0806, 0x86DD
PROTOCOLS = {1: "icmp", 2: "igmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp"}
TCP_FLAGS = "FSRPAU"
# Listener reports and neighbour discovery: what the kernel sends so that the wire works.
ICMPV6_NOISE = {130, 131, 132, 133, 134, 135, 136, 137, 143}


def tap():
    """A socket that receives, from now on, all that passes the world's end of the wire."""
    receiver = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
    receiver.bind((world_map.WORLD_LINK, ETH_P_ALL))
    return receiver


def record(receiver, log):
    """Never returns."""
    while True:
        frame, (_, _, direction, _, _) = receiver.recvfrom(HEADERS)
        if direction == socket.PACKET_OUTGOING:
            continue
        packet = parse(frame)
        if packet is None:
            continue
        if (packet["dst"], packet.get("dport")) == world_map.SETTLE:
            _, lost = struct.unpack("II", receiver.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
            if lost:
                log("lost", packets=lost)
            log("marker-captured", token=frame[42:74].decode())
        else:
            log("packet", **packet)


def parse(frame):
    """What a frame is, None for the noise of a working wire."""
    kind, = struct.unpack_from("!H", frame, 12)
    if kind == ARP:
        return None
    if kind == IPV4:
        length, = struct.unpack_from("!H", frame, 16)
        protocol, body = frame[23], 14 + (frame[14] & 15) * 4
        source, destination = frame[26:30], frame[30:34]
    elif kind == IPV6:
        length, protocol, body = 40 + struct.unpack_from("!H", frame, 18)[0], frame[20], 54
        source, destination = frame[22:38], frame[38:54]
        if protocol == 0:  # hop-by-hop options
            protocol, body = frame[body], body + 8 + 8 * frame[body + 1]
    else:
        return {"proto": f"ether-{kind:#06x}", "src": frame[6:12].hex(":"), "dst": frame[:6].hex(":"),
                "length": len(frame)}
    packet = {
        "proto": PROTOCOLS.get(protocol, str(protocol)),
        "src": str(ipaddress.ip_address(source)),
        "dst": str(ipaddress.ip_address(destination)),
        "length": length,
    }
    if packet["proto"] == "igmp" or packet["proto"] == "icmpv6" and frame[body] in ICMPV6_NOISE:
        return None
    if packet["proto"] in ("tcp", "udp") and len(frame) >= body + 4:
        packet["sport"], packet["dport"] = struct.unpack_from("!HH", frame, body)
    if packet["proto"] == "tcp" and len(frame) > body + 13:
        packet["flags"] = "".join(name for bit, name in enumerate(TCP_FLAGS) if frame[body + 13] >> bit & 1)
    return packet

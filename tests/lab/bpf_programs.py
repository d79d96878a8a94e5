"""BPF programs that drop packets, made and pinned by bpf(2) itself: no compiler is needed."""

import ctypes
import ipaddress
import os
import struct

from deny_bpf import BPF

# enum bpf_cmd, linux/bpf.h
MAP_CREATE, PROG_LOAD, OBJ_PIN, PROG_DETACH, PROG_GET_FD_BY_ID, PROG_QUERY = 0, 5, 6, 9, 13, 16
SOCKET_FILTER, CGROUP_SKB = 1, 8  # enum bpf_prog_type
INGRESS, EGRESS = 0, 1  # enum bpf_attach_type
ARRAY = 2  # enum bpf_map_type
IPV4, IPV6 = 0x0800, 0x86DD
SOURCE, NEXT, DESTINATION_PORT = "source", "next", "destination port"
# Where a packet without options has them, by its family.
PLACES = {(IPV4, SOURCE): 12, (IPV6, SOURCE): 8, (IPV4, NEXT): 9, (IPV6, NEXT): 6,
          (IPV4, DESTINATION_PORT): 22, (IPV6, DESTINATION_PORT): 42}
LOG = ctypes.create_string_buffer(1 << 16)
_libc = ctypes.CDLL(None, use_errno=True)


def bpf(command, attributes):
    """bpf(2); what it wrote to ATTRIBUTES is in the second value."""
    buffer = ctypes.create_string_buffer(attributes, max(len(attributes), 64))
    result = _libc.syscall(BPF, command, buffer, len(buffer))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"bpf: {os.strerror(code)}: {LOG.value.decode()}")
    return result, buffer.raw


def instruction(code, to=0, of=0, offset=0, value=0):
    return struct.pack("=BBhI", code, of << 4 | to, offset, value & 0xFFFFFFFF)


MOVE, SET, ADD, EXIT, CALL = 0xBF, 0xB7, 0x07, 0x95, 0x85
UNLESS = 0x55  # if the register isn't this number, go on after as many instructions as the offset says
LOAD_WORD = {1: 0x71, 2: 0x69, 4: 0x61}  # by its size
LOAD_BYTES = 26  # bpf_skb_load_bytes()
PROTOCOL = 16  # the offset in struct __sk_buff


def drops_packets(rules):
    """A program that drops every packet which one of RULES holds for, and lets the rest pass. A rule: a family, and
    pairs of a place and the bytes that are there."""
    code = instruction(MOVE, 6, 1)
    for family, fields in rules:
        words = [(PLACES[family, place] + start, data[start : start + 4])
                 for place, data in fields for start in range(0, len(data), 4)]
        # From its end on, as each test leads past what comes after it.
        rest = instruction(SET, 0) + instruction(EXIT)
        for offset, data in reversed(words):
            test = b"".join([instruction(MOVE, 1, 6), instruction(SET, 2, value=offset), instruction(MOVE, 3, 10),
                             instruction(ADD, 3, value=-8), instruction(SET, 4, value=len(data)),
                             instruction(CALL, value=LOAD_BYTES)])
            loaded = instruction(LOAD_WORD[len(data)], 0, 10, -8)
            # 32 bits are compared as a number with a sign.
            compared = compare(0, int.from_bytes(data, "little"), len(rest) // 8)
            unread = instruction(UNLESS, 0, 0, (len(loaded + compared + rest)) // 8, 0)
            rest = test + unread + loaded + compared + rest
        kind = struct.unpack("<H", struct.pack(">H", family))[0]
        code += instruction(LOAD_WORD[4], 7, 6, PROTOCOL) + compare(7, kind, len(rest) // 8) + rest
    return code + instruction(SET, 0, value=1) + instruction(EXIT)


def compare(register, number, beyond):
    """Goes on BEYOND as many instructions unless the register is this number."""
    wide = struct.pack("=BBhIBBhI", 0x18, 8, 0, number, 0, 0, 0, 0)  # all 64 bits of register 8
    return wide + instruction(0x5D, register, 8, beyond)


NOTHING = instruction(SET, 0) + instruction(EXIT)


def datagrams_to(port):
    """Rules for UDP to that port, of both families."""
    return [(family, [(NEXT, bytes([17])), (DESTINATION_PORT, struct.pack("!H", port))]) for family in (IPV4, IPV6)]


def streams_to(port):
    return [(family, [(NEXT, bytes([6])), (DESTINATION_PORT, struct.pack("!H", port))]) for family in (IPV4, IPV6)]


def streams_from(*addresses):
    """Rules for TCP from these addresses."""
    packed = [ipaddress.ip_address(address).packed for address in addresses]
    return [(IPV4 if len(address) == 4 else IPV6, [(NEXT, bytes([6])), (SOURCE, address)]) for address in packed]


def pin(path, descriptor):
    name = ctypes.create_string_buffer(os.fsencode(path))
    bpf(OBJ_PIN, struct.pack("QII", ctypes.addressof(name), descriptor, 0))
    os.close(descriptor)


def load(code, kind=CGROUP_SKB):
    """A descriptor of the program."""
    text, licence = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(b"GPL")
    LOG.value = b""
    attributes = struct.pack("IIQQIIQI", kind, len(code) // 8, ctypes.addressof(text), ctypes.addressof(licence), 1,
                             len(LOG), ctypes.addressof(LOG), 0)
    return bpf(PROG_LOAD, attributes)[0]


def make_map():
    return bpf(MAP_CREATE, struct.pack("IIIII", ARRAY, 4, 4, 1, 0))[0]


def attached(cgroup, where):
    """The numbers of the programs that are attached to a cgroup itself."""
    numbers = (ctypes.c_uint32 * 64)()
    directory = os.open(cgroup, os.O_RDONLY)
    try:
        _, answer = bpf(PROG_QUERY, struct.pack("IIIIQI", directory, where, 0, 0, ctypes.addressof(numbers), 64))
    finally:
        os.close(directory)
    return numbers[: struct.unpack_from("I", answer, 24)[0]]


def by_number(number):
    """A descriptor of that program."""
    return bpf(PROG_GET_FD_BY_ID, struct.pack("III", number, 0, 0))[0]


def number(program):
    """The number of the program that this is a descriptor of."""
    with open(f"/proc/self/fdinfo/{program}") as info:
        return next(int(line.split()[1]) for line in info if line.startswith("prog_id:"))


def detach(cgroup, where, program):
    directory = os.open(cgroup, os.O_RDONLY)
    try:
        bpf(PROG_DETACH, struct.pack("IIII", directory, program, where, 0))
    finally:
        os.close(directory)

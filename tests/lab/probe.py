#!/usr/bin/python3
"""Tries ways out of a confinement. Runs as the confined program, with nothing but Python's standard library.

    probe.py all | NAME… [--json]       a NAME may end in * for all that start so
    probe.py --list

Each probe ends as
    reached   it got out, or got hold of something that leads out
    blocked   it did not
    error     it could not be tried here: something it needs is not there
What leaves without an answer is for the world to see (world.py); "blocked" by itself does not prove that nothing left.
"""

import argparse
import concurrent.futures
import ctypes
import fnmatch
import ipaddress
import json
import os
import pathlib
import shutil
import socket
import stat
import struct
import subprocess
import sys
import tempfile

# Read before anything here can have opened a descriptor. The listing's own is closed by now.
INHERITED = [number for number in map(int, os.listdir("/proc/self/fd")) if os.path.exists(f"/proc/self/fd/{number}")]

ORIGIN, ORIGIN6 = "203.0.113.10", "2001:db8::10"
HOST, HOST6 = "203.0.113.2", "2001:db8::2"  # the lab's own addresses
NAME = "web.test"
CONNECT = pathlib.Path(__file__).resolve().parents[2] / "target/lab/connect"
LIMIT = 1.5  # seconds for an answer
COMMAND_LIMIT = 8  # seconds for a program
UID = os.getuid()
RUNTIME = f"/run/user/{UID}"

libc = ctypes.CDLL(None, use_errno=True)
SYS_PIDFD_GETFD, SYS_IO_URING_SETUP = 438, 425  # the same on every architecture
PTRACE_SEIZE = 0x4206

probes = {}


class Blocked(Exception):
    """The way is closed."""


class NotHere(Exception):
    """There is no such way on this machine, confined or not."""


def probe(name):
    """Registers a probe: it returns what it reached, or raises Blocked, OSError (blocked too) or NotHere."""
    def register(function):
        probes[name] = function
        return function
    return register


def attempt(name):
    try:
        outcome, detail = "reached", probes[name]()
    except NotHere as error:
        outcome, detail = "error", str(error)
    except (Blocked, OSError) as error:
        outcome, detail = "blocked", f"{type(error).__name__}: {error}"
    except Exception as error:  # a fault of the probe's: must not pass for a closed way
        outcome, detail = "error", repr(error)
    return {"name": name, "outcome": outcome, "detail": str(detail)}


def first_that_works(ways):
    """Calls each (label, function); the first that does not fail is what was reached."""
    failures = []
    for label, way in ways:
        try:
            return f"{label}: {way()}"
        except (Blocked, OSError) as error:
            failures.append(f"{label}: {error}")
    raise Blocked("; ".join(failures) or "nothing to try it on")


def command(*argv):
    """Runs a program that gets out if it succeeds; returns its output."""
    if not shutil.which(argv[0]):
        raise NotHere(f"no {argv[0]}")
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_LIMIT)
    except subprocess.TimeoutExpired:
        raise Blocked(f"{argv[0]} took more than {COMMAND_LIMIT} s") from None
    if done.returncode != 0:
        raise Blocked(f"{argv[0]} ended with {done.returncode}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode(errors="replace").strip() or "done"


def connect_command():
    if not CONNECT.exists():
        raise NotHere(f"no {CONNECT}: run tests/lab/setup.sh")
    return [str(CONNECT), ORIGIN, "80"]


# Straight out

def family_of(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def tcp(address, port, protocol=0):
    with socket.socket(family_of(address), socket.SOCK_STREAM, protocol) as client:
        client.settimeout(LIMIT)
        try:
            client.connect((address, port))
        except ConnectionResetError:
            # Taken, and reset before this was looked at: one that nobody takes is refused (tcp(7)).
            return f"connected to {address} port {port} and reset"
        return f"connected to {address} port {port}"


def udp(address, port, payload=b"probe"):
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as client:
        client.settimeout(LIMIT)
        client.sendto(payload, (address, port))
        return f"{address} answered {len(client.recv(4096))} bytes"


def ping(address):
    v6 = ":" in address
    protocol = socket.IPPROTO_ICMPV6 if v6 else socket.IPPROTO_ICMP
    request = struct.pack("!BBHHH", 128 if v6 else 8, 0, 0, 1, 1) + b"probe!"
    if not v6:  # the kernel fills in the checksum of version 6 by itself
        total = sum(struct.unpack("!7H", request))
        request = request[:2] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + request[4:]

    def by(kind):
        with socket.socket(family_of(address), kind, protocol) as client:
            client.settimeout(LIMIT)
            client.sendto(request, (address, 0))
            return f"{len(client.recv(256))} bytes from {address}"

    return first_that_works([("datagram", lambda: by(socket.SOCK_DGRAM)), ("raw", lambda: by(socket.SOCK_RAW))])


def dns_query():
    labels = b"".join(bytes([len(label)]) + label.encode() for label in NAME.split("."))
    return struct.pack("!6H", 1, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", 1, 1)


probe("tcp-origin-v4")(lambda: tcp(ORIGIN, 80))
probe("tcp-origin-v6")(lambda: tcp(ORIGIN6, 80))
probe("tcp-origin-v4-mapped")(lambda: tcp(f"::ffff:{ORIGIN}", 80))
probe("mptcp-origin-v4")(lambda: tcp(ORIGIN, 80, protocol=262))
probe("tcp-public-v4")(lambda: tcp("8.8.8.8", 80))
probe("tcp-public-v6")(lambda: tcp("2001:db8:8::8", 80))
probe("tcp-local-network")(lambda: tcp("10.0.0.7", 80))
probe("tcp-link-local")(lambda: tcp("169.254.10.10", 80))
probe("udp-origin-v4")(lambda: udp(ORIGIN, 7))
probe("udp-origin-v6")(lambda: udp(ORIGIN6, 7))
probe("udp-public-v4")(lambda: udp("8.8.8.8", 7))
probe("icmp-origin-v4")(lambda: ping(ORIGIN))
probe("icmp-origin-v6")(lambda: ping(ORIGIN6))
probe("dns-direct-udp")(lambda: udp("203.0.113.53", 53, dns_query()))
probe("dns-direct-tcp")(lambda: tcp("203.0.113.53", 53))
probe("static-binary")(lambda: command(*connect_command()))


@probe("udp-multicast")
def udp_multicast():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"probe", ("239.1.2.3", 9))
        return "sent"


@probe("raw-ip")
def raw_ip():
    """A whole IPv4 packet of one's own making."""
    datagram = struct.pack("!4H", 9999, 9, 8, 0)
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28, 0, 0, 64, socket.IPPROTO_UDP, 0,
                         socket.inet_aton(HOST), socket.inet_aton(ORIGIN))
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sender:
        sender.sendto(header + datagram, (ORIGIN, 0))
        return "sent"


@probe("af-packet")
def af_packet():
    """An Ethernet frame past all of IP."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        for _, link in socket.if_nameindex():
            if link != "lo":
                sender.bind((link, 0x88B5))
                sender.send(b"\xff" * 6 + bytes(6) + struct.pack("!H", 0x88B5) + bytes(46))
                return f"sent by {link}"
    raise Blocked("the socket was made, but there is no link to send by")


# The host's own services

for label, address, port in [
    ("loopback-v4", "127.0.0.1", 8023),
    ("loopback-v6", "::1", 8023),
    ("loopback-v4-mapped", "::ffff:127.0.0.1", 8023),
    ("wildcard-by-127.0.0.1", "127.0.0.1", 8022),
    ("wildcard-by-::1", "::1", 8022),
    ("wildcard-by-0.0.0.0", "0.0.0.0", 8022),
    ("wildcard-by-127.100.90.50", "127.100.90.50", 8022),
    ("wildcard-by-127.100.90.51", "127.100.90.51", 8022),
    ("wildcard-by-own-v4", HOST, 8022),
    ("wildcard-by-own-v6", HOST6, 8022),
    ("resolver-stub-tcp", "127.0.0.53", 53),
]:
    probe(f"host-{label}")(lambda address=address, port=port: tcp(address, port))
probe("host-resolver-stub-udp")(lambda: udp("127.0.0.53", 53, dns_query()))


def unix(path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(LIMIT)
        client.connect(path)
        return f"connected to {path}"


def any_unix(*paths):
    return first_that_works([(path, lambda path=path: unix(path)) for path in paths])


def also_by_var_run(path):
    """Other spellings of one socket's path, for whoever hides only one."""
    return path, f"/var{path}", f"/proc/self/root{path}"


SYSTEM_BUS = "/run/dbus/system_bus_socket"
SESSION_BUS = f"{RUNTIME}/bus"
RESOLVER = "/run/systemd/resolve/io.systemd.Resolve"

probe("unix-abstract")(lambda: unix("\0appfw-lab").replace("\0", "@"))
probe("unix-docker")(lambda: any_unix(*also_by_var_run("/run/docker.sock")))
probe("unix-ssh-agent")(lambda: any_unix(*filter(None, [os.environ.get("SSH_AUTH_SOCK"), "/tmp/ssh-bob/agent"])))
probe("unix-system-bus")(lambda: any_unix(*also_by_var_run(SYSTEM_BUS)))
probe("unix-session-bus")(lambda: any_unix(SESSION_BUS, f"/proc/self/root{SESSION_BUS}"))
probe("unix-systemd-private")(lambda: any_unix(*also_by_var_run("/run/systemd/private")))
probe("unix-user-systemd-private")(lambda: unix(f"{RUNTIME}/systemd/private"))
probe("unix-nscd")(lambda: any_unix(*also_by_var_run("/run/nscd/socket")))


@probe("unix-others")
def unix_others():
    """Every other socket below /run that takes a connection. Logging and the passwd database lead nowhere."""
    harmless = ("/run/systemd/journal/", "/run/systemd/userdb/", "/run/systemd/notify", "/run/systemd/coredump")
    found = []
    for folder, _, names in os.walk("/run"):
        for path in (os.path.join(folder, name) for name in names):
            try:
                if stat.S_ISSOCK(os.stat(path).st_mode) and not path.startswith(harmless):
                    unix(path)
                    found.append(path)
            except OSError:
                continue
    if not found:
        raise Blocked("no socket takes a connection")
    return " ".join(found)


# Resolvers

@probe("getaddrinfo")
def getaddrinfo():
    # In a child that can be ended: a resolver takes its time over not answering.
    return command(sys.executable, "-c", f"import socket; print(socket.getaddrinfo({NAME!r}, 80)[0][4][0])")


@probe("resolver-varlink")
def resolver_varlink():
    request = {"method": "io.systemd.Resolve.ResolveHostname", "parameters": {"name": NAME}}

    def ask(path):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(LIMIT)
            client.connect(path)
            client.sendall(json.dumps(request).encode() + b"\0")
            answer = json.loads(client.recv(65536).rstrip(b"\0"))
        if "error" in answer:
            raise Blocked(answer["error"])
        return answer["parameters"]["addresses"]

    return first_that_works([(path, lambda path=path: ask(path)) for path in also_by_var_run(RESOLVER)])


probe("resolver-monitor")(lambda: any_unix(*also_by_var_run(f"{RESOLVER}.Monitor")))
probe("resolver-resolvectl")(lambda: command("resolvectl", "query", NAME))
probe("resolver-bus")(lambda: command(
    "busctl", "call", "--auto-start=no", "org.freedesktop.resolve1", "/org/freedesktop/resolve1",
    "org.freedesktop.resolve1.Manager", "ResolveHostname", "isit", "0", NAME, "2", "0"))


# Someone else's process

def run_unit(*options):
    return command("systemd-run", *options, "--quiet", "--no-ask-password", *connect_command())


probe("systemd-run")(lambda: run_unit("--wait", "--pipe", "--collect"))
probe("systemd-run-user")(lambda: run_unit("--user", "--wait", "--pipe", "--collect"))
probe("systemd-run-user-of-bob")(lambda: run_unit("--user", "--machine=bob@.host", "--wait", "--pipe", "--collect"))
probe("systemd-run-user-scope")(lambda: run_unit("--user", "--scope", "--collect"))


def own_cgroup(process="self"):
    lines = pathlib.Path(f"/proc/{process}/cgroup").read_text().splitlines()
    return next(line.removeprefix("0::") for line in lines if line.startswith("0::"))


def neighbours():
    """This user's processes outside of the confinement."""
    own = own_cgroup()
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if entry.stat().st_uid == UID and own_cgroup(entry.name) != own and (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    if not found:
        raise Blocked("no other process of this user is visible")
    return found


def on_neighbours(way):
    return first_that_works([(f"process {pid}", lambda pid=pid: way(pid)) for pid in neighbours()])


def check(result):
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


@probe("bus-attach-process")
def bus_attach_process():
    """AttachProcessesToUnit: out of one's own cgroup, without any polkit."""
    def attach(unit):
        with subprocess.Popen(["sleep", "60"]) as child:
            try:
                before = own_cgroup(child.pid)
                command("busctl", "call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1",
                        "org.freedesktop.systemd1.Manager", "AttachProcessesToUnit", "ssau",
                        unit, "/init.scope", "1", str(child.pid))
                after = own_cgroup(child.pid)
            finally:
                child.kill()
        if before == after:
            raise Blocked("the process has stayed where it was")
        return after

    units = [f"user@{uid}.service" for uid in dict.fromkeys([UID, 1000, 1001])]
    return first_that_works([(unit, lambda unit=unit: attach(unit)) for unit in units])


@probe("cgroup-procs")
def cgroup_procs():
    """Out of one's own cgroup by hand."""
    def move(cgroup):
        with subprocess.Popen(["sleep", "60"]) as child:
            try:
                pathlib.Path(f"/sys/fs/cgroup{cgroup}/cgroup.procs").write_text(str(child.pid))
                return own_cgroup(child.pid)
            finally:
                child.kill()

    cgroups = {own_cgroup(pid) for pid in neighbours()} | {"/init.scope"}
    return first_that_works([(cgroup, lambda cgroup=cgroup: move(cgroup)) for cgroup in cgroups])


probe("proc-root-system-bus")(lambda: on_neighbours(lambda pid: unix(f"/proc/{pid}/root{SYSTEM_BUS}")))
probe("proc-cwd-system-bus")(lambda: on_neighbours(lambda pid: unix(f"/proc/{pid}/cwd{SYSTEM_BUS}")))
probe("proc-root-session-bus")(lambda: on_neighbours(lambda pid: unix(f"/proc/{pid}/root{SESSION_BUS}")))
probe("setns")(lambda: on_neighbours(
    lambda pid: command("nsenter", f"--net=/proc/{pid}/ns/net", *connect_command())))
probe("nsenter-1")(lambda: command("nsenter", "-t", "1", "-n", *connect_command()))
# A network namespace of one's own leads nowhere; a user namespace might shake off what holds the user.
probe("unshare-user")(lambda: command("unshare", "-Ur", *connect_command()))


@probe("ptrace")
def ptrace():
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    # Seized without a stop: the neighbour goes on, and is let go when this thread ends.
    return on_neighbours(lambda pid: check(libc.ptrace(PTRACE_SEIZE, pid, None, None)))


@probe("proc-mem")
def proc_mem():
    def write(pid):
        with open(f"/proc/{pid}/mem", "r+b"):
            return "open for writing"
    return on_neighbours(write)


@probe("pidfd-getfd")
def pidfd_getfd():
    """A neighbour's network socket, taken and used."""
    def steal(pid):
        pidfd = os.pidfd_open(pid)
        try:
            for number in range(64):
                copy = libc.syscall(SYS_PIDFD_GETFD, pidfd, number, 0)
                if copy < 0:
                    continue
                if not stat.S_ISSOCK(os.fstat(copy).st_mode):
                    os.close(copy)
                    continue
                with socket.socket(fileno=copy) as stolen:
                    if (stolen.family, stolen.type) == (socket.AF_INET, socket.SOCK_DGRAM):
                        stolen.settimeout(LIMIT)
                        stolen.sendto(b"probe", (ORIGIN, 7))
                        return f"descriptor {number} brought {len(stolen.recv(64))} bytes"
        finally:
            os.close(pidfd)
        raise Blocked("no descriptor could be had that leads out")

    return on_neighbours(steal)


# What others run or read later

@probe("core-pattern")
def core_pattern():
    """A command as root at the next crash, of the whole machine: so only the value that is there is written."""
    path = pathlib.Path("/proc/sys/kernel/core_pattern")
    path.write_text(path.read_text())
    return "written"


for folder in ["/etc/systemd/system", "/run/systemd/system", "/run/systemd/transient", "/usr/lib/systemd/system",
               "/etc/cron.d", "/run/udev/rules.d"]:
    def write(folder=folder):
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe"):
            return "a file could be made"
    probe(f"write-{folder}")(write)


# Other kinds of sockets, other ways to a socket

def family(number):
    def make():
        with socket.socket(number, socket.SOCK_STREAM if number != socket.AF_ALG else socket.SOCK_SEQPACKET):
            return "made"
    return make


probe("af-vsock")(family(socket.AF_VSOCK))
probe("af-alg")(family(socket.AF_ALG))


@probe("af-others")
def af_others():
    """Any family besides unix, IP, netlink and those that have a probe of their own."""
    known = {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET, socket.AF_VSOCK,
             socket.AF_ALG}
    made = []
    for number in set(range(1, 46)) - known:
        for kind in socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET, socket.SOCK_RAW:
            try:
                socket.socket(number, kind).close()
            except OSError:
                continue
            made.append(str(number))
            break
    if not made:
        raise Blocked("none")
    return "families " + " ".join(made)


@probe("io-uring")
def io_uring():
    """Its sockets are made without socket(2), so past filters of system calls."""
    parameters = ctypes.create_string_buffer(120)
    os.close(check(libc.syscall(SYS_IO_URING_SETUP, 1, parameters)))
    return "set up"


@probe("inherited-descriptors")
def inherited_descriptors():
    def is_socket(descriptor):
        return stat.S_ISSOCK(os.fstat(descriptor).st_mode)

    found = [f"{descriptor} is {os.readlink(f'/proc/self/fd/{descriptor}')}" for descriptor in INHERITED
             if descriptor > 2 or is_socket(descriptor)]
    if not found:
        raise Blocked("only 0 to 2, and no socket")
    return "; ".join(found)


# The forwarder itself, asked to lead to the inside

INSIDE = ["127.0.0.1", "127.1", "localhost", "localhost.", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1", "2130706433",
          "0x7f.1", "0177.0.0.1", "127.100.90.50", HOST, HOST6, socket.gethostname()]
forwarder = {"address": ("127.100.90.50", 1080), "port": 8022}


def dial_forwarder():
    client = socket.create_connection(forwarder["address"], LIMIT)
    return client, client.makefile("rb")


def by_socks(target, as_address):
    if as_address:
        packed = ipaddress.ip_address(target).packed
        destination = bytes([1 if len(packed) == 4 else 4]) + packed
    else:
        destination = bytes([3, len(target)]) + target.encode()
    client, answer = dial_forwarder()
    with client, answer:
        client.sendall(b"\x05\x01\x00")
        if answer.read(2) != b"\x05\x00":
            raise Blocked("wants a password")
        client.sendall(b"\x05\x01\x00" + destination + struct.pack("!H", forwarder["port"]))
        reply = answer.read(2)
        if reply != b"\x05\x00":
            raise Blocked(f"reply {reply.hex() or 'none'}")
        return f"led to {target}"


def by_http_connect(target):
    authority = f"[{target}]:{forwarder['port']}" if ":" in target else f"{target}:{forwarder['port']}"
    client, answer = dial_forwarder()
    with client, answer:
        client.sendall(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())
        status = answer.readline().split()
        if status[1:2] != [b"200"]:
            raise Blocked(f"status {status}")
        return f"led to {target}"


def is_address(target):
    try:
        return bool(ipaddress.ip_address(target))
    except ValueError:
        return False


for target in INSIDE:
    probe(f"forwarder-socks-name-{target}")(lambda target=target: by_socks(target, as_address=False))
    probe(f"forwarder-http-{target}")(lambda target=target: by_http_connect(target))
    if is_address(target):
        probe(f"forwarder-socks-address-{target}")(lambda target=target: by_socks(target, as_address=True))


def chosen(patterns):
    wanted = []
    for pattern in patterns:
        names = [name for name in probes if pattern == "all" or name == pattern or fnmatch.fnmatchcase(name, pattern)]
        if not names:
            sys.exit(f"no probe is called {pattern}")
        wanted += names
    return list(dict.fromkeys(wanted))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--json", action="store_true", help="print one array of name, outcome, detail")
    parser.add_argument("--list", action="store_true", help="print the names")
    parser.add_argument("--forwarder", metavar="ADDRESS:PORT", help="default: 127.100.90.50:1080")
    parser.add_argument("--forwarder-port", type=int, help="which port of the inside it is asked for; default: 8022")
    options = parser.parse_args()
    if options.list:
        print("\n".join(probes))
        return
    if not os.path.isdir("/run/appfw-lab"):
        sys.exit("probe: this is not the lab, and the addresses it tries are someone's elsewhere")
    if options.forwarder:
        address, _, port = options.forwarder.rpartition(":")
        forwarder["address"] = (address, int(port))
    forwarder["port"] = options.forwarder_port or forwarder["port"]
    with concurrent.futures.ThreadPoolExecutor(max_workers=32) as pool:
        results = list(pool.map(attempt, chosen(options.names)))
    if options.json:
        json.dump(results, sys.stdout)
    else:
        for result in results:
            print("{outcome:8} {name}  {detail}".format(**result))


if __name__ == "__main__":
    main()

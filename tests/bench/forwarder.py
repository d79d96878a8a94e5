#!/usr/bin/python3
"""What the forwarder costs, beside the other proxies of this machine and no proxy at all.

    forwarder.py [--appfw FILE] [--load FILE] [--rounds N] [--scale X] [--assert | --only NAME…]

Compared are `appfw forward` with rules, bounds and logs on; the example server of fast-socks5, the library that its
SOCKS5 rests on; microsocks and dante's danted, those of them that are there. Each round takes every measure of each one,
in an order of its own, so that what slows the machine slows all; what is printed are medians over the rounds, and ratios to
fast-socks5's. What idle connections hold is measured once, at the end. As root also what capture costs: clients that
know no proxy, in a network namespace of their own, beside SOCKS through the same forwarder from there, to which its
ratio is; and, where it is there (cargo install tun2proxy --root target/tools), tun2proxy with a TUN interface, out by
fast-socks5, beside a forwarder of ours that goes out by the same. SCALE makes every measure smaller: to see that it runs, not for
figures. --assert fails where a threshold is missed.
"""

import argparse
import contextlib
import copy
import os
import pathlib
import random
import resource
import select
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests/lab"))

from namespaces import network_namespace  # noqa: E402
from waiting import wait_until  # noqa: E402

OURS, PEER = "appfw", "fast-socks5"
HTTP, CHAINED = "appfw, HTTP CONNECT", "appfw, through a hop"
CAPTURED, INSIDE = "appfw, captured", "appfw, in a namespace"
CAPTURED_HOP, TUN = "appfw, captured, hop", "tun2proxy, hop"
LIMIT = 120  # seconds for one measure

GIB = 1 << 30
BULK_BYTES, STREAMS = 2 * GIB, (1, 4)
CONNECTIONS, CLIENTS = 6000, 32
RATES = 3  # of each round the one in the middle: these differ most
TRIPS = 20000
IDLE = 4000

# What must hold at the end: a measure, its bound against the peer (or by itself), and what better means.
RATIOS = [("bulk1", ">=", 1.4), ("bulk4", ">=", 1.25), ("cpu", "<=", 0.5), ("rate", ">=", 1.0), ("trip", "<=", 1.05)]
IDLE_BYTES = 2560
BESIDE = {CAPTURED: INSIDE, CAPTURED_HOP: TUN}
# And what must hold of capture against SOCKS through the same forwarder.
TUN_RATIOS = [("bulk1", ">=", 3), ("bulk4", ">=", 3)]
CAPTURE_RATIOS = [("bulk1", ">=", 0.95), ("bulk4", ">=", 0.95), ("rate", ">=", 0.95)]

# Where the origin and the forwarder are, and where the clients are: namespaces of two machines.
ORIGIN = "203.0.113.10"
HOP = "203.0.113.20"
WORLD = f"ip link set lo up && ip address add {ORIGIN} dev lo && ip address add {HOP} dev lo"
APP = """ip link set lo up && ip route add local default dev lo src 127.100.90.50 && nft '
table ip appfw {
    chain prerouting {
        type filter hook prerouting priority mangle
        ip daddr != 127.0.0.0/8 tcp flags & (syn|ack) == syn tproxy to :1081 accept
    }
}'"""
HANDED = 200  # the first descriptor of those handed over

DANTE = """
internal: 127.0.0.1 port = {port}
external: lo
socksmethod: none
clientmethod: none
user.unprivileged: nobody
client pass {{ from: 127.0.0.0/8 to: 0.0.0.0/0 }}
socks pass {{ from: 127.0.0.0/8 to: 0.0.0.0/0 }}
"""
MEASURES = {
    "bulk1": ("bulk, 1 stream", "GiB/s", "{:.2f}"),
    "bulk4": ("bulk, 4 streams", "GiB/s", "{:.2f}"),
    "cpu": ("CPU of the proxy", "s/GiB", "{:.3f}"),
    "rate": (f"connections, {CLIENTS} at a time", "a second", "{:.0f}"),
    "trip": ("one byte there and back", "µs", "{:.1f}"),
    "idle": ("an idle connection", "bytes", "{:.0f}"),
    "alive": (f"alive of {IDLE}", "", "{:.0f}"),
}


class Proxy:
    """One that runs. Ends with the `with` block."""

    def __init__(self, name, command, port, scheme="socks5"):
        self.name = name
        self.way = f"{scheme}://127.0.0.1:{port}"
        self._command = command
        self._address = ("127.0.0.1", port)

    def __enter__(self):
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen(list(map(str, self._command)), stdin=subprocess.DEVNULL, stdout=self._log,
                                         stderr=self._log, start_new_session=True)
        return self

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, 15)
        self._process.wait()

    def listens(self):
        """Whether it does; it ends the measurement if it has ended, as when somebody else has its port."""
        if self._process.poll() is not None:
            self._log.seek(0)
            sys.exit(f"{self.name} ended with {self._process.returncode}: {self._log.read().decode(errors='replace')}")
        with socket.socket() as probe:
            return probe.connect_ex(self._address) == 0

    def processes(self):
        """It and its children: dante has many."""
        group = str(self._process.pid)  # it leads it
        for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if stat.read_text().rpartition(")")[2].split()[2] == group:
                    yield stat.parent

    def cpu(self):
        """Seconds on a processor so far, those of its children that have ended included (proc(5): stat)."""
        total = 0
        for process in self.processes():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                total += sum(map(int, (process / "stat").read_text().rpartition(")")[2].split()[11:15]))
        return total / os.sysconf("SC_CLK_TCK")

    def resident(self):
        """Bytes of memory that it has."""
        total = 0
        for process in self.processes():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                for line in (process / "status").read_text().splitlines():
                    if line.startswith("VmRSS:"):
                        total += int(line.split()[1]) * 1024
        return total


class Namespace:
    """A network namespace, made by a script that runs in it. Ends with the `with` block."""

    def __init__(self, script):
        self._script = script

    def __enter__(self):
        command = ["unshare", "--net", "sh", "-c", f"{self._script} && echo made && exec cat"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if self._process.stdout.readline() != b"made\n":
            sys.exit(f"a network namespace cannot be made: {self._script}")
        return self

    def __exit__(self, *_):
        self._process.communicate()

    def entered(self):
        """What is started in the block is in it."""
        return network_namespace(self._process.pid)


class Handed(Proxy):
    """A forwarder in `world` with sockets in `app`: the proxy's, and the one where what is captured is led to."""

    def __init__(self, command, world, app):
        super().__init__(INSIDE, command, 1080)
        self._world, self._app = world, app
        self._address = ("127.100.90.50", 1080)
        self.way = "socks5://127.100.90.50:1080"

    def __enter__(self):
        with self._app.entered():
            listeners = [socket.create_server(self._address, backlog=4096), socket.socket()]
            listeners[1].setsockopt(socket.SOL_IP, socket.IP_TRANSPARENT, 1)
            listeners[1].bind(("0.0.0.0", 1081))
            listeners[1].listen(4096)
        handed = [os.dup2(listener.fileno(), number) for number, listener in enumerate(listeners, HANDED)]
        self._log = tempfile.TemporaryFile()
        environment = {**os.environ, "LISTEN_FDS": str(len(handed)), "LISTEN_FDS_FIRST_FD": str(HANDED)}
        with self._world.entered():
            self._process = subprocess.Popen(list(map(str, self._command)), stdin=subprocess.DEVNULL, stdout=self._log,
                                             stderr=self._log, start_new_session=True, pass_fds=handed, env=environment)
        for descriptor in handed:
            os.close(descriptor)
        for listener in listeners:
            listener.close()
        return self

    def listens(self):
        """Its sockets do already: who is early waits."""
        return self._process.poll() is None


class Tun(Proxy):
    """A tun2proxy in `world` with an interface in a namespace of its own, out by the SOCKS server there."""

    def __init__(self, program, hop, world, place):
        self._pid = place / "tun.pid"
        command = [program, "--unshare", "--unshare-pidfile", self._pid, "--tun", "tun0", "--max-sessions", 8192,
                   "--proxy", hop, "--verbosity", "error", "sleep", "infinity"]
        super().__init__(TUN, command, 0)
        self._world = world

    def __enter__(self):
        with self._world.entered():
            super().__enter__()
        wait_until(self._is_apart, LIMIT, "tun2proxy's namespace")
        with self.entered():
            wait_until(lambda: "tun0" in dict(map(reversed, socket.if_nameindex())), LIMIT, "tun2proxy's interface")
            subprocess.run(["sh", "-ec", "ip link set lo up; ip address add 10.9.0.2/24 dev tun0; ip link set tun0 up; "
                                         "ip route add default dev tun0"], check=True)
        return self

    def listens(self):
        return self._process.poll() is None

    def _is_apart(self):
        """Whether what it has started, which it names first, is in the namespace already."""
        started = self._pid.exists() and self._pid.read_text().strip()
        network = "/proc/{}/ns/net".format
        return started and os.readlink(network(started)) != os.readlink(network(self._process.pid))

    def entered(self):
        """As a namespace's."""
        return network_namespace(int(self._pid.read_text()))


class Load:
    """The program that makes it: an origin at `address`, and clients; in these namespaces, if it isn't in this one."""

    def __init__(self, program, scale, address="127.0.0.1", world=None, app=None):
        self._program = program
        self._scale = scale
        self._app = app
        with world.entered() if world else contextlib.nullcontext():
            command = [program, "origin", f"{address}:0"]
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.origin = self._process.stdout.readline().strip()

    def among(self, app):
        """The same origin, for clients elsewhere."""
        other = copy.copy(self)
        other._app = app
        return other

    def _among_clients(self):
        return self._app.entered() if self._app else contextlib.nullcontext()

    def stop(self):
        self._process.kill()
        self._process.wait()

    def scaled(self, count):
        return max(1, int(count * self._scale))

    def _seconds(self, kind, way, *words):
        with self._among_clients():
            done = subprocess.run([self._program, kind, way, self.origin, *map(str, words)], check=True, text=True,
                                  stdout=subprocess.PIPE, timeout=LIMIT)
        return float(done.stdout)

    def measure(self, way, proxy):
        """One round of one way; `proxy` is what runs on it, if any."""
        found = {}
        for streams in STREAMS:
            size = self.scaled(BULK_BYTES) // streams * streams
            before = proxy and proxy.cpu()
            found[f"bulk{streams}"] = size / GIB / self._seconds("bulk", way, streams, size)
            if proxy and streams == 1:
                found["cpu"] = (proxy.cpu() - before) / (size / GIB)
        if proxy and proxy.name == TUN:
            return found  # the rest waits for the origin's end of each connection
        count = self.scaled(CONNECTIONS)
        found["rate"] = count / statistics.median(self._seconds("rate", way, CLIENTS, count) for _ in range(RATES))
        found["trip"] = self._seconds("trip", way, self.scaled(TRIPS)) * 1e6
        return found

    def measure_idle(self, way, proxy):
        """What connections hold that do nothing, and how many are still there then. For a proxy that has worked."""
        count = self.scaled(IDLE)
        self._seconds("rate", way, CLIENTS, self.scaled(CONNECTIONS))
        before = proxy.resident()
        command = [self._program, "idle", way, self.origin, str(count)]
        with self._among_clients():
            load = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        with load:
            if not select.select([load.stdout], [], [], LIMIT)[0]:
                load.kill()
                sys.exit(f"{proxy.name}: {count} idle connections could not be opened in {LIMIT} s")
            opened = int(load.stdout.readline())
            time.sleep(1)
            held = proxy.resident() - before
            alive, _ = load.communicate("\n", timeout=LIMIT)
        return {"idle": held / max(opened, 1), "alive": int(alive) / count * IDLE}


def find_proxies(options, place):
    """Those that can be started here."""
    appfw = [options.appfw, "forward", "--allow-destination", "127.0.0.1", "--only", "127.0.0.1", "--only", "*.test",
             "--block", "*.blocked.test"]
    yield Proxy(OURS, [*appfw, "--via", "direct", "--listen", "127.0.0.1:7801"], 7801)
    yield Proxy(HTTP, [*appfw, "--via", "direct", "--listen", "127.0.0.1:7802"], 7802, "http")
    server = shutil.which("server", path=REPOSITORY / "target/tools/bin")
    if server:
        yield Proxy(PEER, [server, "--listen-addr", "127.0.0.1:7803", "no-auth"], 7803)
    # The hop is the peer, so that it counts for no more than in the peer's own figures.
    hop = "socks5://127.0.0.1:7803" if server else "socks5://127.0.0.1:7801"
    yield Proxy(CHAINED, [*appfw, "--via", hop, "--listen", "127.0.0.1:7804"], 7804)
    if shutil.which("microsocks"):
        yield Proxy("microsocks", ["microsocks", "-i", "127.0.0.1", "-p", "7805"], 7805)
    if shutil.which("danted"):
        configuration = place / "danted.conf"
        configuration.write_text(DANTE.format(port=7806))
        yield Proxy("dante", ["danted", "-f", configuration], 7806)


def find_captured(options, place, stack):
    """What is measured in namespaces, where they can be made: both ways through one forwarder."""
    if os.geteuid() != 0 or not shutil.which("nft"):
        print("capture is not measured: it needs root and nft", file=sys.stderr)
        return
    world, app = (stack.enter_context(Namespace(script)) for script in (WORLD, APP))
    command = [options.appfw, "forward", "--via", "direct", "--allow-destination", ORIGIN, "--only", ORIGIN]
    proxy = stack.enter_context(Handed(command, world, app))
    load = Load(options.load, options.scale, ORIGIN, world, app)
    stack.callback(load.stop)
    yield INSIDE, load, proxy.way, proxy
    yield CAPTURED, load, "direct", proxy
    server = shutil.which("server", path=REPOSITORY / "target/tools/bin")
    tun2proxy = shutil.which("tun2proxy-bin", path=REPOSITORY / "target/tools/bin")
    if server and tun2proxy:
        yield from find_beside_tun(options, place, stack, server, tun2proxy)


def find_beside_tun(options, place, stack, server, tun2proxy):
    """Two ways to capture, both out by the peer: as much of their time is that one's."""
    hop = f"socks5://{HOP}:1085"
    world, app = (stack.enter_context(Namespace(script)) for script in (WORLD, APP))
    with world.entered():
        stack.enter_context(Proxy(PEER, [server, "--listen-addr", f"{HOP}:1085", "no-auth"], 1085))
    command = [options.appfw, "forward", "--via", hop, "--allow-destination", ORIGIN, "--only", ORIGIN]
    ours = stack.enter_context(Handed(command, world, app))
    ours.name = CAPTURED_HOP
    load = Load(options.load, options.scale, ORIGIN, world, app)
    stack.callback(load.stop)
    yield CAPTURED_HOP, load, "direct", ours
    tun = stack.enter_context(Tun(tun2proxy, hop, world, place))
    yield TUN, load.among(tun), "direct", tun


def find_subjects(options, place, stack):
    """What is measured: a name, a load, its way, and the proxy that is on it, if any."""
    load = Load(options.load, options.scale)
    stack.callback(load.stop)
    proxies = [stack.enter_context(proxy) for proxy in find_proxies(options, place)]
    yield "direct", load, "direct", None
    yield from ((proxy.name, load, proxy.way, proxy) for proxy in proxies)
    yield from find_captured(options, place, stack)


def measure(options, place):
    """Medians by name and measure."""
    with contextlib.ExitStack() as stack:
        subjects = list(find_subjects(options, place, stack))
        for name, _, _, proxy in subjects:
            if proxy:
                wait_until(proxy.listens, LIMIT, f"{name} to listen")
        wanted = [each for each in subjects if not options.only or each[0] in ["direct", *options.only]]
        rounds = {name: [] for name, *_ in wanted}
        for number in range(options.rounds):
            for name, load, way, proxy in shuffled(wanted, number):
                rounds[name].append(load.measure(way, proxy))
        for name, load, way, proxy in wanted:
            if proxy and name not in (INSIDE, TUN):  # the other way has it: what is freed there would be taken anew here
                rounds[name].append(load.measure_idle(way, proxy))
    return {name: {key: statistics.median(found[key] for found in each if key in found)
                   for key in MEASURES if any(key in found for found in each)}
            for name, each in rounds.items()}


def shuffled(subjects, number):
    """The order of a round, the same in every run: what was measured before leaves the kernel with something to do (a
    client that connects by itself, with as many ports that wait), which is not to be the same one's loss in each."""
    return random.Random(number).sample(subjects, len(subjects))


def report(medians):
    for key, (title, unit, form) in MEASURES.items():
        print(f"{title}{', ' if unit else ''}{unit}")
        for name, found in medians.items():
            if key in found:
                peer = medians.get(BESIDE.get(name, PEER), {})
                ratio = f"{found[key] / peer[key]:6.2f}" if peer.get(key) else ""
                print(f"    {name:<24}{form.format(found[key]):>10}{ratio}")


def missed(medians):
    """A sentence for each threshold that does not hold."""
    beside = [(OURS, PEER, RATIOS), (CAPTURED, INSIDE, CAPTURE_RATIOS), (CAPTURED_HOP, TUN, TUN_RATIOS)]
    for name, other, ratios in beside:
        for key, sign, bound in ratios:
            ratio = medians[name][key] / medians[other][key]
            if not (ratio >= bound if sign == ">=" else ratio <= bound):
                yield f"{name}: {MEASURES[key][0]}: {ratio:.2f} of that of {other}, and must be {sign} {bound}"
    for name in OURS, HTTP, CHAINED, CAPTURED:
        if medians[name]["idle"] > IDLE_BYTES:
            yield f"{name}: an idle connection holds {medians[name]['idle']:.0f} bytes, and may hold {IDLE_BYTES}"
        if medians[name]["alive"] != IDLE:
            yield f"{name}: {medians[name]['alive']:.0f} of {IDLE} idle connections live"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--appfw", type=pathlib.Path, default=REPOSITORY / "target/release/appfw")
    parser.add_argument("--load", type=pathlib.Path, default=REPOSITORY / "target/release/examples/load")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--scale", type=float, default=1.0)
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--assert", action="store_true", dest="must")
    either.add_argument("--only", action="append", metavar="NAME", help="measure this one alone, of all that run")
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # of each end of the idle connections, too
    with tempfile.TemporaryDirectory() as place:
        medians = measure(options, pathlib.Path(place))
    report(medians)
    if options.must:
        if PEER not in medians:
            sys.exit("fast-socks5's example server is missing: cargo install fast-socks5 --version 1.0.0 "
                     "--example server --root target/tools")
        if CAPTURED not in medians:
            sys.exit("capture was not measured: run it as root, with nft")
        if TUN not in medians:
            sys.exit("tun2proxy is missing: cargo install tun2proxy --version 0.8.7 --locked --root target/tools")
        failures = list(missed(medians))
        if failures:
            sys.exit("\n".join(failures))


if __name__ == "__main__":
    main()

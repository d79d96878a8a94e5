#!/usr/bin/python3
"""What the forwarder costs, beside the other proxies of this machine and no proxy at all.

    forwarder.py [--appfw FILE] [--load FILE] [--rounds N] [--scale X] [--assert | --only NAME…]

Compared are `appfw forward` with rules, bounds and logs on; the example server of fast-socks5, the library that its
SOCKS5 rests on; microsocks and dante's danted, those of them that are there. Each round takes every measure of each one
in turn, so that what slows the machine slows all; what is printed are medians over the rounds, and ratios to
fast-socks5's. What idle connections hold is measured once, at the end. SCALE makes every measure smaller: to see that it
runs, not for figures. --assert fails where a threshold is missed.
"""

import argparse
import contextlib
import os
import pathlib
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

from waiting import wait_until  # noqa: E402

OURS, PEER = "appfw", "fast-socks5"
HTTP, CHAINED = "appfw, HTTP CONNECT", "appfw, through a hop"
LIMIT = 120  # seconds for one measure

GIB = 1 << 30
BULK_BYTES, STREAMS = 2 * GIB, (1, 4)
CONNECTIONS, CLIENTS = 6000, 32
TRIPS = 20000
IDLE = 4000

# What must hold at the end: a measure, its bound against the peer (or by itself), and what better means.
RATIOS = [("bulk1", ">=", 1.4), ("bulk4", ">=", 1.25), ("cpu", "<=", 0.5), ("rate", ">=", 1.0), ("trip", "<=", 1.05)]
IDLE_BYTES = 2560

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


class Load:
    """The program that makes it."""

    def __init__(self, program, scale):
        self._program = program
        self._scale = scale
        self._process = subprocess.Popen([program, "origin"], stdout=subprocess.PIPE, text=True)
        self.origin = self._process.stdout.readline().strip()

    def stop(self):
        self._process.kill()
        self._process.wait()

    def scaled(self, count):
        return max(1, int(count * self._scale))

    def _seconds(self, kind, way, *words):
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
        count = self.scaled(CONNECTIONS)
        found["rate"] = count / self._seconds("rate", way, CLIENTS, count)
        found["trip"] = self._seconds("trip", way, self.scaled(TRIPS)) * 1e6
        return found

    def measure_idle(self, way, proxy):
        """What connections hold that do nothing, and how many are still there then. For a proxy that has worked."""
        count = self.scaled(IDLE)
        self._seconds("rate", way, CLIENTS, self.scaled(CONNECTIONS))
        before = proxy.resident()
        command = [self._program, "idle", way, self.origin, str(count)]
        with subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as load:
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


def measure(options, place):
    """Medians by name and measure."""
    load = Load(options.load, options.scale)
    rounds = {}
    with contextlib.ExitStack() as stack:
        stack.callback(load.stop)
        proxies = [stack.enter_context(proxy) for proxy in find_proxies(options, place)]
        for proxy in proxies:
            wait_until(proxy.listens, LIMIT, f"{proxy.name} to listen")
        wanted = [proxy for proxy in proxies if not options.only or proxy.name in options.only]
        for number in range(options.rounds):
            for proxy in [None, *wanted]:
                found = load.measure(proxy.way if proxy else "direct", proxy)
                rounds.setdefault(proxy.name if proxy else "direct", []).append(found)
        for proxy in wanted:
            rounds[proxy.name].append(load.measure_idle(proxy.way, proxy))
    return {name: {key: statistics.median(found[key] for found in each if key in found)
                   for key in MEASURES if any(key in found for found in each)}
            for name, each in rounds.items()}


def report(medians):
    peer = medians.get(PEER, {})
    for key, (title, unit, form) in MEASURES.items():
        print(f"{title}{', ' if unit else ''}{unit}")
        for name, found in medians.items():
            if key in found:
                ratio = f"{found[key] / peer[key]:6.2f}" if peer.get(key) else ""
                print(f"    {name:<24}{form.format(found[key]):>10}{ratio}")


def missed(medians):
    """A sentence for each threshold that does not hold."""
    ours, peer = medians[OURS], medians[PEER]
    for key, sign, bound in RATIOS:
        ratio = ours[key] / peer[key]
        if not (ratio >= bound if sign == ">=" else ratio <= bound):
            yield f"{MEASURES[key][0]}: {ratio:.2f} of fast-socks5's, and must be {sign} {bound}"
    for name in OURS, HTTP, CHAINED:
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
        failures = list(missed(medians))
        if failures:
            sys.exit("\n".join(failures))


if __name__ == "__main__":
    main()

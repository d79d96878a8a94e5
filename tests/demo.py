#!/usr/bin/python3
"""The demonstration: two ways out through appfw-run, and seven ways past it, judged by what arrives at the other end.

Everything happens in a lab (tests/lab): a real systemd as PID 1 of its own namespaces, whose only wire leads to a
"world", another network namespace that records every packet. Started by demo.sh.
"""

import pathlib
import signal
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "lab"))

from lab import Lab  # noqa: E402
from world_map import ORIGIN, UPSTREAM  # noqa: E402

SOCKS = f"socks5h://{UPSTREAM}:1080"
CURL = ["curl", "-sS", "--max-time", "5"]
PAST = [*CURL, "--noproxy", "*"]
GETADDRINFO = ["python3", "-c", "import socket; socket.getaddrinfo('web.test', 80)"]
DATAGRAM = ["python3", "-c", f"import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('{ORIGIN}', 9))"]

# What is tried, in words and as a command.
ATTEMPTS = [
    ("TCP straight to an address", [*PAST, f"http://{ORIGIN}/"]),
    ("a UDP datagram", DATAGRAM),
    ("DNS: getaddrinfo()", GETADDRINFO),
    ("127.0.0.1, another loopback address", [*PAST, "http://127.0.0.1:8023/"]),
    ("a service of the host on 0.0.0.0", [*PAST, "http://127.100.90.50:8022/"]),
    ("systemd-run --user", ["systemd-run", "--user", "--quiet", "--wait", "--pipe", *PAST, f"http://{ORIGIN}/"]),
    ("the forwarder, asked for 127.0.0.1", [*CURL, "http://127.0.0.1:8023/"]),
]


class Table:
    """Rows as they come, each with its verdict."""

    def __init__(self):
        self.wrong = 0
        self._colour = sys.stdout.isatty()

    def heading(self, *words):
        print("\n" + self._line("", words))

    def row(self, right, *words):
        self.wrong += not right
        print(self._line("ok" if right else "WRONG", words), flush=True)

    def _line(self, verdict, words):
        first, *more = words
        mark = f"{verdict:<6}"
        if self._colour and verdict:
            mark = f"\033[{32 if verdict == 'ok' else 31}m{mark}\033[0m"
        return f"{mark}{first:<37}" + "".join(f"{word:<17}" for word in more).rstrip()


class Observed:
    """Whether anything arrived: at the world but for the upstream, or at the host's own services."""

    def __init__(self, lab):
        self._lab = lab
        self._watch = lab.world.watch()

    def __enter__(self):
        self._baits = len(self._lab.bait_events())
        self._watch.__enter__()
        return self

    def __exit__(self, *exception):
        self._watch.__exit__(*exception)

    def anything(self):
        return bool(self._watch.foreign() or len(self._lab.bait_events()) > self._baits)


def show_ways_out(lab, table):
    """curl through each upstream: the name arrives as a name, and nothing beside it."""
    table.heading("the way out", "the world saw")
    with lab.world.watch() as w:
        fetched = lab.run(["appfw-run", "--via", SOCKS, *CURL, "http://web.test/"])
        requests = [event["name"] for event in w.events(server="socks5", kind="socks")]
        clean = not w.foreign(allow=[(UPSTREAM, 1080)])
    right = fetched.returncode == 0 and requests == ["web.test"] and clean
    table.row(right, f"--via {SOCKS}", told(fetched, "one SOCKS request, by name, and no other packet"))
    lab.tor.wait()
    with lab.world.watch() as w:
        fetched = lab.run(["appfw-run", "--via", "tor", *CURL, "http://exit-only.test/"])
        # A name that the Tor exits' resolver alone knows.
        resolved = bool(w.events(server="exit-dns", name="exit-only.test"))
        clean = not w.foreign()
    right = fetched.returncode == 0 and resolved and clean
    table.row(right, "--via tor", told(fetched, "Tor's packets alone; an exit resolved the name"))


def told(result, good):
    return good if result.returncode == 0 else f"code {result.returncode}: {result.stderr.decode().strip()}"


def show_ways_past(lab, table):
    """The same commands without and with the wall: what doesn't get out anywhere would prove nothing."""
    # Even the variables by which systemd-run finds the session are given along.
    session = ["--env=XDG_RUNTIME_DIR", "--env=DBUS_SESSION_BUS_ADDRESS"]
    environment = lab.run(["env"], user="bob").stdout.decode().splitlines()
    environment = dict(line.split("=", 1) for line in environment if line.startswith(("XDG_", "DBUS_")))
    wall = ["appfw-run", "--quiet", "--via", SOCKS, "--uid", "bob", *session]
    table.heading("ways past it, tried as a user", "without", "with appfw-run")
    for words, command in ATTEMPTS:
        with Observed(lab) as without:
            lab.run(command, user="bob")
            escapes = without.anything()
        with Observed(lab) as within:
            lab.run([*wall, *command], env=environment)
            leaks = within.anything()
        table.row(escapes and not leaks, words, "arrives" if escapes else "does not arrive",
                  "ARRIVES" if leaks else "stopped")


def main():
    # So that the lab is taken down however this ends.
    for number in signal.SIGTERM, signal.SIGHUP:
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    table = Table()
    with Lab("252", binaries=HERE.parent / "target/release") as lab:
        lab.tor.start()
        system = lab.run(["systemctl", "--version"]).stdout.decode().splitlines()[0]
        print(f"{lab.run(['appfw-run', '--version']).stdout.decode().strip()} on {system}, booted in a lab")
        show_ways_out(lab, table)
        show_ways_past(lab, table)
    print(f"\n{table.wrong} of the rows are not as they should be" if table.wrong else "\nall as it should be")
    sys.exit(table.wrong > 0)


if __name__ == "__main__":
    main()

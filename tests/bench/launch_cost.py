#!/usr/bin/python3
"""What a launch costs, beside what systemd alone takes for the nearest thing. Runs in a lab; needs root.

    launch_cost.py [--binaries DIR] [--runs N] [--pause SECONDS] [--assert [RATIO]] [252] [257]

Prints medians and quartiles of alternating runs, and the median of what each run took in proportion to systemd-run's
beside it, so that a machine which is slow for a while is slow for both. Before each run the
machine has PAUSE (0.1) seconds to itself: what PID 1 still unloads of one launch is not the next one's cost, and every
run finds the kernel as a user's does (without, systemd-run alone gains: docs/performance.md). Exits with 1 under
--assert if a launch as root in the strict wall, or an ordinary user's by their own systemd, costs more than RATIO (1.5)
times as much, or one without systemd more than three times what bubblewrap takes for a network namespace and the file
system as it is. bwrap is this machine's, on 252; where it is missing that part is left out, unless under --assert.
"""

import argparse
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests/lab"))

from lab import Lab, TREES  # noqa: E402

BOUND, STANDALONE_BOUND = 1.5, 3
WARM_UP = 3  # runs that don't count: pages and libraries are read from disk
BESIDE, BOUNDED = "systemd-run", "appfw-run"
SYSTEMD_RUN = ["systemd-run", "--quiet", "--wait", "--pipe", "-p", "PrivateNetwork=yes"]
BWRAP = ["bwrap", "--unshare-net", "--dev-bind", "/", "/", "true"]
STANDALONE = ["appfw-run", "--standalone", "--via", "direct", "true"]
SESSION = "export XDG_RUNTIME_DIR=/run/user/$(id -u) DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/$(id -u)/bus;"
AS_BOB = ["setpriv", "--reuid", "bob", "--regid", "bob", "--init-groups"]
USERS_OWN = "bob systemd-run --user"
# Each is measured beside another, and its bound, if it has one, is on the ratio of the two.
BESIDE_BWRAP = {"--standalone": "bwrap", "bob --standalone": "bob bwrap"}
BESIDE_OTHERS = BESIDE_BWRAP | {"bob --user": USERS_OWN}
COMMANDS = {
    BESIDE: [*SYSTEMD_RUN, "true"],
    BOUNDED: ["appfw-run", "--via", "direct", "true"],
    "--uid bob": ["appfw-run", "--via", "direct", "--uid", "bob", "true"],
    "--wall address": ["appfw-run", "--via", "direct", "--wall", "address", "true"],
    "--wall namespace": ["appfw-run", "--via", "direct", "--wall", "namespace", "true"],
    USERS_OWN: [*AS_BOB, "sh", "-c", f"{SESSION} exec systemd-run --user --quiet --wait --pipe true"],
    "bob --user": [*AS_BOB, "sh", "-c", f"{SESSION} exec appfw-run --user --via direct true"],
}
WITHOUT_SYSTEMD = {
    "bwrap": BWRAP,
    "--standalone": STANDALONE,
    "bob bwrap": [*AS_BOB, *BWRAP],
    "bob --standalone": [*AS_BOB, *STANDALONE],
}


def measure(runs, pause):
    """Seconds of each run by command, alternating, so that what slows the machine slows both."""
    commands = COMMANDS | (WITHOUT_SYSTEMD if shutil.which("bwrap") else {})
    times = {name: [] for name in commands}
    for number in range(WARM_UP + runs):
        for name, command in commands.items():
            time.sleep(pause)
            started = time.perf_counter()
            subprocess.run(command, stdin=subprocess.DEVNULL, check=True)
            if number >= WARM_UP:
                times[name].append(time.perf_counter() - started)
    return times


def report(version, times):
    """Prints a line for each command; returns the ratios that are bounded, by their commands."""
    ratios = {}
    for name, seconds in times.items():
        low, median, high = statistics.quantiles(seconds, n=4)
        beside = BESIDE_OTHERS.get(name, name if name in [*WITHOUT_SYSTEMD, USERS_OWN] else BESIDE)
        ratios[name] = statistics.median(own / other for own, other in zip(seconds, times[beside], strict=True))
        print(f"systemd {version}  {name:<22}  median {median * 1000:5.1f} ms, ratio {ratios[name]:.2f}, "
              f"quartiles {low * 1000:.1f} to {high * 1000:.1f}, {len(seconds)} runs")
    return {name: ratio for name, ratio in ratios.items() if name == BOUNDED or name in BESIDE_OTHERS}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binaries", type=pathlib.Path, default=REPOSITORY / "target/release")
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--pause", type=float, default=0.1, metavar="SECONDS")
    parser.add_argument("--assert", type=float, nargs="?", const=BOUND, dest="bound", metavar="RATIO")
    parser.add_argument("versions", nargs="*", choices=[*TREES, []], metavar="VERSION")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        json.dump(measure(options.runs, options.pause), sys.stdout)
        return
    ratios = []
    for version in options.versions or TREES:
        with Lab(version, binaries=options.binaries) as lab:
            # The clock runs in the lab, so that the way in doesn't count.
            inside = ["/usr/bin/python3", pathlib.Path(__file__).resolve(), "--inside", f"--runs={options.runs}",
                      f"--pause={options.pause}"]
            ratios.append(report(version, json.loads(lab.run(inside, check=True, timeout=600).stdout)))
    if not options.bound:
        return
    if not any(BESIDE_BWRAP.keys() & measured.keys() for measured in ratios):
        sys.exit("bwrap is missing: apt-get install bubblewrap")
    for measured in ratios:
        for name, ratio in measured.items():
            bound = STANDALONE_BOUND if name in BESIDE_BWRAP else options.bound
            if ratio > bound:
                sys.exit(f"{name} costs {ratio:.2f} times what it is measured beside, and may cost {bound}")


if __name__ == "__main__":
    main()

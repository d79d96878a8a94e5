#!/usr/bin/python3
"""What a launch costs, beside what systemd alone takes for the nearest thing. Runs in a lab; needs root.

    launch_cost.py [--binaries DIR] [--runs N] [--pause SECONDS] [--assert [RATIO]] [252] [257]

Prints medians and quartiles of alternating runs, and the ratio of each median to systemd-run's. Before each run the
machine has PAUSE (0.1) seconds to itself: what PID 1 still unloads of one launch is not the next one's cost, and every
run finds the kernel as a user's does (without, systemd-run alone gains: docs/performance.md). Exits with 1 under
--assert if a launch as root in the strict wall costs more than RATIO (1.5) times as much.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests/lab"))

from lab import Lab, TREES  # noqa: E402

BOUND = 1.5
WARM_UP = 3  # runs that don't count: pages and libraries are read from disk
BESIDE, BOUNDED = "systemd-run", "appfw-run"
SYSTEMD_RUN = ["systemd-run", "--quiet", "--wait", "--pipe", "-p", "PrivateNetwork=yes"]
COMMANDS = {
    BESIDE: [*SYSTEMD_RUN, "true"],
    BOUNDED: ["appfw-run", "--via", "direct", "true"],
    "--uid bob": ["appfw-run", "--via", "direct", "--uid", "bob", "true"],
    "--wall address": ["appfw-run", "--via", "direct", "--wall", "address", "true"],
}


def measure(runs, pause):
    """Seconds of each run by command, alternating, so that what slows the machine slows both."""
    times = {name: [] for name in COMMANDS}
    for number in range(WARM_UP + runs):
        for name, command in COMMANDS.items():
            time.sleep(pause)
            started = time.perf_counter()
            subprocess.run(command, stdin=subprocess.DEVNULL, check=True)
            if number >= WARM_UP:
                times[name].append(time.perf_counter() - started)
    return times


def report(version, times):
    """Prints a line for each command; returns the ratio that is bounded."""
    beside = statistics.median(times[BESIDE])
    ratios = {}
    for name, seconds in times.items():
        low, median, high = statistics.quantiles(seconds, n=4)
        ratios[name] = median / beside
        print(f"systemd {version}  {name:<14}  median {median * 1000:5.1f} ms, ratio {ratios[name]:.2f}, "
              f"quartiles {low * 1000:.1f} to {high * 1000:.1f}, {len(seconds)} runs")
    return ratios[BOUNDED]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binaries", type=pathlib.Path, default=REPOSITORY / "target/release")
    parser.add_argument("--runs", type=int, default=30)
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
            ratios.append(report(version, json.loads(lab.run(inside, check=True).stdout)))
    if options.bound and max(ratios) > options.bound:
        sys.exit(f"a launch costs {max(ratios):.2f} times what systemd-run does, and may cost {options.bound}")


if __name__ == "__main__":
    main()

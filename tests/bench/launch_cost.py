#!/usr/bin/python3
"""What a launch costs, beside what systemd alone takes for the nearest thing. Runs in a lab; needs root.

    launch_cost.py [--binaries DIR] [--runs N] [--assert]

Prints medians and quartiles of alternating runs, and exits with 1 under --assert if a launch costs more than
1.5 times as much.
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
COMMANDS = {
    "systemd-run": ["systemd-run", "--quiet", "--wait", "--pipe", "-p", "PrivateNetwork=yes", "true"],
    "appfw-run": ["appfw-run", "--via", "direct", "true"],
}


def measure(runs):
    """Seconds of each run by command, alternating, so that what slows the machine slows both."""
    times = {name: [] for name in COMMANDS}
    for number in range(WARM_UP + runs):
        for name, command in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run(command, stdin=subprocess.DEVNULL, check=True)
            if number >= WARM_UP:
                times[name].append(time.perf_counter() - started)
    return times


def report(version, times):
    """Prints a line for each command; returns the ratio of the medians."""
    medians = {}
    for name, seconds in times.items():
        low, medians[name], high = statistics.quantiles(seconds, n=4)
        print(f"systemd {version}  {name:<12} median {medians[name] * 1000:5.1f} ms, "
              f"quartiles {low * 1000:.1f} to {high * 1000:.1f}, {len(seconds)} runs")
    ratio = medians["appfw-run"] / medians["systemd-run"]
    print(f"systemd {version}  ratio {ratio:.2f}, bound {BOUND}")
    return ratio


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binaries", type=pathlib.Path, default=REPOSITORY / "target/release")
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--assert", action="store_true", dest="asserts")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        json.dump(measure(options.runs), sys.stdout)
        return
    ratios = []
    for version in TREES:
        with Lab(version, binaries=options.binaries) as lab:
            # The clock runs in the lab, so that the way in doesn't count.
            inside = ["/usr/bin/python3", pathlib.Path(__file__).resolve(), "--inside", f"--runs={options.runs}"]
            ratios.append(report(version, json.loads(lab.run(inside, check=True).stdout)))
    if options.asserts and max(ratios) > BOUND:
        sys.exit("a launch costs more than it may")


if __name__ == "__main__":
    main()

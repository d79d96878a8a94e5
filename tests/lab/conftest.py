"""Fixtures: each systemd is booted once for all tests, with its world and, when asked for, its Tor.

APPFW_LAB=252 or 257 runs the tests on that one only. APPFW_MUST_WORK=1 makes what would be skipped fail.
APPFW_ALL=1 adds what takes large programs or long. APPFW_BINARIES is the folder to install appfw-run and appfw from (default: target/debug).
"""

import collections
import os
import pathlib
import time
import zlib

import pytest

from lab import Lab, TREES

MUST_WORK = os.environ.get("APPFW_MUST_WORK") == "1"
VERSIONS = os.environ.get("APPFW_LAB", " ".join(TREES)).split()
BINARIES = os.environ.get("APPFW_BINARIES")

ALL = os.environ.get("APPFW_ALL") == "1"

# What takes programs that are large, for tests/run.sh --all alone.
collect_ignore = [] if ALL else ["test_clients.py"]

_boot_times = {}


def missing(reason):
    """Skips, unless everything must work."""
    (pytest.fail if MUST_WORK else pytest.skip)(reason)


def boot(version, kind=Lab, **options):
    if os.geteuid() != 0:
        missing("the lab needs root")
    if not TREES[version].joinpath("usr").is_dir():
        missing(f"no tree for systemd {version}: run tests/lab/setup.sh")
    started = time.monotonic()
    lab = kind(version, binaries=BINARIES and pathlib.Path(BINARIES), **options).start()
    _boot_times[lab.name] = time.monotonic() - started
    return lab


def pytest_collection_modifyitems(items):
    """With --all, everything runs on each systemd. Without it, a test runs on both that is marked so, of any other the
    cases take turns, and none is slow."""
    if ALL:
        return
    cases = collections.Counter()
    kept = []
    for item in items:
        name = f"{item.path.name}:{item.originalname}"
        # What boots labs of its own has none for a parameter.
        versions = [item.callspec.params["lab"]] if "lab" in item.fixturenames else VERSIONS
        turn = list(TREES)[(zlib.crc32(name.encode()) + cases[name, *versions]) % len(TREES)]
        cases[name, *versions] += 1
        if not item.get_closest_marker("slow") and (item.get_closest_marker("both") or turn in versions):
            kept.append(item)
    items[:] = kept


@pytest.fixture(scope="session", params=VERSIONS)
def lab(request):
    """A booted systemd. Tests share it: they use unit and file names of their own."""
    booted = boot(request.param)
    if any("tor" in getattr(item, "fixturenames", ()) for item in request.session.items):
        booted.tor.start()
    yield booted
    booted.stop()


@pytest.fixture(scope="session", params=VERSIONS)
def lying_lab(request):
    """A booted systemd whose kernel refuses bpf(2): it starts units unfiltered and says so only in its log."""
    booted = boot(request.param, bpf=False)
    yield booted
    booted.stop()


@pytest.fixture(scope="session")
def world(lab):
    """The world of `lab`."""
    return lab.world


@pytest.fixture(scope="session")
def tor(lab):
    """The Tor of `lab`, ready: its SOCKS port is 127.0.0.1:9050 there."""
    lab.tor.wait()
    return lab.tor


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    """A skip is a failure where everything must work."""
    report = (yield).get_result()
    if MUST_WORK and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and APPFW_MUST_WORK is set: {report.longrepr}"


def pytest_terminal_summary(terminalreporter):
    for name, seconds in _boot_times.items():
        terminalreporter.write_line(f"lab {name} booted in {seconds:.1f} s")

"""The probes get out where nothing confines them. A probe that fails everywhere would prove nothing by failing inside."""

import json
import os
import pathlib
import subprocess

import pytest

import probe
from world_map import UPSTREAM

PROBE = pathlib.Path(__file__).with_name("probe.py")

ROOT_ALONE = {
    "raw-ip", "af-packet", "unix-systemd-private", "systemd-run", "systemd-run-user-of-bob", "cgroup-procs", "setns",
    "nsenter-1", "core-pattern", "write-/etc/systemd/system", "write-/run/systemd/system",
    "write-/usr/lib/systemd/system", "write-/etc/cron.d", "write-/run/udev/rules.d",
}
# Root has no session of its own in the lab.
BOB_ALONE = {"unix-session-bus", "unix-user-systemd-private", "systemd-run-user", "systemd-run-user-scope",
             "proc-root-session-bus"}
NEED_RESOLVED = {"host-resolver-stub-tcp", "host-resolver-stub-udp", "resolver-varlink", "resolver-monitor",
                 "resolver-resolvectl", "resolver-bus"}
NEED_NSCD = {"unix-nscd"}
# There or not as the kernel was built, or as the lab was used before.
UNCERTAIN = {"af-alg", "af-vsock", "af-others", "mptcp-origin-v4", "io-uring", "unshare-user",
             "write-/run/systemd/transient"}


def run(lab, *arguments, user, **options):
    command = ["/usr/bin/python3", PROBE, "--json", *arguments]
    done = lab.popen(command, user=user, stdout=subprocess.PIPE, **options)
    out, _ = done.communicate(timeout=60)
    return {result["name"]: result for result in json.loads(out)}


def reached(results):
    return {name for name, result in results.items() if result["outcome"] == "reached"}


def expected(lab, user):
    wanted = {name for name in probe.probes if not name.startswith(("forwarder-", "inherited-"))} - UNCERTAIN
    wanted -= BOB_ALONE if user == "root" else ROOT_ALONE
    if not lab.path("/run/systemd/resolve/io.systemd.Resolve").exists():
        wanted -= NEED_RESOLVED
    if not lab.path("/run/nscd/socket").exists():
        wanted -= NEED_NSCD
    return wanted


@pytest.mark.parametrize("user", ["root", "bob"])
@pytest.mark.both
def test_unconfined_probes_get_out(lab, world, user):
    before = pathlib.Path("/proc/sys/kernel/core_pattern").read_text()
    with world.watch() as w:
        results = run(lab, "all", user=user)
    missed = {name: results[name] for name in expected(lab, user) - reached(results)}
    assert missed == {}
    assert pathlib.Path("/proc/sys/kernel/core_pattern").read_text() == before
    # The world saw what the probes say.
    assert {event["peer"] for event in w.events(server="http", kind="accept")} >= {"203.0.113.2", "2001:db8::2"}
    assert {packet["proto"] for packet in w.packets()} >= {"tcp", "udp", "icmp", "icmpv6"}
    assert any(packet["proto"] == "ether-0x88b5" for packet in w.packets()) == (user == "root")
    assert lab.bait_events(server="docker") and lab.bait_events(server="abstract")


def test_no_probe_is_faulty(lab):
    errors = {name: result for name, result in run(lab, "all", user="bob").items() if result["outcome"] == "error"}
    if not lab.path("/usr/bin/resolvectl").exists():
        errors.pop("resolver-resolvectl")
    assert errors == {}


@pytest.mark.parametrize("port, names, targets", [
    (1080, "forwarder-socks-address-*", ["127.0.0.1", "0.0.0.0", "::1", "::ffff:127.0.0.1"]),
    (1080, "forwarder-socks-name-*", ["127.0.0.1", "localhost", "::1"]),
    (3128, "forwarder-http-*", ["127.0.0.1", "localhost", "0.0.0.0", "::1", "::ffff:127.0.0.1"]),
])
def test_a_forwarder_that_leads_inside_is_found_out(lab, port, names, targets):
    """The world's own proxies are careless: asked for their loopback, they lead there."""
    results = run(lab, names, f"--forwarder={UPSTREAM}:{port}", "--forwarder-port=80", user="bob")
    assert reached(results) >= {names.replace("*", target) for target in targets}


def test_inherited_socket_is_found(lab):
    clean = run(lab, "inherited-descriptors", user="bob")
    assert reached(clean) == set()
    readable, writable = os.pipe()
    try:
        given = run(lab, "inherited-descriptors", user="bob", pass_fds=[readable])
    finally:
        os.close(readable)
        os.close(writable)
    assert reached(given) == {"inherited-descriptors"}

"""Launches of an ordinary user by their own systemd: the default, with nothing configured."""

import os
import pathlib
import re
import signal
import subprocess
import time

import pytest

from launching import (GONE, HOLD, SOCKS, journal_of_user, launched, left, processes, processes_of, script, started,
                       text_of, unique, wait_gone)
from test_escapes import Baits, PYTHON, TAKEOVER, errors_of, reached, results_of, seen_by_world, write_handle
from test_life import REPORT_SIGNALS, STUBBORN
from waiting import wait_until
from world_map import UPSTREAM

BOB = {"user": "bob"}
MANAGER = "systemctl --user"


def units(lab):
    """Those of launches that bob's manager knows."""
    listed = lab.run([*MANAGER.split(), "list-units", "--all", "--plain", "--no-legend", "appfw-*"], **BOB, check=True)
    return [line.split()[0] for line in listed.stdout.decode().splitlines() if line.strip()]


def state(lab):
    """Where the launches of bob's are."""
    uid = lab.run(["id", "-u"], **BOB, check=True).stdout.decode().strip()
    return lab.path(f"/run/user/{uid}/appfw")


def all_gone(lab):
    # What the launches of one profile have in common stays: @circuits-NAME.
    return not units(lab) and not [path for path in state(lab).iterdir() if not path.name.startswith("@")]


def run(lab, *words, **options):
    return lab.run(["appfw-run", *words], **BOB, **options)


# What the wall lets through

@pytest.mark.both
def test_programs_reach_the_upstream_by_name_with_and_without_the_variables(lab, world):
    for more in [], ["--noproxy", "*"]:
        with world.watch() as w:
            done = run(lab, "--via", SOCKS, "curl", "-sS", *more, "http://web.test/", check=True)
        assert done.stdout.startswith(b"world ")
        assert [event["name"] for event in w.events(server="socks5", kind="socks")] == ["web.test"]
        assert seen_by_world(w, [(UPSTREAM, 1080)]) == set()


def test_who_runs_it_is_said(lab):
    done = run(lab, "--verbose", "--via=direct", "true", check=True)
    assert b"in the namespace wall, via direct; who runs it: user" in done.stderr


def test_nothing_whatever_without_a_way_out(lab, world):
    with world.watch() as w:
        done = run(lab, "--via=none", "sh", "-c", "curl -sS --max-time 5 http://203.0.113.10/; curl http://web.test/")
    assert done.returncode == 6, done.stderr
    assert w.foreign() == []


def test_its_own_loopback_is_its_own(lab):
    script = f"{PYTHON} -m http.server --bind 127.0.0.1 8077 >/dev/null 2>&1 & " \
             "until curl -sS --noproxy '*' -o /dev/null http://127.0.0.1:8077/; do sleep 0.1; done 2>/dev/null; " \
             "set -f; for more in '--noproxy *' ''; do for host in 127.0.0.1 localhost; do " \
             "curl -sS $more -o /dev/null -w '%{http_code} ' http://$host:8077/; done; done; kill $!"
    assert run(lab, "--via=direct", "sh", "-c", script, check=True, timeout=30).stdout == b"200 " * 4


# What it does not

# Captured: the forwarder's listener takes the connection, and what it refuses is reset. The world saw none of them.
TAKEN_BY_THE_FORWARDER = {
    "dns-direct-tcp", "dns-direct-udp", "host-resolver-stub-udp", "host-wildcard-by-own-v4", "host-wildcard-by-own-v6",
    "mptcp-origin-v4", "tcp-link-local", "tcp-local-network", "tcp-origin-v4", "tcp-origin-v4-mapped", "tcp-origin-v6",
    "tcp-public-v4", "tcp-public-v6", "static-binary", "unshare-user", "double-fork",
}
BY_THE_UPSTREAM = {"udp-origin-v4", "udp-origin-v6", "udp-public-v4"}  # it has UDP ASSOCIATE
OPEN = {
    "getaddrinfo": "the forwarder answers with an address that stands for the name, and asks nobody",
    "udp-multicast": "sent to its own namespace, where nobody is",
}


def probed(lab, *words):
    script = f'exec {PYTHON} {TAKEOVER} --json --forwarder="${{http_proxy#http://}}" all'
    done = run(lab, "--via", SOCKS, *words, "--", "sh", "-fc", script, timeout=120)
    assert done.returncode == 0, done.stderr
    return results_of(done.stdout)


@pytest.mark.parametrize("words, opened", [
    (["--no-capture"], {"getaddrinfo"}),
    ([], TAKEN_BY_THE_FORWARDER | BY_THE_UPSTREAM | set(OPEN)),
])
@pytest.mark.both
def test_what_a_launch_reaches_is_what_is_open_by_design(lab, world, words, opened):
    write_handle(lab)
    with Baits(lab) as baits, world.watch() as w:
        results = probed(lab, *words)
    assert len(results) > 100
    assert {name: results[name]["detail"] for name in reached(results) - opened} == {}
    # What the forwarder took and refused is reset, before or after the probe has said that it connected.
    surely = opened if words else {"tcp-origin-v4", "tcp-origin-v6", *BY_THE_UPSTREAM, *OPEN}
    assert surely - reached(results) == set()
    assert seen_by_world(w, [(UPSTREAM, None)]) == set()
    assert baits.servers == set()
    assert w.events(server="dns") == []
    assert errors_of(lab, results) == {}


def test_nothing_of_the_proof_is_left_to_the_app(lab):
    status = text_of(lab, "--via=direct", "cat", "/proc/self/status", **BOB)
    found = dict(re.findall(r"^(Cap\w+|NoNewPrivs|Seccomp):\s+(\w+)$", status, re.M))
    bounding = int(found.pop("CapBnd"), 16)
    assert bounding & ~0x218405FF == 0
    assert found == {"CapInh": "0" * 16, "CapPrm": "0" * 16, "CapEff": "0" * 16, "CapAmb": "0" * 16,
                     "NoNewPrivs": "1", "Seccomp": "2"}


# Life

@pytest.mark.parametrize("script, code", [("exit 7", 7), ("exit 255", 255), ("kill -TERM $$", 143), ("kill -SEGV $$", 139)])
def test_exit_codes(lab, script, code):
    assert run(lab, "--via=direct", "sh", "-c", script).returncode == code


def test_what_is_not_there_is_127(lab):
    assert run(lab, "--via=direct", "no-such-program").returncode == 127
    assert run(lab, "--via=direct", "/etc/passwd").returncode == 126


def test_signals_to_the_launcher_reach_the_app(lab):
    with launched(lab, "--via", SOCKS, "python3", "-c", REPORT_SIGNALS, stdin=subprocess.PIPE, **BOB) as launch:
        for name in ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"] * 2:
            launch.send_signal(signal.Signals[name])
            launch.shown.until(f"got {name}\n".encode())
        launch.stdin.close()
        assert launch.wait(10) == 9


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_app_that_a_signal_ends_gives_its_number(lab, number):
    with launched(lab, "--via", SOCKS, "--", *HOLD, **BOB) as launch:
        launch.send_signal(number)
        assert launch.wait(10) == 128 + number
        wait_gone(lab, launch.name, **BOB)


def test_pipes_are_exact_to_the_byte_both_ways(lab):
    data = os.urandom(8 << 20)
    done = run(lab, "--via=none", "cat", input=data, check=True)
    assert done.stdout == data and done.stderr == b""


def test_a_launch_ends_with_its_launcher(lab):
    with launched(lab, "--via", SOCKS, "--", script(lab, "stubborn", STUBBORN), **BOB) as launch:
        assert state(lab) / launch.name in map(pathlib.Path, left(lab, launch.name, **BOB))
        pids = processes(lab, launch.name)
        assert len(pids) >= 3
        launch.kill()
        launch.wait()
        wait_gone(lab, launch.name, **BOB)
        assert not {int(path.name) for path in processes_of(lab)} & pids.keys()


def test_killed_launcher_before_the_app_runs_leaves_nothing(lab):
    """Killed at any moment, not only when all stands."""
    names = [unique("early") for _ in range(8)]
    for number, name in enumerate(names):
        with started(lab, ["appfw-run", "--unit", name, "--via", SOCKS, "sleep", "600"], **BOB,
                     stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
            # Where in its start the launcher is killed, behind the lab's own programs.
            time.sleep(0.03 + number * 0.015)
    for name in names:
        wait_until(lambda: set(left(lab, name, **BOB)) <= {str(state(lab) / name)}, GONE, f"the end of {name}")
    # A directory made before the units has no unit to go with: the next launch removes it.
    run(lab, "--via=none", "true", check=True)
    # One that is empty has been made a moment before, and its name is free.
    assert not [name for name in names if list((state(lab) / name).glob("*"))]


def test_the_forwarder_comes_back_and_serves_on(lab, world):
    script = "curl -sS http://web.test/ && echo ready && read line && curl -sS --noproxy '*' http://web.test/"
    with launched(lab, "--via", SOCKS, "--", "sh", "-c", script, stdin=subprocess.PIPE, **BOB) as launch:
        show = [*MANAGER.split(), "show", "-P", "MainPID", f"appfw-{launch.name}-forward.service"]
        before = lab.run(show, **BOB, check=True).stdout.strip()
        lab.run(["kill", "-9", before.decode()], check=True)
        wait_until(lambda: lab.run(show, **BOB).stdout.strip() not in (before, b"0"), 5, "another forwarder")
        launch.stdin.write(b"\n")
        launch.stdin.flush()
        launch.shown.until(b"world ")


def test_a_detached_launch_goes_on_and_is_ended_by_its_name(lab):
    name = unique("detached")
    # Written by the shell, which stays: journald finds a line's unit by its writer, if that still is there.
    script = "curl -sS http://tls.test/; echo \"$(curl -sS --noproxy '*' http://web.test/)\"; sleep 1; " \
             "echo \"$(curl -sS http://web.test/)\"; sleep 60"
    run(lab, "--detach", "--via", SOCKS, "--block=tls.test", "--unit", name, "sh", "-c", script, check=True)
    wait_until(lambda: journal_of_user(lab, f"appfw-{name}.service").count("world ") == 2, 10, "both answers")
    assert "tls.test" in journal_of_user(lab, f"appfw-{name}-forward.service")
    # What another launch takes for stale is not removed under its feet.
    run(lab, "--via=none", "true", check=True)
    assert (state(lab) / name).exists()
    lab.run(["appfw", "stop", name], **BOB, check=True, timeout=20)
    wait_gone(lab, name, **BOB)


def test_what_the_app_starts_elsewhere_stays_in_its_unit(lab):
    """The user's manager has lent that user its part of the cgroup tree."""
    script = "for procs in $(find /sys/fs/cgroup -name cgroup.procs); do echo 0 >$procs; done 2>/dev/null; cat /proc/self/cgroup"
    assert re.search(r"appfw\.slice/appfw-\S+\.service$", text_of(lab, "--via=none", "sh", "-c", script, **BOB), re.M)


def test_a_hundred_at_once(lab):
    script = "for i in $(seq 100); do appfw-run --via=direct sh -c 'exit 3' & pids=\"$pids $!\"; done; " \
             "for pid in $pids; do wait $pid; echo $?; done"
    started = time.monotonic()
    done = lab.run(["bash", "-c", script], **BOB, check=True, timeout=120)
    assert done.stdout.split() == [b"3"] * 100, done.stderr
    wait_until(lambda: all_gone(lab), 10, "the end of all launches")
    print(f"100 launches took {time.monotonic() - started:.1f} s")


# What would come of it without a word

@pytest.mark.parametrize("setting", ["RemainAfterExit=yes", "PrivateNetwork=yes"])
def test_a_drop_in_by_which_a_launch_would_not_end_or_reach_nothing_is_refused(lab, setting):
    directory = "/home/bob/.config/systemd/user/appfw-.service.d"
    script = f"mkdir -p {directory} && printf '[Service]\n{setting}\n' > {directory}/x.conf && {MANAGER} daemon-reload"
    lab.run(["sh", "-c", script], **BOB, check=True)
    try:
        done = run(lab, "--unit=dropped", "--via=direct", "echo", "ran", timeout=20)
        wait_until(lambda: all_gone(lab), 5, "the end of the launch")
    finally:
        lab.run(["sh", "-c", f"rm -r {directory} && {MANAGER} daemon-reload"], **BOB, check=True)
    assert (done.returncode, done.stdout) == (125, b"")
    assert setting.partition("=")[0] in done.stderr.decode() and f"{directory}/x.conf" in done.stderr.decode()


@pytest.mark.parametrize("way, code, said", [
    ("mkdir -p ~/.config/appfw/profiles/w; cd ~/.config/appfw/profiles/w", 125, "/.config/appfw/profiles/w, which"),
    ("mkdir ~/gone; cd ~/gone; rmdir ~/gone", 0, "is gone, or closed to you, so the program starts in your home"),
    ("mkdir -p ~/closed/w; cd ~/closed/w; chmod 0 ~/closed", 0, "is gone, or closed to you"),
])
def test_a_directory_that_the_program_is_not_let_into_is_told(lab, way, code, said):
    try:
        done = lab.run(["sh", "-c", f"{way}; exec appfw-run --via none pwd"], **BOB)
    finally:
        lab.run(["sh", "-c", "chmod -f 700 ~/closed; rm -rf ~/closed ~/.config/appfw/profiles"], **BOB, check=True)
    assert (done.returncode, done.stdout) == (code, b"" if code else b"/home/bob\n")
    assert said in done.stderr.decode() and "--workdir" in done.stderr.decode(), done.stderr

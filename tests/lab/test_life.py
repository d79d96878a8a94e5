"""How launches live and end: with their app, with their launcher, with their forwarder, alone and by the hundred."""

import os
import signal
import subprocess
import termios
import time

import pytest

from launching import (GONE, HOLD, LOGGED, SOCKS, Output, command_lines, kill, launched, left, listeners, main_pid, processes, processes_of,
                       run, script, started, text_of, unique, wait_gone)
from waiting import wait_until
from world_map import ORIGIN, UPSTREAM

CURL = ["curl", "-sS", "--max-time", "20"]
WALLS = pytest.mark.parametrize("wall", ["strict", "address"])
AS = pytest.mark.parametrize("user", [[], ["--uid", "bob"]], ids=["root", "bob"])


def signal_process(process, number):
    """To the launcher itself: its pid is the machine's."""
    os.kill(process.pid, number)


# The forwarder dies

TALK = r"""
import os, socket, sys, urllib.parse
proxy = urllib.parse.urlsplit(os.environ["http_proxy"])

def tunnel(target):
    s = socket.create_connection((proxy.hostname, proxy.port), timeout=20)
    s.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
    head = b""
    while b"\r\n\r\n" not in head:
        head += s.recv(1)
    assert b" 200 " in head, head
    return s

first = tunnel("web.test:7")
first.sendall(b"one")
assert first.recv(9) == b"one"
print("ready", flush=True)
try:
    rest = first.recv(9)
except OSError as error:
    rest = type(error).__name__.encode()
print("ended", rest, flush=True)
second = tunnel("web.test:7")
second.sendall(b"two")
print("again", second.recv(9), flush=True)
sys.stdin.read(1)
sys.exit(5)
"""


@WALLS
@pytest.mark.parametrize("via", [SOCKS, f"http://{UPSTREAM}:3128"])
@pytest.mark.both
def test_killed_forwarder_ends_its_connections_and_comes_back(lab, world, wall, via):
    with launched(lab, "--wall", wall, "--via", via, "python3", "-c", TALK, stdin=subprocess.PIPE) as process:
        unit = f"appfw-{process.name}-forward.service"
        before = main_pid(lab, unit)
        with world.watch() as w:
            kill(lab, before, "KILL")
            process.shown.until(b"ended")
            process.shown.until(b"again b'two'")
        assert w.foreign(allow=[(UPSTREAM, int(via.rpartition(":")[2]))]) == []
        wait_until(lambda: main_pid(lab, unit) not in (0, before), 5, "another forwarder")
        process.stdin.close()
        assert process.wait(10) == 5
    wait_gone(lab, process.name)


def test_requests_made_while_the_forwarder_is_dead_wait_for_it_and_go_nowhere_else(lab, world):
    enough = f"{LOGGED}/{unique('enough')}"
    fetch = f"echo ready; until [ -e {enough} ]; do curl -sS --max-time 20 http://web.test/ || echo failed; done"
    with launched(lab, "--via", SOCKS, "sh", "-c", fetch) as process:
        unit = f"appfw-{process.name}-forward.service"
        with world.watch() as w:
            for _ in range(5):
                lab.run(["kill", "-KILL", str(wait_until(lambda: main_pid(lab, unit), 10, "a forwarder"))])
            lab.path(enough).touch()
            process.shown.to_the_end()
            assert process.wait(30) == 0
        assert w.foreign(allow=[(UPSTREAM, 1080)]) == []
    answers = process.shown.seen.decode().split("\n")
    # One request is under way at a time, so each kill cuts one at most.
    assert answers.count("failed") <= 5
    assert [line for line in answers if line.startswith("world ")]


# The launcher dies

STUBBORN = """#!/usr/bin/python3
import os, signal, sys, time
for number in signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT:
    signal.signal(number, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    time.sleep(600)
print("ready", flush=True)
time.sleep(600)
"""


@WALLS
@AS
@pytest.mark.parametrize("app", ["sleep", "stubborn"])
@pytest.mark.both
def test_killed_launcher_takes_everything_with_it(lab, wall, user, app):
    command = HOLD if app == "sleep" else [script(lab, "stubborn", STUBBORN)]
    before = set(listeners(lab))
    with launched(lab, "--wall", wall, "--via", SOCKS, *user, *command) as process:
        pids = processes(lab, process.name)
        assert len(pids) >= 3
        if wall == "address":
            assert len(set(listeners(lab)) - before) == 1
        process.kill()
        process.wait()
        wait_gone(lab, process.name)
        assert not set(listeners(lab)) - before
        numbers = {int(path.name) for path in processes_of(lab)}
        assert not numbers & pids.keys()


def test_killed_launcher_before_the_app_runs_leaves_nothing(lab):
    """Killed at any moment, not only when all stands."""
    names = []
    for pause in range(0, 120, 8):
        name = unique("early")
        with started(lab, ["appfw-run", "--unit", name, "--via", SOCKS, "sleep", "600"], stdin=subprocess.DEVNULL,
                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
            time.sleep(pause / 1000)  # where in its start the launcher is killed
        names.append(name)
    limit = time.monotonic() + GONE
    for name in names:
        wait_until(lambda: not [there for there in left(lab, name) if "/run/appfw/" not in there],
                   max(limit - time.monotonic(), 0.5), f"the end of {name}")
    # A directory made before the units has no unit to go with: the next launch removes it.
    text_of(lab, "--via", "none", "true")
    # One that is empty has been made a moment before, and its name is free.
    assert not [name for name in names if list(lab.path(f"/run/appfw/{name}").glob("*"))]


def settings_of(terminal):
    return termios.tcgetattr(terminal)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_terminal_is_as_before_whatever_ends_the_launcher(lab, number):
    # A shell between, so that the terminal outlives the launcher.
    name = unique("terminal")
    inner = f"echo up; appfw-run --unit {name} --via {SOCKS} sh -c 'echo ready; exec sleep 60'; echo over $?; exec cat"
    with started(lab, ["sh", "-c", inner], tty=True) as process:
        shown = Output(process.terminal)
        shown.until(b"up")
        before = settings_of(process.terminal)
        shown.until(b"ready")
        assert settings_of(process.terminal) != before
        launcher, = [pid for pid, words in command_lines(lab).items() if words.startswith(f"appfw-run --unit {name}")]
        kill(lab, launcher, number.value)
        shown.until(b"over %d" % (128 + number))
        wait_until(lambda: settings_of(process.terminal) == before, GONE, "the terminal's settings")
        wait_gone(lab, name)


def test_terminal_is_as_before_after_an_app_that_changed_its_own(lab):
    name = unique("stty")
    command = f"appfw-run --unit {name} --via {SOCKS} stty raw -echo; echo over; exec cat"
    with started(lab, ["sh", "-c", command], tty=True) as process:
        before = settings_of(process.terminal)
        Output(process.terminal).until(b"over")
        assert settings_of(process.terminal) == before


# A hundred at once

HUNDRED = """
for i in $(seq 100); do
    appfw-run --quiet --unit {name}-$i --wall {wall} --via {via} {user} sh -c 'echo $http_proxy $0; exit $0' $i &
    pids="$pids $!"
done
for pid in $pids; do wait $pid; echo code $?; done
"""


@pytest.mark.parametrize("wall, user", [("strict", ""), pytest.param("address", "", marks=pytest.mark.slow),
                                        ("address", "--uid bob")])
def test_a_hundred_launches_at_once(lab, wall, user):
    name = unique("hundred")
    before = set(listeners(lab)), len(namespaces(lab))
    result = lab.run(["bash", "-c", HUNDRED.format(name=name, wall=wall, via=SOCKS, user=user)], timeout=120)
    lines = result.stdout.decode().splitlines()
    codes = [int(line.split()[1]) for line in lines if line.startswith("code")]
    assert codes == list(range(1, 101)), result.stderr.decode()
    addresses = [line.split()[0] for line in lines if line.startswith("http")]
    assert len(addresses) == 100
    if wall == "address":
        assert len(set(addresses)) == 100
    wait_gone(lab, name)
    assert not list(lab.path("/run/appfw").glob(f"{name}*"))
    assert not set(listeners(lab)) - before[0]
    wait_until(lambda: len(namespaces(lab)) <= before[1], GONE, "the network namespaces' end")
    assert "failed" not in lab.run(["systemctl", "list-units", "--failed", "--no-legend", "appfw-*"]).stdout.decode()


def namespaces(lab):
    """The network namespaces that processes of the lab live in."""
    found = set()
    for path in processes_of(lab):
        try:
            found.add(os.readlink(path / "ns/net"))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


# What stays behind

def lines_of(result):
    return [line for line in result.stderr.decode().splitlines() if line.startswith("appfw-run: ")]


@AS
def test_children_that_outlive_the_main_process_are_waited_for_and_named(lab, user):
    name = unique("lasting")
    mark = f"/tmp/{name}"
    lab.path(mark).mkdir(mode=0o777)
    lab.path(mark).chmod(0o777)
    child = f"(sleep 1; touch {mark}/done) >/dev/null 2>&1 & exit 3"
    result = run(lab, "--unit", name, "--via", "none", *user, "sh", "-c", child)
    assert result.returncode == 3
    assert lab.path(f"{mark}/done").exists()
    said, = lines_of(result)
    assert said.startswith("appfw-run: sh has ended, still running: ")
    assert "sleep 1" in said and "--exit-with-main" in said


@AS
def test_exit_with_main_ends_them(lab, user):
    name = unique("main")
    started = time.monotonic()
    result = run(lab, "--unit", name, "--via", "none", "--exit-with-main", *user, "sh", "-c", "sleep 30 & exit 3")
    assert result.returncode == 3
    assert time.monotonic() - started < 5
    assert lines_of(result) == []
    wait_gone(lab, name)


def test_a_launch_that_ends_whole_has_nothing_to_say(lab):
    for _ in range(10):
        assert run(lab, "--via", "none", "sh", "-c", "true | true | sleep 0; exit 3").stderr == b""


# Detached

@WALLS
@AS
def test_detached_launch_returns_at_once_and_is_ended_by_its_name(lab, world, wall, user):
    name = unique("detached")
    app = "sleep 0.3; curl -sS http://web.test/; exec sleep 600"
    result = run(lab, "--unit", name, "--detach", "--wall", wall, "--via", SOCKS, *user, "sh", "-c", app)
    assert (result.returncode, result.stdout) == (0, b"")
    assert lines_of(result) == [f"appfw-run: {name} runs as appfw-{name}.service; appfw stop {name} ends it"]
    wait_until(lambda: f"world {ORIGIN}" in lab.journal(f"appfw-{name}.service"), 10, "the app's output in the journal")
    assert lab.run(["appfw", "stop", name]).returncode == 0
    wait_gone(lab, name)
    again = lab.run(["appfw", "stop", name])
    assert again.returncode == 125
    assert again.stderr.decode().startswith(f"appfw: there is no launch {name}")


def test_detached_launch_that_cannot_start_says_so(lab):
    result = run(lab, "--detach", "--via", "none", "no-such-program")
    assert result.returncode == 127 and b"no-such-program" in result.stderr


def test_detached_launch_ends_by_itself_and_leaves_nothing(lab):
    name = unique("brief")
    run(lab, "--unit", name, "--detach", "--via", SOCKS, "sleep", "0.2", check=True)
    assert text_of(lab, "--via", "none", "echo", "ran") == "ran\n"
    wait_gone(lab, name, 5)


def test_detached_launch_survives_other_launches(lab):
    """Its state directory has no launcher any more, yet is not stale."""
    name = unique("staying")
    run(lab, "--unit", name, "--detach", "--via", SOCKS, "sleep", "600", check=True)
    text_of(lab, "--via", "none", "true")
    assert lab.path(f"/run/appfw/{name}/plan.json").exists()
    taken = run(lab, "--unit", name, "--via", "none", "true")
    assert taken.returncode == 125 and b"in use" in taken.stderr
    assert lab.run(["appfw", "stop", name]).returncode == 0
    wait_gone(lab, name)


def test_stop_ends_an_attached_launch_and_the_launcher_returns(lab):
    with launched(lab, "--via", SOCKS, *HOLD) as process:
        assert lab.run(["appfw", "stop", process.name]).returncode == 0
        assert process.wait(10) == 128 + signal.SIGTERM
        wait_gone(lab, process.name)


def test_stop_of_a_name_that_never_was(lab):
    result = lab.run(["appfw", "stop", "never-was"])
    assert result.returncode == 125 and b"there is no launch never-was" in result.stderr


def test_stop_ends_an_app_that_ignores_it_in_the_end(lab):
    with launched(lab, "--via", "none", script(lab, "stubborn", STUBBORN)) as process:
        assert lab.run(["appfw", "stop", process.name], timeout=30).returncode == 0
        assert process.wait(5) == 128 + signal.SIGKILL


# Signals

# Written without Python's buffer, which a handler may not enter while the program is in it.
REPORT_SIGNALS = r"""
import os, signal, sys
numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2]
for number in numbers:
    signal.signal(number, lambda number, frame: os.write(1, f"got {signal.Signals(number).name}\n".encode()))
os.write(1, b"ready")
for line in sys.stdin:
    break
sys.exit(9)
"""


@AS
def test_signals_to_the_launcher_reach_the_app(lab, user):
    with launched(lab, "--via", SOCKS, *user, "python3", "-c", REPORT_SIGNALS, stdin=subprocess.PIPE) as process:
        for name in ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"] * 2:
            signal_process(process, signal.Signals[name])
            process.shown.until(f"got {name}\n".encode())
        process.stdin.close()
        assert process.wait(10) == 9


@AS
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1])
def test_an_app_that_a_signal_ends_gives_its_number(lab, user, number):
    with launched(lab, "--via", SOCKS, *user, *HOLD) as process:
        signal_process(process, number)
        assert process.wait(10) == 128 + number
        wait_gone(lab, process.name)


def test_signal_ends_the_children_as_well(lab):
    app = "sleep 601 & sleep 602 & echo ready; wait"
    with launched(lab, "--via", "none", "sh", "-c", app) as process:
        signal_process(process, signal.SIGTERM)
        assert process.wait(10) == 128 + signal.SIGTERM
        wait_gone(lab, process.name)


def test_signal_during_the_start_leaves_nothing(lab):
    for pause in range(0, 100, 10):
        name = unique("hasty")
        with started(lab, ["appfw-run", "--unit", name, "--via", SOCKS, "sleep", "600"], stdin=subprocess.DEVNULL,
                     stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            time.sleep(pause / 1000)  # where in its start the launcher is told to end
            signal_process(process, signal.SIGTERM)
            _, said = process.communicate(timeout=15)
        # -15: before it has caught signals at all.
        assert process.returncode in (-15, 128 + signal.SIGTERM), said
        wait_gone(lab, name)


# Directories left by others

def test_stale_state_is_removed_by_the_next_launch_and_foreign_files_are_not(lab):
    text_of(lab, "--via", "none", "true")
    base = lab.path("/run/appfw")
    stale, foreign, file = base / unique("stale"), base / unique("foreign"), base / unique("file")
    stale.mkdir(mode=0o700)
    (stale / "plan.json").write_text("{}")
    (stale / "resolv.conf").write_text("")
    foreign.mkdir()
    (foreign / "note").write_text("mine")
    file.write_text("mine")
    text_of(lab, "--via", "none", "true")
    assert not stale.exists()
    assert (foreign / "note").read_text() == "mine" and file.read_text() == "mine"
    for path in foreign / "note", file:
        path.unlink()
    foreign.rmdir()


def test_stale_removal_follows_no_link(lab):
    base = lab.path("/run/appfw")
    text_of(lab, "--via", "none", "true")
    kept = unique("kept")
    lab.path(f"/tmp/{kept}").mkdir()
    lab.path(f"/tmp/{kept}/plan.json").write_text("{}")
    link = base / unique("link")
    link.symlink_to(f"/tmp/{kept}")
    text_of(lab, "--via", "none", "true")
    assert lab.path(f"/tmp/{kept}/plan.json").exists()
    if link.is_symlink():
        link.unlink()


def test_a_base_directory_that_others_can_write_is_refused(lab):
    base = lab.path("/run/appfw")
    text_of(lab, "--via", "none", "true")
    base.chmod(0o777)
    try:
        result = run(lab, "--via", "none", "echo", "ran")
        assert (result.returncode, result.stdout) == (125, b"")
        assert b"/run/appfw" in result.stderr
    finally:
        base.chmod(0o700)


def test_state_is_the_owners_alone(lab):
    with launched(lab, "--via", SOCKS, *HOLD) as process:
        assert lab.path("/run/appfw").stat().st_mode & 0o777 == 0o711
        for directory in "/run/appfw", f"/run/appfw/{process.name}":
            assert lab.run(["ls", directory], user="bob").returncode != 0


def test_only_the_apps_user_gets_at_the_launchs_socket(lab):
    def connects(user, path):
        program = f"import socket; socket.socket(socket.AF_UNIX).connect({path!r})"
        return b"PermissionError" not in lab.run(["/usr/bin/python3", "-c", program], user=user).stderr
    with launched(lab, "--via", SOCKS, "--uid", "bob", *HOLD) as process:
        directory = f"/run/appfw/{process.name}"
        assert connects("bob", f"{directory}/control") and not connects("eve", f"{directory}/control")
        for file in "plan.json", "via":
            for user in "bob", "eve":
                assert lab.run(["cat", f"{directory}/{file}"], user=user).returncode != 0


@AS
def test_state_of_launches_is_hidden_from_apps(lab, user):
    with launched(lab, "--via", SOCKS, *HOLD) as process:
        listing = text_of(lab, "--via", SOCKS, *user, "ls", "/run/appfw").split()
        assert process.name not in listing
        assert "plan.json" not in listing

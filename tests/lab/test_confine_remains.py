"""Who else is there when a confined service starts: what an earlier start has left, and who is taken for its main process."""

import time

import pytest

from conftest import VERSIONS, boot
from confining import UNITS, Service, drop_in, service, trying
from launching import SOCKS, script, started
from test_user_confine import service as users_service
from test_user_units import systemctl
from waiting import wait_until
from world_map import DNS

# Moves to a cgroup below its own, if it is told so, and sends for as long as it lives.
SENDER = f"""
import os, pathlib, socket, sys, time

if "below" in sys.argv:
    own = pathlib.Path("/proc/self/cgroup").read_text().split("0::")[1].strip()
    below = pathlib.Path(f"/sys/fs/cgroup{{own}}/workers")
    below.mkdir(exist_ok=True)
    (below / "cgroup.procs").write_text(str(os.getpid()))
while True:
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
            datagram.sendto(b"out", ("{DNS}", 9))
    except OSError:
        pass
    time.sleep(0.1)
"""
LEAVES = "[Service]\nKillMode=process\nExecStart=/bin/sh -c 'python3 {sender} {word} & echo $! >/run/@NAME@.left; " \
         "exec sleep infinity'\n"


def leaving(lab, word=""):
    return LEAVES.format(sender=script(lab, "sender.py", SENDER), word=word)


def journal_of_all(lab):
    lab.run(["journalctl", "--sync"])
    return lab.run(["journalctl", "--quiet", "--no-pager", "--output=cat"]).stdout.decode()


def left(made):
    """The process that its last start has left."""
    file = made.lab.path(f"/run/{made.stem}.left")
    wait_until(lambda: file.exists() and file.read_text().strip(), 5, "the process that is left")
    return file.read_text().strip()


def lives(lab, process):
    return lab.run(["kill", "-0", process]).returncode == 0


@pytest.mark.parametrize("word", ["", "below"])
@pytest.mark.parametrize("wall", ["strict", "namespace", "address"])
def test_what_was_left_before_the_wall_is_none_behind_it(lab, wall, word):
    with service(lab, leaving(lab, word)) as made:
        made.start()
        process = left(made)
        words = ["--via", SOCKS, f"--wall={wall}"]
        try:
            said = made.confine(*words, "--now", code=125)
            assert f"its stop may leave process {process} outside of the wall, so nothing was changed" in said
            assert made.is_active() and made.listed() is None
            made.confine(*words)
            assert lab.run(["systemctl", "restart", made.name]).returncode != 0
            assert f"process {process} of an earlier start is outside of the wall still" in lab.journal(made.name)
            assert not made.is_active() and not made.is_proven()
            assert lives(lab, process)
        finally:
            made.systemctl("kill", "--signal=KILL", made.name)
        wait_until(lambda: not lives(lab, process), 5, "the end of what was left")
        made.start()
        assert made.is_proven()
        made.systemctl("kill", "--signal=KILL", made.name)


def test_what_a_users_service_left_before_the_wall_is_none_behind_it(lab):
    made = lab.path("/home/bob/left")
    made.unlink(missing_ok=True)
    program = script(lab, "sender.py", SENDER)
    command = f"/bin/sh -c 'python3 {program} & echo >/home/bob/left; exec sleep infinity'"
    with users_service(lab, more="KillMode=process\n", command=command) as name:
        wait_until(made.exists, 10, "the process that its stop leaves")
        systemctl(lab, "stop", name)
        assert lab.run(["appfw", "confine", name, "--via", SOCKS, "--now"], user="bob").returncode == 125
        # journald may not find the unit of who has ended already.
        said = f"is outside of the wall still, so nothing was run: systemctl --user kill --signal=KILL {name}"
        wait_until(lambda: said in journal_of_all(lab), 10, "the reason in the journal")
        assert lab.run(["systemctl", "--user", "is-active", name], user="bob").stdout != b"active\n"
        lab.run(["systemctl", "--user", "kill", "--signal=KILL", name], user="bob", check=True)
        systemctl(lab, "start", name)
        said = lab.run(["appfw", "confine", "--list"], user="bob", check=True).stdout.decode()
        assert f"{name}: namespace wall, via {SOCKS}, active, proven" in said


def test_what_a_proven_start_left_is_behind_its_wall(lab, world):
    with service(lab, leaving(lab)) as made:
        made.confine("--via", SOCKS, "--now")
        first = left(made)
        lab.path(f"/run/{made.stem}.left").unlink()
        with world.watch() as watch:
            made.restart()
            second = left(made)
            made.restart()
            assert made.is_proven() and lives(lab, first) and lives(lab, second)
            time.sleep(0.5)
        assert not watch.foreign()
        # Another wall is not the one that it was proven to be behind.
        assert "so nothing was changed" in made.confine("--via", SOCKS, "--wall=address", "--now", code=125)
        assert made.is_proven()
        made.systemctl("stop", made.name)
        said = made.confine("--via", SOCKS, "--wall=address", "--now", code=125)
        assert "of an earlier start is outside of the wall still" in said
        made.systemctl("kill", "--signal=KILL", made.name)


def test_who_runs_elsewhere_is_not_taken_for_the_service(lab):
    sender = script(lab, "sender.py", SENDER)
    control = script(lab, "control.sh", f"""
        # As apachectl(8) and others do.
        kill -0 "$(cat /run/adopted.pid 2>/dev/null)" 2>/dev/null && exit 0
        python3 {sender} & echo $! >/run/adopted.pid
    """)
    text = f"[Service]\nType=forking\nPIDFile=/run/adopted.pid\nExecStart=/bin/sh {control}\n"
    pid = lab.path("/run/adopted.pid")
    with service(lab, text) as made:
        with started(lab, ["sh", "-c", f"echo $$ >/run/adopted.pid; exec python3 {sender}"]):
            wait_until(lambda: pid.exists() and pid.read_text(), 5, "the one that was started by hand")
            said = made.confine("--via", SOCKS, "--now", code=125)
            assert "which /run/adopted.pid names (PIDFile=), runs outside of" in said
            assert not made.is_active()
        made.start()
        assert made.is_proven()
    pid.unlink(missing_ok=True)


def test_who_is_taken_later_is_not_said_to_be_proven(lab):
    # A forking service may name another one at any time, and root's is believed.
    with service(lab, "[Service]\nType=forking\nPIDFile=/run/later.pid\nTimeoutStopSec=2\n"
                      "ExecStart=/bin/sh -c 'sleep infinity & echo $! >/run/later.pid'\n") as made:
        made.confine("--via", SOCKS, "--now")
        assert made.is_proven()
        pid = lab.path("/run/later.pid")
        first = pid.read_text().strip()
        with started(lab, ["sh", "-c", "echo $$ >/run/later.pid; exec sleep infinity"]):
            wait_until(lambda: pid.read_text().strip() not in ["", first], 5, "another one")
            lab.run(["kill", first], check=True)
            wait_until(lambda: made.show("MainPID") == pid.read_text().strip(), 5, "the other as the main process")
            assert made.is_active() and not made.is_proven()
    pid.unlink(missing_ok=True)


@pytest.mark.parametrize(("name", "above"), [("cpu", "memory.slice"), ("_x", "_x.slice"), ("io.podman", "system.slice")])
def test_a_service_whose_cgroup_has_another_name_is_confined(lab, name, above):
    with service(lab, trying(lab, f"Slice={above}"), name) as made:
        made.confine("--via", SOCKS, "--now")
        assert made.is_proven()
        found = made.found()
        assert found["proxy"] == 200 and "open" not in found.values()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.both
def test_a_shutdown_is_not_kept_waiting(version):
    # By then the bus is gone, which was there to be asked at its start.
    lab = boot(version)
    try:
        made = Service(lab, "[Service]\nUser=bob\nKillMode=mixed\nStateDirectory=slow\n"
                            "ExecStart=/bin/sh -c 'trap \"sleep 1; exit 0\" TERM; sleep 1000 & wait'\n"
                            "ExecStopPost=/bin/touch /var/lib/slow/over\n", "slow")
        made.confine("--via", SOCKS, "--now")
        over = lab.path("/var/lib/slow/over")
        lab.run(["systemctl", "poweroff", "--no-block"], check=True)
        wait_until(over.exists, 15, "what comes after its end")
        wait_until(lambda: lab._process.poll() is not None, 15, "the end of the shutdown")
    finally:
        lab.stop()


def test_what_comes_after_a_start_that_was_refused_is_not_run(lab):
    # With somebody left, 257 does not note a start anew at the cgroup.
    post = "ExecStopPost=/bin/touch /run/@NAME@.over\nKillMode=process\n"
    with service(lab, leaving(lab).replace("KillMode=process\n", post)) as made:
        made.confine("--via", SOCKS, "--now")
        over = lab.path(f"/run/{made.stem}.over")
        made.restart()
        wait_until(over.exists, 5, "what comes after a proven start")
        opening = lab.path(f"{UNITS}/system.slice.d/open.conf")
        opening.parent.mkdir(exist_ok=True)
        try:
            opening.write_text("[Slice]\nIPAddressAllow=any\n")
            made.systemctl("daemon-reload")
            made.systemctl("stop", made.name)
            over.unlink()
            assert lab.run(["systemctl", "start", made.name]).returncode != 0
            assert "IPAddressAllow" in lab.journal(made.name)
            wait_until(lambda: made.show("ActiveState") == "failed", 15, "its end")
            assert not over.exists()
        finally:
            opening.unlink()
            opening.parent.rmdir()
            made.systemctl("daemon-reload")
            made.systemctl("kill", "--signal=KILL", made.name)


def test_a_start_that_is_refused_ends_where_its_cgroup_is_divided(lab):
    with service(lab, trying(lab, "ExecStopPost=/bin/true", "TimeoutStopSec=60")) as made:
        made.confine("--via", SOCKS)
        drop_in(made, "divided.conf", "[Service]\nDelegate=yes\n")
        begun = time.monotonic()
        assert lab.run(["systemctl", "start", made.name]).returncode != 0
        assert "has Delegate=" in lab.journal(made.name)
        wait_until(lambda: made.show("ActiveState") == "failed", 15, "its end")
        assert time.monotonic() - begun < 15


def test_a_user_that_changes_is_told_as_a_change(lab):
    with service(lab, trying(lab, "User=bob")) as made:
        made.confine("--via", SOCKS, "--now")
        other = drop_in(made, "user.conf", "[Service]\nUser=daemon\n")
        assert lab.run(["systemctl", "restart", made.name]).returncode != 0
        where = str(other).partition("/root/")[2]
        assert f"{where} has changed since it was confined: unconfine it and confine it again" in lab.journal(made.name)

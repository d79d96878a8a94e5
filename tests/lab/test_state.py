"""Where launches keep their files, and what anybody can put beside them in /tmp."""

import contextlib
import signal
import subprocess

import pytest

from launching import SOCKS, Output, kill, launched, run, started, unique
from test_second_mounts import mounted
from test_sessions import ASK, SERVE
from test_standalone_life import INSIDE, of_launch
from waiting import wait_until
from world_map import ORIGIN, UPSTREAM

PYTHON = "/usr/bin/python3"


def uid_of(lab, user):
    return lab.run(["id", "-u", user], check=True).stdout.decode().strip()


def base_in_tmp(lab, user="dan"):
    """Where the launches of who has neither a session nor a home have their directories."""
    return f"/tmp/appfw-{uid_of(lab, user)}"


# A directory is made whole or not at all

@pytest.mark.parametrize("user, base", [("root", "/run/appfw"), ("dan", None)])
def test_a_launch_that_runs_out_of_descriptors_leaves_its_name_free(lab, user, base):
    name = unique("few")
    ended = set()
    # A lower limit is refused beforehand.
    for taken in range(12, 32):
        command = f"""ulimit -n 36; for ((i = 0; i < {taken}; i++)); do exec {{fd}}</dev/null; done
                  exec appfw-run --standalone --via=none --unit {name} true"""
        ended.add(lab.run(["bash", "-c", command], user=user).returncode == 0)
        assert not lab.path(f"{base or base_in_tmp(lab)}/{name}").exists(), taken
    # Else it was never tried where it fails, or where it could.
    assert False in ended
    run(lab, "--standalone", "--via=none", "--unit", name, "true", user=user, check=True)


def test_a_name_whose_launcher_was_killed_before_it_wrote_anything_is_free(lab):
    name = unique("killed")
    lab.path(f"/run/appfw/{name}").mkdir(parents=True)
    run(lab, "--standalone", "--via=none", "--unit", name, "true", check=True)
    assert not lab.path(f"/run/appfw/{name}").exists()


def test_the_rest_of_a_killed_launch_leaves_the_next_one_of_its_name_alone(lab):
    name = unique("again")
    words = ["appfw-run", "--standalone", "--via=none", "--unit", name, "sh", "-c", "echo ready; exec sleep 60"]
    with started(lab, words, stdout=subprocess.PIPE) as process:
        Output(process.stdout.fileno()).until(b"ready")
        outer = of_launch(lab, INSIDE)
        kill(lab, outer, "STOP")
        process.kill()
        process.wait()
        with started(lab, words, stdout=subprocess.PIPE) as process:
            Output(process.stdout.fileno()).until(b"ready")
            kill(lab, outer, "CONT")
            wait_until(lambda: not lab.path(f"/proc/{outer}").exists(), 10, "the end of the rest")
            assert lab.path(f"/run/appfw/{name}/plan.json").exists()
            lab.run(["appfw", "stop", name], check=True)
            assert process.wait(10) == 128 + signal.SIGTERM
    assert not lab.path(f"/run/appfw/{name}").exists()


def test_who_finds_the_place_in_tmp_taken_is_told_the_way_round(lab):
    base = base_in_tmp(lab)
    lab.run(["rm", "-rf", base], check=True)
    lab.run(["mkdir", base], user="eve", check=True)
    try:
        done = run(lab, "--standalone", "--via=none", "true", user="dan")
        assert done.returncode == 125
        assert f"{base} is not a directory of the caller's alone" in done.stderr.decode()
        assert "a home of your own" in done.stderr.decode()
    finally:
        lab.run(["rm", "-rf", base], check=True)


# What others make in /tmp

FLOODS = {
    "files": "open(path, 'x').close()",
    "directories": "os.mkdir(path)",
}


@contextlib.contextmanager
def flooded(lab, kind):
    """5000 of them in /tmp by eve, called as an agent's directories are; bob's agent among them, whose socket it is."""
    stem, agent = unique("flood").replace("-", ""), f"/tmp/ssh-{unique('agent').replace('-', '')}/agent.1"
    make = f"import os\nfor path in [f'/tmp/ssh-{stem}{{n}}' for n in range(5000)]: {FLOODS[kind]}"
    try:
        lab.run([PYTHON, "-c", make], user="eve", check=True)
        with started(lab, [PYTHON, "-c", SERVE, agent], user="bob", stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            assert b"open" in lab.run([PYTHON, "-c", ASK, agent], check=True).stdout
            yield agent
    finally:
        lab.run(["sh", "-c", f"find /tmp -maxdepth 1 -name 'ssh-{stem}*' -delete; rm -r {agent.rpartition('/')[0]}"])


@pytest.mark.parametrize("kind", FLOODS)
@pytest.mark.parametrize("more", [[], ["--wall=namespace"], ["--standalone"]],
                         ids=["strict", "namespace", "standalone"])
def test_whoever_fills_tmp_stops_no_launch_of_roots_and_shows_it_no_agent(lab, kind, more):
    mark = f"/tmp/{unique('mark')}"
    lab.path(mark).touch()
    with flooded(lab, kind) as agent:
        script = f"{ASK}\nprint('mark', os.path.exists({mark!r}))\nopen('/tmp/own', 'w').close()"
        done = run(lab, *more, "--via=none", PYTHON, "-c", script, agent)
    assert done.returncode == 0, done.stderr
    # Files are no sockets, and cost nothing. More directories than can be hidden one by one cost the sight of /tmp.
    assert done.stdout.decode() == f"closed {agent}\nmark {kind == 'files'}\n"
    assert (b"sees none of /tmp" in done.stderr) == (kind == "directories"), done.stderr


LINKS = [f"ln -s {target} $0; ln -s {target} /tmp/screens" for target in ["/usr", "/home/bob", "/", "/nonexistent", "$0"]]


@pytest.mark.parametrize("more", [["--user"], ["--standalone"]], ids=["user", "standalone"])
def test_another_users_links_stop_no_launch_and_hide_nothing(lab, more):
    base, bobs = base_in_tmp(lab), base_in_tmp(lab, "bob")
    try:
        # Those in a directory as well.
        for link in [*LINKS, "mkdir $0; ln -s /usr /home/bob $0"]:
            lab.run(["rm", "-rf", base, bobs, "/tmp/screens"], check=True)
            lab.run(["sh", "-c", link, base], user="eve", check=True)
            lab.run(["sh", "-c", link, bobs], user="eve")
            run(lab, *more, "--via=none", "sh", "-c", "ls /home/bob /usr/bin/env", user="bob", check=True)
            done = run(lab, "--standalone", "--via=none", "true", user="dan")
            assert f"{base} is not a directory of the caller's alone" in done.stderr.decode(), (link, done)
    finally:
        lab.run(["rm", "-rf", base, bobs, "/tmp/screens"], check=True)


# Each of the names is a directory, and nothing, and a link to what programs need, as long as it runs.
FLAP = """import contextlib, os, sys
print("flaps", flush=True)
while True:
    for name in sys.argv[1:]:
        with contextlib.suppress(OSError):
            os.mkdir(name), os.rmdir(name), os.symlink("/usr", name), os.unlink(name)
"""


@contextlib.contextmanager
def flapping(lab, *names):
    try:
        with started(lab, [PYTHON, "-c", FLAP, *names], user="eve", stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            yield
    finally:
        lab.run(["rm", "-rf", *names], check=True)


@pytest.mark.parametrize("user, more", [("root", []), ("root", ["--standalone"]), ("bob", ["--user"]),
                                        ("bob", ["--standalone"])],
                         ids=["strict", "standalone of root", "user", "standalone"])
def test_another_users_names_that_come_and_go_stop_no_launch_and_hide_nothing(lab, user, more):
    stem = f"/tmp/ssh-{unique('flap').replace('-', '')}"
    flooded = [f"{stem}{number}" for number in range(200)]
    with mounted(lab, "/tmp", "/srv/second"), flapping(lab, *flooded), \
            flapping(lab, base_in_tmp(lab, "bob"), "/tmp/screens"):
        for _ in range(15):
            run(lab, *more, "--via=none", "ls", "/usr/bin/env", user=user, check=True)


# What later launches make in /tmp

@pytest.mark.parametrize("user, more", [("root", ["--uid=dan"]), ("root", ["--standalone", "--uid=dan"]),
                                        ("dan", ["--standalone"])],
                         ids=["system for dan", "standalone of root for dan", "standalone"])
def test_the_directory_of_a_later_launch_is_not_the_apps(lab, user, more):
    base = base_in_tmp(lab)
    lab.run(["rm", "-rf", base], check=True)
    script = f"echo ready; read line; cat {base}/*/*; touch {base}/touched {base}/*/touched"
    early = ["appfw-run", *more, "--via=none", "sh", "-c", script]
    with started(lab, early, user=user, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as early:
        assert early.stdout.readline() == b"ready\n"
        later = ["appfw-run", "--standalone", "--via=none", "sh", "-c", "echo ready; exec sleep 60"]
        with started(lab, later, user="dan", stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            assert len(list(lab.path(base).glob("*/plan.json"))) == 1 + (user == "dan")
            early.stdin.close()
            assert early.stdout.read() == b""
            assert early.wait(10) != 0
            assert list(lab.path(base).rglob("touched")) == []
            process.send_signal(signal.SIGTERM)
            process.wait(10)


# What an earlier program lays out for a later launch

# Makes BASE if it can, and puts a link to the bus in the place of each file of a launch there.
EXCHANGE = """
import os, pathlib, sys, time
base, bus = map(pathlib.Path, sys.argv[1:])
try:
    base.mkdir(0o700)
except OSError as error:
    print(error, flush=True)
print("ready", flush=True)
end = time.monotonic() + 60
while time.monotonic() < end:
    time.sleep(0 if os.access(base, os.R_OK) else 0.01)
    for directory in [base / name for name in os.listdir(base)] if os.access(base, os.R_OK) else []:
        for file in "resolv.conf", "nsswitch.conf", "bus":
            try:
                (directory / (file + ".new")).symlink_to(bus)
                (directory / (file + ".new")).rename(directory / file)
            except OSError:
                pass
"""

BY_THE_BUS = "DBUS_SESSION_BUS_ADDRESS=unix:path=$0 systemd-run --user --wait --pipe -q curl -sS http://{origin}/"


@pytest.mark.parametrize("more", [["--user"], ["--standalone"]], ids=["user", "standalone"])
def test_what_an_earlier_program_left_in_a_runtime_directory_of_the_users_own_leads_nowhere(lab, world, more):
    runtime, bus = f"/tmp/{unique('runtime')}", f"/run/user/{uid_of(lab, 'bob')}/bus"
    lab.run(["mkdir", "-m", "700", runtime], user="bob", check=True)
    leave = f"ln -s {bus} {runtime}/pipewire-0; mkdir {runtime}/pulse; ln -s {bus} {runtime}/pulse/native"
    run(lab, *more, "--via", SOCKS, "sh", "-c", leave, user="bob", check=True)
    by_the_bus = BY_THE_BUS.format(origin=ORIGIN)
    with launched(lab, *more, "--via", SOCKS, PYTHON, "-c", EXCHANGE, f"{runtime}/appfw", bus, user="bob"):
        with world.watch() as w:
            for socket in f"{runtime}/pipewire-0", "$XDG_RUNTIME_DIR/pipewire-0", "$XDG_RUNTIME_DIR/pulse/native", \
                    "/etc/resolv.conf", "/etc/nsswitch.conf":
                script = by_the_bus.replace("$0", socket)
                done = run(lab, "--via", SOCKS, "--only=nothing.test", "sh", "-c", script, user="bob",
                           env={"XDG_RUNTIME_DIR": runtime})
                assert done.returncode not in (0, 125) and b"world" not in done.stdout, (socket, done)
        assert w.foreign() == []
        # It is what leads out without a wall.
        with world.watch() as w:
            assert lab.run(["sh", "-c", by_the_bus, bus], user="bob").returncode == 0
        assert w.foreign(), "nothing arrives even without a wall"
    lab.run(["rm", "-r", runtime], check=True)


def test_a_launch_without_a_session_is_kept_where_no_program_sees_it(lab, world):
    home = "/home/ann/.config/appfw/run"
    lab.run(["rm", "-rf", "/home/ann/.config", base_in_tmp(lab, "ann")], check=True)
    early = ["appfw-run", "--standalone", "--via", SOCKS, PYTHON, "-c", EXCHANGE, home, "/etc/hostname"]
    with started(lab, early, user="ann", stdout=subprocess.PIPE) as early:
        assert b"Permission denied" in early.stdout.readline() and early.stdout.readline() == b"ready\n"
        later = "cat /etc/resolv.conf; ls -A ~/.config/appfw; curl -sS --max-time 9 http://web.test/"
        with world.watch() as w:
            done = run(lab, "--standalone", "--via", SOCKS, "sh", "-c", later, user="ann")
        assert b"nameserver 127." in done.stdout and b"world" in done.stdout, done
        assert w.foreign(allow=[(UPSTREAM, 1080)]) == []
        assert len(list(lab.path(home).glob("*/plan.json"))) == 1
        assert list(lab.path(base_in_tmp(lab, "ann")).iterdir()) == []

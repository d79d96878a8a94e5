"""Where launches keep their files, and what anybody can put beside them in /tmp."""

import contextlib
import signal
import subprocess

import pytest

from launching import Output, kill, launched, run, started, unique
from test_second_mounts import mounted
from test_sessions import ASK, SERVE
from test_standalone_life import INSIDE, of_launch
from waiting import wait_until

PYTHON = "/usr/bin/python3"
# Whose base is not a directory of root's.
IN_TMP = {"XDG_RUNTIME_DIR": ""}


def base_in_tmp(lab):
    """Where bob's launches have their directories without a runtime directory."""
    return f"/tmp/appfw-{lab.path('/home/bob').stat().st_uid}"


# A directory is made whole or not at all

@pytest.mark.parametrize("user, env, base", [("root", {}, "/run/appfw"), ("bob", IN_TMP, None)], ids=["root", "bob"])
def test_a_launch_that_runs_out_of_descriptors_leaves_its_name_free(lab, user, env, base):
    name = unique("few")
    ended = set()
    # A lower limit is refused beforehand.
    for taken in range(12, 32):
        command = f"""ulimit -n 36; for ((i = 0; i < {taken}; i++)); do exec {{fd}}</dev/null; done
                  exec appfw-run --standalone --via=none --unit {name} true"""
        ended.add(lab.run(["bash", "-c", command], user=user, env=env).returncode == 0)
        assert not lab.path(f"{base or base_in_tmp(lab)}/{name}").exists(), taken
    # Else it was never tried where it fails, or where it could.
    assert False in ended
    run(lab, "--standalone", "--via=none", "--unit", name, "true", user=user, env=env, check=True)


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
    base, runtime = base_in_tmp(lab), f"/home/bob/{unique('runtime')}"
    lab.run(["rm", "-rf", base], check=True)
    lab.run(["mkdir", base], user="eve", check=True)
    try:
        done = run(lab, "--standalone", "--via=none", "true", user="bob", env=IN_TMP)
        assert done.returncode == 125
        assert f"{base} is not a directory of the caller's alone" in done.stderr.decode()
        assert "XDG_RUNTIME_DIR" in done.stderr.decode()
        lab.run(["mkdir", runtime], user="bob", check=True)
        run(lab, "--standalone", "--via=none", "true", user="bob", env={"XDG_RUNTIME_DIR": runtime}, check=True)
    finally:
        lab.run(["rm", "-rf", base, runtime], check=True)


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
    base = base_in_tmp(lab)
    try:
        # Those in a directory as well.
        for link in [*LINKS, "mkdir $0; ln -s /usr /home/bob $0"]:
            lab.run(["rm", "-rf", base, "/tmp/screens"], check=True)
            lab.run(["sh", "-c", link, base], user="eve", check=True)
            run(lab, *more, "--via=none", "sh", "-c", "ls /home/bob /usr/bin/env", user="bob", check=True)
            done = run(lab, "--standalone", "--via=none", "true", user="bob", env=IN_TMP)
            assert f"{base} is not a directory of the caller's alone" in done.stderr.decode(), (link, done)
    finally:
        lab.run(["rm", "-rf", base, "/tmp/screens"], check=True)


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
    with mounted(lab, "/tmp", "/srv/second"), flapping(lab, base_in_tmp(lab), "/tmp/screens"), flapping(lab, *flooded):
        for _ in range(15):
            run(lab, *more, "--via=none", "ls", "/usr/bin/env", user=user, check=True)


# What later launches make in /tmp

@pytest.mark.parametrize("user, more", [("root", ["--uid=bob"]), ("root", ["--standalone", "--uid=bob"]), ("bob", []),
                                        ("bob", ["--standalone"])],
                         ids=["system for bob", "standalone of root for bob", "user", "standalone"])
def test_the_directory_of_a_later_launch_is_not_the_apps(lab, user, more):
    base = base_in_tmp(lab)
    lab.run(["rm", "-rf", base], check=True)
    script = f"echo ready; read line; cat {base}/*/*; touch {base}/touched {base}/*/touched"
    with launched(lab, *more, "--via=none", "sh", "-c", script, user=user, stdin=subprocess.PIPE) as early:
        later = ["appfw-run", "--standalone", "--via=none", "sh", "-c", "echo ready; exec sleep 60"]
        with started(lab, later, user="bob", env=IN_TMP, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            assert len(list(lab.path(base).glob("*/plan.json"))) == 1
            early.stdin.close()
            assert early.shown.to_the_end().strip() == b""
            assert early.wait(10) != 0
            assert list(lab.path(base).rglob("touched")) == []
            process.send_signal(signal.SIGTERM)
            process.wait(10)

"""The wall that `appfw inside` builds without a systemd: what gets through it, and what does not."""

import pathlib
import re
import socket
import subprocess

import pytest

from launching import SOCKS, run, text_of, unique
from test_escapes import OPEN_BY_DESIGN as CAPTURED
from test_escapes import Baits, CORE_PATTERN, errors_of, results_of, reached, seen_by_world, \
    serve_terminal_multiplexers, write_handle
from test_escapes import core_pattern_is_as_it_was  # noqa: F401  a fixture
from world_map import ORIGIN, UPSTREAM

HERE = pathlib.Path(__file__).parent
PYTHON = "/usr/bin/python3"
PROBE, PROBES = HERE / "probe.py", HERE / "probe_standalone.py"
# Who launches, with what.
CALLERS = {
    "root": ("root", [], {}),
    "root for bob": ("root", ["--uid=bob"], {}),
    "bob": ("bob", [], {}),
    "bob without a runtime directory": ("bob", [], {"XDG_RUNTIME_DIR": ""}),
}
AS = pytest.mark.parametrize("caller", CALLERS)
LISTEN = "0A"  # TCP_LISTEN of include/net/tcp_states.h, as /proc/net/tcp has it

# Open on purpose; docs/security.md says why. The list is compared as a whole.
OPEN_BY_DESIGN = {
    "getaddrinfo": "the forwarder answers with an address that stands for the name, and asks nobody",
}
OPEN_TO_ROOT = {
    "write-/run/systemd/system": "an empty directory of the app's own (sd_booted looks at it)",
}
OPEN_TO_OTHERS = {
    "mounts-a-proc-of-its-own": "it shows the app's own processes alone, and what is hidden there is root's to misuse",
}


def alone(lab, caller, *words, **options):
    """Runs appfw-run --standalone as CALLER to its end."""
    user, more, env = CALLERS[caller]
    return run(lab, "--standalone", *more, *words, user=user, env=env, **options)


def confined(lab, caller, names="all", via="direct", program=PROBES, more="", capture=("--no-capture",)):
    """Runs probes as the app of a launch."""
    script = f'exec {PYTHON} {program} --json --forwarder="${{http_proxy#http://}}" {names} {more}'
    done = alone(lab, caller, "--via", via, *capture, "--dns=synthetic", "--", "sh", "-fc", script, timeout=180)
    assert done.returncode == 0, done.stderr
    return results_of(done.stdout)


# Out by the forwarder, by name

@AS
def test_programs_get_out_by_the_forwarder_and_by_name(lab, world, caller):
    with world.watch() as w:
        done = alone(lab, caller, "--via", SOCKS, "curl", "-sS", "--max-time", "20", "http://web.test/", check=True)
    assert done.stdout.startswith(f"world {ORIGIN}".encode())
    asked, = w.events(server="socks5", kind="socks")
    assert asked["name"] == "web.test"
    assert w.foreign(allow=[(UPSTREAM, 1080)]) == []


@AS
def test_names_are_resolved_by_the_forwarder_alone(lab, world, caller):
    with world.watch() as w:
        text = alone(lab, caller, "--via", SOCKS, "getent", "ahostsv4", "web.test", check=True).stdout.decode()
    assert re.match(r"198\.1[89]\.", text)
    assert w.foreign() == [] and w.events(server="dns") == []


@AS
def test_without_a_way_out_there_is_none(lab, world, caller):
    with world.watch() as w:
        done = alone(lab, caller, "--via=none", "sh", "-c", "env; curl -sS --max-time 3 http://203.0.113.10/")
    assert done.returncode != 0 and b"proxy" not in done.stdout
    assert w.foreign() == []


# Everything at once

def leave_state_of_another_launch(lab):
    """Of bob's, as one is that he began without a runtime directory."""
    uid = lab.path("/home/bob").stat().st_uid
    lab.run(["mkdir", "-p", f"/tmp/appfw-{uid}/other"], user="bob", check=True)
    lab.run(["touch", f"/tmp/appfw-{uid}/other/via"], user="bob", check=True)


# By which a probe's connection still is where it was: captured.
STILL_CAPTURED = {"unshare-user"}


@AS
@pytest.mark.parametrize("capture", [True, False], ids=["captured", "not captured"])
def test_what_a_launch_reaches_is_what_is_open_by_design(lab, world, caller, capture):
    write_handle(lab)
    serve_terminal_multiplexers(lab)
    leave_state_of_another_launch(lab)
    before = CORE_PATTERN.read_text()
    with Baits(lab) as baits, world.watch() as w:
        # What is captured is taken and refused, by --only.
        results = confined(lab, caller, capture=["--only=nothing.test"] if capture else ["--no-capture"])
    taken = {*CAPTURED["namespace"], *STILL_CAPTURED} if capture else set(OPEN_BY_DESIGN)
    wanted = taken | set(OPEN_TO_ROOT if caller == "root" else OPEN_TO_OTHERS)
    assert len(results) > 150
    differs = reached(results) - wanted if capture else reached(results) ^ wanted
    assert {name: results[name]["detail"] for name in differs} == {}
    # Whether a connection that is taken is refused before a probe sees it made is a race; that DNS answers is none.
    assert "dns-direct-udp" in reached(results) or not capture
    assert seen_by_world(w) == set()
    assert baits.servers == set()
    assert w.events(server="dns") == []
    assert CORE_PATTERN.read_text() == before
    assert errors_of(lab, results) == {}


@AS
def test_shared_memory_of_others_is_not_there(lab, caller):
    """System V's has no place in the file system that could be hidden: who has the number, or looks, has it."""
    made = lab.run(["ipcmk", "--shmem", "4096", "--mode", "0666"], user="bob", check=True).stdout.decode().split()[-1]
    try:
        count = ["sh", "-c", "grep -c . /proc/sysvipc/shm"]
        assert int(lab.run(count, check=True).stdout) >= 2
        assert alone(lab, caller, "--via=none", *count, check=True).stdout == b"1\n"
    finally:
        lab.run(["ipcrm", "--shmem-id", made], check=True)


# Without the wall they get out: the ones of test_escapes.py have tests of their own there.
FREE = {
    "root": {"others-visible", "init-descriptors", "init-getfd", "init-ptrace", "double-fork", "mount",
             "ip-link-add-probe0-type-veth", "ip-route-add-10.9.9.0/24-dev-lo", "nft-add", "mounts-a-proc-of-its-own",
             "mounts-core-pattern"},
    "bob": {"others-visible", "double-fork", "mounts-a-proc-of-its-own"},
}


@pytest.mark.parametrize("user", FREE)
def test_unconfined_probes_get_out(lab, user):
    done = lab.run([PYTHON, PROBES, "--json", *FREE[user]], user=user, timeout=60)
    lab.run(["ip", "link", "del", "probe0"])
    lab.run(["ip", "route", "del", "10.9.9.0/24"])
    lab.run(["umount", "/mnt"])
    assert FREE[user] - reached(results_of(done.stdout)) == set(), done.stdout


@AS
@pytest.mark.parametrize("via", ["direct", f"socks5h://{UPSTREAM}:1080"])
def test_forwarder_never_leads_inside(lab, world, caller, via):
    with Baits(lab) as baits, world.watch() as w:
        results = confined(lab, caller, "forwarder-*", via, PROBE, "--forwarder-port=8022")
    assert len(results) >= 35
    assert reached(results) == set()
    assert baits.servers == set() and w.foreign() == [] and w.events() == []


@AS
def test_what_is_killed_is_killed(lab, caller):
    """A call of the i386 ABI is no error to go on from."""
    done = alone(lab, caller, "--via=none", PYTHON, PROBES, "--as-i386")
    assert done.returncode in (128 + 31, 128 + 11), done


@AS
def test_io_uring_is_said_not_to_exist(lab, caller):
    assert "Function not implemented" in confined(lab, caller, "io-uring")["io-uring"]["detail"]


def sets_of(text):
    return {line.split(":")[0]: int(line.split()[1], 16) for line in text.splitlines() if line.startswith("Cap")}


@AS
def test_no_capability_that_the_wall_was_built_with_is_left(lab, caller):
    done = alone(lab, caller, "--via=direct", "cat", "/proc/self/status", check=True)
    bounding = 0x218405FF
    held = bounding if caller == "root" else 0
    status = done.stdout.decode()
    assert sets_of(status) == {"CapInh": 0, "CapPrm": held, "CapEff": held, "CapBnd": bounding, "CapAmb": 0}
    assert "NoNewPrivs:\t1" in status


# What the launcher has open

@AS
def test_descriptors_of_the_launcher_do_not_reach_the_app(lab, world, caller):
    user, more, env = CALLERS[caller]
    ours, theirs = socket.socketpair()
    with ours, theirs, open("/etc/hostname") as file:
        words = ["appfw-run", "--standalone", *more, "--via=direct", "--", "sh", "-c", "echo /proc/self/fd/*"]
        process = lab.popen(words, user=user, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, pass_fds=[theirs.fileno(), file.fileno()])
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    # The last is the shell's own listing.
    assert [path.rpartition("/")[2] for path in out.decode().split()] == ["0", "1", "2", "3"]


@AS
@pytest.mark.parametrize("stream", ["stdin", "stdout", "stderr"])
def test_a_socket_as_a_standard_stream_is_refused(lab, caller, stream):
    user, more, env = CALLERS[caller]
    mark = f"/tmp/{unique('mark')}"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: theirs}
        words = ["appfw-run", "--standalone", *more, "--via=direct", "touch", mark]
        process = lab.popen(words, user=user, env=env, **streams)
        process.communicate(timeout=20)
    assert process.returncode == 125 and not lab.path(mark).exists()


@AS
def test_the_password_of_the_way_out_is_not_the_apps_to_read(lab, caller):
    user, more, env = CALLERS[caller]
    via = f"/tmp/{unique('via')}"
    lab.path(via).touch(mode=0o600)
    lab.path(via).write_text(f"socks5h://lab:secret@{UPSTREAM}:1081\n")
    lab.run(["chown", user, via], check=True)
    script = "curl -s http://web.test/; cat /run/appfw/*/* /run/user/*/appfw/*/* /tmp/appfw-*/*/*; " \
             "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | tr '\\0' '\\n'; ls -d /tmp/appfw-*/*; true"
    done = run(lab, "--standalone", *more, "--via", f"@{via}", "sh", "-c", f"({script}) 2>/dev/null",
               user=user, env=env, check=True)
    assert b"world " in done.stdout
    assert b"secret" not in done.stdout + done.stderr


# Who else may use the forwarder

@AS
def test_the_forwarder_is_the_apps_alone(lab, world, caller):
    """Nothing listens outside of the app's namespace."""
    script = "curl -sS --max-time 9 http://web.test/ >/dev/null; echo; cat /proc/net/tcp"
    inside = alone(lab, caller, "--via", SOCKS, "sh", "-c", script, check=True).stdout.decode()
    assert "325A647F:0438" in inside
    # What an earlier test has closed there waits for a while.
    outside = [line.split() for line in lab.path("/proc/1/net/tcp").read_text().splitlines()]
    assert [line for line in outside if line[1] == "325A647F:0438" and line[3] == LISTEN] == []
    assert text_of(lab, "--via=none", "cat", "/proc/net/tcp").count("\n") == 1

"""What an app could put in the place of a launch's own parts, or take from them while they start."""

import contextlib
import subprocess
import time

import pytest

from launching import HOLD, SOCKS, run, secret_file, started, unique
from test_fail_closed import ALLOW_BOB, polkit_rule
from test_publish import SERVER, on_the_host, port
from test_standalone import AS, CALLERS, PYTHON
from test_standalone_life import bases, launched
from test_state import base_in_tmp
from world_map import ORIGIN, UPSTREAM


def way_out_of(lab, user):
    """--via by a file of the user's with a password in it."""
    return f"--via={secret_file(lab, f'socks5h://lab:secret@{UPSTREAM}:1081', user)}"


PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}

# Who publishes, in its first moments

# Kills who publishes, time and again, and tries to take a descriptor of the next one's from its first moment on: a
# socket of the host's, shut down, begins a connection of the host's.
TAKE = """
import ctypes, os, pathlib, signal, socket, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def is_publisher(pid):
    try:
        return b"appfw\\0publish" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
def next_one(old, limit):
    while time.monotonic() < limit:
        near = [pid for pid in range(old + 1, old + 60) if old and os.path.exists(f"/proc/{pid}")]
        for pid in near or map(int, filter(str.isdigit, os.listdir("/proc"))):
            if pid != old and is_publisher(pid):
                return pid
    sys.exit("no publisher came back")
def take(pid):
    process, limit, getfd = os.pidfd_open(pid), time.monotonic() + 0.1, libc.syscall
    while time.monotonic() < limit:
        for number in 3, 4, 5, 3, 4, 5, 3, 4, 5, 3, 4, 5:
            taken = getfd(438, process, number, 0)
            if taken >= 0:
                use(taken)
    os.close(process)
def use(taken):
    print("taken", os.readlink(f"/proc/self/fd/{taken}"), flush=True)
    if os.readlink(f"/proc/self/fd/{taken}").startswith("socket:"):
        found = socket.socket(fileno=taken)
        if found.family == socket.AF_INET:
            found.shutdown(socket.SHUT_RDWR)
            found.settimeout(3)
            found.connect((sys.argv[1], 80))
publisher, rounds, end = 0, 0, time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    publisher = next_one(publisher, time.monotonic() + 10)
    take(publisher)
    rounds += 1
    os.kill(publisher, signal.SIGKILL)
print(rounds)
"""


def test_a_publisher_that_is_just_starting_is_not_the_apps_to_take(lab, world):
    with world.watch() as w:
        done = run(lab, "--via=none", f"--publish=0.0.0.0:{port()}=8080", PYTHON, "-c", TAKE, ORIGIN, "4", user="bob")
    assert (done.returncode, w.foreign()) == (0, []), done
    # It was killed and came back, time and again; and nothing was taken.
    assert int(done.stdout) >= 10


# The way out

# In a mount namespace of its own, in which nothing is mounted at that directory, it can be renamed (rename(2), EBUSY).
PLANT = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def check(result):
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def write(file, text):
    with open(file, "w") as opened:
        opened.write(text)
base, name = sys.argv[1:]
uid, gid = os.getuid(), os.getgid()
check(libc.unshare(0x10000000 | 0x20000))
write("/proc/self/setgroups", "deny")
write("/proc/self/uid_map", f"{uid} {uid} 1")
write("/proc/self/gid_map", f"{gid} {gid} 1")
tmp = os.open("/tmp", os.O_RDONLY | os.O_DIRECTORY)
check(libc.mount(None, b"/", None, 16384 | 262144, None))
check(libc.mount(b"none", b"/mnt", b"tmpfs", 0, None))
os.chdir("/mnt")
check(libc.syscall(155, b".", b"."))
check(libc.umount2(b".", 2))
os.rename(base, f"{base}-{name}", src_dir_fd=tmp, dst_dir_fd=tmp)
for directory in base, f"{base}/{name}":
    os.mkdir(directory, 0o700, dir_fd=tmp)
with open(os.open(f"{base}/{name}/via", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=tmp), "w") as via:
    via.write("direct")
print("planted", flush=True)
"""


def test_a_directory_that_the_app_has_renamed_changes_no_way_out(lab, world):
    base, name = base_in_tmp(lab).removeprefix("/tmp/"), unique("renamed")
    script = f"{PYTHON} -c '{PLANT}' {base} {name}; curl -sS --max-time 9 http://web.test/"
    try:
        words = ["--standalone", "--unit", name, way_out_of(lab, "dan"), "sh", "-c", script]
        with world.watch() as w:
            done = run(lab, *words, user="dan")
        assert done.stdout.startswith(b"planted\nworld "), done
        assert w.foreign(allow=[(UPSTREAM, 1081)]) == []
    finally:
        lab.run(["rm", "-rf", f"/tmp/{base}", f"/tmp/{base}-{name}"], check=True)


@AS
def test_no_file_of_a_standalone_launch_holds_the_password(lab, caller):
    with launched(lab, caller, way_out_of(lab, CALLERS[caller][0]), *HOLD) as process:
        files = [file for base in bases(lab) for file in base.glob(f"{process.name}/*") if file.is_file()]
        assert "plan.json" in [file.name for file in files]
        assert [file for file in files if b"secret" in file.read_bytes()] == []
        process.terminate()
        process.wait(10)


def test_by_a_manager_no_password_is_written_where_the_app_could_come_by_it(lab):
    mark = f"/tmp/{unique('ran')}"
    with polkit_rule(lab, ALLOW_BOB.replace("bob", "dan")):
        words = ["--system", "--wall=namespace", way_out_of(lab, "dan"), "touch", mark]
        done = run(lab, *words, user="dan")
    assert done.returncode == 125 and f"a password would stand in {base_in_tmp(lab)}".encode() in done.stderr, done
    assert not lab.path(mark).exists()


# The program itself

@contextlib.contextmanager
def installed(lab, directory):
    """appfw-run and appfw in a directory of bob's."""
    lab.run(["mkdir", "-p", directory], check=True)
    lab.run(["cp", "/usr/local/bin/appfw", "/usr/local/bin/appfw-run", directory], check=True)
    lab.run(["chown", "-R", "bob", directory], check=True)
    yield
    lab.run(["rm", "-rf", directory], check=True)


# What stands in appfw's place leaves a mark and goes out, then does what appfw does.
REPLACE = """
cd {directory} && cp appfw real && cat >new <<'END'
#!/bin/bash
readlink /proc/self/ns/net >>{mark}
(exec 3<>/dev/tcp/{origin}/9)
exec {directory}/real "$@"
END
chmod +x new && mv new appfw && echo ready
for attempt in 1 2 3; do
    curl -sS --max-time 3 -o /dev/null http://web.test/
    pkill -KILL -f 'appfw (forward|publish)'
    sleep 0.3
done
read line
"""


@pytest.mark.parametrize("directory", ["/home/bob/bin", "/opt/bob"])
@pytest.mark.parametrize("more", [
    pytest.param(["--user"], id="user"),
    pytest.param(["--standalone"], id="standalone"),
])
def test_what_the_app_puts_in_appfws_place_never_runs(lab, world, more, directory):
    mark, number = f"/home/bob/{unique('mark')}", port()
    script = REPLACE.format(directory=directory, mark=mark, origin=ORIGIN)
    with installed(lab, directory), world.watch() as w:
        words = [f"{directory}/appfw-run", *more, "--via", SOCKS, f"--publish={number}=8080", "sh", "-c", script]
        with started(lab, words, user="bob", **PIPES) as process:
            assert process.stdout.readline() == b"ready\n"
            for _ in range(3):
                with contextlib.suppress(OSError):
                    on_the_host(lab, "127.0.0.1", number)
            process.communicate(b"over\n", timeout=30)
    assert not lab.path(mark).exists(), lab.path(mark).read_text()
    assert {packet["dst"] for packet in w.foreign()} == {UPSTREAM}


# By systemd itself: what serves the app is killed for it, as it crashes at times or is not needed for a while.
# In the namespace an ordinary user's appfw, which would be run as root, is refused.
@pytest.mark.parametrize("caller, wall", [("root", "strict"), ("root", "namespace"), ("bob", "strict")])
def test_what_the_app_puts_in_appfws_place_never_runs_by_systemd_itself(lab, world, caller, wall):
    mark, name, directory = f"/home/bob/{unique('mark')}", unique("replaced"), f"/home/bob/{unique('bin')}"
    script = REPLACE.format(directory=directory, mark=mark, origin=ORIGIN)
    publish = [f"--publish={port()}=8080"] if wall == "namespace" else []
    allowed = polkit_rule(lab, ALLOW_BOB) if caller == "bob" else contextlib.nullcontext()
    with allowed, installed(lab, directory), world.watch() as w:
        words = ["--system", f"--wall={wall}", "--unit", name, "--uid=bob", *publish, "--via=direct", "--only=web.test"]
        with started(lab, [f"{directory}/appfw-run", *words, "bash", "-c", script], user=caller, **PIPES) as process:
            assert process.stdout.readline() == b"ready\n", process.stderr.read()
            for _ in range(3):
                lab.run(["pkill", "-KILL", "-f", "appfw (forward|publish)"])
                time.sleep(0.5)
            process.communicate(b"over\n", timeout=30)
    assert not lab.path(mark).exists(), lab.path(mark).read_text()
    assert [packet for packet in w.packets() if packet.get("dport") == 9] == []


@pytest.mark.parametrize("wall", ["strict", "namespace", "address"])
def test_an_appfw_of_anothers_serves_by_systemd_itself(lab, wall):
    directory, number = f"/home/bob/{unique('bin')}", port()
    publish = [f"--publish={number}=8080"] if wall == "namespace" else []
    with installed(lab, directory):
        words = [f"{directory}/appfw-run", f"--wall={wall}", "--uid=bob", *publish, "--via", SOCKS]
        done = lab.run([*words, "curl", "-sS", "http://web.test/"], check=True)
        assert done.stdout.startswith(b"world ")
        if publish:
            with started(lab, [*words, PYTHON, "-c", SERVER, "127.0.0.1", "8080"], **PIPES) as process:
                assert process.stdout.readline() == b"ready\n", process.stderr.read()
                assert on_the_host(lab, "127.0.0.1", number) == b"inside hello"
                process.terminate()
                process.wait(10)


@pytest.mark.parametrize("servant", ["lifeline", "forward", "publish"])
def test_what_serves_an_app_is_executed_before_it(lab, world, servant):
    """However late the user's systemd comes to it."""
    name, mark, directory = unique("late"), f"/home/bob/{unique('mark')}", f"/home/bob/{unique('bin')}"
    late = f"/home/bob/.config/systemd/user/appfw-{name}-{servant}.service.d"
    settings = f"mkdir -p {late} && printf '[Service]\\nExecStartPre=/bin/sleep 0.5\\n' >{late}/late.conf"
    script = REPLACE.format(directory=directory, mark=mark, origin=ORIGIN)
    with installed(lab, directory), world.watch() as w:
        lab.run(["sh", "-c", f"{settings}; systemctl --user daemon-reload"], user="bob", check=True)
        words = ["--user", "--unit", name, "--via", SOCKS, f"--publish={port()}=8080", "sh", "-c", script]
        with started(lab, [f"{directory}/appfw-run", *words], user="bob", **PIPES) as process:
            assert process.stdout.readline() == b"ready\n", process.stderr.read()
            process.communicate(b"over\n", timeout=30)
        lab.run(["sh", "-c", f"rm -r {late}; systemctl --user daemon-reload"], user="bob", check=True)
    assert not lab.path(mark).exists(), lab.path(mark).read_text()
    assert {packet["dst"] for packet in w.foreign()} == {UPSTREAM}


@pytest.mark.parametrize("more", [["--user"], ["--standalone"]], ids=["user", "standalone"])
def test_an_appfw_of_the_users_own_serves_all_the_same(lab, more):
    directory, number, name = f"/home/bob/{unique('bin')}", port(), unique("own")
    with installed(lab, directory):
        launcher = [f"{directory}/appfw-run", *more]
        words = ["--via", SOCKS, f"--publish={number}=8080", PYTHON, "-c", SERVER, "127.0.0.1", "8080"]
        with started(lab, [*launcher, *words], user="bob", **PIPES) as process:
            assert process.stdout.readline() == b"ready\n", process.stderr.read()
            assert on_the_host(lab, "127.0.0.1", number) == b"inside hello"
            process.terminate()
            process.wait(10)
        done = lab.run([*launcher, "--via", SOCKS, "curl", "-sS", "http://web.test/"], user="bob", check=True)
        assert done.stdout.startswith(b"world ")
        lab.run([*launcher, "--detach", "--unit", name, "--via=none", "true"], user="bob", check=True)

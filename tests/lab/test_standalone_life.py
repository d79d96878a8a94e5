"""How launches without a systemd live and end: what test_life.py and test_stdio.py ask of those with one."""

import contextlib
import os
import pathlib
import signal
import subprocess
import termios
import time

import pytest

import launching
from lab import resize_terminal
from launching import LOGGED, SOCKS, Output, come_up, command_lines, kill, started, unique
from test_life import REPORT_SIGNALS, STUBBORN, TALK, namespaces, settings_of
from test_standalone import AS, CALLERS, alone
from waiting import wait_until
from world_map import ORIGIN, UPSTREAM

GONE = 2  # seconds in which nothing of a launch may be left
HOLD = ["sh", "-c", "curl -sS --max-time 9 http://web.test/ >/dev/null; echo ready; exec sleep 60"]
INSIDE, FORWARDER = "/appfw inside --wall=", "/appfw forward --handed"
CURL = ["curl", "-sS", "--max-time", "20"]


def bases(lab):
    """Where launches have their directories."""
    uid = lab.path("/home/bob").stat().st_uid
    return [lab.path(path) for path in ("/run/appfw", f"/run/user/{uid}/appfw", f"/tmp/appfw-{uid}")]


def inner_parts(lab):
    """What the launcher has started."""
    parts = (INSIDE, FORWARDER, "/appfw lifeline")
    return {pid: words for pid, words in command_lines(lab).items() if any(part in words for part in parts)}


def left(lab, name):
    """What there still is of that launch, or of any program that a launch consists of."""
    directories = [str(base / name) for base in bases(lab) if (base / name).exists()]
    named = {pid: words for pid, words in command_lines(lab).items() if name in words}
    return [*directories, *inner_parts(lab).values(), *named.values()]


def wait_gone(lab, name, seconds=GONE):
    launching.wait_gone(lab, name, seconds, left)


def stop(lab, caller, name):
    """Ends a launch of CALLER's; returns when nothing of it is left."""
    user, _, env = CALLERS[caller]
    assert lab.run(["appfw", "stop", name], user=user, env=env).returncode == 0
    wait_gone(lab, name)


@contextlib.contextmanager
def launched(lab, caller, *words, tty=False, **options):
    """A launch of CALLER's whose program has written "ready"."""
    user, more, env = CALLERS[caller]
    name = unique("alone")
    command = ["appfw-run", "--standalone", "--unit", name, *more, *words]
    if not tty:
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    mounts = len(lab.path("/proc/1/mounts").read_text().splitlines())
    with started(lab, command, user=user, env=env, tty=tty, **options) as process:
        process.name = name
        come_up(process, tty)
        yield process
    wait_gone(lab, name)
    assert len(lab.path("/proc/1/mounts").read_text().splitlines()) == mounts


def of_launch(lab, words, init=False):
    """The launch's process whose command line has WORDS, as the lab numbers it. `inside` is two, of which INIT is the first
    one of its PID namespace."""
    def numbers(pid):
        """One in each PID namespace that it is in (proc(5))."""
        status = lab.path(f"/proc/{pid}/status").read_text()
        return next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[1:]

    found = [pid for pid, line in inner_parts(lab).items() if words in line]
    return next((pid for pid in found if words != INSIDE or (numbers(pid)[-1] == "1") == init), None)


# Exit codes

@pytest.mark.parametrize("caller", ["root", pytest.param("bob", marks=pytest.mark.slow)])
def test_every_exit_code_comes_through(lab, caller):
    user, more, env = CALLERS[caller]
    script = "for i in $(seq 0 255); do appfw-run --standalone --via=none sh -c \"exit $i\"; echo $?; done"
    done = lab.run(["sh", "-c", script], user=user, env=env)
    assert done.stdout.decode().split() == [str(code) for code in range(256)], done.stderr


@AS
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGINT, signal.SIGSYS])
def test_a_program_that_a_signal_ends_gives_its_number(lab, caller, number):
    done = alone(lab, caller, "--via=none", "sh", "-c", f"kill -{number.value} $$")
    assert done.returncode == 128 + number


@AS
@pytest.mark.parametrize("words, code, says", [
    (["/etc/passwd"], 126, "no permission"),
    (["/nonexistent"], 127, "does not exist"),
    (["no-such-program"], 127, "no-such-program was not found"),
    (["check"], 127, "did you mean `appfw check`?"),
    (["--wall=strict", "true"], 125, "needs the system manager"),
    (["--deny=any", "true"], 125, "need the system manager"),
    (["--workdir=/nonexistent", "true"], 125, "/nonexistent"),
])
def test_what_is_not_executed_has_the_shells_codes(lab, caller, words, code, says):
    done = alone(lab, caller, "--via=none", *words)
    assert (done.returncode, done.stdout) == (code, b"")
    said, = done.stderr.decode().splitlines()
    assert says in said


def test_another_user_than_the_own_needs_root(lab):
    done = alone(lab, "bob", "--via=none", "--uid=eve", "true")
    assert done.returncode == 125 and b"--uid needs root" in done.stderr


# Streams

@AS
def test_pipes_are_exact_to_the_byte(lab, caller):
    data = os.urandom(3 << 20)
    done = alone(lab, caller, "--via=none", "cat", input=data, check=True)
    assert done.stdout == data and done.stderr == b""


@AS
def test_output_and_errors_stay_apart(lab, caller):
    done = alone(lab, caller, "--via=none", "sh", "-c", "echo out; echo err >&2", check=True)
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")


@AS
def test_a_reader_that_goes_ends_the_program(lab, caller):
    user, more, env = CALLERS[caller]
    name = unique("alone")
    script = f"appfw-run --standalone --unit {name} {' '.join(more)} --via=none yes 2>&1 | " \
             f"head -n 2; echo ${{PIPESTATUS[0]}}"
    done = lab.run(["bash", "-c", script], user=user, env=env, timeout=20)
    assert done.stdout.decode().split() == ["y", "y", str(128 + signal.SIGPIPE)]
    wait_gone(lab, name)


@AS
def test_a_terminal_is_the_programs_own(lab, caller):
    script = "stty size; tty; echo ready; read -r line; echo got $line; stty size; " \
             "trap 'echo interrupted' INT; echo waiting; sleep 60; echo over; exit 7"
    with launched(lab, caller, "--via=none", "sh", "-c", script, tty=True) as process:
        before = process.shown.seen
        assert b"24 80" not in before  # it was shown before "ready"
        resize_terminal(process.terminal, 50, 132)
        time.sleep(0.2)  # until the launcher has been told
        os.write(process.terminal, b"hello\r")
        process.shown.until(b"got hello")
        process.shown.until(b"50 132")
        process.shown.until(b"waiting")
        time.sleep(0.2)  # until it sleeps: a shell has a trap wait for the next program's end
        os.write(process.terminal, b"\x03")
        process.shown.until(b"interrupted")
        process.shown.until(b"over")
        assert process.wait(10) == 7


@AS
def test_job_control_works_in_a_shell_inside(lab, caller):
    with launched(lab, caller, "--via=none", "bash", "--norc", "-ic", "echo ready; exec bash --norc -i",
                  tty=True) as process:
        os.write(process.terminal, b"sleep 77\r")
        time.sleep(0.5)  # until it runs
        os.write(process.terminal, b"\x1a")
        process.shown.until(b"Stopped")
        os.write(process.terminal, b"fg\r")
        process.shown.until(b"sleep 77\r\n")
        time.sleep(0.2)  # until it has the terminal
        os.write(process.terminal, b"\x03")
        process.shown.until(b"^C")
        os.write(process.terminal, b"exit 4\r")
        process.shown.to_the_end()
        assert process.wait(10) == 4


@AS
def test_a_launcher_that_is_stopped_goes_on(lab, caller):
    with launched(lab, caller, "--via=none", "sh", "-c", "echo ready; sleep 0.6; echo on; exit 6") as process:
        os.kill(process.pid, signal.SIGTSTP)
        process.shown.until(b"on")
        os.kill(process.pid, signal.SIGCONT)
        assert process.wait(10) == 6


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("caller", ["root", "bob"])
def test_terminal_is_as_before_whatever_ends_the_launcher(lab, caller, number):
    # A shell between, so that the terminal outlives the launcher.
    user, _, env = CALLERS[caller]
    name = unique("terminal")
    inner = f"echo up; read line; appfw-run --standalone --unit {name} --via=none " \
            "sh -c 'echo ready; exec sleep 60'; echo over $?; exec cat"
    with started(lab, ["sh", "-c", inner], tty=True, user=user, env=env) as process:
        shown = Output(process.terminal)
        shown.until(b"up")
        before = settings_of(process.terminal)
        os.write(process.terminal, b"\r")
        shown.until(b"ready")
        assert settings_of(process.terminal) != before
        launcher, = [pid for pid, words in command_lines(lab).items()
                     if words.startswith(f"appfw-run --standalone --unit {name}")]
        kill(lab, launcher, number.value)
        shown.until(b"over %d" % (128 + number))
        wait_until(lambda: settings_of(process.terminal) == before, GONE, "the terminal's settings")
    wait_gone(lab, name)


# Who is killed

@AS
@pytest.mark.parametrize("app", ["sleep", "stubborn"])
@pytest.mark.parametrize("who", ["launcher", "inside", "init"])
def test_whoever_is_killed_takes_everything_along(lab, world, caller, who, app):
    command = HOLD if app == "sleep" else [stubborn(lab)]
    with launched(lab, caller, "--via", SOCKS, *command) as process:
        with world.watch() as w:
            if who == "launcher":
                process.kill()
            else:
                kill(lab, of_launch(lab, INSIDE, init=who == "init"), "KILL")
            code = process.wait(10)
            if caller == "root for bob" and who == "launcher":
                # Its directory is root's, and `inside` bob's: the next launch removes it.
                wait_until(lambda: not inner_parts(lab), GONE, "the end")
                alone(lab, "root", "--via=none", "true", check=True)
            wait_gone(lab, process.name)
        assert code == (-signal.SIGKILL if who == "launcher" else 128 + signal.SIGKILL)
        assert w.foreign(allow=[(UPSTREAM, 1080)]) == []


def stubborn(lab):
    """The script, where bob may run it."""
    path = pathlib.Path(LOGGED, unique("stubborn"))
    lab.path(path).write_text(STUBBORN)
    lab.path(path).chmod(0o755)
    return str(path)


@AS
def test_killed_forwarder_ends_its_connections_and_comes_back(lab, world, caller):
    with launched(lab, caller, "--via", SOCKS, "python3", "-c", TALK, stdin=subprocess.PIPE) as process:
        before = of_launch(lab, FORWARDER)
        with world.watch() as w:
            kill(lab, before, "KILL")
            process.shown.until(b"ended")
            process.shown.until(b"again b'two'")
        assert w.foreign(allow=[(UPSTREAM, 1080)]) == []
        assert of_launch(lab, FORWARDER) not in (None, before)
        process.stdin.close()
        assert process.wait(10) == 5


def test_killed_launcher_before_the_app_runs_leaves_nothing(lab):
    """Killed at any moment, not only when all stands."""
    names = []
    for pause in range(0, 40, 2):
        name = unique("early")
        with started(lab, ["appfw-run", "--standalone", "--unit", name, "--via", SOCKS, "sleep", "600"], user="bob",
                     stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
            time.sleep(0.03 + pause / 1000)  # where in its start the launcher is killed, behind the lab's own programs
        names.append(name)
    wait_until(lambda: not inner_parts(lab), GONE, "their end")
    # A directory made before `inside` knows of it has nobody: the next launch removes it.
    alone(lab, "bob", "--via=none", "true", check=True)
    for name in names:
        wait_gone(lab, name)


# What stays

def said_by_launcher(result):
    return [line for line in result.stderr.decode().splitlines() if line.startswith("appfw-run: ")]


@AS
def test_children_that_outlive_the_main_process_are_waited_for_and_named(lab, caller):
    mark = f"/tmp/{unique('mark')}"
    done = alone(lab, caller, "--via=none", "sh", "-c", f"(setsid sleep 1; touch {mark}) >/dev/null 2>&1 & exit 3")
    assert done.returncode == 3
    assert lab.path(mark).exists()
    said, = said_by_launcher(done)
    assert said.startswith("appfw-run: sh has ended, still running: ")
    assert "sleep 1" in said and "--exit-with-main" in said


@AS
def test_exit_with_main_ends_them(lab, caller):
    began = time.monotonic()
    done = alone(lab, caller, "--via=none", "--exit-with-main", "sh", "-c", "setsid sleep 30 & exit 3")
    assert done.returncode == 3 and said_by_launcher(done) == []
    assert time.monotonic() - began < 5
    wait_gone(lab, "sleep 30")


# Signals

@AS
def test_signals_to_the_launcher_reach_the_app(lab, caller):
    with launched(lab, caller, "--via", SOCKS, "python3", "-c", REPORT_SIGNALS, stdin=subprocess.PIPE) as process:
        for name in ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"] * 2:
            os.kill(process.pid, signal.Signals[name])
            process.shown.until(f"got {name}\n".encode())
        process.stdin.close()
        assert process.wait(10) == 9


@AS
def test_signals_that_come_together_all_reach_the_app(lab, caller):
    with launched(lab, caller, "--via", SOCKS, "python3", "-c", REPORT_SIGNALS, stdin=subprocess.PIPE) as process:
        init = of_launch(lab, INSIDE, init=True)
        kill(lab, init, "STOP")
        for name in ["SIGUSR1", "SIGUSR2"]:
            os.kill(process.pid, signal.Signals[name])
            time.sleep(0.3)  # for the launcher to have passed it on
        kill(lab, init, "CONT")
        for name in ["SIGUSR1", "SIGUSR2"]:
            process.shown.until(f"got {name}\n".encode())
        process.stdin.close()
        assert process.wait(10) == 9


INTERRUPTED = TALK.replace('print("ready", flush=True)', r"""
import signal
signal.signal(signal.SIGINT, lambda *_: os.write(1, b"interrupted"))
print("ready", flush=True)
sys.stdin.readline()
first.sendall(b"still")
print("here", first.recv(9), flush=True)
sys.exit(3)
""")


@AS
def test_interrupting_the_group_of_the_launcher_leaves_the_forwarder_to_the_app(lab, world, caller):
    """As Ctrl-C on a terminal does where the app has no pty of its own."""
    with launched(lab, caller, "--via", SOCKS, "python3", "-c", INTERRUPTED, stdin=subprocess.PIPE,
                  start_new_session=True) as process:
        os.killpg(process.pid, signal.SIGINT)
        process.shown.until(b"interrupted")
        process.stdin.write(b"go\n")
        process.stdin.flush()
        process.shown.until(b"here b'still'")
        assert process.wait(10) == 3


@pytest.mark.parametrize("caller", ["root", "bob"])
def test_signal_during_the_start_leaves_nothing(lab, caller):
    user, _, env = CALLERS[caller]
    for pause in range(0, 40, 4):
        name = unique("hasty")
        words = ["appfw-run", "--standalone", "--unit", name, "--via", SOCKS, "sleep", "600"]
        with started(lab, words, user=user, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                     stderr=subprocess.PIPE) as process:
            time.sleep(0.03 + pause / 1000)  # where in its start the launcher is told to end
            os.kill(process.pid, signal.SIGTERM)
            _, said = process.communicate(timeout=15)
        # -15: before it has caught signals at all.
        assert process.returncode in (-15, 128 + signal.SIGTERM), said
        wait_gone(lab, name)


# Many

HUNDRED = """
for i in $(seq 100); do
    appfw-run --standalone --quiet --unit {name}-$i --via {via} {more} \\
        sh -c 'curl -sS --max-time 60 http://web.test/ >/dev/null && exit $0' $i &
    pids="$pids $!"
done
for pid in $pids; do wait $pid; echo code $?; done
"""


@AS
def test_a_hundred_launches_at_once(lab, caller):
    user, more, env = CALLERS[caller]
    name = unique("hundred")
    before = len(namespaces(lab))
    script = HUNDRED.format(name=name, via=SOCKS, more=" ".join(more))
    done = lab.run(["bash", "-c", script], user=user, env=env, timeout=120)
    codes = [int(line.split()[1]) for line in done.stdout.decode().splitlines() if line.startswith("code")]
    assert codes == list(range(1, 101)), done.stderr.decode()[-2000:]
    wait_gone(lab, name)
    assert not [path for base in bases(lab) for path in base.glob(f"{name}*")]
    wait_until(lambda: len(namespaces(lab)) <= before, GONE, "the network namespaces' end")


@AS
def test_a_launch_within_a_launch_is_refused_with_a_word(lab, caller):
    done = alone(lab, caller, "--via=direct", "appfw-run", "--standalone", "--via=direct", "echo", "ran")
    assert done.returncode == 125 and b"ran\n" not in done.stdout
    said, *_ = done.stderr.decode().splitlines()
    assert "a launch within a launch" in said
    for words in ["stop", "x"], ["unit", "list"]:
        done = alone(lab, caller, "--via=none", "appfw", *words)
        assert done.returncode == 125 and b"run it from outside" in done.stderr, done.stderr


# Detached

@AS
def test_detached_launch_returns_at_once_and_is_ended_by_its_name(lab, world, caller):
    user, _, env = CALLERS[caller]
    name = unique("detached")
    app = "sleep 0.3; curl -sS http://web.test/; echo done; exec sleep 600"
    # Whoever reads its output to the end is not held up.
    done = alone(lab, caller, "--unit", name, "--detach", "--via", SOCKS, "sh", "-c", app, timeout=10)
    assert (done.returncode, done.stdout) == (0, b""), done.stderr
    assert said_by_launcher(done) == [f"appfw-run: {name} runs in the background; appfw stop {name} ends it"]
    log, = [base / name / "log" for base in bases(lab) if (base / name).exists()]
    wait_until(lambda: f"world {ORIGIN}" in log.read_text() and "done" in log.read_text(), 10, "its output in the log")
    assert (log.stat().st_mode & 0o777) == 0o600
    taken = alone(lab, caller, "--unit", name, "--via=none", "true")
    assert taken.returncode == 125 and b"in use by process" in taken.stderr
    stop(lab, caller, name)
    again = lab.run(["appfw", "stop", name], user=user, env=env)
    assert again.returncode == 125 and f"there is no launch {name}".encode() in again.stderr


@AS
def test_detached_launch_has_no_terminal_and_outlives_it(lab, caller):
    user, more, env = CALLERS[caller]
    name = unique("detached")
    words = f"appfw-run --standalone --unit {name} {' '.join(more)} --detach --via=none " \
            "sh -c 'tty; echo >/dev/tty; exec sleep 600'"
    done = lab.run(["sh", "-c", words], user=user, env=env, tty=True)
    assert done.returncode == 0, done.stdout
    log, = [base / name / "log" for base in bases(lab) if (base / name).exists()]
    wait_until(lambda: "not a tty" in log.read_text() and "/dev/tty" in log.read_text(), 5, "its words")
    stop(lab, caller, name)


@AS
def test_descriptors_of_the_caller_stay_with_the_launcher(lab, caller):
    """`x=$(appfw-run --detach …)` with another descriptor to the same pipe would wait for the launch's end."""
    user, more, env = CALLERS[caller]
    name = unique("detached")
    words = f"exec 3>&1; appfw-run --standalone --unit {name} {' '.join(more)} --detach --via={SOCKS} " \
            "sh -c 'curl -s http://web.test/; exec sleep 600' >/dev/null 2>&1"
    lab.run(["sh", "-c", words], user=user, env=env, timeout=10, check=True)
    stop(lab, caller, name)
    end, held = os.pipe()
    with os.fdopen(end), os.fdopen(held, "w"):
        with launched(lab, caller, "--via", SOCKS, *HOLD, tty=True, pass_fds=[held]) as process:
            started_by_it = inner_parts(lab)
            assert any("lifeline" in words for words in started_by_it.values()), started_by_it
            pipe = os.readlink(f"/proc/self/fd/{held}")
            holders = [words for pid, words in started_by_it.items() if pipe in descriptors(lab, pid)]
            assert holders == []
            process.terminate()
            process.wait(10)


def descriptors(lab, pid):
    """What a process of the lab has open."""
    return [os.readlink(path) for path in lab.path(f"/proc/{pid}/fd").iterdir()]


@AS
def test_detached_launch_that_cannot_start_says_so(lab, caller):
    for words, code in [(["no-such-program"], 127), (["/etc/passwd"], 126), (["--deny=any", "true"], 125)]:
        done = alone(lab, caller, "--detach", "--via=none", *words)
        assert done.returncode == code and len(said_by_launcher(done)) == 1, done
    wait_gone(lab, "no-such-program")


@AS
def test_detached_launch_ends_by_itself_and_leaves_nothing(lab, caller):
    name = unique("brief")
    alone(lab, caller, "--unit", name, "--detach", "--via", SOCKS, "sleep", "0.2", check=True)
    wait_gone(lab, name, 5)


@AS
def test_stop_ends_an_attached_launch_and_the_launcher_returns(lab, caller):
    user, _, env = CALLERS[caller]
    with launched(lab, caller, "--via", SOCKS, *HOLD) as process:
        assert lab.run(["appfw", "stop", process.name], user=user, env=env).returncode == 0
        assert process.wait(10) == 128 + signal.SIGTERM


@pytest.mark.slow
def test_stop_ends_an_app_that_ignores_it_in_the_end(lab):
    """All callers' at once, because it is waited for, for ten seconds."""
    with contextlib.ExitStack() as stack:
        launches = {caller: stack.enter_context(launched(lab, caller, "--via=none", stubborn(lab)))
                    for caller in CALLERS}
        began = time.monotonic()
        stops = {}
        for caller, process in launches.items():
            user, _, env = CALLERS[caller]
            stops[caller] = stack.enter_context(started(lab, ["appfw", "stop", process.name], user=user, env=env))
        for caller, process in launches.items():
            assert stops[caller].wait(30) == 0, caller
            assert 9 < time.monotonic() - began < 15, caller
            assert process.wait(5) == 128 + signal.SIGKILL, caller


def test_nobody_stops_anothers_launch(lab):
    with launched(lab, "bob", "--via=none", *HOLD) as process:
        done = lab.run(["appfw", "stop", process.name], user="eve")
        assert done.returncode == 125 and process.poll() is None

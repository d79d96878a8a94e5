"""Launches as jobs of a shell: on its terminal, in its background, with signals that it has them ignore."""

import contextlib
import os
import signal
import subprocess
import termios
import time

import pytest

from launching import Output, started, unique
from test_life import settings_of
from waiting import wait_until

MANAGERS = {
    "system": ("root", "--system"),
    "user": ("bob", "--user"),
    "standalone": ("bob", "--standalone"),
    "standalone as root": ("root", "--standalone"),
}
EACH = pytest.mark.parametrize("manager", MANAGERS)
# Without a line editor, whose modes would be those of the terminal between two commands.
SHELL = ["bash", "--norc", "--noprofile", "--noediting", "-i"]


def launcher(manager):
    """The start of a command line that a shell reads."""
    return f"appfw-run {MANAGERS[manager][1]} --quiet --via none"


@contextlib.contextmanager
def shell(lab, manager):
    """A shell on a terminal of its own, and what it shows there."""
    with started(lab, SHELL, user=MANAGERS[manager][0], tty=True) as process:
        yield process, Output(process.terminal)


def is_raw(terminal):
    return not settings_of(terminal)[3] & termios.ICANON


def type_in(process, text):
    os.write(process.terminal, text.encode())


def code_of_job(process, shown):
    """Ends the shell as well."""
    shown.until(b"bash-")  # what is typed before its prompt is the job's
    type_in(process, "exit $?\n")
    return process.wait(10)


# What is typed is echoed, so it must not hold what is waited for.
READS = "sh -c 'echo rea\"\"dy; read -r line; echo \"got <$line>\"; tty'"


@EACH
def test_a_launch_in_the_background_runs_and_takes_the_terminal_when_brought_to_the_foreground(lab, manager):
    with shell(lab, manager) as (process, shown):
        before = settings_of(process.terminal)
        type_in(process, f"{launcher(manager)} {READS} &\n")
        shown.until(b"ready")
        assert settings_of(process.terminal) == before
        type_in(process, "jobs\n")
        shown.until(b"Running")
        type_in(process, "fg\n")
        wait_until(lambda: is_raw(process.terminal), 5, "raw mode")
        type_in(process, "hello\r")
        shown.until(b"got <hello>")
        shown.until(b"/dev/pts/")
        assert code_of_job(process, shown) == 0
        assert settings_of(process.terminal) == before


@EACH
def test_a_launch_that_was_stopped_has_the_terminal_again_in_the_foreground(lab, manager):
    with shell(lab, manager) as (process, shown):
        before = settings_of(process.terminal)
        type_in(process, f"{launcher(manager)} {READS}\n")
        shown.until(b"ready")
        group = os.tcgetpgrp(process.terminal)
        os.killpg(group, signal.SIGTSTP)
        shown.until(b"Stopped")
        wait_until(lambda: settings_of(process.terminal) == before, 5, "the shell's settings")
        type_in(process, "bg; echo in the back''ground\n")
        shown.until(b"background")
        type_in(process, "jobs\n")
        shown.until(b"Running")
        assert settings_of(process.terminal) == before
        type_in(process, "fg\n")
        wait_until(lambda: is_raw(process.terminal), 5, "raw mode")
        type_in(process, "again\r")
        shown.until(b"got <again>")
        assert code_of_job(process, shown) == 0


@EACH
def test_a_launch_that_is_in_the_background_for_a_moment_alone_has_the_terminal_again(lab, manager):
    with shell(lab, manager) as (process, shown):
        before = settings_of(process.terminal)
        type_in(process, f"{launcher(manager)} {READS}\n")
        shown.until(b"ready")
        for turn in range(10):
            group = os.tcgetpgrp(process.terminal)
            os.killpg(group, signal.SIGTSTP)
            wait_until(lambda: settings_of(process.terminal) == before, 5, "the shell's settings")
            wait_until(lambda: os.tcgetpgrp(process.terminal) != group, 5, "the shell")
            type_in(process, "bg; fg\n")
            wait_until(lambda: is_raw(process.terminal), 5, f"raw mode in turn {turn}")
        type_in(process, "again\r")
        shown.until(b"got <again>")
        assert code_of_job(process, shown) == 0


@EACH
def test_a_launch_on_a_terminal_ends_with_its_program(lab, manager):
    user, who = MANAGERS[manager]
    # With all that the launcher starts itself.
    is_filtered = manager == "user" and lab.path("/usr/bin/xdg-dbus-proxy").exists()
    more = ["--dbus=filtered"] if is_filtered else []
    began = time.monotonic()
    done = lab.run(["appfw-run", who, *more, "--via=direct", "echo", "over"], user=user, tty=True)
    assert (done.returncode, done.stdout) == (0, b"over\r\n")
    # Far above what it takes, and below what the launcher waits for last output.
    assert time.monotonic() - began < 1.7


@EACH
def test_what_is_typed_ahead_is_the_programs(lab, manager):
    with shell(lab, manager) as (process, shown):
        type_in(process, f"echo u''p; {launcher(manager)} {READS}\n")
        shown.until(b"up")
        type_in(process, "ahead\n")
        shown.until(b"got <ahead>")
        assert code_of_job(process, shown) == 0


@EACH
def test_a_launch_in_a_pipe_is_stopped_and_goes_on_with_it(lab, manager):
    with shell(lab, manager) as (process, shown):
        app = "sh -c 'echo rea\"\"dy; sleep 0.5; echo on; exit 3'"
        type_in(process, f"set -o pipefail; {launcher(manager)} {app} | cat\n")
        shown.until(b"ready")
        type_in(process, "\x1a")
        shown.until(b"Stopped")
        type_in(process, "fg\n")
        shown.until(b"\non\r\n")
        assert code_of_job(process, shown) == 3


@EACH
def test_a_program_in_the_background_takes_nothing_that_is_typed_to_the_shell(lab, manager):
    with shell(lab, manager) as (process, shown):
        type_in(process, f"{launcher(manager)} sh -c 'echo rea\"\"dy >&2; cat' >/dev/null &\n")
        shown.until(b"ready")
        for number in range(20):
            type_in(process, f"echo {number} he''re\n")
            shown.until(b"%d here" % number, 3)
        type_in(process, "wait; exit\n")
        process.wait(10)


IGNORED = ["HUP", "INT", "QUIT"]


@EACH
def test_signals_that_the_caller_ignores_end_nothing(lab, manager):
    user, who = MANAGERS[manager]
    mark = f"/tmp/{unique('go')}"
    # systemd starts every unit with none ignored; what the launcher starts itself is as it is.
    own = "".join(f"kill -{name} $$; " for name in IGNORED) if "standalone" in manager else ""
    app = f"{own}echo ready; until [ -e {mark} ]; do sleep 0.1; done; exit 6"
    words = ["sh", "-c", f"trap '' {' '.join(IGNORED)}; exec appfw-run {who} --quiet --via none sh -c '{app}'"]
    with started(lab, words, user=user, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        Output(process.stdout.fileno()).until(b"ready")
        for name in IGNORED:
            os.kill(process.pid, signal.Signals[f"SIG{name}"])
        time.sleep(0.3)  # for the launcher to have passed them on
        lab.path(mark).touch()
        assert process.wait(10) == 6


@EACH
def test_a_caller_without_a_word_on_its_children_hears_of_the_programs_end(lab, manager):
    """One that ignores SIGCHLD or blocks it, which everything inherits that it starts."""
    user, who = MANAGERS[manager]
    status = "sed -n \"/^Sig[BI][lg][kn]:/s/.*\\t//p\" /proc/self/status; exit 4"
    for told in "signal.signal(signal.SIGCHLD, signal.SIG_IGN)", "signal.pthread_sigmask(0, [signal.SIGCHLD])":
        caller = f"import os, signal, sys; {told}; os.execvp(sys.argv[1], sys.argv[1:])"
        done = lab.run(["python3", "-c", caller, "appfw-run", *who.split(), "--quiet", "--via", "none", "sh", "-c", status],
                       user=user, timeout=20)
        assert done.returncode == 4, done.stderr
        # Nor has the program it so.
        assert [int(mask, 16) >> signal.SIGCHLD - 1 & 1 for mask in done.stdout.split()] == [0, 0], told

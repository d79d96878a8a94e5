"""What comes in, what comes out, and the number at the end."""

import contextlib
import hashlib
import os
import pathlib
import signal
import socket
import struct
import subprocess
import tempfile
import threading

import pytest

from lab import resize_terminal
from launching import (SOCKS, Output, journal_of_user, launched, run, script, started, text_of, unique,
                       wait_gone)

AS = pytest.mark.parametrize("user", [[], ["--uid", "bob"]], ids=["root", "bob"])
# Who launches, with what: by the system's systemd for either, and by bob's own.
BY_ALL = pytest.mark.parametrize("user, more", [("root", []), ("root", ["--uid", "bob"]), ("bob", ["--user"])],
                                 ids=["root", "root for bob", "user"])
GIBIBYTE = 1 << 30


# Exit codes

@AS
@pytest.mark.parametrize("code", [0, 7, 125, 126, 127, 203, 226, 255])
def test_exit_code_comes_through_as_it_is(lab, user, code):
    result = run(lab, "--via", "none", *user, "sh", "-c", f"exit {code}")
    assert (result.returncode, result.stderr) == (code, b"")


@AS
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGPIPE, signal.SIGUSR1])
def test_signal_that_ended_the_app_is_128_and_its_number(lab, user, number):
    result = run(lab, "--via", "none", *user, "sh", "-c", f"ulimit -c 0; kill -{number.value} $$")
    assert result.returncode == 128 + number


def test_code_behind_a_forwarder_is_the_same(lab):
    for code in 0, 226:
        assert run(lab, "--quiet", "--via", SOCKS, "sh", "-c", f"exit {code}").returncode == code


def said(result):
    assert result.stdout == b""
    line, = result.stderr.decode().splitlines()
    assert line.startswith("appfw-run: ")
    return line.removeprefix("appfw-run: ")


@AS
@pytest.mark.parametrize("word, code, sentence", [
    ("no-such-program", 127, "no-such-program was not found in PATH"),
    ("/no/such/program", 127, "/no/such/program does not exist"),
    ("/etc/passwd", 126, "/etc/passwd cannot be executed: no permission to execute it"),
    ("/usr", 126, "/usr cannot be executed: it is a directory"),
    ("check", 127, "check was not found in PATH; did you mean `appfw check`?"),
])
def test_program_that_cannot_be_executed(lab, user, word, code, sentence):
    result = run(lab, "--via", "none", *user, word)
    assert (result.returncode, said(result)) == (code, sentence)


@AS
def test_fifo_is_no_program(lab, user):
    path = f"/run/appfw-lab/{unique('fifo')}"
    lab.run(["mkfifo", "-m", "755", path], check=True)
    result = run(lab, "--via", "none", *user, path, timeout=10)
    assert (result.returncode, said(result)) == (126, f"{path} cannot be executed: it is no regular file")
    # As a script's interpreter: in the kernel's words.
    result = run(lab, "--via", "none", *user, script(lab, "piped", f"#!{path}\n"), timeout=10)
    assert result.returncode == 126 and "cannot be executed" in said(result)


def test_script_without_its_interpreter_cannot_be_executed(lab):
    result = run(lab, "--via", "none", script(lab, "orphan", "#!/no/such/interpreter\n"))
    assert result.returncode in (126, 127) and "cannot be executed" in said(result)


@AS
def test_script_without_a_first_line_is_the_shells_as_with_execvp(lab, user):
    path = script(lab, "plain", "echo ran $0 $1\n")
    assert text_of(lab, "--via", "none", *user, path, "one") == f"ran {path} one\n"


@AS
def test_32_bit_program_is_refused_with_a_sentence(lab, user):
    path = script(lab, "elf32", "")
    # e_ident of elf(5): magic, ELFCLASS32, little endian, version 1; then ET_EXEC for EM_386.
    lab.path(path).write_bytes(b"\x7fELF\1\1\1" + bytes(9) + struct.pack("<HHI", 2, 3, 1) + bytes(28))
    result = run(lab, "--via", "none", *user, path)
    assert result.returncode == 126
    assert "it is a 32-bit program" in said(result) and "use a 64-bit build" in result.stderr.decode()
    interpreted = script(lab, "elf32-script", f"#!{path}\n")
    assert run(lab, "--via", "none", *user, interpreted).returncode == 126


def test_program_found_by_a_relative_path_starts_in_its_directory(lab):
    path = pathlib.PurePath(script(lab, "here", "#!/bin/sh\npwd\n"))
    assert text_of(lab, "--via", "none", f"./{path.name}", cwd=str(path.parent)) == f"{path.parent}\n"


def test_unit_that_systemd_cannot_start_is_125(lab):
    """226, from a mount that fails, is the unit's code and not the app's."""
    name = unique("broken")
    drop_in = lab.path(f"/run/systemd/system/appfw-{name}.service.d")
    drop_in.mkdir(parents=True)
    (drop_in / "broken.conf").write_text("[Service]\nBindPaths=/no/such/source:/mnt\n")
    lab.run(["systemctl", "daemon-reload"], check=True)
    try:
        result = run(lab, "--unit", name, "--via", SOCKS, "echo", "ran")
        assert (result.returncode, result.stdout) == (125, b"")
        assert name in said(result)
        wait_gone(lab, name)
    finally:
        (drop_in / "broken.conf").unlink()
        drop_in.rmdir()
        lab.run(["systemctl", "daemon-reload"], check=True)


@pytest.mark.parametrize("words", [["--no-such-option"], ["--wall", "paper"], [], ["--via"]])
def test_usage_errors_are_125(lab, words):
    assert run(lab, *words).returncode == 125


def test_help_and_version_are_0(lab):
    assert b"--via" in run(lab, "--help").stdout
    assert run(lab, "--version").stdout.startswith(b"appfw-run ")


# Pipes

@AS
def test_a_gibibyte_goes_through_both_ways_unchanged(lab, user):
    block = os.urandom(1 << 20)
    sent, received = hashlib.sha256(), hashlib.sha256()
    command = ["appfw-run", "--via", "none", *user, "cat"]
    with started(lab, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        def feed():
            for number in range(GIBIBYTE // len(block)):
                data = number.to_bytes(4, "big") + block[4:]
                sent.update(data)
                process.stdin.write(data)
            process.stdin.close()

        feeder = threading.Thread(target=feed)
        feeder.start()
        length = 0
        while data := process.stdout.read1(1 << 20):
            received.update(data)
            length += len(data)
        feeder.join()
        assert process.wait(10) == 0
    assert length == GIBIBYTE
    assert received.digest() == sent.digest()


def test_output_and_errors_stay_apart(lab):
    result = run(lab, "--via", "none", "sh", "-c", "echo out; echo err >&2")
    assert (result.stdout, result.stderr) == (b"out\n", b"err\n")


def test_every_byte_comes_through(lab):
    every = bytes(range(256)) * 3
    assert run(lab, "--via", "none", "cat", input=every).stdout == every


@AS
def test_closed_input_is_empty(lab, user):
    result = lab.run(["sh", "-c", 'exec appfw-run --via none "$@" <&-', "sh", *user, "wc", "-c"])
    assert (result.returncode, result.stdout.strip()) == (0, b"0")


@AS
def test_closed_output_does_not_stop_the_app(lab, user):
    result = lab.run(["sh", "-c", 'exec appfw-run --via none "$@" >&- 2>&-', "sh", *user, "sh", "-c", "exit 6"])
    assert result.returncode == 6


@AS
def test_reader_that_goes_away_ends_the_app_as_ever(lab, user):
    pipeline = 'appfw-run --via none "$@" yes | head -c1; echo ${PIPESTATUS[0]}'
    assert lab.run(["bash", "-c", pipeline, "bash", *user]).stdout == b"y141\n"


def test_file_as_output_is_appended_where_it_stands(lab):
    mark = f"/tmp/{unique('file')}"
    lab.run(["sh", "-c", f"{{ echo before; appfw-run --via none echo app; echo after; }} >{mark}"], check=True)
    assert lab.path(mark).read_text() == "before\napp\nafter\n"


@pytest.mark.parametrize("user", ["root", "bob"])
@pytest.mark.parametrize("place", ["stdin", "stdout", "stderr"])
def test_socket_as_a_standard_stream_is_refused(lab, place, user):
    ours, theirs = socket.socketpair()
    mark = f"/tmp/{unique('ran')}"
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, place: theirs}
    with started(lab, ["appfw-run", "--via", "none", "touch", mark], user=user, **streams) as process:
        theirs.close()
        errors = ours.makefile("rb") if place == "stderr" else process.stderr
        assert process.wait(10) == 125
        assert b"is a socket made outside the wall" in errors.readline()
    ours.close()
    assert not lab.path(mark).exists()


@pytest.mark.parametrize("user, more",
                         [("root", []), ("root", ["--standalone"]), ("bob", []), ("bob", ["--standalone"])],
                         ids=["system", "standalone of root", "user", "standalone"])
@pytest.mark.parametrize("file, kind", [("/proc/self/ns/net", "kernel object"), ("/proc/self/ns/user", "kernel object"),
                                        ("/dev/net/tun", "device"), ("/dev/fuse", "device")])
def test_what_lends_a_network_as_standard_input_is_refused(lab, user, more, file, kind):
    mark = f"/tmp/{unique('ran')}"
    with contextlib.ExitStack() as opened:
        try:
            stdin = opened.enter_context(open(file, "rb"))
        except FileNotFoundError:
            pytest.skip(f"this machine has no {file}")
        words = ["appfw-run", *more, "--via", "none", "touch", mark]
        with started(lab, words, user=user, stdin=stdin, stderr=subprocess.PIPE) as process:
            assert process.wait(10) == 125
            assert f"the standard input is a {kind} opened outside the wall" in process.stderr.readline().decode()
    assert not lab.path(mark).exists()


LISTING = """#!/usr/bin/python3
import os
numbers = map(int, os.listdir("/proc/self/fd"))
print(*sorted(number for number in numbers if os.path.exists(f"/proc/self/fd/{number}")))
"""


@BY_ALL
@pytest.mark.parametrize("detach", [False, True])
def test_descriptors_of_the_caller_do_not_reach_the_app(lab, user, more, detach):
    name = unique("descriptors")
    listing = script(lab, "listing", LISTING)
    with tempfile.TemporaryFile() as held:
        outside, other = socket.socketpair()
        options = ["--unit", name, "--via", SOCKS, *more, *(["--detach"] if detach else [])]
        with started(lab, ["appfw-run", *options, listing], user=user, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                     pass_fds=[held.fileno(), outside.fileno()]) as process:
            shown = Output(process.stdout.fileno()).to_the_end()
            assert process.wait(10) == 0
        outside.close()
        other.close()
    wait_gone(lab, name, user=user)
    if detach:
        unit = f"appfw-{name}.service"
        # journald finds a line's user unit by its writer: one that has ended by then is of a system unit of that name.
        shown = (lab.journal(unit) + (journal_of_user(lab, unit) if user != "root" else "")).encode()
        assert b"\n0 1 2\n" in b"\n" + shown
    else:
        assert shown == b"0 1 2\n"


# Terminals

def type_in(process, text):
    os.write(process.terminal, text)


def shell(lab, *words, **options):
    """An interactive shell: with job control, without a line editor whose modes would race with what is typed."""
    bash = "exec bash --norc --noprofile --noediting -i"
    return launched(lab, "--via", SOCKS, *words, "sh", "-c", f"echo ready; {bash}", tty=True, **options)


# Tells that it is in the foreground by now. What is typed is echoed, so it must not hold what is waited for.
WAITS = b"sh -c 'echo run\"\"ning; exec sleep 600'"


@BY_ALL
def test_shell_in_a_terminal_with_resize_and_ctrl_c(lab, user, more):
    with shell(lab, *more, user=user) as process:
        type_in(process, b"stty size\n")
        process.shown.until(b"24 80\r\n")
        resize_terminal(process.terminal, 50, 132)
        type_in(process, b"until [ \"$(stty size)\" = '50 132' ]; do :; done; stty size; echo re''sized\n")
        process.shown.until(b"50 132\r\nresized")
        type_in(process, WAITS + b"\n")
        process.shown.until(b"running")
        type_in(process, b"\x03")
        type_in(process, b"echo code=$?\n")
        process.shown.until(b"code=130")
        type_in(process, b"exit 7\n")
        assert process.wait(10) == 7


# No shell loop: dash waits in vfork(2) for a child that is stopped before it executes, and so is not stopped itself.
TICKER = """#!/usr/bin/python3
import signal, time
signal.signal(signal.SIGINT, signal.SIG_DFL)
while True:
    print("ticks", flush=True)
    time.sleep(0.1)
"""


@AS
def test_job_control_in_the_shell(lab, user):
    with shell(lab, *user) as process:
        type_in(process, f"{script(lab, 'ticker', TICKER)}\n".encode())
        process.shown.until(b"ticks")
        type_in(process, b"\x1a")
        process.shown.until(b"Stopped")
        type_in(process, b"fg\n")
        process.shown.until(b"ticks")
        type_in(process, b"\x03")
        type_in(process, b"echo fore''ground $?\n")
        process.shown.until(b"foreground 130")
        type_in(process, b"sleep 600 & jobs; kill %%; wait; echo en''ded\n")
        process.shown.until(b"Running")
        process.shown.until(b"ended")
        type_in(process, b"exit 0\n")
        assert process.wait(10) == 0


@AS
def test_ctrl_c_reaches_an_app_that_reads_the_terminal(lab, user):
    app = "trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 0.05; done"
    with launched(lab, "--via", SOCKS, *user, "sh", "-c", app, tty=True) as process:
        type_in(process, b"\x03")
        process.shown.until(b"caught")
        assert process.wait(10) == 3


@AS
def test_ctrl_backslash_and_end_of_file(lab, user):
    with launched(lab, "--via", SOCKS, *user, "sh", "-c", "echo ready; cat; exit 4", tty=True) as process:
        type_in(process, b"line\r\x04")
        assert process.wait(10) == 4
    app = "ulimit -c 0; echo ready; exec sleep 600"
    with launched(lab, "--via", SOCKS, *user, "sh", "-c", app, tty=True) as process:
        type_in(process, b"\x1c")
        assert process.wait(10) == 128 + signal.SIGQUIT


@AS
def test_app_owns_its_terminal_and_can_open_it(lab, user):
    look = ("import os, sys; fd = os.open('/dev/tty', os.O_RDWR); os.write(fd, b'by name '); "
            "os.close(os.open(os.ttyname(0), os.O_RDWR)); print(os.tcgetpgrp(0) == os.getpgrp(), "
            "os.fstat(0).st_uid == os.getuid(), [os.isatty(n) for n in range(3)])")
    result = run(lab, "--via", "none", *user, "python3", "-c", look, tty=True)
    assert (result.returncode, result.stdout) == (0, b"by name True True [True, True, True]\r\n")


def test_app_in_a_terminal_is_in_no_session_of_the_callers(lab):
    """TIOCSTI and reading ahead would reach the caller's shell."""
    with launched(lab, "--via", "none", "sh", "-c", "echo ready; readlink /proc/self/fd/0; cat", tty=True) as process:
        process.shown.until(b"/dev/pts/")
        outer = os.readlink(f"/proc/{process.pid}/fd/0").rpartition("/")[2]
        process.shown.until(b"\r\n")
        assert f"/dev/pts/{outer}".encode() + b"\r\n" not in process.shown.seen
        type_in(process, b"\x04")
        assert process.wait(10) == 0


@AS
def test_last_output_on_a_terminal_is_never_lost(lab, user):
    for number in range(50 if not user else 10):
        result = run(lab, "--via", "none", *user, "echo", f"hello {number}", tty=True)
        assert (result.returncode, result.stdout) == (0, f"hello {number}\r\n".encode())


def test_much_output_on_a_terminal_is_whole(lab):
    result = run(lab, "--via", "none", "seq", "200000", tty=True)
    assert result.stdout == b"".join(b"%d\r\n" % number for number in range(1, 200001))


def test_exit_code_comes_through_a_terminal(lab):
    for code in 0, 7, 255:
        assert run(lab, "--via", "none", "sh", "-c", f"exit {code}", tty=True).returncode == code
    assert run(lab, "--via", "none", "no-such-program", tty=True).returncode == 127
    assert run(lab, "--via", "none", "sh", "-c", "kill -9 $$", tty=True).returncode == 137


def test_terminal_among_pipes_stays_the_callers(lab):
    """`appfw-run … | less` shares it with less."""
    look = "import os; print(os.isatty(0), os.isatty(1), os.isatty(2))"
    result = lab.run(["sh", "-c", f'appfw-run --via none python3 -c "{look}" | cat'], tty=True)
    assert result.stdout == b"True False True\r\n"


def test_errors_to_a_file_leave_the_terminal_to_the_rest(lab):
    mark = f"/tmp/{unique('errors')}"
    result = lab.run(["sh", "-c", f"appfw-run --via none sh -c 'tty; echo oops >&2' 2>{mark}"], tty=True)
    assert result.stdout.startswith(b"/dev/pts/")
    assert lab.path(mark).read_text() == "oops\n"


def test_messages_of_the_launcher_in_a_terminal_begin_at_the_left(lab):
    result = run(lab, "--via", "none", "sh", "-c", "sleep 0.5 & exit 3", tty=True)
    assert result.returncode == 3
    for line in result.stdout.split(b"\n")[:-1]:
        assert line.endswith(b"\r") and not line.startswith(b" ")

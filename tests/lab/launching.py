"""Launches in a lab, and what must be left of them: nothing."""

import contextlib
import json
import os
import pathlib
import select
import subprocess
import time
import uuid

from waiting import wait_until
from world_map import UPSTREAM

SOCKS = f"socks5h://{UPSTREAM}:1080"
LOGGED = "/run/appfw-lab"  # a directory of the lab's own that every app sees
PROXY = "http://127.100.90.50:1080"
PROXY_VARIABLES = ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"]
# A launch that stays, its forwarder at work.
HOLD = ["sh", "-c", "curl -sS --max-time 9 http://web.test/ >/dev/null; echo ready; exec sleep 60"]
GONE = 2  # seconds in which nothing of a launch may be left


def unique(stem):
    """A launch name that no other test uses."""
    return f"{stem}-{uuid.uuid4().hex[:8]}"


def run(lab, *words, **options):
    """Runs appfw-run to its end."""
    return lab.run(["appfw-run", *words], **options)


def text_of(lab, *words, **options):
    """Runs appfw-run, which must succeed; what the app wrote."""
    result = run(lab, *words, **options)
    assert result.returncode == 0, (result.returncode, result.stderr)
    return result.stdout.decode()


def variables(text):
    """The output of env(1)."""
    return dict(line.split("=", 1) for line in text.splitlines())


def secret_file(lab, spec, user="root"):
    """A file of USER's for --via @FILE; returns that option's value."""
    home = "/root" if user == "root" else f"/home/{user}"
    home = home if lab.path(home).is_dir() else "/var/tmp"
    path = lab.path(f"{home}/{unique('via')}")
    path.touch(mode=0o600)
    path.write_text(spec + "\n")
    if user != "root":
        lab.run(["chown", user, f"{home}/{path.name}"], check=True)
    return f"@{home}/{path.name}"


class Output:
    """What a process writes to a pipe or shows on a terminal, read with a limit."""

    def __init__(self, descriptor):
        self.descriptor = descriptor
        self.seen = b""

    def more(self, seconds):
        """Reads once; False at the end."""
        if not select.select([self.descriptor], [], [], max(seconds, 0))[0]:
            return True
        try:
            block = os.read(self.descriptor, 65536)
        except OSError:  # a terminal that nobody has open any more
            block = b""
        self.seen += block
        return bool(block)

    def until(self, wanted, seconds=10):
        """Returns when WANTED has been written; what came after the last call's text counts alone."""
        limit = time.monotonic() + seconds
        while wanted not in self.seen:
            if time.monotonic() > limit or not self.more(limit - time.monotonic()):
                raise AssertionError(f"{wanted!r} is not in {self.seen!r}")
        self.seen = self.seen.partition(wanted)[2]

    def to_the_end(self, seconds=20):
        limit = time.monotonic() + seconds
        while self.more(limit - time.monotonic()):
            assert time.monotonic() < limit, self.seen
        return self.seen


@contextlib.contextmanager
def started(lab, command, **options):
    """A process in the lab that is over, and has been waited for, at the block's end, however that comes: the lab's
    PID 1 cannot end before."""
    process = lab.popen(command, **options)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        for stream in process.stdin, process.stdout, process.stderr:
            if stream:
                stream.close()
        if options.get("tty"):
            os.close(process.terminal)


@contextlib.contextmanager
def launched(lab, *words, name=None, tty=False, **options):
    """An appfw-run whose program has been executed: it must write "ready" first. `.name`, `.shown` (an Output) and,
    without a terminal, `.stdin` are the process's. Ended at the block's end, if it has not by itself."""
    name = name or unique("launch")
    command = ["appfw-run", "--unit", name, *words]
    if not tty:
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    try:
        with started(lab, command, tty=tty, **options) as process:
            process.name = name
            come_up(process, tty)
            yield process
    finally:
        wait_until(lambda: not left(lab, name, options.get("user", "root")), 10, f"the end of {name}")


def come_up(process, tty):
    """Returns when a launch's program has written "ready"; gives the process `.shown` and, without a terminal, `.said`."""
    process.shown = Output(process.terminal if tty else process.stdout.fileno())
    process.said = None if tty or not process.stderr else Output(process.stderr.fileno())
    try:
        process.shown.until(b"ready")
    except AssertionError as error:
        process.kill()
        said = process.said.to_the_end().decode() if process.said else ""
        raise AssertionError(f"the launch did not come up: {said}") from error


def unit_names(lab, name, user="root"):
    """Every unit of that launch that systemd knows, or USER's own one."""
    manager = [] if user == "root" else ["--user"]
    words = ["systemctl", *manager, "list-units", "--all", "--plain", "--no-legend", f"appfw-{name}*"]
    listed = lab.run(words, user=user, check=True).stdout.decode()
    return [line.split()[0] for line in listed.splitlines()]


def processes(lab, name):
    """Command lines of the processes in the launch's units, by their numbers in the lab."""
    return command_lines(lab, lambda process: f"/appfw.slice/appfw-{name}" in (process / "cgroup").read_text())


def command_lines(lab, wanted=lambda process: True):
    """Command lines of the lab's processes, by their numbers there."""
    found = {}
    for process in processes_of(lab):
        with contextlib.suppress(OSError):  # it may end meanwhile
            if wanted(process):
                found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def processes_of(lab):
    """The /proc directories of all that runs in the lab."""
    return [path for path in lab.path("/proc").iterdir() if path.name.isdigit()]


def listeners(lab):
    """Addresses of 127.100.0.0/16 that something in the lab's own network listens on."""
    rows = [line.split() for line in lab.path("/proc/1/net/tcp").read_text().splitlines()[1:]]
    listening = [row[1] for row in rows if row[3] == "0A"]
    return [local for local in listening if local[4:8] == "647F"]


def populated(lab, name, slices="/sys/fs/cgroup"):
    """The cgroups of that launch below SLICES with a process in them. systemd 257 forgets the empty directory of a unit
    that it stops while it makes the unit's PID namespace."""
    found = []
    for cgroup in lab.path(f"{slices}/appfw.slice").glob(f"appfw-{name}*"):
        with contextlib.suppress(OSError):  # it may end meanwhile
            if "populated 1" in (cgroup / "cgroup.events").read_text():
                found.append(cgroup)
    return found


def left(lab, name, user="root"):
    """What there still is of that launch of USER's: the system's systemd may have it, or that user's own."""
    managers = {"root": ("/run", "/sys/fs/cgroup")}
    if user != "root":
        uid = lab.path(f"/home/{user}").stat().st_uid
        managers[user] = (f"/run/user/{uid}", f"/sys/fs/cgroup/user.slice/user-{uid}.slice/user@{uid}.service")
    there = []
    for run, slices in managers.values():
        directory = lab.path(f"{run}/appfw/{name}")
        transient = list(lab.path(f"{run}/systemd/transient").glob(f"appfw-{name}*"))
        credentials = list(lab.path(f"{run}/credentials").glob(f"appfw-{name}*"))
        found = [directory, *populated(lab, name, slices), *transient, *credentials]
        there += [str(path) for path in found if path.exists()]
    return there or [unit for owner in managers for unit in unit_names(lab, name, owner)]


def wait_gone(lab, name, seconds=GONE, left=left, **whose):
    """Returns when nothing of the launch is left, as LEFT tells."""
    seen = []

    def gone():
        seen[:] = left(lab, name, **whose)
        return not seen

    try:
        wait_until(gone, seconds, f"the end of {name}")
    except TimeoutError as error:
        raise AssertionError(f"left: {seen} {processes(lab, name)}") from error


def main_pid(lab, unit):
    """The unit's main process, as the lab numbers it; 0 if it has none."""
    return int(lab.run(["systemctl", "show", "--property=MainPID", "--value", unit], check=True).stdout)


def journal_of_user(lab, service):
    """The log lines of a unit of a user's own systemd as one text."""
    lab.run(["journalctl", "--sync"])
    words = ["journalctl", "--quiet", "--no-pager", "--output=cat", f"_SYSTEMD_USER_UNIT={service}"]
    return lab.run(words).stdout.decode()


def kill(lab, pid, number):
    lab.run(["kill", f"-{number}", str(pid)], check=True)


def plan_of(lab, name):
    return json.loads(lab.path(f"/run/appfw/{name}/plan.json").read_text())


def script(lab, name, text):
    """A file below /run/appfw-lab that any app can run."""
    path = pathlib.Path(LOGGED, f"{unique(name)}")
    lab.path(path).write_text(text)
    lab.path(path).chmod(0o755)
    return str(path)

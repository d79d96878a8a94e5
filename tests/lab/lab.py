#!/usr/bin/python3
"""Boots a real systemd as PID 1 of its own namespaces, without a virtual machine.

    lab.py up 252|257 [--no-bpf] [--tor]    boot a lab that stays
    lab.py run 252 [--user bob] -- COMMAND… run something in it
    lab.py down 252                         end it
    lab.py sweep                            remove what labs have left whose systemd is gone; live ones are let be

Needs root. 252 is this machine's own systemd and root file system, 257 a Debian trixie tree (see setup.sh).
"""

import argparse
import fcntl
import json
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time

from namespaces import children_in_pid_namespace
from tornet import TorNetwork
from waiting import wait_until
from world import World

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
STORE = REPOSITORY / "target" / "lab"
RUNNING = STORE / "running"
BOOT_LIMIT = 60  # seconds; a boot takes 2 to 7 on two idle cores
NEEDED = ["dbus.service", "systemd-logind.service", "lab-bait.service"]
TREES = {"252": pathlib.Path("/"), "257": STORE / "trixie"}
TIOCGPTN, TIOCSPTLCK = 0x80045430, 0x40045431  # <asm-generic/ioctls.h>; Python has them from 3.13 on
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class LabError(Exception):
    """The lab could not be made, or is not there."""


def cgroup2_mount():
    """Where this machine has cgroup2: /sys/fs/cgroup, or .../unified on one that still has version 1 too."""
    for line in pathlib.Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return pathlib.Path(where)
    raise LabError("no cgroup2 is mounted")


def lab_cgroup(name):
    return cgroup2_mount() / f"appfw-lab-{name}"


def start_time(pid):
    """When the process was started, in ticks since the machine's boot: with its pid, a name that is never reused."""
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def is_alive(state):
    """Whether the PID 1 of the lab that wrote this state is still there. Someone else may be using it."""
    try:
        return start_time(state["pid"]) == state["started"]
    except (FileNotFoundError, ProcessLookupError):
        return False


def end_all(cgroup, programs=()):
    """Ends every process of a cgroup at once, and removes it. PROGRAMS are the caller's own children in it: a lab's
    PID 1 isn't gone before every process of its namespace has been reaped."""
    (cgroup / "cgroup.kill").write_text("1")
    for process in programs:
        process.wait()
    wait_until(lambda: "populated 0" in (cgroup / "cgroup.events").read_text(), 10, "the lab's end")
    for directory, _, _ in os.walk(cgroup, topdown=False):
        os.rmdir(directory)


def clear_away(name, programs=()):
    """Ends all processes of that lab, and removes its cgroups and files."""
    cgroup = lab_cgroup(name)
    if cgroup.exists():
        # One write for systemd, everything in it, the world and Tor.
        end_all(cgroup, programs)
    shutil.rmtree(RUNNING / name, ignore_errors=True)


class Lab:
    """One booted systemd and the world at the other end of its wire. A context manager."""

    def __init__(self, version, *, bpf=True, binaries=None, name=None):
        """bpf=False: the kernel refuses bpf(2). binaries: the folder to install appfw-run and appfw from."""
        if version not in TREES:
            raise LabError(f"no lab of version {version}: {', '.join(TREES)}")
        self.version = version
        self.bpf = bpf
        self.binaries = binaries or REPOSITORY / "target" / "debug"
        self.name = name or f"{version}-{os.getpid()}-{time.monotonic_ns()}"
        self.directory = RUNNING / self.name
        self.cgroup = lab_cgroup(self.name)
        self.world = World(self)
        self.tor = TorNetwork(self)
        self.pid = None
        self._disk = None
        self._process = None
        self._companions = []
        self._programs = []

    # Life and death

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def start(self, *, outlives_caller=False):
        """Boots. The lab dies with the calling thread, unless told otherwise."""
        if not TREES[self.version].joinpath("usr").is_dir():
            raise LabError(f"{TREES[self.version]} is missing: run tests/lab/setup.sh")
        try:
            self._make_disk(outlives_caller)
            self._boot(outlives_caller)
            if self.binaries.joinpath("appfw-run").exists():
                self.install(self.binaries)
        except BaseException:
            print(self._console(), file=sys.stderr)
            self.stop()
            raise
        return self

    def reboot(self, *, bpf=None):
        """Cuts the power and boots again from the disk as it is: all but /run, /tmp and /dev is there. The world begins
        anew, its log as well; a Tor stays away. bpf: as for a new lab; None: as it was."""
        if bpf is not None:
            self.bpf = bpf
        end_all(self.cgroup / "world", self._companions)
        end_all(self.cgroup / "systemd", [*self._programs, self._process])
        self._programs.clear()
        self._companions.clear()
        try:
            self._boot(outlives_caller=False)
        except BaseException:
            print(self._console(), file=sys.stderr)
            raise

    @classmethod
    def attach(cls, name):
        """The lab that `lab.py up` has booted."""
        try:
            state = json.loads((RUNNING / name / "lab.json").read_text())
        except FileNotFoundError:
            raise LabError(f"no lab {name} is up") from None
        lab = cls(state["version"], bpf=state["bpf"], name=name)
        lab.pid = state["pid"]
        return lab

    def stop(self):
        """Ends everything and leaves nothing on the machine. Mounts and networks go with their last process."""
        clear_away(self.name, self._programs)
        for process in filter(None, [self._disk, self._process, *self._companions]):
            process.wait()

    def start_companion(self, command, output):
        """Starts a process beside systemd that ends with this lab; it writes to the file OUTPUT."""
        with open(output, "wb") as log:
            process = subprocess.Popen([*self._in_cgroup("world"), *command], stdin=subprocess.DEVNULL,
                                       stdout=log, stderr=log, start_new_session=True)
        self._companions.append(process)
        return process

    def _make_disk(self, outlives_caller):
        """A tmpfs in a mount namespace of its own, which is there as long as the process in it."""
        scratch = self.directory / "root"
        scratch.mkdir(parents=True)
        (self.cgroup / "disk").mkdir(parents=True)
        make = 'mount -t tmpfs -o mode=755 tmpfs "$0" && mkdir "$0/root" "$0/work" "$0/upper" && exec sleep infinity'
        command = [
            *self._in_cgroup("disk"),
            *([] if outlives_caller else ["setpriv", "--pdeathsig", "KILL"]),
            *["unshare", "--mount", "sh", "-c", make, scratch],
        ]
        self._disk = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        made = pathlib.Path(f"/proc/{self._disk.pid}/root{scratch}/upper")
        wait_until(made.is_dir, BOOT_LIMIT, "the lab's disk")

    def _boot(self, outlives_caller):
        self._launch(outlives_caller)
        self.world.start()
        self._finish_boot()

    def _launch(self, outlives_caller):
        """Starts what becomes PID 1, and returns when its namespaces are there."""
        scratch = self.directory / "root"
        for part in "systemd", "world":
            (self.cgroup / part).mkdir(exist_ok=True)
        command = [
            *self._in_cgroup("systemd"),
            *([] if outlives_caller else ["setpriv", "--pdeathsig", "KILL"]),
            *([] if self.bpf else ["/usr/bin/python3", HERE / "deny_bpf.py"]),
            *["nsenter", f"--mount=/proc/{self._disk.pid}/ns/mnt"],
            *["unshare", "--mount", "--uts", "--ipc", "--net", "--cgroup"],
            *["sh", HERE / "boot.sh", TREES[self.version], scratch, REPOSITORY],
        ]
        with (self.directory / "console.log").open("wb") as console, children_in_pid_namespace():
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True
            )
        self.pid = self._process.pid
        state = {"pid": self.pid, "started": start_time(self.pid), "version": self.version, "bpf": self.bpf}
        (self.directory / "lab.json").write_text(json.dumps(state))
        wait_until(self._has_own_network, BOOT_LIMIT, "the lab's namespaces")

    def _finish_boot(self):
        wait_until(self._manager_listens, BOOT_LIMIT, "systemd's start")
        (self.cgroup / "systemd" / "outside").mkdir()
        # The machine's image may well have a unit that fails in here; these must not.
        self.run(["systemctl", "is-system-running", "--wait"], timeout=BOOT_LIMIT)
        for unit in NEEDED:
            if self.run(["systemctl", "is-active", unit]).returncode != 0:
                raise LabError(f"{unit} is not active:\n{self.journal(unit)}")
        for user in "bob", "eve":
            bus = self.path(self._account(user)["XDG_RUNTIME_DIR"] + "/bus")
            wait_until(bus.exists, BOOT_LIMIT, f"the user manager of {user}")

    def _has_own_network(self):
        self._check_alive()
        return not os.path.samefile(f"/proc/{self.pid}/ns/net", "/proc/self/ns/net")

    def _manager_listens(self):
        self._check_alive()
        return self.path("/run/systemd/private").exists()

    def _check_alive(self):
        if self._process.poll() is not None:
            raise LabError(f"the lab's PID 1 ended with {self._process.returncode}")

    def _console(self):
        try:
            return (self.directory / "console.log").read_text()
        except FileNotFoundError:
            return ""

    # Files

    def path(self, inside):
        """The path by which the caller, outside, opens the lab's file INSIDE."""
        return pathlib.Path(f"/proc/{self.pid}/root{inside}")

    def install(self, binaries):
        """Copies appfw-run and appfw to the lab's /usr/local/bin."""
        for program in "appfw-run", "appfw":
            shutil.copy(pathlib.Path(binaries) / program, self.path(f"/usr/local/bin/{program}"))

    def bait_events(self, **match):
        """What the lab's own services (bait.py) have seen, oldest first."""
        lines = self.path("/run/appfw-lab/bait.jsonl").read_text().splitlines()
        return [event for event in map(json.loads, lines) if match.items() <= event.items()]

    # Commands

    def popen(self, argv, *, user="root", env=None, cwd=None, tty=False, **options):
        """Starts ARGV in the lab. The Popen's pid is the program's own, as the machine sees it.

        With tty=True the program leads a session on a new terminal: `process.terminal` is its other side.
        """
        account = self._account(user)
        command = [
            *self._in_cgroup("systemd/outside"),
            *["nsenter", f"--target={self.pid}", "--mount", "--uts", "--ipc", "--net", "--cgroup"],
            *(["setsid", "--ctty"] if tty else []),
            *["setpriv", "--reuid", user, "--regid", user, "--init-groups"],
            *["env", "-i", f"--chdir={cwd or account['HOME']}"],
            *[f"{key}={value}" for key, value in {**account, **(env or {})}.items()],
            *argv,
        ]
        if tty:
            terminal, inner = self._open_terminal(account)
            options.update(stdin=inner, stdout=inner, stderr=inner)
        with children_in_pid_namespace(self.pid):
            process = subprocess.Popen(command, **options)
        self._programs.append(process)
        if tty:
            os.close(inner)
            process.terminal = terminal
        return process

    def run(self, argv, *, user="root", env=None, cwd=None, input=None, timeout=60, check=False, tty=False):
        """Runs ARGV to its end; the output is bytes, with tty=True the two streams are one."""
        pipe = subprocess.PIPE
        options = {} if tty else {"stdin": pipe if input is not None else subprocess.DEVNULL,
                                  "stdout": pipe, "stderr": pipe}
        with self.popen(argv, user=user, env=env, cwd=cwd, tty=tty, **options) as process:
            try:
                if tty:
                    out, err = drain_terminal(process.terminal, input), b""
                    process.wait(timeout)
                else:
                    out, err = process.communicate(input, timeout)
            except BaseException:
                process.kill()
                raise
        result = subprocess.CompletedProcess(argv, process.returncode, out, err)
        if check and result.returncode != 0:
            raise LabError(f"{argv} ended with {result.returncode}: {err.decode(errors='replace')}")
        return result

    def journal(self, unit):
        """The unit's log lines as one text."""
        self.run(["journalctl", "--sync"])
        return self.run(["journalctl", "--quiet", "--no-pager", "--output=cat", "--unit", unit]).stdout.decode()

    def _in_cgroup(self, part):
        """The start of a command: the process joins that part of the lab's cgroup, then becomes what follows."""
        return ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', self.cgroup / part]

    def _account(self, user):
        """What a login of USER has in its environment."""
        for line in self.path("/etc/passwd").read_text().splitlines():
            name, _, uid, _, _, home, shell = line.split(":")
            if name == user:
                break
        else:
            raise LabError(f"the lab has no user {user}")
        account = {"HOME": home, "USER": user, "LOGNAME": user, "SHELL": shell, "PATH": PATH,
                   "LANG": "C.UTF-8", "TERM": "xterm"}
        if user != "root":
            runtime = f"/run/user/{uid}"
            account |= {"XDG_RUNTIME_DIR": runtime, "DBUS_SESSION_BUS_ADDRESS": f"unix:path={runtime}/bus",
                        "SSH_AUTH_SOCK": f"/tmp/ssh-{user}/agent"}
        return account

    def _open_terminal(self, account):
        """A pair from the lab's own devpts, so that its programs can name their terminal."""
        terminal = os.open(self.path("/dev/pts/ptmx"), os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        fcntl.ioctl(terminal, TIOCSPTLCK, struct.pack("i", 0))
        number, = struct.unpack("i", fcntl.ioctl(terminal, TIOCGPTN, bytes(4)))
        inner = os.open(self.path(f"/dev/pts/{number}"), os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        os.fchown(inner, self.path(account["HOME"]).stat().st_uid, -1)
        resize_terminal(terminal, 24, 80)
        return terminal, inner


def resize_terminal(terminal, rows, columns):
    """Gives the terminal another size, as a window does that is dragged."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def drain_terminal(terminal, input=None):
    """Types INPUT and returns all that the terminal shows until its last program is gone."""
    shown = b""
    try:
        if input:
            os.write(terminal, input)
        while block := os.read(terminal, 65536):
            shown += block
    except OSError:  # EIO: nobody has the other side open any more
        pass
    finally:
        os.close(terminal)
    return shown


# Command line

def up(options):
    lab = Lab(options.version, bpf=not options.no_bpf, name=options.version)
    if lab.directory.exists():
        raise LabError(f"lab {lab.name} is already up")
    started = time.monotonic()
    lab.start(outlives_caller=True)
    print(f"lab {lab.name}: systemd {lab.version} up in {time.monotonic() - started:.1f} s, PID 1 is {lab.pid}")
    if options.tor:
        lab.tor.start()
        lab.tor.wait()
        print(f"lab {lab.name}: Tor up after {time.monotonic() - started:.1f} s")


def run(options):
    with Lab.attach(options.version).popen(options.command, user=options.user) as process:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the program's to handle
        sys.exit(process.wait())


def down(options):
    Lab.attach(options.version).stop()


def sweep(_):
    for directory in RUNNING.glob("*"):
        try:
            state = json.loads((directory / "lab.json").read_text())
        except FileNotFoundError:
            continue  # being booted
        if not is_alive(state):
            clear_away(directory.name)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("up")
    command.add_argument("version", choices=TREES)
    command.add_argument("--no-bpf", action="store_true")
    command.add_argument("--tor", action="store_true")
    command.set_defaults(action=up)
    command = commands.add_parser("run")
    command.add_argument("version", choices=TREES)
    command.add_argument("--user", default="root")
    command.add_argument("command", nargs="+")
    command.set_defaults(action=run)
    command = commands.add_parser("down")
    command.add_argument("version", choices=TREES)
    command.set_defaults(action=down)
    command = commands.add_parser("sweep")
    command.set_defaults(action=sweep)
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("lab: must be root")
    try:
        options.action(options)
    except LabError as error:
        sys.exit(f"lab: {error}")


if __name__ == "__main__":
    main()

"""Services to confine in a lab: made, watched, and gone again."""

import contextlib
import hashlib
import json
import os
import pathlib

from launching import script, unique
from waiting import wait_until
from world_map import DNS, ORIGIN

UNITS = "/etc/systemd/system"
# Ways out, for programs that try them: each is what came of it, or the name of the error.
WAYS = f"""
import json, os, pathlib, socket, sys, time, urllib.request

def ends(attempt):
    try:
        return attempt()
    except Exception as error:
        return type(error).__name__

def by_proxy(timeout=5):
    return urllib.request.urlopen("http://web.test/", timeout=timeout).status

def by_tcp():
    with socket.create_connection(("{ORIGIN}", 80), timeout=0.5) as stream:
        return "open"

def by_udp():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
        datagram.sendto(b"out", ("{DNS}", 9))
        return "sent"

def by_unix(path):
    with socket.socket(socket.AF_UNIX) as stream:
        return stream.connect(path)

def ready():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.connect(os.environ["NOTIFY_SOCKET"])
        manager.send(b"READY=1")
"""
# Tries them at each start, and says in its directory how they went.
TRIES = f"""{WAYS}
def by_bus(path):
    by_unix(path)
    return "open"

found = {{
    "proxy": ends(by_proxy),
    "tcp": ends(by_tcp),
    "udp": ends(by_udp),
    "bus": ends(lambda: by_bus("/run/dbus/system_bus_socket")),
    "private": ends(lambda: by_bus("/run/systemd/private")),
    "uid": os.getuid(),
}}
directory = pathlib.Path(os.environ["RUNTIME_DIRECTORY"])
(directory / "new").write_text(json.dumps(found))
(directory / "new").rename(directory / "found")
ready()
time.sleep(1000)
"""


class Service:
    """A service of the lab's own, with a file as an administrator writes it."""

    def __init__(self, lab, text, name=None):
        self.lab = lab
        self.stem = name or unique("svc")
        self.name = f"{self.stem}.service"
        self.file = lab.path(f"{UNITS}/{self.name}")
        self.file.write_text(text.replace("@NAME@", self.stem))
        self.systemctl("daemon-reload")

    def systemctl(self, *words, **options):
        return self.lab.run(["systemctl", *words], **{"check": True, **options})

    def start(self):
        self.systemctl("start", self.name)

    def restart(self):
        self.systemctl("restart", self.name)

    def confine(self, *words, code=0):
        """Runs appfw confine; what it said."""
        done = self.lab.run(["appfw", "confine", self.name, *words])
        assert done.returncode == code, (done.returncode, done.stderr.decode(), self.lab.journal(self.name)[-1500:])
        return done.stderr.decode()

    def unconfine(self, *words):
        return self.lab.run(["appfw", "unconfine", self.name, *words], check=True).stderr.decode()

    def is_active(self):
        return self.lab.run(["systemctl", "is-active", self.name]).stdout == b"active\n"

    def cat(self):
        return self.systemctl("cat", self.name).stdout.decode()

    def files(self):
        """All that unconfine must leave as it was."""
        return tree(self.lab), self.cat()

    def show(self, name):
        return self.systemctl("show", "--value", f"--property={name}", self.name).stdout.decode().strip()

    def found(self):
        """What TRIES has found since the last start."""
        file = self.lab.path(f"/run/{self.stem}/found")
        wait_until(file.exists, 15, f"{self.name}: {self.lab.journal(self.name)[-1500:]}")
        return json.loads(file.read_text())

    def listed(self):
        """The line of appfw confine --list about it, as JSON has it."""
        entries = json.loads(self.lab.run(["appfw", "confine", "--list", "--json"], check=True).stdout)
        return next((entry for entry in entries if entry["service"] == self.name), None)

    def is_proven(self):
        entry = self.listed()
        return entry and entry["state"] == "active" and entry["proven"]

    def end(self):
        self.lab.run(["appfw", "unconfine", "--quiet", self.name])
        self.lab.run(["systemctl", "stop", self.name, f"appfw-{self.stem}-forward.socket"])
        self.lab.run(["systemctl", "reset-failed", self.name])
        self.file.unlink(missing_ok=True)
        self.systemctl("daemon-reload")


@contextlib.contextmanager
def service(lab, text, name=None):
    """A service that is gone at the block's end."""
    made = Service(lab, text, name)
    try:
        yield made
    finally:
        made.end()


def trying(lab, *lines):
    """The text of a service that tries the ways out."""
    program = script(lab, "tries.py", TRIES)
    command = f"ExecStart=/usr/bin/python3 -u {program}"
    return "\n".join(["[Service]", "Type=notify", "RuntimeDirectory=@NAME@", *lines, command, ""])


def tree(lab):
    """Everything below /etc/systemd and /etc/appfw: kind, permissions and what is in it."""
    found = {}
    for top in "/etc/systemd", "/etc/appfw":
        for directory, _, files in os.walk(lab.path(top)):
            found[directory.partition("/root/")[2]] = oct(os.stat(directory).st_mode)
            for file in files:
                path = pathlib.Path(directory, file)
                content = os.readlink(path) if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()
                found[str(path).partition("/root/")[2]] = (oct(path.lstat().st_mode), content)
    return found


def drop_in(made, name, text):
    """Another drop-in of the service, as an administrator's."""
    directory = made.lab.path(f"{UNITS}/{made.name}.d")
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(text)
    made.systemctl("daemon-reload")
    return directory / name



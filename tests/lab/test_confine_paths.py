"""appfw confine against who may change where the paths of a service lead, or has them open what is closed."""

import contextlib
import json

import pytest

from confining import WAYS, drop_in, service, tree, trying
from launching import SOCKS, script

RULES = "--via", "none", "--deny", "any", "--allow", "10.0.0.0/24"
SLEEPS = "[Service]\nExecStart=/bin/sleep 1000\n"


@contextlib.contextmanager
def directories(lab, *paths, owner="bob"):
    """Directories of bob's that weren't there, gone at the end."""
    assert not any(lab.path(path).exists() for path in paths), paths
    for path in paths:
        lab.run(["install", "-d", "-o", owner, path], check=True)
    try:
        yield
    finally:
        lab.run(["rm", "-rf", *paths], check=True)


def refused(svc, sentence, *words):
    """Confining it changes nothing."""
    before = tree(svc.lab)
    said = svc.confine(*words or ("--via", SOCKS), code=125)
    assert sentence in said, said
    assert tree(svc.lab) == before


def refused_at_start(svc, sentence):
    """A drop-in that came after it was confined: the next start is none."""
    assert svc.systemctl("restart", svc.name, check=False).returncode != 0
    assert not svc.is_active()
    assert sentence in svc.lab.journal(svc.name)


# Puts what is run as root in the place of the proof, by a directory of its own that its bind mount's target is in.
TAKES_OVER = """
import os, pathlib, time
state = pathlib.Path(os.environ["STATE_DIRECTORY"])
if not (state / "old").exists():
    time.sleep(1)
    forged = state / "data/share/appfw"
    forged.write_text("#!/bin/sh\\nnsenter -t 1 -m touch /run/evil-was-here\\n")
    forged.chmod(0o755)
    (state / "data").rename(state / "old")
    (state / "data").mkdir()
    (state / "data/share").symlink_to("/usr/local/bin")
    os._exit(1)
time.sleep(1000)
"""


def test_a_service_does_not_move_the_place_of_what_it_is_shown(lab):
    lines = ["[Service]", "User=bob", "Restart=always", "StateDirectory=@NAME@",
             "BindPaths=/srv/share:/var/lib/@NAME@/data/share",
             "ExecStartPre=-/bin/mkdir -p /var/lib/@NAME@/data/share",
             f"ExecStart=/usr/bin/python3 {script(lab, 'takes_over.py', TAKES_OVER)}", ""]
    evil = lab.path("/run/evil-was-here")
    evil.unlink(missing_ok=True)
    with directories(lab, "/srv/share"), service(lab, "\n".join(lines)) as svc:
        # Its directory isn't there yet, so the first start tells.
        assert f"put a link into /var/lib/{svc.stem}" in svc.confine("--via", SOCKS, "--now", code=125)
        assert not svc.is_active()
        svc.unconfine()
        refused(svc, f"put a link into /var/lib/{svc.stem}")
        assert not evil.exists()


# Has systemd give it what is root's, by a link in the way of a directory that is made below its own.
IS_GIVEN = """
import os, pathlib, time
state = pathlib.Path(os.environ["STATE_DIRECTORY"].split(":")[0])
if not (state / "old").exists():
    (state / "between").rename(state / "old")
    (state / "between").symlink_to("/srv/places")
time.sleep(1000)
"""


@pytest.mark.parametrize("user", ["User=bob", "DynamicUser=yes"])
def test_a_service_is_given_no_directory_of_roots(lab, user):
    lines = ["[Service]", user, "StateDirectory=@NAME@ @NAME@/between/given",
             f"ExecStart=/usr/bin/python3 {script(lab, 'is_given.py', IS_GIVEN)}", ""]
    given = "/srv/places", "/srv/places/given"
    with directories(lab, *given, owner="root"), service(lab, "\n".join(lines)) as svc:
        svc.confine("--via", SOCKS)
        for _ in range(2):
            refused_at_start(svc, "by which any directory of root's would be given to it")
        assert lab.run(["stat", "-c", "%U", given[1]]).stdout == b"root\n"


def test_a_service_has_no_link_made_where_it_says(lab):
    lines = "[Service]", "User=bob", "StateDirectory=@NAME@:@NAME@/data/current", "ExecStart=/bin/sleep 1000", ""
    with service(lab, "\n".join(lines)) as svc:
        svc.confine("--via", SOCKS)
        # It could replace data from its first start on.
        refused_at_start(svc, "or a link be put there")
        svc.unconfine()
        refused(svc, "or a link be put there")


def test_directories_of_its_own_in_one_another_are_made(lab):
    with service(lab, trying(lab, "User=bob", "StateDirectory=@NAME@ @NAME@/data", "LogsDirectory=a@NAME@/b/c")) as svc:
        svc.confine("--via", SOCKS, "--now")
        svc.restart()
        assert svc.is_proven()


SWAPPED = {
    "a target of its user's": "BindPaths=/srv/share:/home/bob/state/share",
    "a source of its user's": "BindReadOnlyPaths=/home/bob/state/share:/opt/data",
    "one that is out of sight": "TemporaryFileSystem=/home:ro\nBindPaths=/home/bob/state/share:/opt/data",
    "one that isn't there yet": "BindPaths=-/home/bob/state/later/share:/opt/data",
    "one in a sticky directory": "BindPaths=/srv/share:/var/tmp/share",
    "one by a link": "BindPaths=/srv/link/share:/opt/data",
    "its terminal": "StandardInput=tty-force\nTTYPath=/home/bob/terminal",
    "its credentials": "LoadCredential=password:/home/bob/password",
    "a target in what another one shows": "BindPaths=/srv/share:/opt/data\nBindPaths=/etc/ssl:/opt/data/ssl",
}


# What files say, not what systemd does: one lab is enough.
@pytest.mark.parametrize("what", SWAPPED)
def test_what_others_can_have_lead_elsewhere_is_not_shown(lab, what):
    with directories(lab, "/srv/share", "/home/bob/state", "/home/bob/state/share"):
        lab.run(["ln", "-sfn", "/home/bob/state", "/srv/link"], check=True)
        with service(lab, SLEEPS + f"User=bob\n{SWAPPED[what]}\n") as svc:
            refused(svc, "others than root can put a link into")


@pytest.mark.parametrize("words, line", [(("--via", SOCKS), ""), (RULES, "PrivatePIDs=yes\nKillSignal=SIGKILL")])
def test_what_others_can_have_lead_elsewhere_is_looked_for_at_each_start(lab, words, line):
    """By where the files are, not by what the service sees: a link of its user's is where it sees nothing."""
    with directories(lab, "/srv/places", "/srv/places/data", owner="root"):
        lines = "User=bob", "TemporaryFileSystem=/srv:ro", "BindPaths=/srv/places/data:/opt/data", line
        with service(lab, trying(lab, *lines)) as svc:
            svc.confine(*words, "--now")
            assert svc.is_proven()
            lab.run(["sh", "-c", "rmdir /srv/places/data; ln -s /run /srv/places/data"], check=True)
            refused_at_start(svc, "is shown /srv/places/data elsewhere")
            lab.run(["sh", "-c", "rm /srv/places/data; mkdir /srv/places/data; chown bob /srv/places"], check=True)
            refused_at_start(svc, "put a link into /srv/places")
            lab.run(["chown", "root", "/srv/places"], check=True)
            svc.restart()
            assert svc.is_proven()


@pytest.mark.parametrize("line", ["StandardOutput=append:", "StandardError=truncate:", "StandardInput=file:"])
def test_a_stream_that_others_can_have_lead_elsewhere_is_none(lab, line):
    lines = "User=bob", f"{line}/home/bob/logs/log"
    with directories(lab, "/home/bob/logs"), service(lab, trying(lab, *lines)) as svc:
        refused(svc, "others than root can put a link into /home/bob")
        drop_in(svc, "override.conf", f"[Service]\n{line.partition('=')[0]}=null\n")
        svc.confine("--via", SOCKS, "--now")
        assert svc.is_proven()
        lab.path(f"/home/bob/logs/{svc.stem}").touch()
        drop_in(svc, "override.conf", f"[Service]\n{line}/home/bob/logs/%N\n")
        refused_at_start(svc, "others than root can put a link into /home/bob")
        lab.path("/home/bob/logs/root").touch()
        drop_in(svc, "override.conf", f"[Service]\n{line}/home/bob/logs/%u\n")
        refused_at_start(svc, "write its path in full")


def test_a_stream_in_a_directory_of_roots_is_one(lab):
    lines = "User=bob", "StandardOutput=append:/var/log/%N.log", "StandardError=file:%L/%n"
    with service(lab, trying(lab, *lines)) as svc:
        svc.confine("--via", SOCKS, "--now")
        assert svc.is_proven()
        assert lab.path(f"/var/log/{svc.stem}.log").exists()


# As root: opens what its cgroup, its commands and the kernel are kept in.
OPENS = f"""{WAYS}
def opened(path):
    os.close(os.open(path, os.O_WRONLY))
    return "open"

def made(path):
    pathlib.Path(path, "evil").touch()
    pathlib.Path(path, "evil").unlink()
    return "open"

found = {{}}
for top in "", "/opt/shown":
    found[top] = [ends(lambda: opened(top + "/sys/fs/cgroup/init.scope/cgroup.procs")),
                  ends(lambda: opened(top + "/proc/sys/kernel/core_pattern")),
                  ends(lambda: made(top + "/etc/systemd/system")), ends(lambda: made(top + "/etc/cron.d"))]
pathlib.Path(os.environ["RUNTIME_DIRECTORY"], "found").write_text(json.dumps(found))
ready()
time.sleep(1000)
"""
OPENED = {
    "BindPaths=/sys/fs/cgroup:/opt/shown/sys/fs/cgroup": "with that /sys",
    "BindPaths=/sys:/opt/shown/sys": "with that /sys",
    "BindPaths=/sys/fs/cgroup": "with that /sys",
    "BindReadOnlyPaths=/proc:/opt/shown/proc": "with that /proc",
    "BindPaths=/etc:/opt/shown/etc": "with that /etc",
    "ReadWritePaths=/etc/cron.d": "keeps root from writing to /etc/cron.d",
    "ReadWritePaths=-/proc/sys/kernel": "keeps root from writing to /proc",
    "ReadWritePaths=/sys/fs/cgroup": "keeps root from writing to /sys",
    "ConfigurationDirectory=systemd/system": "keeps root from writing to /etc/systemd",
}


def test_what_is_kept_from_root_is_not_opened_by_a_services_own_settings(lab):
    lab.run(["mkdir", "-p", "/etc/cron.d"], check=True)
    for line, sentence in OPENED.items():
        with service(lab, SLEEPS + f"{line}\n") as svc:
            refused(svc, sentence, *RULES)


@pytest.mark.parametrize("lines", [
    ["ReadWritePaths=/etc /var /"],
    ["ProtectSystem=strict", "ReadWritePaths=/etc"],
    ["BindPaths=/etc", "BindReadOnlyPaths=/sys"],
    ["BindReadOnlyPaths=/etc/cron.d:/opt/shown/etc/cron.d"],
])
def test_what_is_kept_from_root_stays_so_with_what_is_not_refused(lab, lines):
    lab.run(["mkdir", "-p", "/etc/cron.d"], check=True)
    program = script(lab, "opens.py", OPENS)
    text = ["[Service]", "Type=notify", "RuntimeDirectory=@NAME@", *lines, f"ExecStart=/usr/bin/python3 {program}", ""]
    with service(lab, "\n".join(text)) as svc:
        svc.confine(*RULES, "--now")
        assert svc.is_proven()
        found = json.loads(lab.path(f"/run/{svc.stem}/found").read_text())
        assert "open" not in found[""] + found["/opt/shown"], found


def test_rules_of_a_services_own_are_read_in_any_letters(lab):
    with service(lab, SLEEPS) as svc:
        text = f"# caf\xe9\n[Service]\nUser=bob\nIPAddressDeny=\\\n any\n{SLEEPS}"
        svc.file.write_bytes(text.encode("latin1"))
        svc.systemctl("daemon-reload")
        refused(svc, "rules of its own", "--via", "none", "--deny", "8.8.8.8")


@pytest.mark.parametrize("lines, sentence", [
    ("TemporaryFileSystem=/run", "empty directory at /run"),
    ("TemporaryFileSystem=/var:ro", "empty directory at /var"),
    ("TemporaryFileSystem=/etc", "empty directory at /etc"),
    ("TemporaryFileSystem=/usr/local", "empty directory at /usr/local"),
    ("RestrictNetworkInterfaces=lab0", "RestrictNetworkInterfaces="),
])
def test_what_would_never_start_is_refused(lab, lines, sentence):
    with service(lab, SLEEPS + f"User=bob\n{lines}\n") as svc:
        refused(svc, sentence)


def test_a_service_whose_name_is_taken_by_what_serves_others_is_told_what_to_do(lab):
    with service(lab, SLEEPS, "web-forward") as svc:
        refused(svc, "confine it under another one")


def test_what_others_can_have_emptied_takes_the_start_with_it(lab):
    """A link in the way: systemd follows it for the proof as well (unlike that of InaccessiblePaths=)."""
    # Where systemd can't be asked what it holds as a success the start is to take too long.
    lines = "User=bob", "TimeoutStartSec=3", "TemporaryFileSystem=/home/bob/there"
    with directories(lab, "/home/bob/there"), service(lab, trying(lab, *lines)) as svc:
        svc.confine(*RULES, "--now")
        assert svc.is_proven()
        for place in "/proc", "/sys", "/sys/fs/cgroup", "/run", "/etc", "/usr/local/bin":
            lab.run(["sh", "-c", f"rm -rf /home/bob/there; ln -s {place} /home/bob/there"], user="bob", check=True)
            assert svc.systemctl("restart", svc.name, check=False).returncode != 0, place
            assert not svc.is_active(), place
            lab.run(["systemctl", "reset-failed", svc.name])

"""appfw confine against who may write what a service is made of: its environment, its directories, its streams."""

import json

import pytest

from confining import TRIES, UNITS, WAYS, drop_in, service, tree, trying
from launching import SOCKS, script, unique
from waiting import wait_until
from world_map import ORIGIN

SLEEPS = "[Service]\nExecStart=/bin/sleep 1000\n"
# Sends past the proxy, whoever hears it, and says so.
LEAKS = ("import os, pathlib, socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('8.8.8.8', 9)); "
         "pathlib.Path(os.environ['RUNTIME_DIRECTORY'], 'sent').touch()")


def executable(lab, path, text):
    file = lab.path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)


@pytest.fixture
def open_slice(lab):
    """A list that opens every unit of the system's, given after they were confined."""
    given = []

    def give():
        lab.run(["systemctl", "set-property", "--runtime", "system.slice", "IPAddressAllow=8.8.8.8"], check=True)
        given.append(True)

    yield give
    if given:
        lab.run(["systemctl", "set-property", "--runtime", "system.slice", "IPAddressAllow="], check=True)
        lab.run(["systemctl", "revert", "system.slice"], check=True)


def test_what_a_services_user_writes_into_its_environment_is_not_the_proofs(lab):
    executable(lab, "/home/bob/evil.sh", "#!/bin/sh\nid -u >/run/evil-was-here\n")
    variables = "DBUS_SYSTEM_BUS_ADDRESS", "DBUS_STARTER_ADDRESS", "DBUS_SESSION_BUS_ADDRESS"
    lab.path("/home/bob/env").write_text("".join(f"{name}=unixexec:path=/home/bob/evil.sh\n" for name in variables))
    with service(lab, trying(lab, "User=bob", "EnvironmentFile=-/home/bob/env")) as svc:
        svc.confine("--via", SOCKS, "--now")
        assert svc.found()["tcp"] != "open"
        assert svc.is_proven()
        assert not lab.path("/run/evil-was-here").exists()


LAID_OVER = {
    "BindReadOnlyPaths=/home/bob/forged:/usr/local/bin": "in the place of /usr/local/bin",
    "BindPaths=/home/bob/dbus:/var/run/dbus": "in the place of /var/run/dbus",
    "BindPaths=/home/bob/preload:/etc/ld.so.preload": "in the place of /etc/ld.so.preload",
    "ExtensionDirectories=/home/bob/ext": "ExtensionDirectories=",
    "ExtensionImages=/home/bob/image": "ExtensionImages=",
    "MountImages=/home/bob/image:/opt": "MountImages=",
}


def test_what_is_laid_over_the_proof_is_refused(lab):
    for line, sentence in LAID_OVER.items():
        with service(lab, SLEEPS + f"User=bob\n{line}\n") as svc:
            before = tree(lab)
            assert sentence in svc.confine("--via", SOCKS, code=125)
            assert tree(lab) == before


def test_what_a_later_drop_in_lays_over_the_proof_is_not_there(lab):
    executable(lab, "/home/bob/forged/appfw", "#!/bin/sh\nid -u >/run/evil-was-here\n")
    with service(lab, trying(lab, "User=bob")) as svc:
        svc.confine("--via", SOCKS)
        drop_in(svc, "override.conf", "[Service]\n" + "\n".join(LAID_OVER) + "\n")
        svc.restart()
        assert svc.found()["tcp"] != "open"
        assert svc.is_proven()
        assert not lab.path("/run/evil-was-here").exists()


def test_a_services_own_binds_stay(lab):
    for place in "/srv/shown here", "/srv/written":
        lab.path(place).mkdir(exist_ok=True)
        lab.path(place).chmod(0o777)
    lab.path("/srv/shown here/file").write_text("shown")
    program = script(lab, "binds.py", f"""{TRIES.partition('found = {')[0]}
text = pathlib.Path("/opt/shown/file").read_text()
pathlib.Path("/opt/written/file").write_text(text)
found = ends(lambda: pathlib.Path("/opt/shown/x").touch())
pathlib.Path(os.environ["RUNTIME_DIRECTORY"], "found").write_text(json.dumps(found))
ready()
time.sleep(1000)
""")
    lines = ["Type=notify", "User=bob", "RuntimeDirectory=@NAME@", 'BindReadOnlyPaths="/srv/shown here":/opt/shown',
             "BindPaths=/srv/written:/opt/written:norbind", "BindReadOnlyPaths=-/srv/nothing:/opt/nothing",
             f"ExecStart=/usr/bin/python3 {program}"]
    with service(lab, "\n".join(["[Service]", *lines, ""])) as svc:
        svc.confine("--via", SOCKS, "--now")
        assert json.loads(lab.path(f"/run/{svc.stem}/found").read_text()) == "OSError"
        assert lab.path("/srv/written/file").read_text() == "shown"
        assert f"nothing to do: {svc.name}" in svc.confine("--via", SOCKS)
        svc.restart()
        assert svc.is_proven()


@pytest.mark.parametrize("lines", [
    ["SuccessExitStatus=125"],
    ["SuccessExitStatus=125 255", "ExecCondition=/bin/true"],
    ["SuccessExitStatus=101 200 203 255 SIGKILL SIGABRT"],
])
def test_a_proof_that_fails_is_no_success(lab, world, open_slice, lines):
    with service(lab, "\n".join(["[Service]", "User=bob", "RuntimeDirectory=@NAME@", *lines,
                                 f"ExecStart=/usr/bin/python3 {script(lab, 'leaks.py', LEAKS)}", ""])) as svc:
        svc.confine("--via", "none", "--deny", "any", "--allow", "1.1.1.1")
        open_slice()
        drop_in(svc, "override.conf", "[Service]\n" + "\n".join(lines) + "\n")
        with world.watch() as w:
            assert svc.systemctl("start", svc.name, check=False).returncode != 0
        assert w.foreign() == []
        assert "was not started" in lab.journal(svc.name)
        # Nor is a proof that can't be executed.
        lab.run(["systemctl", "revert", "system.slice"], check=True)
        appfw = lab.path("/usr/local/bin/appfw")
        away = appfw.with_name("appfw-away")
        appfw.rename(away)
        try:
            with world.watch() as w:
                # With a condition of its own it is not for now, with none it fails.
                svc.systemctl("start", svc.name, check=False)
            assert not svc.is_active()
            assert w.foreign() == []
        finally:
            away.rename(appfw)


@pytest.mark.parametrize("line", ["", "ExecCondition=/bin/true"])
def test_a_drop_in_that_comes_later_makes_no_success_of_a_proof_that_fails(lab, line):
    lines = "[Service]", "User=bob", "RuntimeDirectory=@NAME@", line, "ExecStart=/bin/touch /run/@NAME@/ran", ""
    with service(lab, "\n".join(lines)) as svc:
        svc.confine("--via", "none", "--deny", "any", "--allow", "1.1.1.1")
        drop_in(svc, "zzz.conf", "[Service]\nRuntimeDirectoryPreserve=yes\nSuccessExitStatus=125 255\n")
        svc.systemctl("start", svc.name, check=False)
        assert "SuccessExitStatus=" in lab.journal(svc.name) and "was not started" in lab.journal(svc.name)
        assert not svc.is_active() and not lab.path(f"/run/{svc.stem}/ran").exists()


def test_nor_where_systemd_cannot_be_asked_what_is_one(lab):
    lines = "[Service]", "RuntimeDirectory=@NAME@", "ExecStart=/bin/touch /run/@NAME@/ran", ""
    with service(lab, "\n".join(lines)) as svc:
        svc.confine("--via", "none", "--deny", "any", "--allow", "1.1.1.1")
        later = "RuntimeDirectoryPreserve=yes\nSuccessExitStatus=125 255\nTimeoutStartSec=3\n"
        drop_in(svc, "zzz.conf", f"[Service]\n{later}")
        bus = lab.path("/run/dbus/system_bus_socket")
        away = bus.rename(bus.with_name("away"))
        try:
            # By PID 1's own socket, as root.
            svc.systemctl("start", svc.name, check=False)
        finally:
            away.rename(bus)
        assert "cannot reach the system bus" in lab.journal(svc.name)
        assert svc.show("Result") == "timeout" and not lab.path(f"/run/{svc.stem}/ran").exists()


def test_exit_codes_of_a_services_own_stay_successes(lab):
    with service(lab, "[Service]\nType=oneshot\nSuccessExitStatus=143 125\nExecStart=/bin/sh -c 'exit 143'\n") as svc:
        svc.confine("--via", SOCKS)
        svc.restart()
        assert (svc.show("Result"), svc.show("SuccessExitStatus")) == ("success", "143")


@pytest.mark.parametrize("lines", [
    ["StandardInput=file:/run/docker.sock", "StandardOutput=journal"],
    ["StandardOutput=file:/run/docker.sock"],
    pytest.param(["StandardError=file:/run/docker.sock"], marks=pytest.mark.slow),
    ["StandardInput=file:/run"],
    ["StandardInput=file:/run/dbus/system_bus_socket", "StandardOutput=null", "StandardError=null"],
])
def test_streams_that_lead_out_do_not_start(lab, lines):
    with service(lab, "\n".join([SLEEPS, "User=bob", *lines, ""])) as svc:
        svc.confine("--via", SOCKS, "--now", code=125)
        assert not svc.is_active()
        assert "(StandardInput=, StandardOutput=, StandardError=)" in lab.journal(svc.name)


@pytest.mark.parametrize("output", ["append:/var/log/svc.log", pytest.param("null", marks=pytest.mark.slow),
                                    pytest.param("inherit", marks=pytest.mark.slow)])
def test_streams_that_do_not_lead_out_do(lab, output):
    with service(lab, trying(lab, "User=bob", f"StandardOutput={output}", "StandardInput=file:/etc/hostname")) as svc:
        svc.confine("--via", SOCKS, "--now")
        assert svc.is_proven()


def test_why_it_did_not_start_stands_in_the_journal_wherever_its_output_goes(lab):
    with service(lab, trying(lab, "User=bob", "StandardOutput=null", "StandardError=null")) as svc:
        svc.confine("--via", SOCKS)
        drop_in(svc, "zz-later.conf", "[Service]\nPrivateNetwork=no\n")
        assert svc.systemctl("start", svc.name, check=False).returncode != 0
        assert "PrivateNetwork= than" in lab.journal(svc.name)


def test_rules_do_not_open_what_the_services_own_have_closed(lab):
    lines = "IPAddressDeny=any\nIPAddressAllow=10.0.0.0/24\n"
    with service(lab, SLEEPS + lines) as svc:
        before = tree(lab)
        said = svc.confine("--via", "none", "--deny", "8.8.8.8", code=125)
        assert "rules of its own" in said and "--deny any" in said
        assert tree(lab) == before
        svc.confine("--via", "none", "--deny", "any", "--allow", "10.0.0.0/24")
        assert "rules of its own" in svc.confine("--via", "none", "--deny", "8.8.8.8", code=125)
        svc.confine("--via", SOCKS)


def test_a_socket_that_systemd_has_kept_is_not_handed_back(lab):
    """Made before the wall, it would lead past it."""
    keeps = script(lab, "keeps.py", f"""{TRIES.partition('found = {')[0]}
made = socket.socket(type=socket.SOCK_DGRAM)  # a stream that is not connected would be given up at once
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
    manager.connect(os.environ["NOTIFY_SOCKET"])
    socket.send_fds(manager, [b"FDSTORE=1\\nFDNAME=out"], [made.fileno()])
pathlib.Path(os.environ["RUNTIME_DIRECTORY"], "fds").write_text(os.environ.get("LISTEN_FDS", "none"))
ready()
time.sleep(1000)
""")
    text = ["[Service]", "Type=notify", "NotifyAccess=all", "FileDescriptorStoreMax=4", "RuntimeDirectory=@NAME@",
            "User=bob", f"ExecStart=/usr/bin/python3 {keeps}", ""]
    with service(lab, "\n".join(text)) as svc:
        svc.start()
        assert svc.show("NFileDescriptorStore") == "1"
        svc.confine("--via", SOCKS)
        svc.restart()
        assert lab.path(f"/run/{svc.stem}/fds").read_text() == "none"
        assert svc.is_proven()


# Is started by who comes to the host's port, and makes of that listener a connection of the host's.
TURNS = f"""{WAYS}
import ctypes
listener = socket.socket(fileno=3)
# sockaddr with AF_UNSPEC: it listens no more.
ctypes.CDLL(None).connect(3, bytes(16), 16)

def by_listener():
    listener.settimeout(3)
    listener.connect(("{ORIGIN}", 80))
    return "open"

found = {{"tcp": ends(by_tcp), "listener": ends(by_listener)}}
pathlib.Path(os.environ["RUNTIME_DIRECTORY"], "found").write_text(json.dumps(found))
time.sleep(1000)
"""


def test_a_listener_of_the_hosts_is_a_way_out_and_is_had_behind_no_wall(lab, world):
    """Whatever network and lists its service has: so that --publish, which hands on what is said and no sockets, is no
    reason to let a service have one."""
    port, program = 7460, script(lab, "turns", TURNS)
    text = f"[Service]\nUser=bob\nPrivateNetwork=yes\nRuntimeDirectory=@NAME@\nExecStart=/usr/bin/python3 {program}\n"
    words = ["--via", SOCKS, "--wall=namespace", f"--publish=0.0.0.0:{port + 1}"]

    def sent_out():
        """To whom in the world anything goes, but for who has come to the port, by which the service is started."""
        lab.path(f"{UNITS}/{listening}").write_text(f"[Socket]\nListenStream=0.0.0.0:{port}\n")
        svc.systemctl("daemon-reload")
        svc.systemctl("start", listening)
        with world.watch() as w:
            with pytest.raises(OSError):
                world.connect("10.0.0.7", "10.0.0.2", port, timeout=2)
            found = lab.path(f"/run/{svc.stem}/found")
            wait_until(lambda: found.exists() or svc.show("ActiveState") == "failed", 15, "a start")
        return {packet["dst"] for packet in w.foreign()} - {"10.0.0.7"}

    with service(lab, text) as svc:
        listening = f"{svc.stem}.socket"
        try:
            lists = drop_in(svc, "lists.conf", "[Service]\nIPAddressDeny=any\n")
            assert sent_out() == {ORIGIN}
            assert svc.found() == {"tcp": "OSError", "listener": "open"}
            lists.unlink()
            lists.parent.rmdir()
            before = tree(lab)
            assert f"gets its sockets from {listening}" in svc.confine(*words, code=125)
            assert tree(lab) == before
            # Nor does one that comes later start it.
            svc.systemctl("stop", listening, svc.name)
            lab.path(f"{UNITS}/{listening}").unlink()
            svc.systemctl("daemon-reload")
            svc.confine(*words)
            assert sent_out() == set()
            assert f"appfw ready: {svc.name} gets its sockets from {listening}" in lab.journal(svc.name)
        finally:
            svc.systemctl("stop", listening)
            lab.path(f"{UNITS}/{listening}").unlink()


def test_processes_of_an_earlier_start_keep_a_service_from_starting(lab):
    text = ["[Service]", "KillMode=process", "User=bob", "ExecStart=/bin/sh -c 'sleep 999 & exec sleep 1000'", ""]
    with service(lab, "\n".join(text)) as svc:
        svc.start()
        svc.confine("--via", SOCKS)
        assert svc.systemctl("restart", svc.name, check=False).returncode != 0
        assert "of an earlier start is outside of the wall" in lab.journal(svc.name)
        svc.systemctl("kill", "--signal=KILL", svc.name)
        svc.systemctl("reset-failed", svc.name)
        svc.start()
        assert svc.is_proven()
        svc.systemctl("kill", "--signal=KILL", svc.name)


# Users' sessions: a command that is typed there, or asked of an agent, leads out.
SESSIONS = ["/tmp/tmux-{uid}/default", "/tmp/emacs{uid}/server", "/tmp/ssh-XXab12/agent.7", "/tmp/dbus-ab12"]


@pytest.mark.parametrize("user, words", [
    ("bob", ["--via", SOCKS]), ("root", ["--via", SOCKS, "--wall=namespace"]), ("bob", ["--via=none", "--deny=any"]),
], ids=lambda value: value[-1] if isinstance(value, list) else value)
def test_sockets_of_sessions_in_tmp_are_not_reached(lab, user, words):
    """Neither one that is there when the service starts, nor one that is made while it runs."""
    paths = [path.format(uid=1001 if user == "bob" else 0) for path in SESSIONS]
    servers = script(lab, "sessions.py", """
import os, socket, sys, time
kept = []
for path in sys.argv[1:]:
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    kept.append(socket.socket(socket.AF_UNIX))
    kept[-1].bind(path)
    kept[-1].listen()
time.sleep(30)
""")
    tries = script(lab, "tries.py", f"""{WAYS}
ready()
while True:
    text = json.dumps([ends(lambda: by_unix(path) or "open") for path in sys.argv[1:]] + os.listdir("/tmp"))
    directory = pathlib.Path(os.environ["RUNTIME_DIRECTORY"])
    (directory / "new").write_text(text)
    (directory / "new").rename(directory / "found")
    time.sleep(0.05)
""")

    def serve(*names):
        lab.run(["systemd-run", "--quiet", f"--uid={user}", f"--unit={unique('sessions')}", "python3", servers, *names],
                check=True)
        wait_until(lambda: all(lab.path(name).exists() for name in names), 5, "sessions")

    command = f"ExecStart=/usr/bin/python3 {tries} {' '.join(paths)}"
    text = f"[Service]\nType=notify\nRuntimeDirectory=@NAME@\nUser={user}\n{command}\n"
    try:
        serve(*paths[:2])
        with service(lab, text) as svc:
            assert "a /tmp and a /var/tmp of its own" in svc.confine(*words, "--now")
            serve(*paths[2:])
            lab.path(f"/run/{svc.stem}/found").unlink()
            assert svc.found() == ["FileNotFoundError"] * 4
            assert "of its own" not in svc.confine(*words)
    finally:
        lab.run(["sh", "-c", "systemctl stop 'sessions-*'; rm -rf /tmp/tmux-* /tmp/emacs* /tmp/ssh-XXab12 /tmp/dbus-ab12"])

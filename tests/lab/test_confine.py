"""appfw confine: services that are installed already, put behind a wall and out of it again; seen from the world."""

import contextlib
import errno
import json
import os
import time

import pytest

from confining import TRIES, UNITS, WAYS, Service, drop_in, service, tree, trying
from conftest import VERSIONS, boot
from launching import SOCKS, script, started, unique
from test_takeover import PIPES
from test_units import install
from waiting import wait_until
from world_map import ORIGIN, TOR_RELAYS, UPSTREAM

HELD = {"proxy": 200, "tcp": "OSError", "udp": "OSError", "bus": "PermissionError",
        "private": "FileNotFoundError"}
FREE = {"proxy": 200, "tcp": "open", "udp": "sent", "bus": "open", "private": "open"}
UPSTREAMS = [(UPSTREAM, 1080)]
TRIES_AT = "/usr/local/bin/tries.py"


def ways(found):
    """How the ways out went, without who tried."""
    return {way: result for way, result in found.items() if way != "uid"}


@pytest.mark.both
def test_a_service_goes_through_the_proxy_alone_and_is_as_before_when_it_is_let_go(lab, world):
    lines = ["User=bob", "ExecCondition=/bin/true", "ExecStopPost=/bin/echo over", "ExecStartPre=-+/bin/false",
             'ExecStartPre=/bin/echo "a b" 100%% $HOME ; /bin/echo two']
    with service(lab, trying(lab, *lines)) as svc:
        svc.start()
        with world.watch() as w:
            svc.restart()
            assert ways(svc.found()) | {"private": "-"} == FREE | {"private": "-"}
        assert w.foreign(UPSTREAMS), "nothing arrives even without a wall"
        before = svc.files()

        said = svc.confine("--via", SOCKS)
        assert lab.run(["systemd-analyze", "verify", svc.name]).stderr == b""
        assert f"systemctl restart {svc.name}" in said
        assert not svc.is_proven()
        with world.watch() as w:
            svc.restart()
            assert ways(svc.found()) == HELD
        assert svc.found()["uid"] == int(lab.run(["id", "-u", "bob"]).stdout)
        assert w.foreign(UPSTREAMS) == []
        assert [event["name"] for event in w.events(server="socks5", kind="socks")] == ["web.test"]
        assert svc.is_proven()
        journal = lab.journal(svc.name)
        assert "a b 100% /home/bob\n" in journal.rpartition("Stopped")[2]
        # Its last commands as well, before there was a wall.
        assert journal.count("over\n") == 2 and "status=125" not in journal

        # The same again is no change.
        after = tree(lab)
        assert "nothing to do" in svc.confine("--via", SOCKS, "--now")
        assert tree(lab) == after
        svc.systemctl("daemon-reload")
        assert "nothing to do" in svc.confine("--via", SOCKS, "--now")
        # By itself, and by hand.
        first = svc.show("MainPID")
        with world.watch() as w:
            drop_in(svc, "a.conf", "[Service]\nRestart=on-failure\n")
            svc.systemctl("kill", "--signal=KILL", svc.name)
            wait_until(lambda: svc.show("MainPID") not in (first, "0") and svc.is_active(), 10, "another start")
            assert ways(svc.found()) == HELD and svc.is_proven()
        assert w.foreign(UPSTREAMS) == []
        lab.path(f"/etc/systemd/system/{svc.name}.d/a.conf").unlink()

        svc.unconfine("--now")
        assert svc.files() == before
        assert ways(svc.found()) | {"private": "-"} == FREE | {"private": "-"}
        units = lab.run(["systemctl", "list-units", "--all", "--no-legend", f"appfw-{svc.stem}*"]).stdout
        assert units == b""
        assert "nothing to do" in svc.unconfine()


def test_what_a_running_service_has_of_a_wall_before_its_restart_is_told(lab):
    """systemd 252 has new IP lists in force at its reload."""
    program = script(lab, "loops.py", f"""{WAYS}
while True:
    pathlib.Path(os.environ["RUNTIME_DIRECTORY"], "found").write_text(str(ends(by_tcp)))
    time.sleep(0.1)
""")
    text = f"[Service]\nUser=bob\nRuntimeDirectory=@NAME@\nExecStart=/usr/bin/python3 {program}\n"
    with service(lab, text) as svc:
        svc.start()
        found = lab.path(f"/run/{svc.stem}/found")
        wait_until(lambda: found.exists() and found.read_text() == "open", 10, "a service that is free")
        said = svc.confine("--via", SOCKS)
        if "has its IP lists in force at once" in said:
            wait_until(lambda: found.read_text() not in ("", "open"), 5, "what was told")
        else:
            assert "it goes on as before" in said
            time.sleep(2)
            assert found.read_text() in ("", "open")
        svc.restart()
        wait_until(lambda: found.exists() and found.read_text() not in ("", "open"), 10, "a service behind its wall")


def test_nothing_is_left_of_what_served_a_service_that_is_let_go(lab):
    def servants():
        return lab.run(["systemctl", "list-units", "--all", "--plain", "--no-legend", "appfw-svc*"]).stdout.decode()

    with service(lab, trying(lab, "User=bob")) as svc:
        svc.confine("--via", SOCKS, "--now")
        assert svc.found()["proxy"] == 200 and f"appfw-{svc.stem}-forward.service" in servants()
        assert "its way out is gone until then" in svc.unconfine()
        assert servants() == ""
        svc.restart()
        assert svc.found()["tcp"] == "open" and servants() == ""
        # Nor where the wall becomes one without a forwarder; it is never changed under who runs behind it.
        svc.confine("--via", SOCKS, "--now")
        before = tree(lab)
        assert "say --now" in svc.confine("--via=none", "--deny=8.8.8.8", code=125) and tree(lab) == before
        svc.confine("--via=none", "--deny=8.8.8.8", "--now")
        assert servants() == "" and svc.is_proven()


def test_what_a_services_user_writes_is_not_loaded_into_its_proof(lab):
    lab.path("/home/bob/env").write_text("LD_PRELOAD=/home/bob/x.so\n")
    with service(lab, trying(lab, "User=bob", "EnvironmentFile=/home/bob/env")) as svc:
        svc.confine("--via", SOCKS, "--now")
        assert ways(svc.found()) == HELD
        # The linker would complain of a file that isn't there.
        assert "x.so" not in lab.journal(svc.name)


def test_what_is_added_to_its_commands_does_not_come_before_the_proof(lab):
    with service(lab, trying(lab, "User=bob")) as svc:
        svc.confine("--via", SOCKS, "--now")
        for directive in "ExecCondition", "ExecStopPost":
            drop_in(svc, "override.conf", f"[Service]\n{directive}=/bin/touch /home/bob/{directive}\n")
            svc.restart()
            assert svc.found()["proxy"] == 200 and not lab.path(f"/home/bob/{directive}").exists()
        lab.path(f"/etc/systemd/system/{svc.name}.d/override.conf").unlink()


@pytest.mark.both
def test_a_service_goes_through_tor(lab, world, tor):
    with service(lab, trying(lab, "User=bob")) as svc:
        before = svc.files()
        with world.watch() as w:
            svc.confine("--via=tor", "--now")
            assert ways(svc.found()) == HELD
            svc.systemctl("daemon-reload")
            svc.restart()
            assert ways(svc.found()) == HELD and svc.is_proven()
        assert w.foreign() == []
        requests = w.events(server="http", kind="request")
        assert len(requests) == 2 and {event["peer"] for event in requests} <= set(TOR_RELAYS)
        assert svc.listed()["via"] == ["tor://127.0.0.1:9050"]
        assert "tor@default.service" in svc.show("After")
        svc.unconfine("--now")
        assert svc.files() == before
        assert svc.found()["tcp"] == "open"


@pytest.mark.parametrize("wall", ["namespace", "address"])
def test_other_walls(lab, world, wall):
    # What covers others: systemd forgets those.
    more = ["--allow=10.0.0.0/24", "--allow=10.0.0.0/8", "--allow=localhost"] if wall == "address" else []
    # Not even the proof binds a socket.
    with service(lab, trying(lab, "DynamicUser=yes", "SocketBindDeny=any")) as svc:
        svc.confine("--via", SOCKS, f"--wall={wall}", *more, "--now")
        with world.watch() as w:
            svc.restart()
            found = svc.found()
        assert found["proxy"] == 200
        # Captured, it goes to the same place.
        assert w.foreign(UPSTREAMS) == [], found
        assert svc.is_proven()
        # Its address on the host's loopback stays its own.
        assert "nothing to do" in svc.confine("--via", SOCKS, f"--wall={wall}", *more, "--now")


def test_what_a_later_drop_in_opens_does_not_start(lab, world):
    with service(lab, trying(lab, "User=bob")) as svc:
        svc.confine("--via", SOCKS, "--now")
        later = drop_in(svc, "zzz.conf", "[Service]\nIPAddressAllow=any\n")
        with world.watch() as w:
            lab.run(["systemctl", "restart", svc.name])
        assert not svc.is_active()
        assert w.packets() == [] or w.foreign() == []
        journal = lab.journal(svc.name)
        assert "status=125" in journal
        sentence = next(line for line in journal.splitlines() if "appfw ready: " in line)
        for part in "IPAddressAllow=", "zzz.conf", f"appfw unconfine {svc.name}":
            assert part in sentence
        assert "zzz.conf" in svc.confine("--via", SOCKS, code=125)
        later.unlink()
        # Read again by itself.
        svc.confine("--via", SOCKS, "--now")
        assert ways(svc.found()) == HELD


def test_a_file_of_ours_that_was_changed_does_not_start(lab):
    with service(lab, trying(lab, "User=bob")) as svc:
        svc.confine("--via", SOCKS, "--now")
        file = lab.path(f"/etc/systemd/system/appfw-{svc.stem}-forward.service")
        file.write_text(file.read_text().replace(SOCKS, "direct"))
        svc.systemctl("daemon-reload")
        lab.run(["systemctl", "restart", svc.name])
        assert not svc.is_active()
        assert file.name in lab.journal(svc.name)
        svc.confine("--via", SOCKS, "--now")
        assert svc.is_proven()


def test_a_password_stands_in_one_file_that_is_roots(lab, world):
    with service(lab, trying(lab, "User=bob")) as svc:
        svc.confine("--via", f"socks5h://lab:secret@{UPSTREAM}:1081", "--now")
        assert svc.found()["proxy"] == 200
        holders = lab.run(["grep", "-rl", "lab:secret", "/etc/systemd", "/etc/appfw", "/run/systemd"]).stdout.decode()
        assert holders.split() == [f"/etc/appfw/credentials/{svc.stem}"]
        assert lab.path(f"/etc/appfw/credentials/{svc.stem}").stat().st_mode & 0o777 == 0o600
        assert "secret" not in svc.confine("--via", f"socks5h://lab:secret@{UPSTREAM}:1081", "--verbose")
        assert "nothing to do" in svc.confine("--via", f"@/etc/appfw/credentials/{svc.stem}", "--now")
        svc.restart()
        assert svc.found()["proxy"] == 200


FILES = f"""[Service]
User=bob
ExecStart=/usr/bin/python3 -m http.server 8123 --bind 0.0.0.0 --directory /etc/systemd
"""


def serves(world, source, target, port=8123):
    """Whether the world's SOURCE gets an answer from the lab's TARGET."""
    try:
        return world.connect(source, target, port, payload=b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200")
    except (TimeoutError, ConnectionError):
        return False


def test_a_file_server_serves_its_network_alone(lab, world):
    with service(lab, FILES) as svc:
        svc.start()
        wait_until(lambda: serves(world, ORIGIN, "203.0.113.2"), 10, "the server")
        before = svc.files()
        said = svc.confine("--via", SOCKS, code=125)
        assert "listens at TCP 0.0.0.0:8123 (python3, process" in said and "--publish 0.0.0.0:8123" in said
        assert svc.files() == before
        svc.confine("--via=none", "--deny=any", "--allow=localhost", "--allow=10.0.0.0/24", "--now")
        assert svc.is_proven()
        for _ in range(2):
            wait_until(lambda: serves(world, "10.0.0.7", "10.0.0.2"), 10, "the server behind its rules")
            assert not serves(world, ORIGIN, "203.0.113.2")
            assert lab.run(["curl", "-sS", "--max-time", "2", "http://127.0.0.1:8123/"]).returncode == 0
            svc.systemctl("daemon-reload")
            svc.restart()
        svc.unconfine("--now")
        wait_until(lambda: serves(world, ORIGIN, "203.0.113.2"), 10, f"the server as before: {lab.journal(svc.name)}"
                   + lab.run(["systemctl", "status", svc.name]).stdout.decode())
        assert svc.files() == before


DNSMASQ = """[Service]
Type=forking
PIDFile=/run/@NAME@/pid
RuntimeDirectory=@NAME@
ExecStartPre=/usr/sbin/dnsmasq --test
ExecStart=/usr/sbin/dnsmasq --pid-file=/run/@NAME@/pid --conf-file=/dev/null --port=5355 --listen-address=127.0.0.1 \
  --bind-interfaces --no-resolv --no-hosts --cache-size=0 --all-servers --server=8.8.8.8 --server=1.1.1.1 --user=nobody
"""
ASK = """
import socket, struct
question = struct.pack(">6H", 7, 0x100, 1, 0, 0, 0) + b"\\3web\\4test\\0" + struct.pack(">2H", 1, 1)
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(3)
client.sendto(question, ("127.0.0.1", 5355))
print(len(client.recv(512)))
"""


def asked_by(lab):
    """Which of the servers dnsmasq asks."""
    with lab.world.watch() as w:
        answered = lab.run(["/usr/bin/python3", "-c", ASK])
    assert answered.returncode == 0, answered.stderr
    return {packet["dst"] for packet in w.packets(proto="udp", dport=53)} & {"8.8.8.8", "1.1.1.1", "9.9.9.9"}


def test_a_resolver_asks_the_servers_that_it_may(lab):
    with service(lab, DNSMASQ) as svc:
        svc.start()
        assert asked_by(lab) == {"8.8.8.8", "1.1.1.1"}
        before = svc.files()
        svc.confine("--via=none", "--deny=8.8.8.8", "--allow=1.1.1.1", "--allow=9.9.9.9", "--now")
        assert svc.is_proven()
        assert asked_by(lab) == {"1.1.1.1"}
        svc.systemctl("daemon-reload")
        svc.restart()
        assert asked_by(lab) == {"1.1.1.1"}
        svc.unconfine("--now")
        assert svc.files() == before
        assert asked_by(lab) == {"8.8.8.8", "1.1.1.1"}


@pytest.mark.both
def test_a_kernel_that_lies_starts_nothing(lying_lab):
    with service(lying_lab, trying(lying_lab, "User=bob")) as svc:
        said = svc.confine("--via", SOCKS, "--now", code=125)
        assert f"appfw unconfine {svc.name}" in said
        assert not svc.is_active()
        assert "status=125" in lying_lab.journal(svc.name)
        assert not lying_lab.path(f"/run/{svc.stem}/found").exists()
        svc.unconfine("--now")
        svc.restart()
        assert svc.found()["tcp"] == "open"


HARDENED = {
    "errors": ["SystemCallFilter=@system-service", "SystemCallErrorNumber=EPERM"],
    "much": ["SystemCallFilter=@system-service", "SystemCallFilter=~@privileged @resources", "User=bob",
             "SocketBindDeny=any", "NoNewPrivileges=yes", "ProtectSystem=strict", "PrivateTmp=yes", "RestrictNamespaces=yes"],
    "other errors": ["SystemCallFilter=@system-service", "SystemCallErrorNumber=ENOSYS"],
    "denied": ["SystemCallFilter=~@mount @swap", "SystemCallErrorNumber=EPERM"],
}
SELDOM = {"other errors", "denied"}
EACH = [pytest.param(lines, marks=pytest.mark.slow if kind in SELDOM else (), id=kind)
        for kind, lines in HARDENED.items()]


@pytest.mark.parametrize("lines", EACH)
def test_a_service_with_a_filter_of_its_own_has_the_walls_as_well(lab, lines):
    with service(lab, trying(lab, *lines)) as svc:
        svc.confine("--via", SOCKS, "--now")
        assert svc.found()["tcp"] != "open"
        assert svc.is_proven()
        assert f"nothing to do: {svc.name}" in svc.confine("--via", SOCKS)


@pytest.mark.parametrize("lines", EACH)
def test_a_service_with_a_filter_of_its_own_gets_no_ring(lab, lines):
    """io_uring_setup(2), by its number, as no libc has it."""
    ring = script(lab, "ring.py", "import ctypes, os, pathlib; libc = ctypes.CDLL(None, use_errno=True); "
                  "made = libc.syscall(425, 1, ctypes.create_string_buffer(120)); "
                  "pathlib.Path(os.environ['RUNTIME_DIRECTORY'], 'ring').write_text(f'{made} {ctypes.get_errno()}')")
    text = ["[Service]", "Type=oneshot", "RemainAfterExit=yes", "RuntimeDirectory=@NAME@", *lines,
            f"ExecStart=/usr/bin/python3 {ring}", ""]
    with service(lab, "\n".join(text)) as svc:
        svc.confine("--via", SOCKS, "--now")
        made, number = lab.path(f"/run/{svc.stem}/ring").read_text().split()
        assert made == "-1"
        assert int(number) in (errno.ENOSYS, errno.EPERM)


ELSEWHERE = "[Service]\nExecStart=/bin/sleep 1000\n"


@pytest.mark.parametrize("lines, sentence", [
    ("PAMName=login", "PAMName=login"),
    ("Delegate=yes", "Delegate="),
    ("AmbientCapabilities=CAP_NET_RAW", "CAP_NET_RAW"),
    ("ExecStart=\nExecStart=+/bin/sleep 1000", "full privileges"),
    ("NetworkNamespacePath=/run/netns/x", "NetworkNamespacePath=/run/netns/x"),
    ("[Unit]\nJoinsNamespaceOf=dbus.service", "JoinsNamespaceOf=dbus.service"),
    ("Type=dbus\nBusName=org.example.x", "Type=dbus"),
    ("Type=notify\nBusName=org.example.x", "org.example.x, BusName="),
    ("[Unit]\nDefaultDependencies=no\nBefore=sysinit.target", "Before=sysinit.target"),
    ("RootDirectory=/srv", "RootDirectory="),
    ("OpenFile=/etc/hostname:name", "OpenFile="),
    ("BindPaths=/run/dbus:/opt/bus", "is shown /run/dbus elsewhere"),
    ("User=bob\nExecStart=\nExecStart=!/bin/sleep 1000", "(`!`)"),
    ("Environment=LD_PRELOAD=/x.so", "sets LD_PRELOAD"),
    ("PermissionsStartOnly=yes\nExecStopPost=/bin/true", "(PermissionsStartOnly=yes)"),
    ("RuntimeDirectory=avahi-daemon", "has files of its own in /run/avahi-daemon (RuntimeDirectory="),
    ("PIDFile=/run/containerd/x.pid", "has files of its own in /run/containerd (PIDFile="),
])
def test_what_no_wall_would_hold_is_refused(lab, lines, sentence):
    if lines.startswith("OpenFile=") and lab.version == "252":
        return  # it is of 253, and no setting here
    with service(lab, ELSEWHERE + lines + "\n") as svc:
        before = tree(lab)
        assert sentence in svc.confine("--via", SOCKS, code=125)
        assert tree(lab) == before


def test_a_name_whose_drop_ins_are_those_of_other_services_is_refused(lab):
    stem = unique("pre")
    with service(lab, ELSEWHERE, f"{stem}-") as svc, service(lab, ELSEWHERE, f"{stem}-one") as other:
        other.start()
        before = tree(lab)
        assert f"every service whose name begins with {stem}-" in svc.confine("--via", SOCKS, "--now", code=125)
        assert tree(lab) == before
        other.restart()


def test_a_service_whose_namespaces_another_shares_is_refused(lab):
    with service(lab, ELSEWHERE + "PrivateTmp=yes\n") as svc:
        joins = f"[Unit]\nJoinsNamespaceOf={svc.name}\n{ELSEWHERE}PrivateTmp=yes\n"
        with service(lab, joins) as other:
            svc.start()
            other.start()
            before = tree(lab)
            said = svc.confine("--via", SOCKS, "--now", code=125)
            assert other.name in said and "JoinsNamespaceOf=" in said, said
            assert tree(lab) == before and svc.is_active()
        svc.confine("--via", SOCKS, "--now")


def test_names_that_are_none_are_refused(lab):
    for words, sentence in [
        (["nosuch"], "there is no service nosuch.service"),
        (["dbus"], "is the system bus"),
        (["systemd-journald"], "starts early in a boot"),
        (["foo@"], "is a template"),
        (["tor"], "is masked"),
        (["a b"], "no name of a service"),
        (["../evil"], "no name of a service"),
        (["x.timer"], "services alone"),
        (["user@0"], "PAMName="),
        (["dbus", "extra"], "extra"),
        (["dbus", "--uid", "bob"], "--uid"),
    ]:
        before = tree(lab)
        done = lab.run(["appfw", "confine", "--via", SOCKS, *words])
        assert (done.returncode, sentence in done.stderr.decode()) == (125, True), (words, done.stderr)
        assert tree(lab) == before


def test_what_is_not_ours_is_in_the_way_and_stays(lab):
    with service(lab, trying(lab, "User=bob")) as svc:
        foreign = drop_in(svc, "zz-appfw.conf", "[Service]\nNice=5\n")
        before = tree(lab)
        assert f"{svc.name}.d/zz-appfw.conf is not ours" in svc.confine("--via", SOCKS, code=125)
        done = lab.run(["appfw", "unconfine", svc.name])
        assert done.returncode == 125 and b"is not ours" in done.stderr
        foreign.unlink()
        foreign.symlink_to("/etc/passwd")
        assert "a symbolic link" in svc.confine("--via", SOCKS, code=125)
        foreign.unlink()
        foreign.write_text("[Service]\nNice=5\n")
        assert tree(lab) == before
        foreign.unlink()
        foreign.parent.rmdir()
        done = lab.run(["appfw", "confine", svc.name, "--via", SOCKS], user="bob")
        assert done.returncode == 125 and b"services of the system are root's" in done.stderr
        # A service whose units would have the same names.
        with service(lab, ELSEWHERE, f"{svc.stem}@x") as one, service(lab, ELSEWHERE, f"{svc.stem}_x") as other:
            one.confine("--via", SOCKS)
            before = tree(lab)
            assert f"appfw confine {one.name}" in other.confine("--via", SOCKS, code=125)
            assert "nothing to do" in other.unconfine()
            assert tree(lab) == before


def test_a_full_disk_leaves_nothing_half_written(lab):
    with service(lab, trying(lab, "User=bob")) as svc:
        directory = lab.path(f"/etc/systemd/system/{svc.name}.d")
        directory.mkdir()
        mount = f"/etc/systemd/system/{svc.name}.d"
        lab.run(["mount", "-t", "tmpfs", "-o", "size=4k,mode=755", "tmpfs", mount], check=True)
        try:
            directory.joinpath("other").write_bytes(bytes(4096))
            before = tree(lab)
            said = svc.confine("--via", SOCKS, code=125)
            assert "nothing was changed" in said, said
            assert tree(lab) == before
        finally:
            lab.run(["umount", mount], check=True)
            directory.rmdir()


def test_a_full_disk_leaves_a_service_behind_the_wall_that_it_had(lab):
    with service(lab, trying(lab, "User=bob")) as svc:
        place = f"/etc/systemd/system/{svc.name}.d"
        directory = lab.path(place)
        directory.mkdir()
        lab.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=755", "tmpfs", place], check=True)
        try:
            svc.confine("--via", SOCKS, "--now")
            before = tree(lab)
            assert lab.run(["dd", "if=/dev/zero", f"of={place}/other"]).returncode == 1
            lab.path(f"/run/{svc.stem}/found").unlink()
            assert "nothing was changed" in svc.confine("--via", "direct", "--now", code=125)
            directory.joinpath("other").unlink()
            assert tree(lab) == before
            assert svc.found()["proxy"] == 200
            assert svc.is_proven()
        finally:
            svc.unconfine("--now")
            lab.run(["umount", place], check=True)
            directory.rmdir()


def test_several_at_once_come_one_after_the_other(lab):
    """On a machine's services, as a configuration management does, and on the same one."""
    with contextlib.ExitStack() as stack:
        services = [stack.enter_context(service(lab, trying(lab, "User=bob"))) for _ in range(3)]
        before = tree(lab)
        for command in [["confine", "--via", SOCKS], ["unconfine"]]:
            runs = [stack.enter_context(started(lab, ["appfw", command[0], svc.name, *command[1:]], **PIPES))
                    for svc in services * 2]
            for run in runs:
                _, said = run.communicate(timeout=60)
                assert run.returncode == 0, said.decode()
            assert (tree(lab) == before) == (command[0] == "unconfine")
            if command[0] == "confine":
                services[0].restart()
                assert services[0].found()["tcp"] != "open"


def test_a_file_as_old_as_a_packages_that_has_come_since_is_a_change(lab):
    with service(lab, trying(lab, "User=bob")) as svc:
        svc.confine("--via", SOCKS)
        assert not svc.listed()["stale"]
        text = svc.file.read_text()
        svc.file.with_suffix(".new").write_text(text.replace("[Service]", "[Service]\nExecStartPre=/bin/true"))
        os.utime(svc.file.with_suffix(".new"), (1e9, 1e9))
        svc.file.with_suffix(".new").rename(svc.file)
        svc.systemctl("daemon-reload")
        assert svc.listed()["stale"]


def test_a_service_that_has_changed_is_confined_anew_or_not_at_all(lab):
    with service(lab, trying(lab, "User=bob")) as svc:
        svc.confine("--via", SOCKS, "--now")
        drop_in(svc, "override.conf", "[Service]\nExecStartPre=/bin/true\n")
        before = tree(lab)
        for more in [], ["--wall=namespace", "--now"]:
            told = svc.confine("--via", SOCKS, *more, code=125)
            assert "override.conf is newer" in told and f"appfw unconfine {svc.name}, then" in told, told
        assert tree(lab) == before and svc.is_proven()
        svc.unconfine()
        svc.confine("--via", SOCKS, "--now")
        assert not svc.listed()["stale"] and "path=/bin/true" in svc.show("ExecStartPre")


def test_a_drop_in_that_systemd_does_not_hold_is_not_left(lab):
    with service(lab, trying(lab, "User=bob")) as svc:
        later = drop_in(svc, "zzz.conf", "[Service]\nIPAddressAllow=any\n")
        before = tree(lab)
        told = svc.confine("--via", SOCKS, code=125)
        assert "zzz.conf" in told and "new:" not in told, told
        assert tree(lab) == before and svc.listed() is None
        later.unlink()
        later.parent.rmdir()


def becomes_an_alias(made, stem):
    """Its file gets another name, and its own is an alias of that."""
    file = made.file.with_name(f"{stem}.service")
    made.file.rename(file)
    made.file.symlink_to(file.name)
    made.systemctl("daemon-reload")
    return Service(made.lab, file.read_text(), stem)


@pytest.mark.parametrize("how", ["old", "new", "all"])
def test_a_service_that_has_become_an_alias_is_let_go_by_any_of_its_names(lab, how):
    with service(lab, ELSEWHERE) as old:
        old.start()
        before = tree(lab)
        old.confine("--via", SOCKS, "--now")
        new = becomes_an_alias(old, unique("svc"))
        try:
            assert lab.run(["systemctl", "restart", new.name]).returncode == 1
            journal = lab.journal(new.name)
            assert f"{old.name} is another name of {new.name} by now" in journal, journal
            assert f"appfw unconfine {old.name}" in journal, journal
            for made in old, new:
                said = made.confine("--via", SOCKS, code=125)
                assert f"appfw unconfine {old.name}, then confine {new.name}" in said, said
            words = {"old": [old.name], "new": [new.name], "all": ["--all"]}[how]
            said = lab.run(["appfw", "unconfine", *words], check=True).stderr.decode()
            assert f"removed: {UNITS}/{old.name}.d/zz-appfw.conf" in said and "nothing to do" not in said, said
            new.restart()
            new.confine("--via", SOCKS, "--now")
            assert new.is_proven()
            new.unconfine("--now")
        finally:
            new.end()
            old.file.unlink()
            old.file.write_text(ELSEWHERE)
        assert tree(lab) == before


def test_unconfine_all_goes_on_after_a_service_that_makes_trouble(lab):
    with service(lab, ELSEWHERE, unique("aa")) as first, service(lab, ELSEWHERE, unique("bb")) as second:
        before = tree(lab)
        for made in first, second:
            made.confine("--via", SOCKS, "--now")
        foreign = lab.path(f"{UNITS}/appfw-{first.stem}-forward.service")
        ours = foreign.read_text()
        foreign.write_text("[Service]\n")
        done = lab.run(["appfw", "unconfine", "--all", "--now"])
        said = done.stderr.decode()
        assert done.returncode == 125 and f"{foreign.name} is not ours" in said, said
        assert first.listed() and not second.listed() and second.is_active(), said
        foreign.write_text(ours)
        first.unconfine()
        assert tree(lab) == before


@pytest.mark.parametrize("why", ["has no file any more", "is masked", "may not be stopped and started by hand"])
def test_what_would_not_start_again_is_not_stopped(lab, why):
    with service(lab, ELSEWHERE) as svc:
        svc.confine("--via", SOCKS, "--now")
        main = svc.show("MainPID")
        if "hand" in why:
            svc.file.write_text(f"[Unit]\nRefuseManualStart=yes\n{ELSEWHERE}")
        else:
            svc.file.unlink()
            if why == "is masked":
                svc.file.symlink_to("/dev/null")
        said = svc.unconfine("--now")
        assert f"{svc.name} {why}" in said and "is not restarted and goes on as it is" in said, said
        assert svc.listed() is None and svc.is_active() and svc.show("MainPID") == main


def test_an_administrators_empty_directories_stay(lab):
    """Whose they are no mark tells. Ours have one mode."""
    directories = {"/etc/appfw": 0o755, "/etc/appfw/credentials": 0o700, "/etc/appfw/confined": 0o750}
    secret = f"socks5h://lab:secret@{UPSTREAM}:1081"
    lab.run(["rm", "-rf", "/etc/appfw"], check=True)
    with service(lab, ELSEWHERE) as svc:
        without = tree(lab)
        for path, mode in directories.items():
            lab.path(path).mkdir()
            lab.path(path).chmod(mode)
        before = tree(lab)
        assert "nothing to do" in svc.unconfine() and tree(lab) == before
        svc.confine("--via", secret)
        assert svc.unconfine() and tree(lab) == before
        name = unique("unit")
        install(lab, name, f"--via={secret}", "--", "/bin/sleep", "60")
        lab.run(["appfw", "unit", "remove", name], check=True)
        assert tree(lab) == before
        lab.path("/etc/appfw/credentials").rmdir()
        lab.path("/etc/appfw/confined").rmdir()
        assert "nothing to do" in svc.unconfine() and lab.path("/etc/appfw").is_dir()
        # What was made for them goes with the last of them.
        lab.path("/etc/appfw").rmdir()
        with service(lab, ELSEWHERE) as other:
            for made in svc, other:
                made.confine("--via", secret)
            svc.confine("--via=none", "--deny=8.8.8.8")
            other.unconfine()
            svc.unconfine()
        assert tree(lab) == without


LATER = {"zzz-local.conf": ["ExecStartPre=/bin/true", "ExecStopPost=/bin/true", "BindReadOnlyPaths=/usr:/srv"],
         "service.d/zzz-local.conf": ["ExecStartPre=/bin/true"]}


def test_what_a_later_drop_in_would_add_again_is_told_before_anything_starts(lab):
    with service(lab, ELSEWHERE) as svc:
        svc.start()
        for place, settings in LATER.items():
            path = lab.path(f"{UNITS}/{place}" if "/" in place else f"{UNITS}/{svc.name}.d/{place}")
            path.parent.mkdir()
            for setting in settings:
                path.write_text(f"[Service]\n{setting}\n")
                svc.systemctl("daemon-reload")
                before = tree(lab)
                for more in [], ["--now"]:
                    said = svc.confine("--via", SOCKS, *more, code=125)
                    assert f"{path.name} comes after" in said and setting.partition("=")[0] in said, said
                    assert tree(lab) == before and svc.is_active()
            path.unlink()
            path.parent.rmdir()
        svc.systemctl("daemon-reload")
        drop_in(svc, "local.conf", "[Service]\nExecStartPre=/bin/true\n")
        svc.confine("--via", SOCKS, "--now")
        assert svc.is_proven()
        svc.unconfine("--now")
        lab.run(["rm", "-r", f"{UNITS}/{svc.name}.d"], check=True)


def test_a_socket_that_is_not_loaded_is_told_of(lab):
    with service(lab, trying(lab, "User=bob")) as svc:
        assert "gets no socket" not in svc.confine("--via", SOCKS)
        svc.unconfine()
        socket = lab.path(f"{UNITS}/{svc.stem}.socket")
        socket.write_text("[Socket]\nListenStream=/run/x\n")
        svc.systemctl("daemon-reload")
        assert f"{svc.stem}.socket is there, though not loaded" in svc.confine("--via", SOCKS)
        svc.unconfine()
        socket.unlink()


def test_who_is_killed_half_way_has_broken_nothing_and_may_try_again(lab):
    with service(lab, trying(lab, "User=bob")) as svc:
        before, stages = tree(lab), set()
        # Until one was far enough to have written something.
        for delay in range(4, 400, 8):
            if delay > 40 and not stages <= {0}:
                break
            lab.run(["timeout", "--signal=KILL", f"{delay / 1000}", "appfw", "confine", svc.name, "--via", SOCKS])
            new = set(tree(lab)) - set(before)
            stages.add(len(new))
            # What the service reads is the last to come.
            if any(path.endswith("zz-appfw.conf") for path in new):
                assert any(path.endswith("-forward.socket") for path in new), new
            svc.confine("--via", SOCKS)
            svc.unconfine()
            assert tree(lab) == before
        assert not stages <= {0}, stages


def test_the_list_as_json(lab):
    with service(lab, trying(lab, "User=bob")) as svc:
        svc.confine("--via", SOCKS)
        entry = svc.listed()
        assert entry["command"] == ["confine", svc.name, f"--via={SOCKS}"]
        assert (entry["wall"], entry["state"], entry["proven"], entry["stale"]) == ("strict", "inactive", False, False)
        assert json.dumps(entry)


NGINX = """
events {}
pid /run/nginx.pid;
http {
    access_log off;
    resolver 127.100.90.50 valid=1s ipv6=off;
    server {
        listen 80;
        set $origin web.test;
        location / { proxy_pass http://$origin; }
    }
}
"""


def passes_on(world):
    """Whether nginx answers the world with what the origin said to it, by the proxy."""
    answer = world.connect(ORIGIN, "203.0.113.2", 80, payload=b"GET / HTTP/1.0\r\nHost: web.test\r\n\r\n", timeout=5)
    # By itself it would be seen as 203.0.113.2.
    return b"world 203.0.113.10 sees" in answer and b"sees 203.0.113.2\n" not in answer


@pytest.mark.both
def test_nginx_is_reached_from_the_world_and_reaches_its_origin_through_the_proxy(lab, world):
    with service(lab, lab.path("/lib/systemd/system/nginx.service").read_text(), "nginx") as nginx:
        configuration = lab.path("/etc/nginx/nginx.conf")
        configuration.write_text(NGINX)
        nginx.start()
        before = nginx.files()
        said = nginx.confine("--via", SOCKS, code=125)
        assert "TCP 0.0.0.0:80 (nginx, process" in said
        nginx.confine("--via", SOCKS, "--wall=namespace", "--publish=0.0.0.0:80", "--now")
        assert nginx.is_proven()

        for _ in range(2):
            with world.watch() as w:
                wait_until(lambda: passes_on(world), 10, lab.journal(nginx.name)[-1000:])
            # Its answers to the world, and what it asks for by the proxy.
            assert w.foreign([*UPSTREAMS, (ORIGIN, None)]) == []
            assert [p for p in w.packets(dst=ORIGIN) if p.get("sport") != 80] == []
            nginx.systemctl("daemon-reload")
            nginx.restart()
        assert nginx.is_proven()
        nginx.unconfine("--now")
        assert nginx.files() == before
        assert nginx.is_active()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.both
def test_services_are_confined_after_a_boot_and_proven_at_it(version):
    lab = boot(version)
    try:
        lab.path(TRIES_AT).write_text(TRIES)
        lab.path("/etc/nginx/nginx.conf").write_text(NGINX)
        tries = f"[Service]\nType=notify\nRuntimeDirectory=@NAME@\nUser=bob\nExecStart=/usr/bin/python3 -u {TRIES_AT}\n"
        at_boot = "\n[Install]\nWantedBy=multi-user.target\n"
        plain = {"files": (FILES, ["--via=none", "--deny=any", "--allow=localhost", "--allow=10.0.0.0/24"]),
                 "asks": (DNSMASQ, ["--via=none", "--deny=8.8.8.8", "--allow=1.1.1.1", "--allow=9.9.9.9"]),
                 "tries": (tries, ["--via", SOCKS])}
        services = {name: Service(lab, text + at_boot, name) for name, (text, _) in plain.items()}
        services["nginx"] = Service(lab, lab.path("/lib/systemd/system/nginx.service").read_text(), "nginx")
        captured = ["--via", SOCKS, "--wall=namespace", "--publish=0.0.0.0:80"]
        for name, made in services.items():
            # systemctl enable would have update-rc.d look after nginx.
            lab.path(f"/etc/systemd/system/multi-user.target.wants/{made.name}").symlink_to(f"../{made.name}")
        before = [made.files() for made in services.values()]
        # There is no Tor in this lab.
        said = services["tries"].confine("--via=tor", "--dry-run")
        assert "no Tor was found" in said and "tries.service will look for it at 127.0.0.1:9050" in said
        for name, made in services.items():
            made.confine(*(captured if name == "nginx" else plain[name][1]))

        lab.reboot()
        world = lab.world
        wait_until(lambda: all(made.is_proven() for made in services.values()), 20, "all of them, proven")
        assert ways(services["tries"].found()) == HELD
        assert serves(world, "10.0.0.7", "10.0.0.2") and not serves(world, ORIGIN, "203.0.113.2")
        assert asked_by(lab) == {"1.1.1.1"}
        wait_until(lambda: passes_on(world), 10, "nginx")

        lab.reboot(bpf=False)
        with lab.world.watch() as w:
            for name in plain:
                wait_until(lambda: services[name].show("ActiveState") == "failed", 20, f"{name} to fail")
                assert "so it was not started" in lab.journal(f"{name}.service").replace(f"{name}.service", "it")
            wait_until(lambda: passes_on(lab.world), 10, "nginx, which needs no filter")
            assert not serves(lab.world, "10.0.0.7", "10.0.0.2")
        assert w.foreign([*UPSTREAMS, (ORIGIN, None), ("10.0.0.7", None)]) == []
        assert not lab.path("/run/tries/found").exists()

        # Two boots later they are let go all the same.
        for made in services.values():
            made.unconfine("--now")
        assert [made.files() for made in services.values()] == before
        services["tries"].restart()
        assert services["tries"].found()["tcp"] == "open"
        services["asks"].restart()
        assert asked_by(lab) == {"8.8.8.8", "1.1.1.1"}
    finally:
        lab.stop()

"""Units that last: proven at every start, the next boot's included, and gone again without a trace."""

import contextlib
import hashlib
import json
import os
import pathlib
import signal
import socket
import time

import pytest

from confining import WAYS, service
from conftest import VERSIONS, boot
from launching import SOCKS, launched, script, started, unique
from namespaces import network_namespace
from waiting import wait_until
from world import Watch
from world_map import ORIGIN, PASSWORD, TOR_RELAYS, UPSTREAM

OURS = 125
UNITS = "/etc/systemd/system"
# Tries the ways out at each start, and says how they went.
TRIES = f"""#!/usr/bin/python3
{WAYS}
found = {{
    "proxy": ends(by_proxy),
    "tcp": ends(by_tcp),
    "udp": ends(by_udp),
    "bus": ends(lambda: by_unix("/run/dbus/system_bus_socket")),
    "manager": ends(lambda: by_unix("/run/systemd/private")),
    "state": ends(lambda: os.listdir("/run/appfw")),
    "arguments": sys.argv[1:],
    "user": os.getuid(),
}}
print(json.dumps(found), flush=True)
time.sleep(1000)
"""


def appfw(lab, *words, code=0, **options):
    """Runs appfw; what it said on both streams."""
    done = lab.run(["appfw", *words], **options)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == code, (done.returncode, said)
    return said


def install(lab, name, *words, **options):
    return appfw(lab, "unit", "install", name, *words, **options)


def unit(name):
    return f"appfw-{name}.service"


def shows(lab, name, *properties):
    words = [word for one in properties for word in ("--property", one)]
    return dict(line.split("=", 1) for line in
                lab.run(["systemctl", "show", *words, name], check=True).stdout.decode().splitlines())


def systemctl(lab, *words, code=0):
    done = lab.run(["systemctl", *words])
    assert code is None or done.returncode == code, done.stderr


def tree(lab):
    """Everything below the directories that a unit's files are in."""
    found = {}
    for top in "/etc/systemd", "/etc/appfw":
        for place, _, files in os.walk(lab.path(top)):
            found[place] = "a directory"
            for path in (pathlib.Path(place, name) for name in files):
                content = os.readlink(path) if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()
                found[str(path)] = content, path.lstat().st_mode
    return found


@contextlib.contextmanager
def installed(lab, *words, name=None, now=True, command=None):
    """A unit, removed at the block's end."""
    name = name or unique("unit")
    try:
        command = command or [script(lab, "tries", TRIES), "a b", "%n $HOME;"]
        install(lab, name, *["--now"][:now], *words, "--", *command)
        yield name
    finally:
        lab.run(["appfw", "unit", "remove", name])


def said(lab, name, since=0):
    """What the app of that unit found, of each start."""
    lines = [line for line in lab.journal(unit(name)).splitlines() if line.startswith("{")]
    return [json.loads(line) for line in lines][since:]


def next_start(lab, name, since):
    return wait_until(lambda: said(lab, name, since), 15, f"a start of {name}: {lab.journal(unit(name))}")[0]


def is_confined(found, user):
    assert found["proxy"] == 200, found
    for way in "tcp", "udp", "bus", "manager":
        assert found[way] in ("PermissionError", "TimeoutError", "OSError", "FileNotFoundError"), (way, found)
    assert (found["state"], found["user"], found["arguments"]) == ([], user, ["a b", "%n $HOME;"])


def packets_beside_the_upstream(w):
    return [packet for packet in w.foreign() if UPSTREAM not in (packet["dst"], packet.get("src"))]


def uid(lab, user):
    return int(lab.run(["id", "-u", user], check=True).stdout)


# From the installation to the removal

@pytest.mark.parametrize("user", ["root", "bob"])
@pytest.mark.both
def test_a_unit_is_confined_at_each_start_and_leaves_nothing(lab, world, user):
    before = tree(lab)
    with world.watch() as w, installed(lab, f"--via={SOCKS}", f"--uid={user}") as name:
        is_confined(next_start(lab, name, 0), uid(lab, user))
        systemctl(lab, "daemon-reload")
        systemctl(lab, "restart", unit(name))
        is_confined(next_start(lab, name, 1), uid(lab, user))
        assert shows(lab, unit(name), "ActiveState", "UnitFileState") == {"ActiveState": "active",
                                                                           "UnitFileState": "enabled"}
    assert packets_beside_the_upstream(w) == []
    assert w.events(server="socks5")
    assert tree(lab) == before
    assert not lab.path(f"/run/appfw/{name}").exists()
    assert shows(lab, unit(name), "LoadState", "ActiveState") == {"LoadState": "not-found", "ActiveState": "inactive"}


def test_what_is_shown_is_what_is_written_and_the_same_again_changes_nothing(lab):
    words = [f"--via={SOCKS}", "--uid=bob"]
    command = ["--", script(lab, "tries", TRIES), "a b", "%n $HOME;"]
    name = unique("unit")
    files = [f"{UNITS}/appfw-{name}{part}" for part in ("-forward.socket", "-forward.service", ".service")]
    before = tree(lab)
    shown = appfw(lab, "unit", "show", name, *words, *command)
    assert tree(lab) == before
    with installed(lab, *words, name=name, command=command[1:]):
        assert shown == "\n".join(f"# {file}\n{lab.path(file).read_text()}" for file in files)
        lab.run(["systemd-analyze", "verify", *files], check=True)
        written = tree(lab)
        assert "nothing to do" in install(lab, name, *words, *command)
        assert "nothing to do" in install(lab, name, "--now", *words, *command)
        assert tree(lab) == written and len(said(lab, name)) <= 1
        refused = install(lab, name, *words, "--only=web.test", *command, code=OURS)
        assert "say --now" in refused and tree(lab) == written
        assert "changed: " in install(lab, name, "--now", *words, "--only=web.test", *command)


def test_a_captured_program_a_published_port_and_no_network(lab, world):
    """The namespace wall: made anew at each start, reached from the world by what is published."""
    serve = script(lab, "serve", """#!/bin/sh
curl -sS --noproxy '*' --max-time 5 http://web.test/ >/dev/null && echo '{"captured": true}'
exec /usr/bin/python3 -c 'import socket
server = socket.create_server(("127.0.0.1", 8080))
while True: server.accept()[0].sendall(b"served")'
""")
    words = [f"--via={SOCKS}", "--wall=namespace", "--uid=bob", "--publish=203.0.113.2:7300=8080"]
    with installed(lab, *words, command=[serve]) as name:
        def is_served():
            with contextlib.suppress(OSError):
                return world.connect(ORIGIN, "203.0.113.2", 7300, "tcp") == b"served"

        for start in range(2):
            assert next_start(lab, name, start) == {"captured": True}
            wait_until(is_served, 10, "the published port")
            systemctl(lab, "restart", unit(name))
        systemctl(lab, "stop", unit(name))
        assert not is_served()
    with installed(lab, "--via=none", "--uid=bob") as name:
        found = next_start(lab, name, 0)
        assert found["proxy"] != 200 and found["tcp"] != "open"


def test_nothing_is_left_in_systemds_list_of_a_port_that_another_process_has(lab):
    """A socket that could not listen is in it by its name, even when its file is gone."""
    name, number = unique("taken"), 7301
    words = [f"--via={SOCKS}", "--wall=namespace", f"--publish={number}", "--now"]
    with network_namespace(lab.pid):
        holder = socket.create_server(("127.0.0.1", number))
    with holder, service(lab, "[Service]\nExecStart=/bin/sleep 1000\n") as made:
        sentence = f"publish.socket cannot listen at 127.0.0.1:{number}"
        assert sentence in install(lab, name, *words, "--", "/bin/sleep", "1000", code=125)
        appfw(lab, "unit", "remove", name)
        assert sentence in made.confine(*words, code=125)
        made.unconfine()
        listed = lab.run(["systemctl", "list-units", "--all", f"appfw-{name}*", f"appfw-{made.stem}*"]).stdout.decode()
        assert "appfw-" not in listed, listed


def test_a_password_stands_in_a_private_file_alone(lab, world):
    user, password = PASSWORD
    before = tree(lab)
    with installed(lab, f"--via=socks5h://{user}:{password}@{UPSTREAM}:1081", "--uid=bob") as name:
        is_confined(next_start(lab, name, 0), uid(lab, "bob"))
        credential = lab.path(f"/etc/appfw/credentials/{name}")
        assert credential.stat().st_mode & 0o777 == 0o600 and password in credential.read_text()
        holders = [*lab.path(UNITS).glob(f"appfw-{name}*"), *lab.path(f"/run/appfw/{name}").iterdir()]
        assert len(holders) >= 6
        assert not any(f":{password}@" in file.read_text() for file in holders)
        shows_all = f"systemctl show 'appfw-{name}*'; cat /proc/*/cmdline; journalctl -u 'appfw-{name}*'"
        shown = lab.run(["sh", "-c", shows_all])
        assert f":{password}@".encode() not in shown.stdout
        assert appfw(lab, "unit", "update", name).endswith("nothing to do: all is as it would be written\n")
        assert credential.exists()
    assert tree(lab) == before


# Stands for a Tor at the port that it is given: an upstream of the world's.
RELAY = """import asyncio, sys
async def pipe(reader, writer):
    while block := await reader.read(65536):
        writer.write(block)
    writer.close()
async def lead(reader, writer):
    there = await asyncio.open_connection(sys.argv[1], 1080)
    await asyncio.gather(pipe(reader, there[1]), pipe(there[0], writer))
async def main():
    server = await asyncio.start_server(lead, "127.0.0.1", int(sys.argv[2]))
    await server.serve_forever()
asyncio.run(main())
"""
# Asks until it is answered.
ASKS = """#!/bin/sh
until curl -sS -o /dev/null -w '{"status": %{http_code}}\\n' --max-time 5 http://web.test/ | grep 200; do
    sleep 0.1
done
sleep 1000
"""


def relay(lab, port):
    return started(lab, ["/usr/bin/python3", "-c", RELAY, UPSTREAM, str(port)])


def waits_in_vain(lab, name, seconds):
    time.sleep(seconds)
    assert said(lab, name) == [] and shows(lab, unit(name), "ActiveState")["ActiveState"] == "active"


def test_tor_may_come_up_later(lab):
    """Each request dials: it is enough that Tor is there by then."""
    asks = script(lab, "asks", ASKS)
    with installed(lab, "--via=tor://127.0.0.1:9055", "--uid=bob", command=[asks]) as name:
        text = lab.path(f"{UNITS}/{unit(name)}").read_text()
        assert "Wants=tor.service tor@default.service" in text
        waits_in_vain(lab, name, 0.5)
        with relay(lab, 9055):
            assert next_start(lab, name, 0) == {"status": 200}


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_the_real_tor_may_come_up_a_minute_later(version):
    lab = boot(version)
    try:
        with lab.world.watch() as w, \
                installed(lab, "--via=tor", "--uid=bob", command=[script(lab, "asks", ASKS)]) as name:
            waits_in_vain(lab, name, 60)
            lab.tor.wait()
            assert next_start(lab, name, 0) == {"status": 200}
        assert w.foreign() == []
        peers = {event["peer"] for event in w.events(server="http", kind="request")}
        assert peers and peers <= set(TOR_RELAYS)
    finally:
        lab.stop()


# What must not start

def refused(lab, name, *phrases):
    """The unit doesn't start, the app has not run, and the journal says why."""
    seen = len(said(lab, name))
    with lab.world.watch() as w:
        systemctl(lab, "restart", unit(name), code=1)
        systemctl(lab, "stop", unit(name))  # it would be tried again a few times
        systemctl(lab, "reset-failed", unit(name), code=None)
    assert w.foreign() == [] and len(said(lab, name)) == seen
    journal = lab.journal(unit(name))
    assert all(phrase in journal for phrase in phrases), journal


def test_who_widens_the_wall_keeps_the_unit_from_starting(lab):
    with installed(lab, f"--via={SOCKS}", "--uid=bob") as name:
        next_start(lab, name, 0)
        slice_drop_in = "appfw.slice.d"
        for directory, section, setting in [
            (f"{unit(name)}.d", "Service", "IPAddressAllow=any"),
            (f"{unit(name)}.d", "Service", "ExecStartPre=/bin/true"),
            (f"appfw-{name}-forward.service.d", "Service", "Environment=LD_PRELOAD=/tmp/x.so\nIPAddressAllow=any"),
            (slice_drop_in, "Slice", "IPAddressAllow=any"),
        ]:
            drop_in = lab.path(f"{UNITS}/{directory}/zz-open.conf")
            drop_in.parent.mkdir(exist_ok=True)
            drop_in.write_text(f"[{section}]\n{setting}\n")
            systemctl(lab, "daemon-reload")
            try:
                # A list of a slice that is changed is named by the slice.
                refused(lab, name, "appfw.slice has" if directory == slice_drop_in else "zz-open.conf")
            finally:
                drop_in.unlink()
                drop_in.parent.rmdir()
                systemctl(lab, "daemon-reload")
        since = len(said(lab, name))
        systemctl(lab, "start", unit(name))
        next_start(lab, name, since)


def test_what_was_changed_by_hand_is_stale_and_written_again(lab):
    with installed(lab, f"--via={SOCKS}", "--uid=bob") as name:
        file = lab.path(f"{UNITS}/{unit(name)}")
        right = file.read_text()
        next_start(lab, name, 0)

        def listed():
            units = json.loads(appfw(lab, "unit", "list", "--json"))
            return next(one for one in units if one["name"] == name)

        as_installed = {"name": name, "manager": "system", "wall": "strict", "via": SOCKS, "state": "active",
                        "stale": False}
        assert listed() == as_installed
        file.write_text(right.replace("NoNewPrivileges=yes\n", ""))
        systemctl(lab, "daemon-reload")
        refused(lab, name, "is not what this appfw would write", f"appfw unit update {name}")
        assert listed()["stale"] and f"appfw unit update {name}" in appfw(lab, "unit", "list")
        assert "changed: " in appfw(lab, "unit", "update", "--all")
        assert file.read_text() == right
        file.write_text(right.replace("0.1.0", "0.0.9"))
        assert listed()["stale"]
        appfw(lab, "unit", "update", name, "--now")
        assert file.read_text() == right and not listed()["stale"]


def test_a_kernel_without_the_filter_runs_no_strict_unit(lying_lab):
    name = unique("lied")
    words = ["--now", "--via=direct", "--", script(lying_lab, "tries", TRIES)]
    try:
        told = install(lying_lab, name, *words, code=OURS)
        assert "is open though it is denied" in told or "is not denied by the filter" in told, told
        assert said(lying_lab, name) == []
    finally:
        appfw(lying_lab, "unit", "remove", name)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.both
def test_a_unit_is_there_after_a_boot_and_proven_at_it(version):
    lab = boot(version)
    try:
        for name, text in ("tries", TRIES), ("asks", ASKS):
            program = lab.path(f"/usr/local/bin/{name}")
            program.write_text(text)
            program.chmod(0o755)
        # There is no Tor in this lab.
        told = install(lab, "late", "--via=tor", "--uid=bob", "--", "/usr/local/bin/asks")
        assert "no Tor was found here yet: the unit will look for it at 127.0.0.1:9050" in told
        for name, wall in ("kept", "strict"), ("caught", "namespace"):
            install(lab, name, f"--via={SOCKS}", f"--wall={wall}", "--uid=bob", "--", "/usr/local/bin/tries")
        lab.reboot()
        found = {name: next_start(lab, name, 0) for name in ("kept", "caught")}
        assert {name: one["proxy"] for name, one in found.items()} == {"kept": 200, "caught": 200}
        assert found["kept"]["tcp"] == found["kept"]["udp"] == "OSError"
        # All that has come since the boot, whose log is of its own: captured, "caught" goes to the same place.
        assert packets_beside_the_upstream(Watch(lab.world)) == []
        waits_in_vain(lab, "late", 0)
        with relay(lab, 9050):
            assert next_start(lab, "late", 0) == {"status": 200}
        lab.reboot(bpf=False)
        assert next_start(lab, "caught", 0)["proxy"] == 200  # it needs no filter
        wait_until(lambda: "appfw inside: " in lab.journal(unit("kept")), 10, "a refusal")
        assert said(lab, "kept") == []
        assert shows(lab, unit("kept"), "ActiveState", "ExecMainStatus") == {"ActiveState": "failed",
                                                                             "ExecMainStatus": str(OURS)}
    finally:
        lab.stop()


# Mistakes

MISTAKES = {
    "a name with a line break": (["a\nb", "--via=direct", "x"], "launch name"),
    "a name with a slash": (["../x", "--via=direct", "x"], "launch name"),
    "a name of a part": (["x-forward", "--via=direct", "x"], "must not end in -forward"),
    "a unit's whole name": (["appfw-x.service", "--via=direct", "id"], "so say x"),
    "a unit's beginning": (["appfw-x", "--via=direct", "id"], "so say x"),
    "no name": (["--via=none", "--", "sleep", "5"], "NAME is missing"),
    "no way out": (["x", "id"], "where may"),
    "--unit": (["x", "--unit=y", "--via=direct", "id"], "--unit"),
    "--detach": (["x", "--detach", "--via=direct", "id"], "--detach"),
    "--dry-run": (["x", "--dry-run", "--via=direct", "id"], "appfw unit show"),
    "--standalone": (["x", "--standalone", "--via=direct", "id"], "--standalone"),
    "no such program": (["x", "--via=direct", "no-such-program"], "was not found in PATH"),
    "no such user": (["x", "--via=direct", "--uid=nobody-such", "id"], "nobody-such"),
    "a bad rule": (["x", "--via=none", "--deny=10.0.0", "id"], "did you mean"),
    "a file that isn't there": (["x", "--via=@/no/such", "id"], "/no/such"),
    "a property not on the list": (["x", "--via=direct", "-pExecStartPre=/bin/x", "id"], "ExecStartPre"),
    "a command that is no text": (["x", "--via=direct", b"/bin/\xff"], "UTF-8"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_and_nothing_is_written(lab, mistake):
    words, phrase = MISTAKES[mistake]
    before = tree(lab)
    told = install(lab, *words, code=OURS)
    assert phrase in told and len(told.splitlines()) == 1, told
    assert tree(lab) == before


def test_who_is_not_root_installs_nothing_in_the_system(lab):
    before = tree(lab)
    told = install(lab, "x", "--system", "--via=direct", "id", user="bob", code=OURS)
    assert "units of the system are root's" in told
    assert tree(lab) == before


def test_what_is_not_ours_stays_as_it_is(lab):
    name = unique("foreign")
    for part in "-forward.socket", ".service":
        for make in (lambda file: file.write_text("[Unit]\n"), lambda file: file.symlink_to("/etc/passwd")):
            file = lab.path(f"{UNITS}/appfw-{name}{part}")
            make(file)
            before = tree(lab)
            assert "is not ours" in install(lab, name, "--via=direct", "id", code=OURS)
            assert "is not ours" in appfw(lab, "unit", "remove", name, code=OURS)
            assert tree(lab) == before
            file.unlink()
    # A drop-in of the administrator's outlives the unit.
    drop_in = lab.path(f"{UNITS}/{unit(name)}.d/limit.conf")
    with installed(lab, "--via=direct", name=name, now=False):
        drop_in.parent.mkdir()
        drop_in.write_text("[Service]\nMemoryMax=1G\n")
        assert str(drop_in).partition("/root")[2] in appfw(lab, "unit", "remove", name)
    assert drop_in.exists()
    drop_in.unlink()
    drop_in.parent.rmdir()


def test_a_name_that_a_launch_or_a_unit_has_is_taken(lab):
    with launched(lab, "--via=direct", "sh", "-c", "echo ready; sleep 60") as launch:
        assert f"appfw stop {launch.name}" in install(lab, launch.name, "--via=direct", "id", code=OURS)
    with installed(lab, "--via=direct", now=False) as name:
        done = lab.run(["appfw-run", "--unit", name, "--via=direct", "id"])
        assert done.returncode == OURS and unit(name).encode() in done.stderr, done.stderr


def test_a_full_disk_changes_nothing(lab):
    name = unique("full")
    fill = f"""mount -t tmpfs -o size=8k,mode=755 tmpfs {UNITS}
        appfw unit install {name} --via=direct id
        echo $?
        ls -A {UNITS}"""
    done = lab.run(["unshare", "--mount", "sh", "-c", fill])
    assert done.stdout == f"{OURS}\n".encode() and b"so nothing was changed" in done.stderr, done
    assert len(done.stderr.splitlines()) == 1


def test_who_is_killed_half_way_leaves_whole_files_and_the_next_one_goes_on(lab):
    with installed(lab, "--via=direct", now=False) as name:
        texts = []
        for only in "a.test", "b.test":
            install(lab, name, "--via=direct", f"--only={only}", "--", "/bin/sleep", "60")
            texts.append({file.name: file.read_text() for file in lab.path(UNITS).glob(f"appfw-{name}*")})
        for delay in range(0, 30, 6):
            words = ["appfw", "unit", "install", name, "--via=direct", "--only=a.test", "--", "/bin/sleep", "60"]
            with started(lab, words) as process:
                time.sleep(delay / 1000)
                process.send_signal(signal.SIGKILL)
                process.wait()
            for file in lab.path(UNITS).glob(f"appfw-{name}*"):
                assert file.read_text() in [text[file.name] for text in texts]
        install(lab, name, "--now", "--via=direct", "--only=b.test", "--", "/bin/sleep", "60")
        assert {file.name: file.read_text() for file in lab.path(UNITS).glob(f"appfw-{name}*")} == texts[1]
        assert not list(lab.path(UNITS).glob(f".appfw-{name}*.appfw-new"))
        assert shows(lab, unit(name), "ActiveState")["ActiveState"] == "active"

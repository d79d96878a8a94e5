"""Units of an ordinary user that last: the user's own systemd keeps them, and has no part in the wall."""

import contextlib
import json
import signal
import time

import pytest

from confining import WAYS
from conftest import VERSIONS, boot
from launching import SOCKS, journal_of_user, script, started, unique
from test_units import appfw, unit
from waiting import wait_until
from world_map import ORIGIN, PASSWORD, UPSTREAM

OURS = 125
UNITS = "/home/bob/.config/systemd/user"
# What a launch must not reach, tried at each start, and by name what it may.
TRIES = f"""#!/usr/bin/python3
{WAYS}
runtime = f"/run/user/{{os.getuid()}}"
found = {{
    "variable": ends(lambda: by_proxy(9)),
    "captured": ends(lambda: socket.create_connection(("web.test", 80), timeout=9).getpeername()[1]),
    "udp": ends(by_udp),
    "system bus": ends(lambda: by_unix("/run/dbus/system_bus_socket")),
    "bus": ends(lambda: by_unix(f"{{runtime}}/bus")),
    "manager": ends(lambda: by_unix(f"{{runtime}}/systemd/private")),
    "state": ends(lambda: os.listdir(f"{{runtime}}/appfw")),
    "arguments": sys.argv[1:],
}}
print(json.dumps(found), flush=True)
if "NOTIFY_SOCKET" in os.environ:
    ready()
time.sleep(1000)
"""
HIDDEN = ["system bus", "bus", "manager"]


def systemctl(lab, *words, code=0):
    done = lab.run(["systemctl", "--user", *words], user="bob")
    assert code is None or done.returncode == code, done.stderr
    return done.stdout.decode()


def of_bob(lab, *words, **options):
    return appfw(lab, "unit", *words, user="bob", **options)


def tree(lab):
    return {str(path): path.read_bytes() if path.is_file() and not path.is_symlink() else None
            for path in lab.path("/home/bob/.config").rglob("*")}


def journal(lab, name):
    return journal_of_user(lab, unit(name))


def said(lab, name):
    return [json.loads(line) for line in journal(lab, name).splitlines() if line.startswith("{")]


def next_start(lab, name, since):
    return wait_until(lambda: said(lab, name)[since:], 20, f"a start of {name}")[0]


def state_of(lab, service):
    return systemctl(lab, "show", "--property=ActiveState", "--value", service).strip()


@contextlib.contextmanager
def installed(lab, *words, name=None, now=True, command=None):
    name = name or unique("own")
    try:
        command = command or [script(lab, "tries", TRIES), "a b", "%n $HOME;"]
        of_bob(lab, "install", name, *["--now"][:now], *words, "--", *command)
        yield name
    finally:
        lab.run(["appfw", "unit", "remove", name], user="bob")


def is_confined(found, arguments=("a b", "%n $HOME;")):
    assert (found["variable"], found["captured"]) == (200, 80), found
    assert all(found[way] in ("PermissionError", "FileNotFoundError", "ConnectionRefusedError") for way in HIDDEN), found
    assert found["state"] in ([], "PermissionError", "FileNotFoundError"), found
    assert found["arguments"] == [*arguments], found


@pytest.mark.both
def test_a_users_unit_is_confined_at_each_start_and_leaves_nothing(lab, world):
    lab.run(["mkdir", "-p", UNITS], user="bob", check=True)
    # Which launches make where it isn't.
    lab.run(["mkdir", "-p", "/home/bob/.config/appfw", "/home/bob/.config/credstore"], user="bob", check=True)
    before = tree(lab)
    with world.watch() as w, installed(lab, f"--via={SOCKS}") as name:
        is_confined(next_start(lab, name, 0))
        systemctl(lab, "daemon-reload")
        systemctl(lab, "restart", unit(name))
        is_confined(next_start(lab, name, 1))
        # Who serves it comes back; who keeps it takes it along, and is started again with it.
        lab.run(["pkill", "-KILL", "-f", f"appfw-run --standalone --unit={name}"], check=True)
        is_confined(next_start(lab, name, 2))
        listed = json.loads(of_bob(lab, "list", "--json"))
        assert {"name": name, "manager": "user", "wall": "namespace", "via": SOCKS, "state": "active",
                "stale": False} in listed
        systemctl(lab, "stop", unit(name))
        assert state_of(lab, unit(name)) == "inactive"
        assert "enabled" in systemctl(lab, "is-enabled", unit(name))
    assert [packet for packet in w.foreign() if UPSTREAM not in (packet["dst"], packet.get("src"))] == []
    assert tree(lab) == before
    assert "not-found" in systemctl(lab, "show", "--property=LoadState", unit(name))


def test_what_is_shown_is_what_is_written_and_the_same_again_changes_nothing(lab):
    words, command = [f"--via={SOCKS}"], ["--", script(lab, "tries", TRIES), "a b", "%n $HOME;"]
    name = unique("own")
    shown = of_bob(lab, "show", name, *words, *command)
    file = f"{UNITS}/{unit(name)}"
    with installed(lab, *words, name=name, command=command[1:]):
        assert shown == f"# {file}\n{lab.path(file).read_text()}"
        lab.run(["systemd-analyze", "verify", "--user", file], user="bob", check=True)
        assert "nothing to do" in of_bob(lab, "install", name, *words, *command)
        assert "nothing to do" in of_bob(lab, "install", name, "--now", *words, *command)
        changed = of_bob(lab, "install", name, *words, "--only=web.test", *command)
        assert "changed: " in changed and f"systemctl --user restart {unit(name)}" in changed
        assert "nothing to do" in of_bob(lab, "update", "--all")


def test_a_users_password_stands_in_a_private_file_alone(lab):
    user, password = PASSWORD
    with installed(lab, f"--via=socks5h://{user}:{password}@{UPSTREAM}:1081") as name:
        is_confined(next_start(lab, name, 0))
        credential = lab.path(f"/home/bob/.config/appfw/credentials/{name}")
        assert credential.stat().st_mode & 0o777 == 0o600 and password in credential.read_text()
        assert password not in lab.path(f"{UNITS}/{unit(name)}").read_text()
        shown = lab.run(["sh", "-c", f"systemctl --user show 'appfw-{name}*'; cat /proc/*/cmdline"], user="bob").stdout
        assert f":{password}@".encode() not in shown + journal(lab, name).encode()


def test_a_property_limits_it_and_what_is_published_is_reached(lab, world):
    serve = script(lab, "serve", """#!/usr/bin/python3
import socket
server = socket.create_server(("127.0.0.1", 8080))
while True:
    server.accept()[0].sendall(b"served")
""")
    words = [f"--via={SOCKS}", "--publish=203.0.113.2:7310=8080", "-pLimitNOFILE=512"]
    with installed(lab, *words, command=[serve]) as name:
        def is_served():
            with contextlib.suppress(OSError):
                return world.connect(ORIGIN, "203.0.113.2", 7310, "tcp") == b"served"

        wait_until(is_served, 10, "the published port")
        assert systemctl(lab, "show", "--property=LimitNOFILE", unit(name)) == "LimitNOFILE=512\n"
        systemctl(lab, "restart", unit(name))
        wait_until(is_served, 10, "the published port")


def test_a_program_that_ends_is_told_and_a_wall_that_does_not_stand_runs_nothing(lab):
    with installed(lab, "--via=none", command=["/bin/true"], now=False) as name:
        assert "has run" in of_bob(lab, "install", name, "--now", "--via=none", "--", "/bin/true")
        told = of_bob(lab, "install", name, "--now", "--via=none", "--", "/bin/false", code=OURS)
        assert "ended with 1" in told and "journalctl --user -u" in told
    # No way out is written down that another could read.
    before = tree(lab)
    told = of_bob(lab, "install", "x", "--now", "--via=@/no/such", "--", "/bin/true", code=OURS)
    assert "/no/such" in told and tree(lab) == before


def test_a_profile_is_settled_when_the_unit_is_installed(lab):
    profiles = lab.path("/home/bob/.config/appfw/profiles")
    lab.run(["mkdir", "-p", "/home/bob/.config/appfw/profiles"], user="bob", check=True)
    (profiles / "lab-unit.toml").write_text(f'commands = ["lab-unit"]\nvia = "{SOCKS}"\nonly = ["web.test"]\n')
    lab.run(["chown", "-R", "bob", "/home/bob/.config/appfw"], check=True)
    try:
        with installed(lab, "--profile=lab-unit", command=["/bin/sleep", "60"]) as name:
            text = lab.path(f"{UNITS}/{unit(name)}").read_text()
            assert f"--via={SOCKS} --only=web.test" in text and "--settled" in text
            (profiles / "lab-unit.toml").write_text(f'commands = ["lab-unit"]\nvia = "{SOCKS}"\n')
            assert "nothing to do" in of_bob(lab, "update", name)
            of_bob(lab, "install", name, "--profile=lab-unit", "--", "/bin/sleep", "60")
            assert "--only" not in lab.path(f"{UNITS}/{unit(name)}").read_text()
    finally:
        lab.run(["rm", "-r", "/home/bob/.config/appfw"], check=True)


# bob, where something else is mounted.
BY_BOB = """setpriv --reuid=bob --regid=bob --clear-groups env HOME=/home/bob XDG_RUNTIME_DIR=/run/user/$(id -u bob) """


def test_a_program_that_is_not_there_yet_is_warned_of(lab):
    told = {"/nope/x": "there is no /nope/x yet", "/etc/passwd": "/etc/passwd is not executable", "/usr/bin/true": None}
    for program, warning in told.items():
        shown = appfw(lab, "unit", "show", "x", "--via", "none", "--", program, user="bob")
        assert f"warning: {warning}" in shown if warning else "warning" not in shown, shown
    shown = appfw(lab, "unit", "show", "x", "--via", "none", "--workdir=/nope", "--", "/usr/bin/true", user="bob")
    assert "warning: there is no directory /nope yet" in shown, shown
    refused = appfw(lab, "confine", "x", "--env", "A=b", code=125, user="bob")
    assert "the service's own unit says that: systemctl --user edit x" in refused, refused


def test_where_there_is_no_systemd_of_the_user_no_other_manager_is_named(lab):
    unit = "x --via none true"
    for line in [f"unit show {unit}", f"unit install {unit}", "confine x --via none", "unconfine x"]:
        refused = appfw(lab, *line.split(), env={"XDG_RUNTIME_DIR": "/nope"}, code=125, user="bob")
        assert "log in as that user" in refused and "standalone" not in refused and "--uid" not in refused, refused


def test_where_nobody_lingers_it_is_said_when_it_runs(lab):
    with installed(lab, "--via=none", command=["/bin/sleep", "60"], now=False) as name:
        install = f"appfw unit install {name} --now --via=none -- /bin/sleep 60"
        without = "mount -t tmpfs tmpfs /var/lib/systemd/linger"
        done = lab.run(["unshare", "--mount", "sh", "-c", f"{without}; {BY_BOB} {install}"])
        assert done.returncode == 0 and b"loginctl enable-linger bob" in done.stderr, done
        assert "nothing to do" in of_bob(lab, "install", name, "--now", "--via=none", "--", "/bin/sleep", "60")


def test_what_is_not_ours_stays_as_it_is(lab):
    name = unique("foreign")
    lab.run(["mkdir", "-p", UNITS], user="bob", check=True)
    file = lab.path(f"{UNITS}/{unit(name)}")
    for make in (lambda: file.write_text("[Unit]\n"), lambda: file.symlink_to("/etc/passwd")):
        make()
        lab.run(["chown", "-h", "bob", f"{UNITS}/{unit(name)}"], check=True)
        before = tree(lab)
        assert "is not ours" in of_bob(lab, "install", name, "--via=direct", "id", code=OURS)
        assert "is not ours" in of_bob(lab, "remove", name, code=OURS)
        assert tree(lab) == before
        file.unlink()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.both
def test_a_users_unit_is_there_after_a_boot(version):
    lab = boot(version)
    try:
        program = lab.path("/usr/local/bin/tries")
        program.write_text(TRIES)
        program.chmod(0o755)
        of_bob(lab, "install", "kept", f"--via={SOCKS}", "--", "/usr/local/bin/tries", "a b", "%n $HOME;")
        lab.reboot()
        is_confined(next_start(lab, "kept", 0))
    finally:
        lab.stop()


MISTAKES = {
    "a name with a line break": (["a\nb", "--via=direct", "x"], "launch name"),
    "a name with a percent sign": (["a%b", "--via=direct", "x"], "launch name"),
    "a name with a slash": (["../x", "--via=direct", "x"], "launch name"),
    "no way out": (["x", "id"], "where may"),
    "a way out that is none": (["x", "--via=sokcs5h://h:1", "id"], "did you mean socks5h"),
    "a wall of the system's": (["x", "--via=direct", "--wall=strict", "id"], "--wall strict"),
    "rules": (["x", "--via=none", "--deny=any", "id"], "system manager"),
    "another user": (["x", "--via=direct", "--uid=eve", "id"], "--uid"),
    "no such program": (["x", "--via=direct", "no-such-program"], "was not found in PATH"),
    "a shell's variable": (["x", "--via=direct", "FOO=1", "id"], "a variable is set by --env FOO="),
    "a unit's whole name": (["x.service", "--via=direct", "id"], "say x"),
    "options after the command": (["x", "id", "--via=direct"], "options stand before the command"),
    "a property beyond the user's": (["x", "--via=direct", "-pLimitNOFILE=9999999", "id"], "LimitNOFILE"),
    "a property not on the list": (["x", "--via=direct", "-pExecStartPre=/bin/x", "id"], "ExecStartPre"),
    "a filter": (["x", "--via=direct", "--egress-filter=/sys/fs/bpf/x", "id"], "--egress-filter"),
    "a profile that is none": (["x", "--via=direct", "--profile=fierfox", "id"], "did you mean firefox"),
    "a command that is no text": (["x", "--via=direct", b"/bin/\xff"], "UTF-8"),
    "no unit to remove": (None, "there is no unit"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_and_nothing_is_written(lab, mistake):
    words, phrase = MISTAKES[mistake]
    before = tree(lab)
    told = of_bob(lab, *(["install", *words] if words else ["remove", "nothing"]), code=OURS)
    assert phrase in told and len(told.splitlines()) == 1, told
    assert tree(lab) == before


def test_no_permission_and_a_full_disk_change_nothing(lab):
    lab.run(["mkdir", "-p", UNITS], user="bob", check=True)
    for option, phrase in ("size=8k", "so nothing was changed"), ("ro", "annot"):
        fill = f"""mount -t tmpfs -o {option},uid=$(id -u bob),mode=755 tmpfs {UNITS}
            {BY_BOB} appfw unit install full --via=direct -- /bin/sleep {'9' * 9000}
            echo $?; ls -A {UNITS}"""
        done = lab.run(["unshare", "--mount", "sh", "-c", fill])
        assert done.stdout == f"{OURS}\n".encode() and phrase.encode() in done.stderr, done
        assert len(done.stderr.splitlines()) == 1


def test_who_is_killed_half_way_leaves_a_whole_file_and_the_next_one_goes_on(lab):
    def words(only):
        return ["install", name, f"--via={SOCKS}", f"--only={only}", "--", "/bin/sleep", "60"]

    with installed(lab, "--via=direct", now=False) as name:
        file, texts = lab.path(f"{UNITS}/{unit(name)}"), []
        for only in "a.test", "b.test":
            of_bob(lab, *words(only))
            texts.append(file.read_text())
        # Until one was far enough to have written it.
        for delay in range(0, 600, 6):
            with started(lab, ["appfw", "unit", *words("a.test")], user="bob") as process:
                time.sleep(delay / 1000)
                process.send_signal(signal.SIGKILL)
                process.wait()
            assert file.read_text() in texts
            if file.read_text() == texts[0]:
                break
        assert delay and file.read_text() == texts[0]
        of_bob(lab, "install", name, "--now", *words("b.test")[2:])
        assert file.read_text() == texts[1] and state_of(lab, unit(name)) == "active"
        assert not list(file.parent.glob(f".appfw-{name}*"))

"""Services of an ordinary user, confined: the launcher is their main process."""

import contextlib
import json

import pytest

import test_user_units
from conftest import VERSIONS, boot
from launching import SOCKS, journal_of_user, script, unique
from test_profiles import files
from test_units import appfw
from test_user_units import OURS, TRIES, UNITS, state_of, systemctl, tree
from waiting import wait_until
from world_map import ORIGIN, PASSWORD, UPSTREAM

KINDS = {"notify": "WatchdogSec=300\n", "simple": "", "exec": "ExecReload=/bin/kill -HUP $MAINPID\n"}


def write(lab, name, text):
    lab.run(["mkdir", "-p", UNITS], user="bob", check=True)
    lab.path(f"{UNITS}/{name}").write_text(text)
    lab.run(["chown", "-R", "bob", "/home/bob/.config"], check=True)
    systemctl(lab, "daemon-reload")


@contextlib.contextmanager
def service(lab, kind="simple", more="", command=None, start=True):
    """A service of bob's own."""
    name = f"{unique('mine')}.service"
    command = command or f"{script(lab, 'tries', TRIES)} $WORD \"a b\" %%n"
    write(lab, name, f"[Service]\nType={kind}\nEnvironment=WORD=from-the-unit\n{more}ExecStart={command}\n")
    try:
        if start:
            lab.run(["systemctl", "--user", "--no-block", "start", name], user="bob", check=True)
        yield name
    finally:
        lab.run(["appfw", "unconfine", name], user="bob")
        lab.run(["systemctl", "--user", "stop", name], user="bob")
        lab.run(["systemctl", "--user", "reset-failed", name], user="bob")
        lab.path(f"{UNITS}/{name}").unlink()
        systemctl(lab, "daemon-reload")


def of_bob(lab, *words, **options):
    return appfw(lab, *words, user="bob", **options)


def next_start(lab, name, since):
    def said():
        return [json.loads(line) for line in journal_of_user(lab, name).splitlines() if line.startswith("{")][since:]

    return wait_until(said, 20, f"a start of {name}")[0]


def is_confined(found):
    test_user_units.is_confined(found, ["from-the-unit", "a b", "%n"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.both
def test_a_users_service_is_confined_and_as_before_when_it_is_let_go(lab, world, kind):
    with service(lab, kind, KINDS[kind]) as name:
        assert next_start(lab, name, 0)["bus"] is None
        # Which launches make where it isn't.
        lab.run(["mkdir", "-p", "/home/bob/.config/appfw", "/home/bob/.config/credstore"], user="bob", check=True)
        before, shown = tree(lab), systemctl(lab, "cat", name)
        next_start(lab, name, 0)
        assert f"systemctl --user restart {name}" in of_bob(lab, "confine", name, f"--via={SOCKS}")
        with world.watch() as w:
            assert "nothing to do" not in of_bob(lab, "confine", name, f"--via={SOCKS}", "--now")
            is_confined(next_start(lab, name, 1))
            assert "nothing to do" in of_bob(lab, "confine", name, f"--via={SOCKS}", "--now")
            entries = json.loads(of_bob(lab, "confine", "--list", "--json"))
            listed = [one for one in entries if one["service"] == name]
            assert [(one["wall"], one["state"], one["proven"], one["stale"]) for one in listed] == [
                ("namespace", "active", True, False)]
            systemctl(lab, "daemon-reload")
            systemctl(lab, "restart", name)
            is_confined(next_start(lab, name, 2))
        assert {packet["dst"] for packet in w.foreign()} == {UPSTREAM}
        of_bob(lab, "unconfine", name, "--now")
        assert (tree(lab), systemctl(lab, "cat", name)) == (before, shown)
        assert next_start(lab, name, 3)["bus"] is None


def test_a_users_services_password_stands_in_one_private_file(lab):
    user, password = PASSWORD
    with service(lab, start=False) as name:
        before = tree(lab)
        of_bob(lab, "confine", name, f"--via=socks5h://{user}:{password}@{UPSTREAM}:1081", "--now")
        is_confined(next_start(lab, name, 0))
        holders = [path for path in lab.path("/home/bob/.config").rglob("*")
                   if path.is_file() and password.encode() in path.read_bytes()]
        assert len(holders) == 1 and holders[0].stat().st_mode & 0o777 == 0o600
        of_bob(lab, "unconfine", "--all")
        assert tree(lab) == before


def test_a_way_out_that_is_gone_and_a_wall_that_is_not_to_be_had_start_nothing(lab, world):
    with service(lab, start=False) as name, world.watch() as w:
        lab.path("/home/bob/way").write_text(f"socks5h://{':'.join(PASSWORD)}@{UPSTREAM}:1081\n")
        lab.path("/home/bob/way").chmod(0o600)
        lab.run(["chown", "bob", "/home/bob/way"], check=True)
        of_bob(lab, "confine", name, "--via=@/home/bob/way")
        lab.path("/home/bob/way").unlink()
        systemctl(lab, "start", name, code=None)
        # What is over at once is not always told to be of its unit.
        everything = ["journalctl", "--quiet", "--no-pager", "--output=cat"]
        wait_until(lambda: b"/home/bob/way" in lab.run(everything).stdout, 10, "a refusal")
        assert state_of(lab, name) == "failed" and '"variable"' not in journal_of_user(lab, name)
    assert w.foreign() == []


def test_what_the_program_does_to_its_next_start_is_behind_the_wall_too(lab, world):
    """It fails, and is started again: by what it may have left for that."""
    leaves = script(lab, "leaves", f"""#!/bin/sh
cat ~/.config/appfw/credentials/* 2>/dev/null
mkdir -p ~/.config/appfw && echo 'dbus = "session"' >~/.config/appfw/config.toml
echo LD_PRELOAD=/home/bob/x.so >>/home/bob/more
python3 -c 'import socket, os
socket.socket(socket.AF_UNIX).connect(f"/run/user/{{os.getuid()}}/bus")' 2>/dev/null && echo bus is open
curl -sS --max-time 9 http://web.test/ && echo
exit 1
""")
    user, password = PASSWORD
    lab.path("/home/bob/more").write_text("")
    lab.run(["chown", "bob", "/home/bob/more"], check=True)
    with service(lab, "simple", "EnvironmentFile=/home/bob/more\nRestart=on-failure\n", leaves, start=False) as name:
        with world.watch() as w:
            of_bob(lab, "confine", name, f"--via=socks5h://{user}:{password}@{UPSTREAM}:1081")
            systemctl(lab, "start", name)
            wait_until(lambda: journal_of_user(lab, name).count("world ") > 1, 20, "a second start")
            systemctl(lab, "stop", name, code=None)
        assert {packet["dst"] for packet in w.foreign()} == {UPSTREAM}
        said = journal_of_user(lab, name)
        assert "bus is open" not in said and password not in said
        # The linker would complain of a file that isn't there.
        assert "x.so" not in said
        assert not lab.path("/home/bob/.config/appfw/config.toml").exists()


def test_a_later_command_of_its_file_is_not_run_outside(lab):
    with service(lab) as name:
        next_start(lab, name, 0)
        of_bob(lab, "confine", name, f"--via={SOCKS}", "--now")
        next_start(lab, name, 1)
        file = lab.path(f"{UNITS}/{name}")
        file.write_text(file.read_text() + "ExecStartPre=/bin/touch /home/bob/outside\n")
        systemctl(lab, "daemon-reload")
        systemctl(lab, "restart", name)
        is_confined(next_start(lab, name, 2))
        assert not lab.path("/home/bob/outside").exists()


def test_a_later_reload_of_its_file_is_not_run_outside_and_a_later_drop_ins_is_listed(lab):
    def listed():
        return [one for one in json.loads(of_bob(lab, "confine", "--list", "--json")) if one["service"] == name][0]

    with service(lab, "simple", "ExecReload=-/bin/kill -HUP $MAINPID\n") as name:
        next_start(lab, name, 0)
        of_bob(lab, "confine", name, f"--via={SOCKS}", "--now")
        is_confined(next_start(lab, name, 1))
        shown = lambda: systemctl(lab, "show", "--property=ExecReload", name)
        assert "argv[]=/bin/kill -HUP $MAINPID" in shown() and "ignore_errors=yes" in shown(), shown()
        later = f"{name}.d/zzz.conf"
        for file, text in (name, lab.path(f"{UNITS}/{name}").read_text()), (later, "[Service]\n"):
            write(lab, file, text.replace("[Service]\n", "[Service]\nExecReload=/bin/touch /home/bob/reloaded\n"))
            systemctl(lab, "restart", name)
            is_confined(next_start(lab, name, 2 if file == name else 3))
            assert "touch" not in shown() or file == later, shown()
            assert listed()["proven"] is (file == name)
            if file == name:
                systemctl(lab, "reload", name)
                assert not lab.path("/home/bob/reloaded").exists()
        lab.path(f"{UNITS}/{later}").unlink()


def test_a_service_that_has_changed_is_confined_anew_or_not_at_all(lab):
    other = script(lab, "other", TRIES)
    with service(lab) as name:
        of_bob(lab, "confine", name, f"--via={SOCKS}", "--now")
        file = lab.path(f"{UNITS}/{name}")
        file.write_text(f"[Service]\nExecStart={other} anew\n")
        systemctl(lab, "daemon-reload")
        before = tree(lab)
        for more in [], ["--only=web.test"]:
            told = of_bob(lab, "confine", name, f"--via={SOCKS}", "--now", *more, code=OURS)
            assert f"{UNITS}/{name} is newer" in told and f"appfw unconfine {name}, then" in told, told
        assert tree(lab) == before
        of_bob(lab, "unconfine", name)
        since = journal_of_user(lab, name).count('"arguments"')
        of_bob(lab, "confine", name, f"--via={SOCKS}", "--now")
        test_user_units.is_confined(next_start(lab, name, since), ["anew"])


def test_a_later_drop_in_that_takes_the_launcher_away_or_repeats_its_commands_leaves_nothing_written(lab):
    with service(lab, start=False) as name:
        lab.run(["mkdir", "-p", f"{UNITS}/{name}.d"], user="bob", check=True)
        for lines in "ExecStart=\nExecStart=/bin/sleep 60", "ExecReload=/bin/kill -HUP $MAINPID":
            write(lab, f"{name}.d/zzz.conf", f"[Service]\n{lines}\n")
            before = tree(lab)
            told = of_bob(lab, "confine", name, f"--via=socks5h://{':'.join(PASSWORD)}@{UPSTREAM}:1081", code=OURS)
            for part in lines.partition("=")[0], "zzz.conf":
                assert part in told and "new:" not in told and "changed:" not in told, told
            assert tree(lab) == before
        assert "launcher" not in systemctl(lab, "cat", name) and "zz-appfw" not in systemctl(lab, "cat", name)
        lab.path(f"{UNITS}/{name}.d/zzz.conf").unlink()
        lab.path(f"{UNITS}/{name}.d").rmdir()


@pytest.mark.parametrize("link", ["../../../dot/", "/home/bob/dot/"])
def test_a_directory_of_drop_ins_that_is_a_link_confines_or_is_left_as_it_is(lab, link):
    with service(lab, start=False) as name:
        dot = lab.path(f"/home/bob/dot/{name}.d")
        lab.run(["sh", "-c", f"mkdir -p ~/dot/{name}.d; ln -s {link}{name}.d {UNITS}/{name}.d"], user="bob", check=True)
        before = tree(lab)
        done = lab.run(["appfw", "confine", name, f"--via={SOCKS}"], user="bob")
        print("link", link, done)
        if done.returncode == 0:
            assert "appfw-run" in systemctl(lab, "show", "--property=ExecStart", name)
            of_bob(lab, "unconfine", name)
        else:
            assert b"a directory and no link" in done.stderr and b"new:" not in done.stderr, done
        assert tree(lab) == before and list(dot.iterdir()) == []
        lab.path(f"{UNITS}/{name}.d").unlink()


def test_a_directory_that_the_users_systemd_does_not_read_is_refused_before_anything_is_written(lab):
    env = {"XDG_CONFIG_HOME": "/home/bob/xdg"}
    with service(lab, start=False) as name:
        for words in (["confine", name], ["unit", "install", unique("x"), "--", "/bin/true"]):
            at = words.index("--") if "--" in words else len(words)
            done = lab.run(["appfw", *words[:at], f"--via={SOCKS}", *words[at:]], user="bob", env=env)
            assert done.returncode == OURS and b"reads no units in /home/bob/xdg/systemd/user" in done.stderr, done
            assert not lab.path("/home/bob/xdg").exists()


def test_what_runs_by_older_files_is_started_again_and_what_does_not_start_is_told(lab):
    with service(lab) as name:
        next_start(lab, name, 0)
        of_bob(lab, "confine", name, f"--via={SOCKS}", "--now")
        next_start(lab, name, 1)
        assert "restart" in of_bob(lab, "confine", name, f"--via={SOCKS}", "--only=web.test")
        words = ["confine", name, f"--via={SOCKS}", "--only=web.test", "--now"]
        assert "runs, and is behind its wall" in of_bob(lab, *words)
        assert "nothing to do" in of_bob(lab, *words)
    with service(lab, "simple", "LimitNOFILE=10\n", start=False) as name:
        told = of_bob(lab, "confine", name, f"--via={SOCKS}", "--now", code=OURS)
        assert f"appfw unconfine {name} takes its wall away" in told


def test_a_unit_and_a_service_of_one_name_keep_their_files(lab):
    user, password = PASSWORD
    with service(lab, start=False) as name:
        stem, secret = name.removesuffix(".service"), f"--via=socks5h://{user}:{password}@{UPSTREAM}:1081"
        of_bob(lab, "confine", name, secret)
        before = tree(lab)
        told = of_bob(lab, "unit", "install", stem, f"{secret}0", "--", "/bin/true", code=OURS)
        assert "belongs to what `appfw confine" in told and tree(lab) == before
        of_bob(lab, "unit", "remove", stem, code=OURS)
        assert tree(lab) == before


def test_a_program_that_others_could_replace_is_not_run_at_each_start(lab):
    with service(lab, start=False) as name:
        lab.run(["sh", "-c", "mkdir -p ~/bin && cp /usr/local/bin/appfw /usr/local/bin/appfw-run ~/bin"], user="bob")
        for words in ["confine", name, f"--via={SOCKS}"], ["unit", "install", "x", f"--via={SOCKS}", "/bin/true"]:
            done = lab.run(["/home/bob/bin/appfw", *words], user="bob")
            assert done.returncode == OURS and b"install appfw below /usr" in done.stderr, done
        lab.run(["rm", "-r", "/home/bob/bin"], check=True)


LISTENS = "/usr/bin/python3 -c 'import socket; s = socket.create_server((\"127.0.0.1\", 7421)); s.accept()'"
REFUSED = {
    "it is of no kind that the launcher can start": ({"kind": "oneshot", "start": False}, [], "Type=oneshot"),
    "a command before it": ({"more": "ExecStartPre=/bin/echo x\n"}, [], "ExecStartPre=/bin/echo"),
    "a command after it": ({"more": "ExecStopPost=-/usr/bin/curl x\n"}, [], "ExecStopPost=/usr/bin/curl"),
    "the linker's": ({"more": "Environment=LD_PRELOAD=/x.so\n"}, [], "sets LD_PRELOAD"),
    "a kill of its own": ({"more": "ExecReload=/home/bob/kill x\n"}, [], "ExecReload=/home/bob/kill"),
    "another name for it": ({"command": "@/bin/sleep other 60"}, [], "under the name other"),
    "it listens": ({"command": LISTENS}, [], "127.0.0.1:7421"),
    "another wall": ({}, ["--wall=strict"], "--wall strict"),
    "the system's": ({}, ["--system"], "sudo appfw confine"),
    "an option of the unit's": ({}, ["--workdir=/"], "--workdir"),
    "a command": ({}, ["--", "curl"], "takes one service"),
    "it is in a slice of ours": ({"more": "Slice=appfw.slice\n"}, [], "a unit of appfw's own"),
}

# What the launcher could not build its wall by, and what to write instead.
HARDENED = {
    # systemd 252 has not seccomp among these.
    "SystemCallFilter=@system-service": "SystemCallFilter=mount open_tree move_mount",
    "SystemCallFilter=~@mount": "SystemCallFilter=mount open_tree move_mount",
    "SystemCallFilter=~@privileged @mount": "SystemCallFilter=mount open_tree move_mount capset",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6": "RestrictAddressFamilies=AF_NETLINK",
    "RestrictAddressFamilies=~AF_NETLINK": "RestrictAddressFamilies=AF_NETLINK",
    "RestrictNamespaces=yes": "RestrictNamespaces=user pid net ipc mnt",
    "RestrictNamespaces=~ipc": "RestrictNamespaces=ipc",
    "PrivateNetwork=yes": "PrivateNetwork=no",
    "ProtectKernelTunables=yes": "ProtectKernelTunables=no",
    "ProtectKernelLogs=yes": "ProtectKernelLogs=no",
    "ProtectHome=read-only": "ProtectHome=no",
    "ReadOnlyPaths=/": "ReadWritePaths=/run/user/",
    "UMask=0777": "UMask=0077",
    "RuntimeDirectory=mine": "RuntimeDirectory=",
    "SetCredential=a:b": "SetCredential=",
}


@pytest.mark.parametrize("setting", HARDENED)
def test_what_would_keep_a_users_service_from_its_wall_is_refused_by_name_and_starts_without(lab, world, setting):
    with service(lab, "simple", f"{setting}\n", start=False) as name, world.watch() as w:
        before = tree(lab)
        told = of_bob(lab, "confine", name, f"--via={SOCKS}", code=OURS)
        assert setting.partition("=")[0] in told and len(told.splitlines()) == 1, told
        assert tree(lab) == before
        # As it says.
        edit, instead = f"systemctl --user edit {name}, and write ", HARDENED[setting]
        assert f"{edit}{instead}" in told, told
        written = told.partition(edit)[2].partition(" below")[0]
        drop_in = f"{name}.d/override.conf"
        lab.run(["mkdir", "-p", f"{UNITS}/{name}.d"], user="bob", check=True)
        write(lab, drop_in, f"[Service]\n{written}\n")
        try:
            of_bob(lab, "confine", name, f"--via={SOCKS}", "--now")
            is_confined(next_start(lab, name, 0))
        finally:
            lab.path(f"{UNITS}/{drop_in}").unlink()
    assert {packet["dst"] for packet in w.foreign()} <= {UPSTREAM}


def test_a_hardened_service_of_a_users_keeps_what_is_not_in_the_way(lab, world):
    kept = ["NoNewPrivileges=yes", "SystemCallFilter=@system-service @mount seccomp", "RestrictNamespaces=~cgroup",
            "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK", "ProtectSystem=strict", "UMask=0077",
            "ProtectControlGroups=yes", "PrivateTmp=yes", "LockPersonality=yes", "RestrictRealtime=yes",
            "StateDirectory=mine", "ReadOnlyPaths=/srv"]
    with service(lab, "simple", "\n".join(kept) + "\n", start=False) as name, world.watch() as w:
        of_bob(lab, "confine", name, f"--via={SOCKS}", "--now")
        is_confined(next_start(lab, name, 0))
    assert {packet["dst"] for packet in w.foreign()} <= {UPSTREAM}


@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_be_confined_is_refused_and_nothing_written(lab, why):
    options, words, phrase = REFUSED[why]
    with service(lab, **options) as name:
        wait_until(lambda: state_of(lab, name) in ("active", "inactive"), 5, "its start")
        if why == "it listens":
            wait_until(lambda: b"7421" in lab.run(["ss", "-Hltn"]).stdout, 5, "its listener")
        before = tree(lab)
        told = of_bob(lab, "confine", name, f"--via={SOCKS}", *words, code=OURS)
        assert phrase in told and len(told.splitlines()) == 1, told
        assert tree(lab) == before


def test_who_asks_for_a_users_service_is_sent_to_that_users_systemd(lab):
    assert "; systemctl --user list-units" in of_bob(lab, "confine", "a b", "--via=direct", code=OURS)


def test_a_users_service_that_has_become_an_alias_is_let_go_by_its_new_name(lab):
    with service(lab, start=False) as old:
        new = f"{unique('mine')}.service"
        of_bob(lab, "confine", old, f"--via={SOCKS}", "--now")
        is_confined(next_start(lab, old, 0))
        lab.path(f"{UNITS}/{old}").rename(lab.path(f"{UNITS}/{new}"))
        lab.path(f"{UNITS}/{old}").symlink_to(new)
        systemctl(lab, "daemon-reload")
        try:
            for name in old, new:
                said = of_bob(lab, "confine", name, f"--via={SOCKS}", code=OURS)
                assert f"appfw unconfine {old}, then confine {new}" in said, said
            assert f"removed: {UNITS}/{old}.d/zz-appfw.conf" in of_bob(lab, "unconfine", new)
            systemctl(lab, "restart", new)
            assert next_start(lab, new, 0)["bus"] is None
        finally:
            systemctl(lab, "stop", new)
            lab.path(f"{UNITS}/{old}").unlink()
            lab.path(f"{UNITS}/{new}").rename(lab.path(f"{UNITS}/{old}"))


def test_what_is_not_ours_stays_as_it_is(lab):
    with service(lab, start=False) as name:
        file = lab.path(f"{UNITS}/{name}.d/zz-appfw.conf")
        lab.run(["mkdir", f"{UNITS}/{name}.d"], user="bob", check=True)
        for make in (lambda: file.write_text("[Unit]\n"), lambda: file.symlink_to("/etc/passwd")):
            make()
            lab.run(["chown", "-h", "bob", f"{UNITS}/{name}.d/zz-appfw.conf"], check=True)
            before = tree(lab)
            assert "is not ours" in of_bob(lab, "confine", name, f"--via={SOCKS}", code=OURS)
            assert "is not ours" in of_bob(lab, "unconfine", name, code=OURS)
            assert tree(lab) == before
            file.unlink()
        file.parent.rmdir()


SECRET = f"--via=socks5h://{':'.join(PASSWORD)}@{UPSTREAM}:1081"


def test_a_full_disk_leaves_a_users_service_behind_the_wall_that_it_had(lab):
    with service(lab) as name:
        next_start(lab, name, 0)
        place = f"{UNITS}/{name}.d"
        lab.run(["mkdir", place], user="bob", check=True)
        before = tree(lab)
        lab.run(["sh", "-c", f"mount -t tmpfs -o size=64k,uid=$(id -u bob),mode=755 tmpfs {place}"], check=True)
        try:
            fill = ["dd", "if=/dev/zero", f"of={place}/other"]
            assert lab.run(fill).returncode == 1
            assert "nothing was changed" in of_bob(lab, "confine", name, SECRET, "--now", code=OURS)
            lab.path(f"{place}/other").unlink()
            assert tree(lab) == before
            of_bob(lab, "confine", name, f"--via={SOCKS}", "--now")
            is_confined(next_start(lab, name, 1))
            walled = tree(lab)
            assert lab.run(fill).returncode == 1
            # What of it is elsewhere, the password, is taken back as well.
            assert "nothing was changed" in of_bob(lab, "confine", name, SECRET, "--now", code=OURS)
            lab.path(f"{place}/other").unlink()
            assert tree(lab) == walled and state_of(lab, name) == "active"
            systemctl(lab, "restart", name)
            is_confined(next_start(lab, name, 2))
        finally:
            lab.run(["appfw", "unconfine", name], user="bob")
            lab.run(["umount", place], check=True)
            lab.path(place).rmdir()


def test_who_is_killed_half_way_has_broken_nothing_and_may_try_again(lab):
    with service(lab, start=False) as name:
        lab.run(["mkdir", "-p", "/home/bob/.config/appfw", "/home/bob/.config/credstore"], user="bob", check=True)
        before, stages = tree(lab), set()
        # Until one was far enough to have written something.
        for delay in range(4, 400, 8):
            if delay > 40 and not stages <= {0}:
                break
            lab.run(["timeout", "--signal=KILL", f"{delay / 1000}", "appfw", "confine", name, SECRET], user="bob")
            new = {*tree(lab)} - {*before}
            stages.add(len(new))
            # What the service reads is the last to come.
            if any(path.endswith("zz-appfw.conf") for path in new):
                assert any("/appfw/credentials/" in path for path in new), new
            of_bob(lab, "confine", name, SECRET)
            of_bob(lab, "unconfine", name)
            assert tree(lab) == before
        assert not stages <= {0}, stages


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.both
def test_a_users_service_is_confined_after_a_boot(version):
    lab = boot(version)
    try:
        program = lab.path("/usr/local/bin/tries")
        program.write_text(TRIES)
        program.chmod(0o755)
        text = "[Service]\nEnvironment=WORD=from-the-unit\nExecStart=/usr/local/bin/tries $WORD \"a b\" %%n\n"
        write(lab, "kept.service", text + "[Install]\nWantedBy=default.target\n")
        systemctl(lab, "enable", "kept.service")
        of_bob(lab, "confine", "kept", f"--via={SOCKS}")
        lab.reboot()
        with lab.world.watch() as w:
            is_confined(next_start(lab, "kept.service", 0))
        assert ORIGIN not in {packet["dst"] for packet in w.foreign()}
    finally:
        lab.stop()


def test_what_is_of_launches_alone_is_no_hindrance(lab, world):
    """config.toml is for every program: what a unit or a service knows nothing of is left out, and said to be."""
    keys = {"detach": "true", "env": '["A=b"]', "workdir": '"/"', "property": '"TasksMax=50"', "own-profile": "true",
            "exit-with-main": "true", "dbus": '"filtered"', "manager": '"standalone"'}
    texts = {"config.toml": f'via = "{SOCKS}"\n' + "".join(f"{key} = {value}\n" for key, value in keys.items())}
    with files(lab, texts), service(lab) as name:
        next_start(lab, name, 0)
        told = of_bob(lab, "confine", name, "--now")
        said, = [line for line in told.splitlines() if "left out" in line]
        assert all(f"{key} (/home/bob/.config/appfw/config.toml:" in said for key in keys), said
        is_confined(next_start(lab, name, 1))
        refused = of_bob(lab, "confine", name, "--detach", code=125)
        assert "--detach: it goes with launches alone" in refused
    texts = {"config.toml": f'via = "{SOCKS}"\ndetach = true\nmanager = "standalone"\n'}
    with files(lab, texts):
        shown = of_bob(lab, "unit", "show", "x", "--", "true")
        assert "detach (" in shown and "manager (" in shown
    with files(lab, {"config.toml": f'via = "{SOCKS}"\nmanager = "system"\n'}), service(lab) as name:
        for words in ["unit", "show", "x", "--", "true"], ["confine", name]:
            refused = of_bob(lab, *words, code=125)
            assert "(manager is from /home/bob/.config/appfw/config.toml:2)" in refused, refused

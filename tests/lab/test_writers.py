"""What writes files and starts by them: what it says of a start, what it leaves, and who else has the name."""

import contextlib
import time

import pytest

import test_user_confine
from confining import UNITS, Service, drop_in, service, tree, trying
from launching import HOLD, SOCKS, launched, run, script, secret_file, started, unique
from test_takeover import PIPES
from test_units import appfw, install, installed, shows, systemctl, unit
from waiting import wait_until
from world_map import PASSWORD, UPSTREAM

OURS = 125
KINDS = ["service", "socket"]
SECRET = f"socks5h://{':'.join(PASSWORD)}@{UPSTREAM}:1081"


def running(command, *lines):
    return "\n".join(["[Service]", *lines, f"ExecStart={command}", ""])


# What is said of a start

@pytest.mark.parametrize("lines", [["Type=simple"], ["Type=exec"], ["Restart=on-failure"]])
def test_what_dies_at_once_is_told(lab, lines):
    with service(lab, running('/bin/sh -c "exit 7"', *lines)) as svc:
        said = svc.confine("--via", SOCKS, "--now", code=OURS)
        assert "ended with 7" in said and f"appfw unconfine {svc.name}" in said, said


@pytest.mark.slow
@pytest.mark.parametrize("delay", [20, 22, 24])
def test_what_fails_while_it_is_looked_at_has_not_run_well(lab, delay):
    with service(lab, running(f'/bin/sh -c "sleep 0.{delay}; exit 3"')) as svc:
        svc.confine("--via", SOCKS)
        for _ in range(3):
            svc.systemctl("stop", svc.name)
            said = lab.run(["appfw", "confine", svc.name, "--via", SOCKS, "--now"]).stderr.decode()
            assert "ended with 3" in said or f"{svc.name} runs" in said, said


@pytest.mark.parametrize("command, lines, how", [
    ("/bin/true", [], "has run"),
    ("/bin/true", ["Type=oneshot"], "has run"),
    ("/bin/true", ["Type=oneshot", "RemainAfterExit=yes"], "runs"),
    ('/bin/sh -c "exit 7"', ["SuccessExitStatus=7"], "has run"),
    ('-/bin/sh -c "exit 7"', [], "has run"),
    ("/bin/sleep 1000", ["Type=exec"], "runs"),
    ('/bin/sh -c "sleep 1000 &"', ["Type=forking"], "runs"),
])
def test_what_runs_or_has_run_well_is_no_failure(lab, command, lines, how):
    with service(lab, running(command, *lines)) as svc:
        assert f"{svc.name} {how}, and is behind its wall" in svc.confine("--via", SOCKS, "--now")


def test_a_start_that_its_own_condition_forbids_is_no_failure(lab):
    with service(lab, running("/bin/sleep 1000", "ExecCondition=/bin/false")) as svc:
        assert "was not started, as its own conditions say" in svc.confine("--via", SOCKS, "--now")


def test_a_start_that_a_condition_forbids_is_no_failure(lab):
    text = "[Unit]\nConditionPathExists=/nowhere\n" + running("/bin/sleep 1000")
    with service(lab, text) as svc:
        assert "was not started, as a condition of its own is not met" in svc.confine("--via", SOCKS, "--now")
        assert not svc.is_active()


def test_a_unit_that_does_nothing_itself_is_told_of(lab):
    with service(lab, running("/bin/true", "Type=oneshot", "RemainAfterExit=yes")) as svc:
        assert "no process of its own to confine" in svc.confine("--via", SOCKS)


def test_a_narrow_umask_of_roots_keeps_nobody_from_the_configuration(lab):
    lab.run(["rm", "-rf", "/etc/appfw"])
    with service(lab, running("/bin/sleep 1000", "UMask=0077")) as svc:
        lab.run(["rm", "-rf", "/run/appfw"])
        words = ["--via", SOCKS, "--now"]
        lab.run(["sh", "-c", 'umask 077; exec appfw confine "$@"', "sh", svc.name, *words], check=True)
        directories = "/etc/appfw", "/etc/appfw/confined", f"{UNITS}/{svc.name}.d", "/run/appfw"
        modes = lab.run(["stat", "-c", "%a", *directories, f"/run/appfw/confined:{svc.stem}"]).stdout.split()
        assert modes == [b"755", b"755", b"755", b"711", b"600"]


def test_a_link_that_leads_nowhere_is_the_resolvers_all_the_same(lab):
    resolv, aside = lab.path("/etc/resolv.conf"), lab.path("/etc/resolv.conf.aside")
    resolv.rename(aside)
    try:
        resolv.symlink_to("/run/later/resolv.conf")
        with service(lab, running("/bin/sh -c 'cat /etc/resolv.conf; exec sleep 1000'")) as svc:
            svc.confine("--via", SOCKS, "--now")
            assert svc.is_proven()
            lab.run(["sh", "-c", "mkdir -p /run/later; echo nameserver 192.0.2.1 >/run/later/resolv.conf"], check=True)
            svc.restart()
            assert svc.is_proven() and "192.0.2.1" not in lab.journal(svc.name)
    finally:
        aside.rename(resolv)
        lab.run(["rm", "-rf", "/run/later"])


def test_a_users_service_that_has_run_well_is_no_failure(lab):
    of_bob = test_user_confine.of_bob
    with test_user_confine.service(lab, command="/bin/true", start=False) as name:
        began = time.monotonic()
        assert "has run, and is behind its wall" in of_bob(lab, "confine", name, f"--via={SOCKS}", "--now")
        assert time.monotonic() - began < 10
    unmet = "[Unit]\nConditionPathExists=/nowhere\n[Service]\n"
    with test_user_confine.service(lab, more=unmet, start=False) as name:
        assert "a condition of its own is not met" in of_bob(lab, "confine", name, f"--via={SOCKS}", "--now")
    with test_user_confine.service(lab, command='/bin/sh -c "exit 7"', start=False) as name:
        said = of_bob(lab, "confine", name, f"--via={SOCKS}", "--now", code=OURS)
        assert "ended with 7" in said, said


def test_a_unit_that_fails_fast_is_not_given_up(lab):
    with installed(lab, "--via=direct", now=False, command=["/bin/sh", "-c", "exit 7"]) as name:
        lab.run(["systemctl", "start", unit(name)])
        time.sleep(4)
        assert shows(lab, unit(name), "SubState") == {"SubState": "auto-restart"}


# Ends by SIGKILL alone.
STUBBORN = """/bin/sh -c "trap '' TERM; while :; do sleep 1; done" """.strip()


@pytest.mark.slow
def test_who_is_slow_to_stop_or_to_start_is_waited_for(lab):
    """For longer than systemd may take for a launch."""
    def said(*words):
        return appfw(lab, *words, "--now", timeout=150)

    with service(lab, running(STUBBORN, "TimeoutStopSec=63")) as svc:
        svc.start()
        told = said("confine", svc.name, "--via", SOCKS)
        assert svc.is_proven() and f"waits for systemd to stop {svc.name}" in told, told
        told = said("unconfine", svc.name)
        assert svc.is_active() and f"waits for systemd to stop {svc.name}" in told, told
        assert f"appfw-{svc.stem}" not in lab.run(["systemctl", "list-units", "--all", "appfw-*"]).stdout.decode()
        lab.run(["systemctl", "kill", "--signal=KILL", svc.name])
    with service(lab, running("/bin/sleep 63", "Type=oneshot")) as svc:
        told = said("confine", svc.name, "--via", SOCKS)
        assert f"waits for systemd to start {svc.name}" in told and f"{svc.name} has run" in told, told


# Whose name it is

def test_a_launch_that_collides_takes_nothing_down(lab):
    with service(lab, trying(lab, "User=bob")) as svc:
        svc.confine("--via", SOCKS, "--now")
        assert svc.found()["proxy"] == 200
        for words in [], ["--wall=namespace"]:
            done = run(lab, "--unit", svc.stem, "--via", SOCKS, *words, "--", "/bin/true")
            assert done.returncode == OURS, done
            for part in "in use by", f"appfw confine {svc.name}", "choose another --unit":
                assert part in done.stderr.decode(), done.stderr
        assert svc.is_active() and svc.is_proven()
        assert lab.run(["systemctl", "is-active", f"appfw-{svc.stem}-forward.socket"]).stdout == b"active\n"


def test_a_name_is_one_services_one_units_or_one_launchs(lab):
    """Whoever comes first, also where their files have no name in common."""
    rules = ["--via=none", "--deny=8.8.8.8"]
    for way in [f"--via={SOCKS}"], rules:
        with service(lab, running("/bin/sleep 1000")) as svc:
            svc.confine(*way)
            before = tree(lab)
            said = install(lab, svc.stem, *rules, "--now", "--", "/bin/sleep", "60", code=OURS)
            assert f"appfw confine {svc.name}" in said and tree(lab) == before, said
            svc.unconfine()
            with installed(lab, *way, name=svc.stem, now=False, command=["/bin/sleep", "60"]):
                before = tree(lab)
                said = svc.confine(*rules, "--now", code=OURS)
                assert f"appfw unit install {svc.stem}" in said and tree(lab) == before, said
            with launched(lab, f"--via={SOCKS}", *HOLD, name=svc.stem) as launch:
                said = svc.confine(*way, code=OURS)
                assert f"appfw stop {launch.name}" in said, said
    with service(lab, running("/bin/sleep 1000")) as svc, service(lab, running("/bin/true"), f"{svc.stem}@x") as one:
        with service(lab, running("/bin/true"), f"{svc.stem}_x") as other:
            one.confine(*rules)
            assert f"appfw confine {one.name}" in other.confine(*rules, code=OURS)


def test_a_users_unit_and_service_have_no_name_in_common(lab):
    of_bob = test_user_confine.of_bob
    with test_user_confine.service(lab, start=False) as name:
        stem = name.removesuffix(".service")
        of_bob(lab, "confine", name, f"--via={SOCKS}")
        before = test_user_confine.tree(lab)
        said = of_bob(lab, "unit", "install", stem, f"--via={SOCKS}", "--", "/bin/true", code=OURS)
        assert f"appfw confine {name}" in said and test_user_confine.tree(lab) == before
        of_bob(lab, "unconfine", name)
        of_bob(lab, "unit", "install", stem, f"--via={SOCKS}", "--", "/bin/true")
        try:
            assert f"appfw unit install {stem}" in of_bob(lab, "confine", name, f"--via={SOCKS}", code=OURS)
        finally:
            of_bob(lab, "unit", "remove", stem)


def test_a_name_that_commands_would_take_for_an_option_is_refused(lab):
    before = tree(lab)
    assert "NAME is missing" in appfw(lab, "unit", "install", f"--via={SOCKS}", "--", "-x", "/bin/true", code=OURS)
    assert tree(lab) == before


def test_a_name_that_is_too_long_is_the_services(lab):
    with service(lab, running("/bin/true"), "l" * 65) as svc:
        said = svc.confine("--via", SOCKS, code=OURS)
        assert svc.name in said and "launch name" not in said and "64" in said, said


# What is there when it is written

def test_an_update_goes_on_after_a_unit_that_cannot_be_made(lab):
    way = secret_file(lab, SECRET)
    with contextlib.ExitStack() as stack:
        units = [installed(lab, f"--via={via}", name=unique(stem), now=False, command=["/bin/sleep", "9"])
                 for stem, via in [("aaa", SOCKS), ("bbb", way), ("ccc", SOCKS)]]
        names = [stack.enter_context(one) for one in units]
        files = [lab.path(f"{UNITS}/{unit(name)}") for name in names]
        texts = [file.read_text() for file in files]
        lab.path(way[1:]).unlink()
        for file, text in zip(files, texts):
            file.write_text(text.replace("NoNewPrivileges=yes\n", ""))
        lab.run(["systemctl", "daemon-reload"])
        said = appfw(lab, "unit", "update", "--all", code=OURS)
        assert [file.read_text() == text for file, text in zip(files, texts)] == [True, False, True], said
        assert names[1] in said.splitlines()[-1] and way[1:] in said.splitlines()[-1], said
        for name in names:
            assert shows(lab, unit(name), "NeedDaemonReload") == {"NeedDaemonReload": "no"}


def test_a_service_that_was_edited_is_read_again(lab):
    with service(lab, running("/bin/sleep 1000", "RuntimeDirectory=@NAME@")) as svc:
        svc.start()
        svc.file.write_text(svc.file.read_text() + f"ExecStartPre=/bin/touch /run/{svc.stem}/before\n")
        svc.confine("--via", SOCKS, "--now")
        assert lab.path(f"/run/{svc.stem}/before").exists()
        assert not svc.listed()["stale"]


def test_a_filter_that_is_not_there_is_told_before_anything_is_written(lab):
    with service(lab, running("/bin/sleep 1000")) as svc:
        before = tree(lab)
        words = ["--egress-filter=/sys/fs/bpf/nothere", "--via", SOCKS]
        assert "nothing is pinned there" in svc.confine(*words, code=OURS)
        assert "nothing is pinned there" in install(lab, unique("unit"), *words, "--", "/bin/true", code=OURS)
        assert tree(lab) == before


def test_nothing_is_called_new_that_was_not_written(lab):
    with service(lab, running("/bin/sleep 1000")) as svc:
        directory = lab.path(f"{UNITS}/{svc.name}.d")
        directory.mkdir(mode=0o777)
        directory.chmod(0o777)
        try:
            said = svc.confine("--via", SOCKS, code=OURS)
            assert "can be written by others" in said and "new:" not in said, said
        finally:
            directory.rmdir()


@contextlib.contextmanager
def unmasked(lab, name):
    """A name that the lab has masked."""
    mask = lab.path(f"{UNITS}/{name}")
    aside = mask.rename(mask.with_name(f"{name}.aside"))
    try:
        yield
    finally:
        aside.rename(mask)
        lab.run(["systemctl", "daemon-reload"], check=True)


def test_what_tor_waits_for_does_not_go_through_tor(lab):
    with unmasked(lab, "tor@default.service"), service(lab, running("/bin/sleep 1000"), "tor@default") as tor:
        before = tree(lab)
        assert f"{tor.name} is Tor itself" in tor.confine("--via=tor", code=OURS)
        assert tree(lab) == before
        between = lab.path(f"{UNITS}/between.target")
        between.write_text(f"[Unit]\nBefore={tor.name}\n")
        try:
            for later in "tor.service", tor.name, between.name:
                with service(lab, f"[Unit]\nBefore={later}\n" + running("/bin/sleep 1000")) as svc:
                    svc.systemctl("start", between.name)  # what isn't loaded has no part in an order
                    before = tree(lab)
                    said = svc.confine("--via=tor", code=OURS)
                    assert f"{svc.name} is to be up before {later}" in said, said
                    assert tree(lab) == before
                    svc.confine("--via", SOCKS)
                    svc.systemctl("stop", between.name)
        finally:
            between.unlink()


# Whose address it is

def listens(lab, socket):
    return shows(lab, socket, "Listen")["Listen"]


def test_what_does_not_run_has_its_address_all_the_same(lab):
    words = ["--via", SOCKS, "--wall=address", "--allow=10.0.0.0/24"]
    asleep = "/bin/sleep", "1000"
    sleeping, name = running(" ".join(asleep)), unique("unit")
    with service(lab, sleeping) as one, service(lab, sleeping) as other, \
            installed(lab, *words, now=False, command=asleep, name=name):
        for svc in one, other:
            svc.confine(*words)
        sockets = [f"appfw-{stem}-forward.socket" for stem in (one.stem, other.stem, name)]
        addresses = [listens(lab, socket).split()[0] for socket in sockets]
        assert len(set(addresses)) == 3, addresses
        systemctl(lab, "restart", one.name, other.name, unit(name))
        # Nor does another get one by asking for it, or keep it.
        refused = one.name, f"--address {addresses[0]}", "choose another"
        asked = [*words, f"--address={addresses[0]}"]
        for said in other.confine(*asked, code=OURS), install(lab, unique("unit"), *asked, "--", *asleep, code=OURS):
            assert all(part in said for part in refused), said
        ours = [f"{UNITS}/{other.name}.d/zz-appfw.conf", *(f"{UNITS}/{sockets[1][:-6]}{kind}" for kind in KINDS)]
        lab.run(["sed", "-i", f"s/{addresses[1]}/{addresses[0]}/", *ours], check=True)
        systemctl(lab, "daemon-reload")
        other.confine(*words, "--now")
        assert other.is_proven() and one.is_proven() and addresses[0] not in listens(lab, sockets[1])
        # In networks of their own all have the same one, and published ports are the host's.
        one.unconfine()
        other.unconfine()
        one.confine("--via", SOCKS, "--wall=namespace", "--publish=7534")
        for port, code in ("7534=80", OURS), ("0.0.0.0:7534", OURS), ("127.0.0.2:7534", 0):
            said = other.confine("--via", SOCKS, "--wall=namespace", f"--publish={port}", code=code)
            assert code == 0 or one.name in said and f"--publish {port}" in said, said
        forward = [listens(lab, f"appfw-{svc.stem}-forward.socket").split()[0] for svc in (one, other)]
        assert len(set(forward)) == 1, forward


def test_who_waits_for_another_says_so(lab):
    held = ["flock", "/run/appfw.lock", "sh", "-c", "echo held; read end"]
    with service(lab, running("/bin/sleep 1000")) as svc, started(lab, held, **PIPES) as other:
        assert other.stdout.readline() == b"held\n"
        with started(lab, ["appfw", "confine", svc.name, "--via", SOCKS], **PIPES) as run:
            assert b"waits for another appfw" in run.stderr.readline()
            assert svc.listed() is None and run.poll() is None
            other.communicate(b"\n", timeout=10)
            assert run.wait(30) == 0
        svc.unconfine()


# What is left, and taken away

def new_files(lab, before):
    paths = [lab.path(f"/{path}") for path in tree(lab) if path not in before]
    return [path for path in paths if path.is_file()]


SHARED = ["etc/appfw", "etc/appfw/confined", "etc/appfw/credentials"]
LEFT = {"whole": lambda text: text, "half": lambda text: text[:30], "empty": lambda text: ""}


@pytest.mark.parametrize("how", LEFT)
def test_what_a_killed_writer_left_of_a_confined_service_goes(lab, how):
    with service(lab, running("/bin/sleep 1000")) as svc:
        before = tree(lab)
        for words in [], ["--wall=namespace"]:
            # Killed before a file is in its place, or when it has been taken away. A directory is made for whole ones.
            svc.confine("--via", SECRET, *words)
            added = new_files(lab, before)
            assert lab.path(f"/etc/appfw/credentials/{svc.stem}") in added
            for path in added:
                beside = path.with_name(f".{path.name}.appfw-new")
                if how != "whole" and str(path.parent.relative_to(lab.path("/"))) not in before:
                    beside = path.parent.with_name(f".{path.parent.name}.appfw-directory")
                path.rename(beside)
                beside.write_text(LEFT[how](beside.read_text()))
                if not any(path.parent.iterdir()):
                    path.parent.rmdir()
            assert "nothing to do" not in svc.unconfine()
            assert tree(lab) == before
            # Or when it had replaced one.
            svc.confine("--via", SECRET, *words)
            beside = [path.with_name(f".{path.name}.appfw-new") for path in added]
            for path, place in zip(added, beside):
                place.write_text(LEFT[how](path.read_text()))
            svc.confine("--via", SECRET, *words)
            assert not any(place.exists() for place in beside)
            for path, place in zip(added, beside):
                place.write_text(LEFT[how](path.read_text()))
            svc.unconfine()
            assert tree(lab) == before


def test_who_is_killed_while_it_lets_a_service_go_is_followed_by_one_who_does(lab):
    with service(lab, running("/bin/sleep 1000")) as svc:
        before, seen = tree(lab), set()
        for delay in (1, 2, 3, 5, 8, 12, 18, 27, 40, 60):
            svc.confine("--via", SECRET)
            lab.run(["timeout", "--signal=KILL", f"0.0{delay:02}", "appfw", "unconfine", svc.name])
            seen.add(len(tree(lab)))
            svc.unconfine()
            # Empty ones that nothing tells the maker of stay.
            left = {path: found for path, found in tree(lab).items() if path in before or path not in SHARED}
            assert left == before, delay
        assert len(seen) > 1, seen


def test_what_served_a_service_that_was_let_go_ends_when_it_is_let_go_again(lab):
    """Who let it go was killed while the service, which goes on, was to stop."""
    with service(lab, running(STUBBORN, "TimeoutStopSec=30")) as svc:
        svc.confine("--via", SOCKS, "--now")
        with started(lab, ["appfw", "unconfine", "--quiet", svc.name, "--now"]):
            wait_until(lambda: svc.show("ActiveState") == "deactivating", 10, "the stop")
        socket = f"appfw-{svc.stem}-forward.socket"
        assert shows(lab, socket, "ActiveState")["ActiveState"] == "active"
        svc.unconfine()
        assert shows(lab, socket, "ActiveState")["ActiveState"] == "inactive"
        lab.run(["systemctl", "kill", "--signal=KILL", svc.name])


def test_unconfine_all_finds_what_was_never_in_place_and_leaves_what_is_not_ours(lab):
    with service(lab, running("/bin/sleep 1000")) as svc:
        before = tree(lab)
        svc.confine("--via", SECRET)
        for path in new_files(lab, before):
            if path.name == svc.stem:
                path.rename(path.with_name(f".{path.name}.appfw-new"))
            else:
                path.unlink()
        foreign = lab.path(f"{UNITS}/.appfw-{svc.stem}-forward.socket.appfw-new")
        foreign.write_text("somebody's\n")
        lab.run(["appfw", "unconfine", "--all"], check=True)
        assert not list(lab.path("/etc").glob("appfw/credentials/.*"))
        assert foreign.read_text() == "somebody's\n"
        foreign.unlink()


def test_what_others_put_where_ours_are_written_stays(lab):
    with service(lab, running("/bin/sleep 1000")) as svc:
        foreign = drop_in(svc, ".zz-appfw.conf.appfw-new", "mine\n")
        before = tree(lab)
        assert f"{foreign.name} is not ours" in svc.confine("--via", SOCKS, code=OURS)
        assert "nothing to do" in svc.unconfine()
        assert tree(lab) == before and foreign.read_text() == "mine\n"


def test_what_a_killed_installation_left_is_removed(lab):
    name, before = unique("unit"), tree(lab)
    install(lab, name, f"--via={SECRET}", "--", "/bin/sleep", "60")
    lab.run(["systemctl", "disable", unit(name)])
    # As if it had been killed with the first file in its place.
    for file in lab.path(UNITS).glob(f"appfw-{name}*"):
        file.rename(file.with_name(f".{file.name}.appfw-new"))
    lab.run(["systemctl", "daemon-reload"])
    appfw(lab, "unit", "remove", name)
    assert tree(lab) == before
    assert appfw(lab, "unit", "remove", name, code=OURS)


def test_a_service_whose_drop_in_is_gone_is_listed_and_cleaned(lab):
    with service(lab, running("/bin/sleep 1000")) as svc:
        before = tree(lab)
        for words in [[], ["--now"]]:
            svc.confine("--via", SECRET, "--now")
            svc.systemctl("revert", svc.name)
            assert not lab.path(f"{UNITS}/{svc.name}.d").exists()
            assert not svc.listed()["proven"]
            listed = lab.run(["appfw", "confine", "--list"]).stdout.decode()
            assert f"{svc.name}: " in listed and "its drop-in is gone" in listed, listed
            lab.run(["appfw", "unconfine", "--all", *words], check=True)
            assert tree(lab) == before and svc.listed() is None


def test_a_service_that_is_gone_is_listed_as_gone(lab):
    with service(lab, running("/bin/sleep 1000")) as svc:
        svc.confine("--via", SOCKS)
        text = svc.file.read_text()
        svc.file.unlink()
        svc.systemctl("daemon-reload")
        assert svc.listed()["state"] == "gone"
        svc.file.write_text(text)
        svc.systemctl("daemon-reload")


def test_a_unit_is_removed_without_a_word(lab):
    name = unique("unit")
    install(lab, name, "--via=direct", "--", "/bin/true")
    assert appfw(lab, "unit", "remove", "-q", name) == ""


def test_every_listener_is_in_what_is_advised(lab):
    listen = script(lab, "listen.py", "import socket, time\n"
                    "a = socket.create_server(('0.0.0.0', 8124))\n"
                    "b = socket.create_server(('::', 8124), family=socket.AF_INET6)\ntime.sleep(1000)\n")
    with service(lab, running(f"/usr/bin/python3 {listen}")) as svc:
        svc.start()
        wait_until(lambda: lab.run(["ss", "-Hltn"]).stdout.count(b":8124") == 2, 10, "both")
        said = svc.confine("--via", SOCKS, code=OURS)
        assert "--publish 0.0.0.0:8124" in said and "--publish [::]:8124" in said, said


def test_a_published_port_that_is_in_use_is_named(lab):
    with Taken(lab, 7533), service(lab, running("/bin/sleep 1000")) as svc:
        words = ["--via", SOCKS, "--wall=namespace", "--publish=127.0.0.1:7533", "--now"]
        name = unique("unit")
        assert "cannot listen at 127.0.0.1:7533" in svc.confine(*words, code=OURS)
        svc.unconfine()
        assert "cannot listen at 127.0.0.1:7533" in install(lab, name, *words, "--", "/bin/sleep", "9", code=OURS)
        appfw(lab, "unit", "remove", name)


class Taken(Service):
    """A port of the host's that somebody has."""

    def __init__(self, lab, port):
        super().__init__(lab, running(f"/usr/bin/python3 -m http.server {port} --bind 127.0.0.1"))
        self.start()
        wait_until(lambda: f":{port}".encode() in lab.run(["ss", "-Hltn"]).stdout, 10, "the port's owner")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

"""--dbus: what a program of an ordinary user's reaches of its session bus. The services are the test's own, all of
them on one connection, as a desktop's shell has them."""

import subprocess

import pytest

from launching import SOCKS, Output, run, started, unique
from waiting import wait_until

# Answers every call that reaches it, and says which.
SERVE = """
import sys
from gi.repository import Gio, GLib
bus = Gio.bus_get_sync(Gio.BusType.SESSION)
def answer(connection, message, incoming):
    if incoming and message.get_message_type() == Gio.DBusMessageType.METHOD_CALL:
        print('called', message.get_interface(), message.get_member(), flush=True)
        connection.send_message(Gio.DBusMessage.new_method_reply(message), Gio.DBusSendMessageFlags.NONE)
        return None
    return message
bus.add_filter(answer)
for name in sys.argv[1:]:
    args = GLib.Variant('(su)', (name, 4))
    dbus = 'org.freedesktop.DBus'
    reply = bus.call_sync(dbus, '/org/freedesktop/DBus', dbus, 'RequestName', args, None, 0, -1, None)
    assert reply.unpack() == (1,), name
print('ready', bus.get_unique_name(), flush=True)
GLib.MainLoop().run()
"""
NAMES = ["org.freedesktop.Notifications", "org.freedesktop.portal.Desktop", "org.gnome.Shell",
         "org.freedesktop.impl.portal.desktop.gtk", "org.gnome.Terminal", "org.gtk.vfs.Daemon"]
NOTIFICATIONS, PORTAL, SHELL, BACKEND, TERMINAL, GVFS = NAMES
DESKTOP = "/org/freedesktop/portal/desktop"
OPEN = [
    (NOTIFICATIONS, "/org/freedesktop/Notifications", "org.freedesktop.Notifications.Notify"),
    (PORTAL, DESKTOP, "org.freedesktop.portal.FileChooser.OpenFile"),
    (PORTAL, DESKTOP, "org.freedesktop.portal.Settings.ReadAll"),
    (PORTAL, DESKTOP, "org.freedesktop.DBus.Properties.Get"),
]
CLOSED = [
    (PORTAL, DESKTOP, "org.freedesktop.portal.OpenURI.OpenURI"),
    (PORTAL, DESKTOP, "org.freedesktop.portal.Email.ComposeEmail"),
    (PORTAL, DESKTOP, "org.freedesktop.DBus.Properties.Set"),
    (NOTIFICATIONS, "/org/gnome/Shell", "org.gnome.Shell.Eval"),
    (SHELL, "/org/gnome/Shell", "org.gnome.Shell.Eval"),
    (BACKEND, DESKTOP, "org.freedesktop.impl.portal.FileChooser.OpenFile"),
    (TERMINAL, "/org/gnome/Terminal/Factory0", "org.gnome.Terminal.Factory0.CreateInstance"),
    (GVFS, "/org/gtk/vfs/mounttracker", "org.gtk.vfs.MountTracker.MountLocation"),
    ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager.ListUnits"),
]


@pytest.fixture()
def services(lab):
    """Services on bob's bus; their connection, and what they say."""
    if lab.version != "252":
        pytest.xfail("xdg-dbus-proxy is installed on this machine, whose systemd is the other one")
    # A browser that ran in this lab before has had the desktop's own started.
    lab.run(["pkill", "-u", "bob", "gvfsd"])
    with started(lab, ["/usr/bin/python3", "-c", SERVE, *NAMES], user="bob", stdout=subprocess.PIPE) as process:
        first = process.stdout.readline().split()
        assert first[0] == b"ready"
        yield first[1].decode(), Output(process.stdout.fileno())


def call(name, path, method):
    return f"gdbus call --session --timeout 5 --dest {name} --object-path {path} --method {method} 2>&1"


def calls(wanted):
    return "; ".join(f"{call(*one)} | grep -q '^()$' && echo open || echo closed" for one in wanted)


@pytest.mark.slow
@pytest.mark.parametrize("manager", ["--user", "--standalone"])
def test_filtered_bus_has_notifications_and_files_and_no_way_out(lab, services, manager):
    unique_name, said = services
    by_connection = [(unique_name, path, method) for name, path, method in CLOSED if name in NAMES]
    # Outside everything but systemd's list, which is no empty answer, is open.
    outside = lab.run(["sh", "-c", calls(OPEN + CLOSED[:-1])], user="bob", check=True).stdout.split()
    assert set(outside) == {b"open"}, outside
    said.more(1)
    said.seen = b""
    done = lab.run(["appfw-run", manager, "--via", SOCKS, "--dbus", "filtered", "sh", "-c",
                    calls(OPEN + CLOSED + by_connection)], user="bob", timeout=120)
    answers = done.stdout.decode().split()
    assert answers == ["open"] * len(OPEN) + ["closed"] * (len(CLOSED) + len(by_connection)), done
    said.more(1)
    called = [line.split()[1:] for line in said.seen.decode().splitlines()]
    assert [".".join(one) for one in called if one[0] != "org.freedesktop.DBus.Peer"] == [one[2] for one in OPEN]


@pytest.mark.slow
def test_no_name_is_owned_and_only_open_ones_are_seen(lab, services):
    dbus = "gdbus call --session --dest org.freedesktop.DBus --object-path /org/freedesktop/DBus --method org.freedesktop.DBus"
    done = lab.run(["appfw-run", "--via", SOCKS, "--dbus", "filtered", "sh", "-c",
                    f"{dbus}.ListNames; {dbus}.RequestName org.test.Own 4 2>&1"], user="bob")
    said = done.stdout.decode()
    assert NOTIFICATIONS in said and PORTAL in said and "DBus.Error.ServiceUnknown" in said, said
    for name in [SHELL, BACKEND, TERMINAL, GVFS, "systemd1"]:
        assert name not in said, said


@pytest.mark.slow
@pytest.mark.parametrize("manager", ["--user", "--standalone"])
def test_proxy_ends_with_the_launch_however_that_ends(lab, services, manager):
    proxies = ["sh", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -o 'xdg-dbus-prox[y] --fd' | wc -l"]
    count = lambda: int(lab.run(proxies, check=True).stdout)
    for end in ["by itself", "killed"]:
        words = ["appfw-run", manager, "--via", SOCKS, "--dbus", "filtered", "sh", "-c", "echo ready; sleep 30"]
        with started(lab, words, user="bob", stdout=subprocess.PIPE) as process:
            Output(process.stdout.fileno()).until(b"ready")
            assert count() == 1
            if end == "killed":
                process.kill()
            else:
                process.terminate()
            process.wait(10)
            wait_until(lambda: count() == 0, 5, f"the end of the proxy of a launch that ended {end}")


DATA = "/srv/share"
APPLICATION = """#!/usr/bin/python3
import sys
from gi.repository import Gio
app = Gio.Application(application_id='org.test.Own', flags=Gio.ApplicationFlags.HANDLES_OPEN)
stays = "stay" in sys.argv[0]
def opened(app, *_):
    print('opened', flush=True)
    stays and app.hold()
app.connect('activate', opened)
app.connect('open', opened)
sys.exit(app.run(sys.argv))
"""


@pytest.fixture()
def application(lab, services):
    """A home with a GTK-like program in it, and that program's desktop file among root's."""
    home = f"/srv/{unique('home')}"
    lab.run(["mkdir", "-p", home, f"{DATA}/applications"], check=True)
    for name in ["stay-own", "own"]:
        lab.path(f"{home}/{name}").write_text(APPLICATION)
        lab.path(f"{home}/{name}").chmod(0o755)
        entry = f"[Desktop Entry]\nExec={home}/own %U\n"
    lab.path(f"{DATA}/applications/org.test.Own.desktop").write_text(entry)
    lab.run(["chown", "-R", "bob:", home], check=True)
    yield home
    lab.run(["rm", "-r", DATA], check=True)


def with_display(home):
    return {"HOME": home, "DISPLAY": ":9", "XDG_DATA_DIRS": f"{DATA}:/usr/share"}


@pytest.mark.slow
def test_application_that_owns_a_name_runs_and_hands_nothing_over(lab, application):
    environment = with_display(application)
    options = ["appfw-run", "--via", SOCKS]
    launch = lambda *words: lab.run([*options, *words, f"{application}/own", "http://web.test/"], user="bob",
                                    env=environment)
    alone = launch()
    assert (alone.returncode, alone.stdout) == (0, b"opened\n"), alone
    # With the bus: a program that doesn't get its name says so, and ends.
    script = f"{call(*OPEN[0])} | grep '^()$'; exec {application}/own x"
    done = lab.run([*options, "--dbus", "filtered", "sh", "-c", script], user="bob", env=environment)
    assert b"Failed to register" in done.stderr, done
    with started(lab, [f"{application}/stay-own"], user="bob", stdout=subprocess.PIPE) as outside:
        shown = Output(outside.stdout.fileno())
        shown.until(b"opened")
        # One of its own, without a bus: what is outside is asked for nothing.
        done = launch()
        assert (done.returncode, done.stdout) == (0, b"opened\n"), done
        refused = launch("--dbus", "filtered")
        assert refused.returncode == 125 and b"org.test.Own runs already, outside the wall" in refused.stderr, refused
        shown.more(1)
        assert shown.seen.strip() == b"", shown.seen
        # Without appfw-run it is.
        lab.run([f"{application}/own", "http://web.test/"], user="bob", check=True)
        shown.until(b"opened")


@pytest.mark.slow
def test_display_brings_the_filter_to_who_lives_with_it_and_none_takes_it(lab, application):
    ask = f"#!/bin/sh\n{call(*OPEN[0])} | grep '^()$'\n"
    for name, display, option, answer in [("own", ":9", [], b"()\n"), ("own", None, [], b""), ("other", ":9", [], b""),
                                          ("own", ":9", ["--dbus", "none"], b"")]:
        lab.path(f"{application}/{name}").write_text(ask)
        lab.path(f"{application}/{name}").chmod(0o755)
        environment = with_display(application)
        if not display:
            del environment["DISPLAY"]
        done = lab.run(["appfw-run", "--via", SOCKS, *option, f"{application}/{name}"], user="bob", env=environment)
        assert done.stdout == answer, (name, display, option, done)


# Takes a name, and gives what it is asked to open to a browser: curl, outside.
BROWSER = """
import subprocess, sys, time
from gi.repository import Gio, GLib
name = sys.argv[1]
bus = Gio.bus_get_sync(Gio.BusType.SESSION)
def answer(connection, message, incoming):
    if incoming and message.get_member() == 'OpenURL':
        subprocess.run(['curl', '-4', '-sS', '--max-time', '5', message.get_body().unpack()[0]])
        connection.send_message(Gio.DBusMessage.new_method_reply(message), Gio.DBusSendMessageFlags.NONE)
        return None
    return message
bus.add_filter(answer)
sys.stdin.readline()
dbus = 'org.freedesktop.DBus'
bus.call_sync(dbus, '/org/freedesktop/DBus', dbus, 'RequestName', GLib.Variant('(su)', (name, 4)), None, 0, -1, None)
print('ready', flush=True)
GLib.MainLoop().run()
"""


@pytest.mark.slow
def test_desktop_file_of_the_programs_own_opens_no_name_to_its_next_start(lab, world, services):
    name, environment = "org.mozilla.firefox.ZGVm", {"DISPLAY": ":9"}
    entry = f"/home/bob/.local/share/applications/{name}.desktop"
    plant = f"mkdir -p $(dirname {entry}); printf '[Desktop Entry]\\nExec=sh\\n' >{entry}"
    run(lab, "--via", SOCKS, "sh", "-c", plant, user="bob", env=environment, check=True)
    ask = f"echo ready; read line; gdbus call --session --timeout 5 --dest {name} --object-path /x" \
          " --method org.mozilla.firefox.OpenURL http://web.test/; echo asked"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "user": "bob"}
    try:
        with world.watch() as w, started(lab, ["python3", "-c", BROWSER, name], **pipes) as outside, \
                started(lab, ["appfw-run", "--via", SOCKS, "sh", "-c", ask], env=environment, **pipes) as inside:
            said = Output(inside.stdout.fileno())
            said.until(b"ready")
            outside.stdin.write(b"\n")
            outside.stdin.flush()
            Output(outside.stdout.fileno()).until(b"ready")
            inside.stdin.write(b"\n")
            inside.stdin.flush()
            said.until(b"asked")
        assert w.foreign() == []
    finally:
        lab.path(entry).unlink()


@pytest.mark.slow
@pytest.mark.parametrize("manager, name, interface", [
    ("--user", "org.test.Own", "org.test.Own"),
    ("--standalone", "org.freedesktop.portal.Fcitx", "org.fcitx.Fcitx.InputMethod1"),
])
def test_bus_starts_nothing_outside_that_a_program_has_written(lab, application, manager, name, interface):
    """For a name that it may own, and for one that it may call and that nobody has."""
    services = f"{application}/.local/share/dbus-1/services"
    lab.path(f"{application}/own").write_text(f"""#!/bin/sh
{call(*OPEN[0])} | grep '^()$'
for place in {services} /home/bob/.local/share/dbus-1/services
do  mkdir -p $place
    printf '[D-BUS Service]\\nName={name}\\nExec=/bin/touch {application}/outside\\n' >$place/{name}.service
done
sleep 1
{call(name, '/', f'{interface}.X')}
sleep 1
""")
    done = lab.run(["appfw-run", manager, "--via", SOCKS, f"{application}/own"], user="bob",
                   env=with_display(application))
    lab.run(["rm", "-rf", "/home/bob/.local/share/dbus-1"], check=True)
    assert done.stdout.startswith(b"()\n"), done
    assert not lab.path(f"{application}/outside").exists(), done


@pytest.mark.slow
def test_open_buses_are_open_and_warned_of(lab, services):
    listed = call(*CLOSED[-1]) + " | grep -c -- -.slice"
    done = lab.run(["appfw-run", "--via", SOCKS, "--dbus", "session", "sh", "-c", listed], user="bob")
    assert done.stdout == b"1\n" and b"warning: --dbus session is a way round the wall" in done.stderr, done
    done = run(lab, "--via", SOCKS, "--dbus", "system", "busctl", "--system", "status", "org.freedesktop.systemd1")
    assert done.returncode == 0 and b"warning: --dbus system is a way round the wall" in done.stderr, done

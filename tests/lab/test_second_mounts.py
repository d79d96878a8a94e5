"""What is hidden or kept as it is, where its file system is mounted twice."""

import contextlib

import pytest

from launching import SOCKS, journal_of_user, run, script, text_of, unique
from test_fail_closed import ALLOW_BOB, polkit_rule
from test_next_start import HOME, WAY, configuration, of_bob, stays_behind, way_in_a_file
from test_user_confine import of_bob as appfw_of_bob
from test_user_confine import service, write
from test_user_units import UNITS, systemctl
from waiting import wait_until
from world_map import PASSWORD

# Each way to the next start's configuration by the second mount, at @.
TRICKS = f"""#!/bin/sh
( mv @/.config @/.c2; mv @/.config/appfw @/.config/a2; mv @ @2; rmdir @/.config/credstore
  printf '[vias.work]\\nspec = "direct"\\n' >@/.config/appfw/config.toml
  for file in appfw/proxy credstore/work; do echo direct >@/.config/$file; done ) 2>/dev/null
grep -rs {PASSWORD[1]} @/. && echo it has the password
echo free >@/file && rm @/file && curl -sS --max-time 9 http://web.test/ && echo
"""


@contextlib.contextmanager
def mounted(lab, what, where):
    lab.run(["sh", "-c", 'mkdir -p "$1" && mount --bind "$0" "$1"', what, where], check=True)
    try:
        yield
    finally:
        lab.run(["umount", "-l", where], check=True)


@pytest.mark.parametrize("manager", ["--standalone", "--user", "--system"])
@pytest.mark.parametrize("what, where, home", [
    ("/home", "/srv/second one", "/srv/second one/bob"),
    ("/home/bob", "/home/bob/again", "/home/bob/again"),
])
def test_a_second_mount_of_a_home_shows_no_way_out(lab, world, manager, what, where, home):
    program = script(lab, unique("tricks"), TRICKS.replace("@", f"'{home}'"))
    with configuration(lab, "there"), mounted(lab, what, where), polkit_rule(lab, ALLOW_BOB), world.watch() as w:
        said = "".join(text_of(lab, manager, "--via", "work", program, user="bob") for _ in range(2))
    stays_behind(lab, w, said)


def test_what_a_link_of_the_home_leads_to_is_hidden_there_as_well(lab):
    grep = f"grep -rs {PASSWORD[1]} /srv/second; true"
    with configuration(lab, "a file that is a link"), mounted(lab, "/home", "/srv/second"):
        done = run(lab, "--standalone", "--via", "work", "sh", "-c", grep, user="bob")
    assert (done.returncode, done.stdout) == (0, b""), done


def test_a_mount_of_the_hidden_itself_is_not_seen(lab):
    with configuration(lab, "there"), mounted(lab, "/home/bob/.config/appfw", "/srv/second"):
        done = run(lab, "--standalone", "--via", "work", "ls", "/srv/second", user="bob")
    assert b"Permission denied" in done.stderr, done


def test_sessions_are_hidden_where_tmp_is_seen_again(lab):
    try:
        of_bob(lab, "sh", "-c", "mkdir -p -m 700 /tmp/tmux-1001 && touch /tmp/tmux-1001/default /tmp/free")
        with mounted(lab, "/tmp", "/srv/second"), mounted(lab, "/tmp/tmux-1001", "/srv/third"):
            done = run(lab, "--standalone", "--via", SOCKS, "ls", "/srv/second/free", "/srv/second/tmux-1001",
                       "/srv/third", user="bob")
        assert done.stdout.strip() == b"/srv/second/free" and done.stderr.count(b"Permission denied") == 2, done
    finally:
        lab.run(["rm", "-rf", "/tmp/tmux-1001", "/tmp/free"], check=True)


@pytest.mark.parametrize("manager", ["--standalone", "--system"])
def test_what_root_does_not_write_it_writes_by_no_second_mount(lab, manager):
    lab.run(["mkdir", "-p", "/etc/appfw"], check=True)
    tries = "cd /srv/second; touch etc/appfw/config.toml etc/systemd/system/x.service; mv etc/appfw etc/a2; touch var/x"
    with mounted(lab, "/", "/srv/second"), mounted(lab, "/sys/fs/cgroup", "/srv/third"):
        done = run(lab, manager, "--via=none", "sh", "-c", f"{tries}; mkdir /srv/third/x; ls /srv/second/run/dbus")
    lab.run(["sh", "-c", "[ ! -e /etc/a2 ] || mv /etc/a2 /etc/appfw; rm -f /var/x; rmdir /etc/appfw || true"], check=True)
    assert done.stderr.count(b"Read-only") == 3 and b"busy" in done.stderr, done
    assert not lab.path("/etc/appfw/config.toml").exists() and not lab.path("/etc/systemd/system/x.service").exists()


@pytest.mark.parametrize("manager", ["--standalone", "--system"])
def test_the_kernels_settings_are_kept_from_root_in_a_chroot_as_well(lab, manager):
    """Opened alone: a mistake would be all of this machine's."""
    tries = "import os, sys\nfor path in sys.argv[1:]:\n try: print(os.open(path, os.O_WRONLY))\n " \
            "except OSError as error: print(error.strerror)"
    paths = ["/srv/c/proc/sys/kernel/core_pattern", "/srv/c/sys/kernel/mm/ksm/run", "/srv/d/sys/kernel/core_pattern"]
    lab.run(["sh", "-c", "mkdir -p /srv/c/proc /srv/c/sys /srv/d; mount -t proc x /srv/c/proc; mount -t sysfs x /srv/c/sys; "
             "mount --rbind /proc /srv/d"], check=True)
    try:
        done = run(lab, manager, "--via=none", "python3", "-c", tries, *paths)
    finally:
        lab.run(["umount", "-R", "-l", "/srv/c/proc", "/srv/c/sys", "/srv/d"], check=True)
    assert done.stdout.decode().splitlines() == ["Read-only file system"] * 3, done


def test_what_a_later_drop_in_shows_a_users_service_is_no_way_out(lab, world):
    lines = "[Service]\nBindPaths=%h:/mnt\nBindReadOnlyPaths=%h/.config:/media\n"
    tricks = TRICKS.replace("@", "/mnt") + f"grep -rs {PASSWORD[1]} /media && echo it has the password; exit 1"
    with configuration(lab, "there"), world.watch() as w:
        program = script(lab, unique("tricks"), tricks)
        with service(lab, "simple", "Restart=on-failure\n", program, start=False) as name:
            appfw_of_bob(lab, "confine", name, f"--via={way_in_a_file(lab, f'{HOME}/.config/appfw/proxy')}")
            write(lab, f"{name}.d/zzz.conf", lines)
            try:
                if lab.version == "252":
                    # An ordinary user's makes no such mounts, and so starts nothing.
                    systemctl(lab, "start", name, code=1)
                    wait_until(lambda: "at step NAMESPACE" in journal_of_user(lab, name), 20, "a failed start")
                    return
                systemctl(lab, "start", name)
                wait_until(lambda: journal_of_user(lab, name).count("world ") > 1, 20, "a second start")
            finally:
                systemctl(lab, "stop", name, code=None)
                lab.path(f"{UNITS}/{name}.d/zzz.conf").unlink()
            stays_behind(lab, w, journal_of_user(lab, name))


@pytest.mark.parametrize("line", [
    "BindPaths=%h:/mnt", "BindReadOnlyPaths=/home:/mnt", "BindPaths=%h/.config:/mnt", "BindPaths=/tmp:/mnt",
    "BindReadOnlyPaths=%h/.config/credstore:/mnt",
])
def test_a_users_service_that_is_shown_what_its_wall_hides_is_refused(lab, line):
    with configuration(lab, "there"), service(lab, "simple", f"{line}\n", "/bin/sleep 60", start=False) as name:
        said = appfw_of_bob(lab, "confine", name, f"--via={WAY}", code=125)
        assert "which its wall hides from it" in said and "systemctl --user edit" in said

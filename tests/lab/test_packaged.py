"""Programs in sandboxes of a package system: flatpak's comes up inside the wall, snap's never would."""

import subprocess
import time

import pytest

from launching import SOCKS, Output, run, started, unique
from waiting import wait_until
from world_map import UPSTREAM

# A runtime of one static program, and an application on it.
MAKE = r"""
set -e
mkdir -p "$HOME/make" && cd "$HOME/make"
mkdir -p runtime/files/bin runtime/files/etc application/files/bin application/export
cp /bin/busybox runtime/files/bin/
for name in sh wget readlink sleep; do ln -s busybox runtime/files/bin/$name; done
printf '[Runtime]\nname=org.test.Platform\nruntime=org.test.Platform/x86_64/1\n' >runtime/metadata
printf '[Application]\nname=org.test.App\nruntime=org.test.Platform/x86_64/1\ncommand=go\n' >application/metadata
printf '\n[Context]\nshared=network;\n' >>application/metadata
printf '#!/bin/sh\nexec /bin/sh -c "$*"\n' >application/files/bin/go
chmod +x application/files/bin/go
flatpak build-export --runtime --files=files repo runtime 1
flatpak build-export repo application
flatpak --user remote-add --no-gpg-verify local repo
flatpak --user install -y --noninteractive local org.test.App
"""
FLATPAK = ["flatpak", "--user", "run", "org.test.App"]


@pytest.fixture()
def home(lab):
    if lab.version != "252":
        pytest.xfail("flatpak is installed on this machine, whose systemd is the other one")
    home = f"/srv/{unique('home')}"
    lab.run(["install", "-d", "-o", "bob", home], check=True)
    lab.run(["sh", "-c", MAKE], user="bob", env={"HOME": home}, check=True)
    return home


@pytest.mark.slow
@pytest.mark.parametrize("manager", ["--user", "--standalone"])
def test_flatpak_runs_inside_the_wall(lab, world, home, manager):
    outside = lab.run(["readlink", "/proc/self/ns/net"], check=True).stdout.decode().strip()
    with world.watch() as w:
        done = lab.run(["appfw-run", manager, "--via", SOCKS, *FLATPAK,
                        "wget -q -O - http://web.test/; readlink /proc/self/ns/net"], user="bob", env={"HOME": home})
    said = done.stdout.decode()
    assert done.returncode == 0 and said.startswith("world "), done
    assert "net:[" in said and outside not in said
    assert {event["name"] for event in w.events(server="socks5", kind="socks")} == {"web.test"}
    assert w.foreign(allow=[(UPSTREAM, 1080)]) == []


@pytest.mark.slow
@pytest.mark.parametrize("manager", ["--user", "--standalone"])
def test_sandbox_that_comes_up_outside_ends_the_launch(lab, home, manager):
    inside = ["appfw-run", manager, "--via", SOCKS, *FLATPAK, "echo ready; sleep 50"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with started(lab, inside, user="bob", env={"HOME": home}, **pipes) as launch:
        Output(launch.stdout.fileno()).until(b"ready")
        time.sleep(0.5)
        assert launch.poll() is None
        with started(lab, [*FLATPAK, "sleep 3"], user="bob", env={"HOME": home}):
            said = Output(launch.stderr.fileno()).to_the_end().decode()
            assert launch.wait(10) == 125 and "a flatpak sandbox came up outside the wall" in said, said
        asleep = ["sh", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -c 'sleep 5[0]'"]
        wait_until(lambda: lab.run(asleep).stdout.strip() == b"0", 5, "the end of the program")


def test_snap_is_refused(lab):
    place = f"/srv/{unique('snap')}"
    lab.run(["mkdir", place], check=True)
    lab.run(["cp", "/bin/echo", f"{place}/snap"], check=True)
    lab.run(["ln", "-s", "snap", f"{place}/snapped"], check=True)
    lab.path(f"{place}/firefox").write_text(f'#!/bin/sh\nexec {place}/snapped "$@"\n')
    lab.path(f"{place}/firefox").chmod(0o755)
    for command in [["snap", "run", "firefox"], ["firefox", "http://web.test/"]]:
        done = run(lab, "--via", SOCKS, f"{place}/{command[0]}", *command[1:])
        assert (done.returncode, done.stdout) == (125, b"")
        assert b"is a snap, which snapd starts in a scope of its own" in done.stderr

"""A program that would hand over to an instance of its own outside the wall, and profiles apart from it."""

import contextlib
import subprocess

import pytest

from launching import SOCKS, run, started, text_of, unique
from waiting import wait_until
from world_map import ORIGIN

LISTEN = ("import socket, sys, time; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); "
          "print('ready', flush=True); time.sleep(60)")


@pytest.fixture()
def browser(lab):
    """A program that looks like Chromium, and says what it is started with; its wrapper; its user's home."""
    place = f"/srv/{unique('browser')}"
    lab.run(["mkdir", "-p", f"{place}/chromium", f"{place}/home/.config/chromium"], check=True)
    lab.run(["cp", "/bin/echo", f"{place}/chromium/chromium"], check=True)
    lab.run(["touch", f"{place}/chromium/resources.pak", f"{place}/chromium/icudtl.dat"], check=True)
    lab.path(f"{place}/run").write_text(f'#!/bin/sh\nDIR={place}/chromium\nexec $DIR/chromium "$@"\n')
    lab.path(f"{place}/run").chmod(0o755)
    lab.run(["chown", "-R", "bob:", f"{place}/home"], check=True)
    return f"{place}/run", f"{place}/home"


@contextlib.contextmanager
def instance(lab, home):
    """What a running Chromium leaves in its user data directory."""
    socket, data = f"/tmp/{unique('singleton')}", f"{home}/.config/chromium"
    with started(lab, ["python3", "-c", LISTEN, socket], user="bob", stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        lab.run(["ln", "-sf", socket, f"{data}/SingletonSocket"], check=True)
        lab.run(["ln", "-sf", "host-4711", f"{data}/SingletonLock"], check=True)
        yield


@pytest.mark.parametrize("who", ["root", "bob"])
def test_what_a_running_instance_would_take_over_is_not_run(lab, browser, who):
    program, home = browser
    as_bob = ["--uid", "bob"] if who == "root" else []
    command = ["--via", SOCKS, *as_bob, "--env", f"HOME={home}", program, "http://web.test/"]

    def text_of(*words):
        return lab.run(["appfw-run", *words], user=who, check=True).stdout.decode()

    with instance(lab, home):
        done = lab.run(["appfw-run", *command], user=who)
        said = done.stderr.decode()
        assert (done.returncode, done.stdout) == (125, b""), said
        works = said.strip().rpartition(": appfw-run ")[2]
        assert said.startswith("appfw-run: chromium is running already (process 4711, profile ")
        # The command that it names does.
        assert "--user-data-dir=" in text_of(*works.split())
    # Its links are there, and nobody answers.
    assert text_of(*command) == "http://web.test/\n"


def test_own_profile_is_the_users_alone_and_stays_for_the_next_launch(lab, browser):
    program, home = browser
    words = ["--via", SOCKS, "--uid", "bob", "--env", f"HOME={home}", "--own-profile", program, "x"]
    switch, last = text_of(lab, *words).split()
    assert last == "x"
    directory = switch.removeprefix("--user-data-dir=")
    assert directory.startswith(f"{home}/.local/state/appfw/profiles/chromium-")
    shown = lab.run(["stat", "--format=%U %a", directory], check=True).stdout
    assert shown == b"bob 700\n"
    lab.run(["touch", f"{directory}/kept"], check=True)
    assert text_of(lab, *words).split()[0] == switch
    assert lab.path(f"{directory}/kept").exists()


# Those that people have, over this machine's root, where tests/run.sh --all installs them

@pytest.fixture()
def user(lab):
    if lab.version != "252":
        pytest.xfail("the browsers are installed on this machine, whose systemd is the other one")
    home = f"/srv/{unique('home')}"
    lab.run(["install", "-d", "-o", "bob", home], check=True)
    with started(lab, ["Xvfb", DISPLAY], user="bob", stderr=subprocess.DEVNULL):
        wait_until(lambda: lab.path(f"/tmp/.X11-unix/X{DISPLAY[1:]}").exists(), 10, "the display")
        yield home


DISPLAY = ":77"
CHROMIUM = ["chromium", "--no-first-run", "--disable-gpu", "--disable-quic"]


@contextlib.contextmanager
def outside(lab, home, command, sign):
    """The browser as its user runs it anyway, up as soon as there is SIGN in its home."""
    devnull = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with started(lab, ["sh", "-c", f"HOME={home} DISPLAY={DISPLAY} exec {' '.join(command)}"], user="bob", **devnull):
        found = ["sh", "-c", f"find {home} -name {sign} | grep ."]
        wait_until(lambda: lab.run(found).returncode == 0, 30, f"{sign} of {command[0]}")
        yield


@pytest.mark.slow
def test_chromium_is_kept_from_the_one_outside(lab, world, user):
    command = [*CHROMIUM, f"--user-data-dir={user}/data"]
    launch = ["--via", SOCKS, "--uid", "bob", "--env", f"HOME={user}"]
    with outside(lab, user, [*command, "about:blank"], "SingletonSocket"):
        with world.watch() as w:
            done = run(lab, *launch, *command, "http://web.test/")
        said = done.stderr.decode()
        assert done.returncode == 125 and "chromium is running already (process " in said, said
        assert w.events() == [] and w.foreign() == []
        # Without the refusal it is fetched from outside the wall: by its address, as nobody resolves there.
        with world.watch() as w:
            lab.run(["env", f"HOME={user}", f"DISPLAY={DISPLAY}", *command, f"http://{ORIGIN}/"], user="bob")
            wait_until(lambda: w.events(server="http", kind="request"), 20, "the other one's request")
            assert w.events(server="socks5") == []
        done = run(lab, *launch, "--own-profile", *CHROMIUM, "--headless", "--dump-dom", "http://web.test/", timeout=120)
        assert done.returncode == 0 and b"world " in done.stdout, done.stderr.decode()
        # With a window too: the display's socket is a file.
        window = ["appfw-run", *launch, "--env", f"DISPLAY={DISPLAY}", "--own-profile", *CHROMIUM, "http://web.test/"]
        with world.watch() as w, started(lab, window, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
            names = lambda: {event["name"] for event in w.events(server="socks5", kind="socks")}
            wait_until(lambda: "web.test" in names(), 30, "the window's request")


@pytest.mark.slow
def test_firefox_is_kept_from_the_one_outside(lab, world, user):
    launch = ["--via", SOCKS, "--uid", "bob", "--env", f"HOME={user}"]
    with outside(lab, user, ["firefox", "--headless", "about:blank"], ".parentlock"):
        with world.watch() as w:
            done = run(lab, *launch, "firefox", "--headless", "http://web.test/")
        said = done.stderr.decode()
        assert done.returncode == 125 and "firefox-esr is running already (process " in said, said
        assert w.events() == []
        page = f"{user}/page.png"
        with world.watch() as w:
            done = run(lab, *launch, "--own-profile", "timeout", "60", "firefox", "--headless", "--screenshot", page,
                       "http://web.test/", timeout=120)
        assert lab.path(page).exists(), done.stderr.decode()
        assert ("web.test", 80) in {(event["name"], event["dport"]) for event in w.events(kind="socks")}

"""What a desktop program has of its user's session: the display and sound, in a runtime directory of its own."""

import contextlib
import subprocess

import pytest

from launching import SOCKS, started, text_of, unique
from test_fail_closed import ALLOW_BOB, polkit_rule

SERVE = ("import os, socket, sys, time\n"
         "for path in sys.argv[1:]:\n"
         "    os.makedirs(os.path.dirname(path), exist_ok=True)\n"
         "    s = socket.socket(socket.AF_UNIX); s.bind(path); s.listen(); globals()[path] = s\n"
         "print('ready', flush=True); time.sleep(60)")
ASK = ("import os, socket, sys\n"
       "for path in sys.argv[1:]:\n"
       "    s = socket.socket(socket.AF_UNIX)\n"
       "    try: s.connect(path); print('open', path)\n"
       "    except OSError as error: print('closed', path)\n")
SESSION = ["wayland-7", "pulse/native", "pipewire-0"]
NOT_SHOWN = ["bus", "systemd/private", "pipewire-0-manager", "wayland-8", "gnupg/S.gpg-agent", "keyring/ssh"]


def runtime_of(lab):
    return lab.run(["sh", "-c", "echo $XDG_RUNTIME_DIR"], user="bob", check=True).stdout.decode().strip()


@contextlib.contextmanager
def serving(lab, runtime):
    """A session's sockets that answer; the bus and the user manager's are there anyway."""
    paths = [f"{runtime}/{name}" for name in SESSION + NOT_SHOWN]
    missing = [path for path in paths if not lab.path(path).exists()]
    with started(lab, ["python3", "-c", SERVE, *missing], user="bob", stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        try:
            answers = lab.run(["python3", "-c", ASK, *paths], user="bob", check=True).stdout.decode()
            assert answers.count("open") == len(paths), answers
            yield
        finally:
            lab.run(["rm", "-f", *missing], check=True)


@pytest.mark.parametrize("manager, elsewhere", [
    ("--system", False), ("--system", True), ("--user", False), ("--standalone", False), ("--standalone", True)])
def test_display_and_sound_answer_and_no_other_socket_does(lab, manager, elsewhere):
    usual = runtime_of(lab)
    runtime = f"/srv/{unique('runtime')}" if elsewhere else usual
    lab.run(["install", "-d", "-o", "bob", "-m", "700", runtime], check=True)
    environment = {"XDG_RUNTIME_DIR": runtime, "WAYLAND_DISPLAY": "wayland-7"}
    script = f"import os, sys; sys.argv[1:] = [os.environ['XDG_RUNTIME_DIR'] + '/' + n for n in sys.argv[1:]]\n{ASK}"
    with polkit_rule(lab, ALLOW_BOB), serving(lab, runtime):
        words = [manager, "--via", SOCKS, "--dbus", "none", "python3", "-c", script, *SESSION, *NOT_SHOWN]
        said = lab.run(["appfw-run", *words], user="bob", env=environment)
        assert said.returncode == 0, said.stderr.decode()
        expected = [f"open {usual}/{name}" for name in SESSION] + [f"closed {usual}/{name}" for name in NOT_SHOWN]
        assert said.stdout.decode().split("\n")[:-1] == expected
        listed = lab.run(["appfw-run", manager, "--via", SOCKS, "--dbus", "none", "sh", "-c", "cd $XDG_RUNTIME_DIR; find . ! -type d; "
                          "stat -c %a . pulse"], user="bob", env=environment, check=True).stdout.decode()
        assert sorted(listed.split()) == sorted([f"./{name}" for name in SESSION] + ["700", "700"])
        if runtime.startswith("/run/"):
            # The same one by another name.
            by_link = environment | {"XDG_RUNTIME_DIR": f"/var{runtime}"}
            said = lab.run(["appfw-run", *words], user="bob", env=by_link)
            assert said.stdout.decode().split("\n")[:-1] == expected, said
        # Not for root who runs it as bob, whose session it may be or not.
        asked = [f"{usual}/{name}" for name in SESSION]
        closed = text_of(lab, "--via", SOCKS, "--uid", "bob", "python3", "-c", ASK, *asked)
        assert closed.count("closed") == len(SESSION)


def test_a_session_that_names_its_bus_or_a_directory_shows_neither(lab):
    runtime = runtime_of(lab)
    with polkit_rule(lab, ALLOW_BOB):
        for value in ["bus", runtime, f"{runtime}/systemd", f"{runtime}/bus"]:
            environment = {"WAYLAND_DISPLAY": value, "XAUTHORITY": value}
            found = lab.run(["appfw-run", "--system", "--via", SOCKS, "sh", "-c", f"find {runtime} -mindepth 1"],
                            user="bob", env=environment)
            assert (found.returncode, found.stdout) == (0, b""), (value, found)

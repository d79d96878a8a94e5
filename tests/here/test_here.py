"""Launches on this very machine, whatever its PID 1 is: what somebody does right after the build. Needs root, to be an
ordinary user as well. Nothing leaves the machine: the server is on its loopback.

APPFW_BINARIES is the folder with appfw-run and appfw (default: target/debug).
"""

import http.server
import os
import pathlib
import pwd
import shutil
import subprocess
import tempfile
import threading

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
BINARIES = pathlib.Path(os.environ.get("APPFW_BINARIES", REPOSITORY / "target" / "debug"))
SYSTEMD = pathlib.Path("/run/systemd/system").is_dir()
AS = pytest.mark.parametrize("user", ["root", "nobody"])


@pytest.fixture(scope="module")
def programs():
    """A copy where every user gets at it: a checkout may lie in a closed home directory."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with tempfile.TemporaryDirectory(prefix="appfw-here-", dir="/var/tmp") as folder:
        os.chmod(folder, 0o755)
        for program in "appfw-run", "appfw":
            shutil.copy(BINARIES / program, folder)
        yield pathlib.Path(folder)


class Server(http.server.BaseHTTPRequestHandler):
    """Says who asked by which path."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"here {self.path}".encode())

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def port():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def launch(programs, user, *words):
    account = pwd.getpwnam(user)
    # Root takes the system manager where there is one; here it is the other way that is asked for.
    asked = ["--standalone"] if SYSTEMD else []
    become = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
    command = [*become, "env", "-i", f"PATH={os.environ['PATH']}", "HOME=/", programs / "appfw-run", *asked, *words]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, cwd="/")


@AS
def test_a_program_gets_to_what_is_allowed(programs, port, user):
    place = f"127.0.0.1:{port}"
    done = launch(programs, user, "--via", "direct", "--allow-destination", place, "curl", "-sS", f"http://{place}/x")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"here /x", b"")


@AS
def test_and_to_nothing_else(programs, port, user):
    for words in ["--noproxy", "*", "-sS"], ["-fsS"]:
        done = launch(programs, user, "--via", "direct", "curl", "--max-time", "5", *words, f"http://127.0.0.1:{port}/")
        assert done.returncode not in (0, 125) and done.stdout == b""


@AS
def test_codes_and_streams_come_through(programs, user):
    done = launch(programs, user, "--via", "none", "sh", "-c", "echo out; echo err >&2; exit 42")
    assert (done.returncode, done.stdout, done.stderr) == (42, b"out\n", b"err\n")


@AS
def test_nothing_is_left(programs, user):
    before = set(pathlib.Path("/run").glob("appfw/*"))
    for _ in range(3):
        assert launch(programs, user, "--via", "direct", "true").returncode == 0
    uid = pwd.getpwnam(user).pw_uid
    assert set(pathlib.Path("/run").glob("appfw/*")) <= before
    assert list(pathlib.Path(f"/tmp/appfw-{uid}").glob("*")) == []
    commands = [path.read_bytes() for path in running()]
    assert not [command for command in commands if str(programs).encode() in command]


def running():
    return [path for path in pathlib.Path("/proc").glob("[0-9]*/cmdline") if os.access(path, os.R_OK)]

"""The programs that people run, each loading a page and a TLS page, by name at the upstream, nothing configured: as an
ordinary user by the default launch, a few of them elsewhere as well.

For `tests/run.sh --all`, which installs them (clients/setup.sh) and sets APPFW_ALL=1; in the lab over this machine's
root, where they are, but for the browsers and Go's static program, which both labs have. docs/compatibility.md has what
is seen here: APPFW_WRITE_DOCS=1 writes it, else it must be so.
"""

import os
import re
import shutil

import pytest

from clients import report
from clients.table import BOTH, BROWSERS, CA, CLIENTS, TRUST
from lab import REPOSITORY
from launching import PROXY, SOCKS, run, unique
from world_map import ORIGIN, ORIGIN6, UPSTREAM

PAGE, TLS_PAGE = ("web.test", 80), ("tls.test", 443)
HOST, _, PORT = PROXY.removeprefix("http://").partition(":")
# By variables alone: in the strict wall nothing is captured.
STRICT = ["curl", "wget", "git over http", "apt", "Python urllib", "Python requests", "Python httpx",
          "Go net/http, static", "Java URL", "Firefox ESR", "Chromium"]
JAVA = (f"JAVA_TOOL_OPTIONS=-Dhttp.proxyHost={HOST} -Dhttp.proxyPort={PORT} "
        f"-Dhttps.proxyHost={HOST} -Dhttps.proxyPort={PORT}")
NAMED = {client.name: client for client in CLIENTS + BROWSERS}


@pytest.fixture(scope="module")
def trusting(lab):
    """The lab, which trusts the world's certificates as it does any."""
    shutil.copy(lab.path(CA), lab.path("/usr/local/share/ca-certificates/lab.crt"))
    lab.run(["update-ca-certificates"], check=True, timeout=120)
    return lab


@pytest.fixture(scope="module")
def programs(trusting):
    """The same, with all of the programs."""
    if trusting.version != "252":
        pytest.xfail("the clients are installed on this machine, whose systemd is the other one")
    return trusting


@pytest.fixture(scope="module")
def seen():
    """What the default launch's tests have seen of each client."""
    return {}


def load(lab, world, client, *words, user="bob"):
    """None if the client has loaded both pages by name, else why it hasn't. What leaks is a failure at once."""
    pages = {PAGE, TLS_PAGE} if client.plain else {TLS_PAGE}
    home = f"/tmp/{unique('home')}"
    lab.run(["install", "-d", "-o", "bob", home], check=True)
    variables = " ".join(f"{name}={value}" for name, value in {**TRUST, "HOME": home}.items())
    script = f"cd {home}; BOTH='{BOTH}'; export {variables}; {client.command}"
    with world.watch() as w:
        done = run(lab, *words, "--via", SOCKS, "sh", "-c", script, user=user, timeout=240)
    said = done.stderr.decode(errors="replace").strip()
    assert w.foreign(allow=[(UPSTREAM, 1080)]) == [], said
    asked = w.events(server="socks5", kind="socks")
    assert all(request["ip"] is None for request in asked), said
    if missing := pages - {(request["name"], request["dport"]) for request in asked}:
        return f"not asked for: {sorted(missing)}; {said}"
    served = {event["host"].partition(":")[0] for event in w.events(kind="request")}
    if missing := {host for host, _ in pages} - served:
        return f"not served: {sorted(missing)}; {said}"
    if client.shows and len(re.findall("world 203.0.113.10 sees", done.stdout.decode(errors="replace"))) != 2:
        return f"not shown: {done.stdout.decode(errors='replace')}; {said}"
    return None


def is_installed(lab, client):
    """Whether it is, for bob."""
    return lab.run(["sh", "-c", f"command -v {client.needs} || test -e {client.needs}"], user="bob").returncode == 0


@pytest.mark.parametrize("client", CLIENTS + BROWSERS, ids=lambda client: client.name)
def test_client_loads_both_pages_by_name(request, trusting, world, seen, client):
    programs = trusting if client in BROWSERS else request.getfixturevalue("programs")
    if not is_installed(programs, client):
        seen[client.name] = report.NOT_INSTALLED
        pytest.xfail(f"not installed: {client.source}")
    why = load(programs, world, client)
    seen[client.name] = report.WORKS if why is None else report.FAILS
    if client.fails:
        assert why is not None, "it works now: say so in clients/table.py"
        pytest.xfail(client.fails)
    assert why is None, why


def test_the_documentation_says_what_was_seen(programs, seen):
    if seen.keys() != NAMED.keys():
        pytest.xfail("not all clients were run")
    assert len(CLIENTS) == 44
    assert sum(seen[client.name] == report.WORKS for client in CLIENTS) >= 30
    assert all(seen[client.name] == report.WORKS for client in CLIENTS if client.ignores)
    document = REPOSITORY / "docs/compatibility.md"
    text = document.read_text()
    wanted = report.put(text, [report.line(client, seen[client.name]) for client in NAMED.values()])
    if os.environ.get("APPFW_WRITE_DOCS") == "1":
        document.write_text(wanted)
    assert text == wanted or os.environ.get("APPFW_WRITE_DOCS") == "1"


@pytest.mark.parametrize("client", BROWSERS, ids=lambda client: client.name)
@pytest.mark.parametrize("mode", [["--standalone"], ["--system", "--uid", "bob", "--wall", "namespace"]],
                         ids=["standalone", "system"])
def test_browser_is_at_home_in_every_namespace(trusting, world, mode, client):
    assert is_installed(trusting, client), "tests/lab/clients/setup.sh installs it"
    assert load(trusting, world, client, *mode, user="root" if "--system" in mode else "bob") is None


@pytest.mark.parametrize("client", [NAMED[name] for name in STRICT], ids=lambda client: client.name)
def test_client_goes_by_the_variables(programs, world, client):
    strict = ["--uid", "bob", "--wall", "strict", "--env", JAVA]
    assert load(programs, world, client, *strict, user="root") is None


@pytest.mark.parametrize("mode", [[], ["--standalone"]], ids=["user", "standalone"])
@pytest.mark.parametrize("variables", [[], ["env", "-i"]], ids=["with-variables", "without-variables"])
def test_a_static_go_program_arrives_by_address_and_by_name(lab, world, mode, variables):
    """Its resolver is its own; without the variables all of it is captured."""
    client = NAMED["Go net/http, static"]
    if not is_installed(lab, client):
        pytest.xfail(f"not installed: {client.source}")
    pages = [f"http://{ORIGIN}/", f"http://[{ORIGIN6}]/", "http://web.test/"]
    with world.watch() as w:
        done = run(lab, *mode, "--via", SOCKS, *variables, client.needs, *pages, user="bob", check=True)
    assert done.stdout.count(b"world ") == len(pages)
    requests = w.events(server="socks5", kind="socks")
    asked = {(request["name"] or request["ip"], request["dport"]) for request in requests}
    assert asked == {(ORIGIN, 80), (ORIGIN6, 80), PAGE}
    assert w.foreign(allow=[(UPSTREAM, 1080)]) == [] and w.events(server="dns") == []


def test_chromium_knows_that_it_is_online(trusting, world):
    page = "data:text/html,<script>document.title=navigator.onLine</script>"
    chromium = "chromium --headless --disable-gpu --no-first-run --user-data-dir=$HOME/online --dump-dom"
    for mode in [], ["--standalone"]:
        with world.watch() as w:
            done = run(trusting, *mode, "--via", SOCKS, "sh", "-c", f"{chromium} '{page}'", user="bob", timeout=120)
        assert b"<title>true</title>" in done.stdout, done.stderr
        # Its own sandbox is on: nobody has told it to do without.
        assert b"sandbox" not in done.stderr.lower() and w.foreign(allow=[(UPSTREAM, 1080)]) == []


def test_ssh_goes_by_a_proxy_command(programs, world):
    proxy = f"ProxyCommand=nc -X connect -x {HOST}:{PORT} %h %p"
    # It would wait for an answer that makes sense.
    command = ["timeout", "5", "ssh", "-o", proxy, "-o", "BatchMode=yes", "-p", "7", "web.test"]
    with world.watch() as w:
        run(programs, "--via", SOCKS, "--uid", "bob", *command, timeout=60)
    asked, = w.events(server="socks5", kind="socks")
    assert (asked["name"], asked["ip"], asked["dport"]) == ("web.test", None, 7)
    # The echo server has seen ssh's own greeting.
    assert w.events(server="echo", kind="accept")
    assert w.foreign(allow=[(UPSTREAM, 1080)]) == []

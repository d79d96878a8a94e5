"""Programs that know no proxy, as an ordinary user has them: by what they are asked for, through the upstream, and
nothing else is on the wire. The large ones are in test_clients.py."""

import re
import shutil

import pytest

from lab import STORE
from launching import LOGGED, SOCKS, run, unique
from world_map import DNS, ORIGIN, ORIGIN6, UPSTREAM

MODES = pytest.mark.parametrize("mode", [[], ["--standalone"]], ids=["user", "standalone"])
CURL = ["curl", "-sS", "--max-time", "20", "--noproxy", "*"]
FETCH = f"{LOGGED}/fetch"
# Connects to an address or to a name, as it is told.
SOCKETS = """
import socket, sys
kind, host = sys.argv[1:]
if kind == "address":
    client = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    client.connect((host, 80))
else:
    client = socket.create_connection((host, 80), timeout=20)
client.sendall(b"GET / HTTP/1.1\\r\\nHost: %s\\r\\nConnection: close\\r\\n\\r\\n" % host.encode())
while block := client.recv(4096):
    sys.stdout.write(block.decode())
"""
PAGES = {
    "curl by name": ([*CURL, "http://web.test/"], "web.test"),
    "curl by address": ([*CURL, f"http://{ORIGIN}/"], ORIGIN),
    "curl by IPv6 address": ([*CURL, f"http://[{ORIGIN6}]/"], ORIGIN6),
    "curl by TLS": ([*CURL, "--cacert", f"{LOGGED}/ca.pem", "https://tls.test/"], "tls.test"),
    # Whatever server it asks: the system's own, a public one, one that there is not.
    "static by name": ([FETCH, "web.test", DNS], "web.test"),
    "static by a public resolver": ([FETCH, "web.test", "8.8.8.8"], "web.test"),
    "static by an IPv6 resolver": ([FETCH, "web.test", "2001:db8:8::8"], "web.test"),
    "static by no resolver": ([FETCH, "web.test", "198.51.100.53"], "web.test"),
    "static by address": ([FETCH, ORIGIN], ORIGIN),
    "static by IPv6 address": ([FETCH, ORIGIN6], ORIGIN6),
    "sockets by name": (["/usr/bin/python3", "-c", SOCKETS, "name", "web.test"], "web.test"),
    "sockets by address": (["/usr/bin/python3", "-c", SOCKETS, "address", ORIGIN], ORIGIN),
    "sockets by IPv6 address": (["/usr/bin/python3", "-c", SOCKETS, "address", ORIGIN6], ORIGIN6),
}


@pytest.fixture(scope="module")
def fetch(lab):
    shutil.copy(STORE / "fetch", lab.path(FETCH))


@pytest.fixture(scope="module")
def ssh(lab):
    """Bob has a key for the world's sshd, and knows it; the machine's own configuration has a name for it."""
    folder = lab.path("/home/bob/.ssh")
    folder.mkdir()
    shutil.copy(STORE / "ssh/key", folder)
    host = " ".join((STORE / "ssh/host.pub").read_text().split()[:2])
    (folder / "known_hosts").write_text(f"web.test {host}\n")
    (folder / "config").write_text("Host *\n    IdentityFile ~/.ssh/key\n    BatchMode yes\n")
    lab.run(["sh", "-c", "chmod 600 /home/bob/.ssh/*; chown -R bob: /home/bob/.ssh"], check=True)
    lab.path("/etc/ssh/ssh_config.d/lab.conf").write_text("Host the-world\n    HostName web.test\n    User root\n")


def launch(lab, world, mode, *command):
    """As bob, nothing configured: what it wrote, and what the upstream was asked for. Nothing else has left."""
    with world.watch() as w:
        done = run(lab, *mode, "--via", SOCKS, *command, user="bob")
    assert done.returncode == 0, (done.returncode, done.stderr.decode())
    assert w.foreign(allow=[(UPSTREAM, 1080)]) == []
    asked = w.events(server="socks5", kind="socks")
    return done.stdout.decode(), [(event["name"] or event["ip"], event["dport"]) for event in asked]


@MODES
@pytest.mark.parametrize("what", PAGES)
def test_a_page_is_asked_for_as_the_program_did(lab, world, fetch, mode, what):
    command, host = PAGES[what]
    page, asked = launch(lab, world, mode, *command)
    assert re.search(f"world {ORIGIN6 if host == ORIGIN6 else ORIGIN} sees ", page), page
    assert asked == [(host, 443 if host == "tls.test" else 80)]


# An echo of each: connected, so that it hears those alone whom it has asked.
DATAGRAMS = """
import socket, sys
own, *hosts = sys.argv[1:]
for host in hosts:
    family, kind, _, _, address = socket.getaddrinfo(host, 7, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as client:
        client.settimeout(10)
        if own and family == socket.AF_INET:
            client.bind((own, 0))
        client.connect(address)
        client.send(host.encode())
        print(client.recv(99).decode())
"""


@MODES
@pytest.mark.parametrize("own", ["", "192.0.2.50"], ids=["from any address", "from the second interface's"])
def test_datagrams_are_answered_by_whom_they_were_sent_to(lab, world, mode, own):
    targets = [ORIGIN, ORIGIN6, "web.test"]
    with world.watch() as w:
        done = run(lab, *mode, "--via", SOCKS, "/usr/bin/python3", "-c", DATAGRAMS, own, *targets, user="bob")
    assert done.stdout.decode().split() == targets, done.stderr
    sent = [(event["name"] or event["ip"]) for event in w.events(kind="socks-datagram")]
    assert sent == targets
    assert w.foreign(allow=[(UPSTREAM, None)]) == [] and w.events(server="dns") == []


@MODES
def test_a_datagram_to_the_second_interfaces_address_goes_nowhere(lab, world, mode):
    send = """
import socket
client = socket.socket(type=socket.SOCK_DGRAM)
for port in 1081, 7, 7, 7:
    try:
        print(client.sendto(b"own", ("192.0.2.50", port)))
        client.connect(("192.0.2.50", port))
    except ConnectionRefusedError:
        print("refused")
# After those, if they had gone anywhere.
client = socket.socket(type=socket.SOCK_DGRAM)
client.connect(("%s", 7))
client.settimeout(10)
client.send(b"out")
print(client.recv(9).decode())
""" % ORIGIN
    with world.watch() as w:
        done = run(lab, *mode, "--via", SOCKS, "/usr/bin/python3", "-c", send, user="bob")
    assert done.stdout.split() == [b"3", b"3", b"3", b"refused", b"out"], done.stderr
    assert [event["ip"] for event in w.events(kind="socks-datagram")] == [ORIGIN]
    assert w.foreign(allow=[(UPSTREAM, None)]) == []


@MODES
@pytest.mark.parametrize("host", ["root@web.test", "the-world"])
def test_ssh_goes_by_name(lab, world, ssh, mode, host):
    answer, asked = launch(lab, world, mode, "ssh", host, "anything")
    assert answer.startswith("world sees 203.0.113."), answer
    assert asked == [("web.test", 22)]


@MODES
@pytest.mark.parametrize("url", ["ssh://the-world/repository.git", "http://web.test/repository.git"])
def test_git_clones_by_name(lab, world, ssh, mode, url):
    place = f"/home/bob/{unique('clone')}"
    _, asked = launch(lab, world, mode, "git", "clone", "--quiet", url, place)
    assert lab.path(f"{place}/file").read_text() == "from the world\n"
    assert set(asked) == {("web.test", 22 if url.startswith("ssh") else 80)}


@MODES
def test_ssh_sees_its_configuration_and_cannot_change_it(lab, ssh, mode):
    script = "stat --format='%U %a' /etc/ssh/ssh_config.d/lab.conf; echo x >/etc/ssh/ssh_config.d/lab.conf || echo no"
    done = run(lab, *mode, "--via", SOCKS, "sh", "-c", script, user="bob")
    assert done.stdout == b"bob 644\nno\n", done.stderr
    assert lab.run(["stat", "--format=%U", "/etc/ssh/ssh_config.d/lab.conf"]).stdout == b"root\n"

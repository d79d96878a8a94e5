"""An agent at work: a shell that may load from a few names, and what it gets at otherwise, which is nothing."""

import pytest

from launching import SOCKS, run
from world_map import DNS, ORIGIN, UPSTREAM

ONLY = ["--only", "a.test", "--only", "*.b.test:443"]
# The first two are what it may load. d.test is another name of a.test's address, c.test has an address of its own.
SCRIPT = """
ca="--cacert /run/appfw-lab/ca.pem"
socks="--proxy socks5h://127.100.90.50:1080"
fetch() { curl -sS -o /dev/null --max-time 20 "$@"; }
plain() { fetch -w '%{http_code}\\n' "$@" 2>/dev/null; }
connect() { fetch --proxytunnel -w '%{http_connect}\\n' "$@" 2>/dev/null; }
by_socks() { fetch "$@" 2>&1 | grep -o '([0-9]*)' | tail -1; }
ask() { /usr/bin/python3 -c "$ASK" "$@"; }

plain http://a.test/
plain $ca https://x.b.test/
for name in c.test d.test 8.8.8.8 ORIGIN b.test:443 x.b.test:80 y.a.test a.test.c.test; do
    echo $name $(plain http://$name/) $(connect http://$name/) $(by_socks $socks http://$name/) \
        $(by_socks --proxy socks4a://127.100.90.50:1080 http://$name/)
done
echo host $(plain -H 'Host: a.test' http://c.test/) $(connect -H 'Host: a.test' http://8.8.8.8/)
echo elsewhere $(connect --connect-to a.test:80:c.test:80 http://a.test/) \
    $(connect --connect-to a.test:80:ORIGIN:80 http://a.test/)
echo dns $(ask c.test 1) $(ask c.test 28) $(ask C.Test 65) $(ask c.test 255) $(ask d.test 1) \
    $(ask 8.8.8.8.in-addr.arpa 12)
getent hosts c.test || echo unresolved
""".replace("ORIGIN", ORIGIN)
# A question by UDP and by TCP: the codes of the answers, 5 is REFUSED. Of addresses that it has not given out the
# forwarder knows no name, which is 3.
ASK = """
import socket, struct, sys
labels = [label.encode() for label in sys.argv[1].split(".")]
question = b"".join(bytes([len(label)]) + label for label in labels) + struct.pack("!BHH", 0, int(sys.argv[2]), 1)
query = struct.pack("!HHHHHH", 7, 0x100, 1, 0, 0, 0) + question
for kind in socket.SOCK_DGRAM, socket.SOCK_STREAM:
    with socket.socket(type=kind) as client:
        client.settimeout(20)
        client.connect(("127.100.90.50", 53))
        framed = kind == socket.SOCK_STREAM
        client.sendall(struct.pack("!H", len(query)) * framed + query)
        print(client.recv(4096)[3 + 2 * framed] & 15, end="")
"""
EXPECTED = f"""200
200
c.test 403 403 (2) (91)
d.test 403 403 (2) (91)
8.8.8.8 403 403 (2) (91)
{ORIGIN} 403 403 (2) (91)
b.test:443 403 403 (2) (91)
x.b.test:80 403 403 (2) (91)
y.a.test 403 403 (2) (91)
a.test.c.test 403 403 (2) (91)
host 403 403
elsewhere 403 403
dns 55 55 55 55 55 33
unresolved
"""


@pytest.mark.parametrize("via", ["direct", SOCKS])
def test_an_agent_loads_what_it_may_and_nothing_by_any_other_way(lab, world, via):
    with world.watch() as w:
        done = run(lab, "--via", via, *ONLY, "--env", f"ASK={ASK}", "sh", "-c", SCRIPT)
    assert done.stdout.decode() == EXPECTED
    # What the world has seen: two requests, and not a question about anything else.
    assert [event["host"] for event in w.events(kind="request")] == ["a.test", "x.b.test"]
    if via == "direct":
        assert {event["name"] for event in w.events(kind="query")} == {"a.test", "x.b.test"}
        assert w.foreign(allow=[(DNS, 53), (ORIGIN, 80), (ORIGIN, 443)]) == []
    else:
        asked = w.events(kind="socks")
        assert [(event["name"], event["ip"], event["dport"]) for event in asked] \
            == [("a.test", None, 80), ("x.b.test", None, 443)]
        assert w.events(kind="query") == [] and w.foreign(allow=[(UPSTREAM, 1080)]) == []
    said, = done.stderr.decode().splitlines()
    assert said.startswith("appfw-run: refused ") and "--only NAME lets one through" in said
    assert "c.test:80" in said and f"{ORIGIN}:80" in said and " a.test:80" not in said

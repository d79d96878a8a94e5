"""Chains of upstreams: what each hop of the world is asked for, and what comes of one that fails."""

import base64
import concurrent.futures
import time

import pytest

from launching import PROXY, run, secret_file, text_of, unique
from waiting import wait_until
from world_map import PASSWORD, UPSTREAM

CURL = ["curl", "-sS", "--max-time", "60"]
CA = "/run/appfw-lab/ca.pem"
LOGIN = "Basic " + base64.b64encode(":".join(PASSWORD).encode()).decode()
# By their kinds, as the tests below write them: scheme, port, login, how the world calls it, what it sees of the login.
HOPS = {
    "socks5": ("socks5h", 1080, "", "socks5", None),
    "+socks5": ("socks5h", 1081, "lab:secret@", "socks5-password", list(PASSWORD)),
    "socks4a": ("socks4a", 1082, "", "socks4a", ""),
    "+socks4a": ("socks4a", 1082, "lab@", "socks4a", "lab"),
    "http": ("http", 3128, "", "http-proxy", None),
    "+http": ("http", 3129, "lab:secret@", "http-proxy-password", LOGIN),
    "https": ("https", 3130, "", "https-proxy", None),
    "+https": ("https", 3131, "lab:secret@", "https-proxy-password", LOGIN),
    "unix": (None, 1080, "", "socks5", None),
}
NEXT = "upstream.test"  # how every hop but the first is called; no resolver of the lab's has to know it


@pytest.fixture
def trusting_lab(lab):
    """The lab, to whose system the world's authority is one."""
    store = lab.path("/etc/ssl/certs/ca-certificates.crt")
    before = store.read_bytes() if store.exists() else None
    store.parent.mkdir(parents=True, exist_ok=True)
    store.write_bytes((before or b"") + lab.path(CA).read_bytes())
    yield lab
    store.unlink() if before is None else store.write_bytes(before)


@pytest.fixture(scope="module")
def socket(lab):
    """A Unix socket that leads to the world's SOCKS5 upstream."""
    path = f"/run/{unique('upstream')}"
    unit = unique("lab-upstream")
    lab.run(["systemd-run", "--quiet", f"--unit={unit}", f"--socket-property=ListenStream={path}",
             "--socket-property=SocketMode=0666", "/lib/systemd/systemd-socket-proxyd", f"{UPSTREAM}:1080"], check=True)
    wait_until(lab.path(path).exists, 10, path)
    yield path
    lab.run(["systemctl", "stop", f"{unit}.socket"], check=True)
    # Nobody may have used it: then there is none.
    lab.run(["systemctl", "stop", f"{unit}.service"])


def spec(kind, host, socket, port=None, login=None):
    scheme, usual, with_login, *_ = HOPS[kind]
    return f"{scheme}://{with_login if login is None else login}{host}:{port or usual}" if scheme else f"unix:{socket}"


def via(lab, specs):
    """In a file, as there may be passwords in it."""
    return ["--via", secret_file(lab, "\n".join(specs))]


def chain(kinds, socket):
    """The first by its address, the others by a name that is for the hop before."""
    return [spec(kind, UPSTREAM if place == 0 else NEXT, socket) for place, kind in enumerate(kinds.split())]


def asked(w):
    """What the upstreams were asked for, in that order."""
    return [(event["server"], event["name"], event["ip"], event["dport"], event["auth"])
            for event in w.events() if event["kind"] in ("socks", "http")]


def expected(kinds, destination):
    kinds = kinds.split()
    onward = [(NEXT, None, HOPS[kind][1]) for kind in kinds[1:]] + [(destination[0], None, destination[1])]
    return [(HOPS[kind][3], *target, HOPS[kind][4]) for kind, target in zip(kinds, onward)]


# What one hop alone is asked for is also in test_launch.py.
@pytest.mark.parametrize("kinds", [
    "socks4a", "+socks4a", "https", "+https", "unix",
    "socks5 +http", "+http socks4a", "https +socks5", "+socks4a https", "unix +https",
    "socks5 http https", "+socks5 https +socks4a", "+https socks4a +http", "http +https +socks5", "unix +http socks5",
    "https https https",
])
def test_each_hop_is_told_the_next_and_the_last_one_the_name(trusting_lab, world, socket, kinds):
    with world.watch() as w:
        text = text_of(trusting_lab, *via(trusting_lab, chain(kinds, socket)), *CURL, "--cacert", CA,
                       "http://web.test/", "https://tls.test/")
    assert text.count("world ") == 2
    assert asked(w) == expected(kinds, ("web.test", 80)) + expected(kinds, ("tls.test", 443))
    # Nobody resolved a name here, neither the destination's nor a hop's.
    assert w.events(server="dns") == []
    port = HOPS[kinds.split()[0]][1]
    assert w.foreign(allow=[(UPSTREAM, port)]) == []


def test_a_first_hop_by_name_is_resolved_here_and_nothing_else_is(trusting_lab, world, socket):
    specs = [spec("https", NEXT, socket), spec("+socks5", NEXT, socket)]
    with world.watch() as w:
        text_of(trusting_lab, *via(trusting_lab, specs), *CURL, "http://web.test/")
    assert asked(w) == expected("https +socks5", ("web.test", 80))
    assert {event["name"] for event in w.events(kind="query")} == {NEXT}


# What fails

FAILED, LATE = ("(1)", "502", "502"), ("(6)", "504", "504")
BROKEN = {
    "wrong password": {"login": "lab:wrong-word@"},
    "dead": {"port": 9},
    "garbage": {"port": 1090},
    "hangs up": {"port": 1091},
}
WRONG_PASSWORD = {"socks5": "+socks5", "http": "+http", "https": "+https"}
# By SOCKS, by CONNECT and by a plain request, all at once. curl says which reply it was given.
FETCH = f"""
cd $(mktemp -d)
fetch() {{ curl -sS --max-time 60 -o /dev/null "$@"; }}
fetch --proxy socks5h://{PROXY.removeprefix("http://")} http://web.test/ 2>socks &
fetch -w '%{{http_connect}}' https://tls.test/ >connect 2>/dev/null &
fetch -w '%{{http_code}}' http://web.test/ >plain &
wait
echo "$(grep -o '([0-9]*)$' socks) $(cat connect) $(cat plain)"
"""


def broken_chain(kinds, place, how, socket):
    """The chain with one hop in it that is not as it should be, and that hop as a message names it."""
    kinds = kinds.split()
    if "login" in how:
        kinds[place] = WRONG_PASSWORD[kinds[place]]
    specs = chain(" ".join(kinds), socket)
    host = UPSTREAM if place == 0 else NEXT
    specs[place] = spec(kinds[place], host, socket, **how)
    return specs, f"{host}:{how.get('port', HOPS[kinds[place]][1])}"


def attempt(lab, specs):
    """Fetches by a chain that is broken. Returns the replies to curl, and how long they took."""
    started = time.monotonic()
    done = run(lab, *via(lab, specs), "sh", "-c", FETCH, timeout=120)
    seconds = time.monotonic() - started
    return tuple(done.stdout.decode().split()), done.stderr.decode(), seconds


def check_blame(said, named):
    """Said once, and whose fault it is, without a password."""
    lines = [line for line in said.splitlines() if line.startswith("appfw-run: ")]
    assert len(lines) == 1 and named in lines[0], said
    assert "wrong-word" not in said and "secret" not in said


def check_world(w, first):
    """Nothing went another way: nobody but the first hop was dialled, and nobody who serves was reached."""
    assert w.foreign(allow=[(UPSTREAM, first)]) == []
    assert w.events(server="dns") == [] and w.events(kind="request") == []
    assert not {"web.test", "tls.test"} & {name for _, name, *_ in asked(w)}


def port_of(spec):
    return int(spec.rpartition(":")[2])


@pytest.mark.parametrize("fault", BROKEN)
@pytest.mark.parametrize("kinds, place", [
    ("socks5", 0), ("http", 0), ("https", 0),
    ("http socks5", 1), ("https http", 1),
    ("socks5 http https", 0), ("https socks5 http", 1), ("socks4a http socks5", 2),
])
def test_a_hop_that_fails_is_named_and_nothing_goes_round_it(trusting_lab, world, socket, kinds, place, fault):
    specs, named = broken_chain(kinds, place, BROKEN[fault], socket)
    with world.watch() as w:
        replies, said, seconds = attempt(trusting_lab, specs)
    assert replies == FAILED
    assert seconds < 15  # long before anything is timed out
    check_blame(said, named)
    check_world(w, port_of(specs[0]))
    # The hops before it were asked for the next one, each time.
    assert len(asked(w)) == len(replies) * place


def test_a_hop_whose_certificate_nobody_vouches_for_is_asked_for_nothing(lab, world, socket):
    specs, named = broken_chain("socks5 https", 1, {}, socket)
    with world.watch() as w:
        replies, said, _ = attempt(lab, specs)
    assert replies == FAILED
    check_blame(said, named)
    assert "certificate" in said
    check_world(w, port_of(specs[0]))
    assert w.events(server="https-proxy", kind="http") == []


@pytest.mark.slow
def test_hops_that_hang_are_given_up_in_time(trusting_lab, world, socket):
    """Half a minute each, so all at once; tests/forward has more of them, with less patience."""
    places = [("socks5", 0), ("https", 0), ("http socks5", 1), ("socks5 https", 1), ("https http socks5", 2)]
    chains = [broken_chain(kinds, place, {"port": 1092}, socket) for kinds, place in places]
    with world.watch() as w, concurrent.futures.ThreadPoolExecutor(len(chains)) as pool:
        attempts = list(pool.map(lambda chain: attempt(trusting_lab, chain[0]), chains))
    for (_, named), (replies, said, seconds) in zip(chains, attempts):
        assert replies == LATE
        assert 29 < seconds < 45
        check_blame(said, named)
    firsts = {(UPSTREAM, port_of(specs[0])) for specs, _ in chains}
    assert w.foreign(allow=firsts) == [] and w.events(kind="request") == []

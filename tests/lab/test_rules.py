"""--via none with --allow and --deny: exactly what systemd's own directives do, seen from both ends."""

import concurrent.futures
import ipaddress
import itertools
import json
import pathlib
import subprocess

import pytest

from launching import started, unique
from rules_app import GROUPS, LOOPBACK, TARGETS, WORLD
from world_map import ORIGIN, ORIGIN6

APP = pathlib.Path(__file__).with_name("rules_app.py")
PYTHON = "/usr/bin/python3"
CONNECT_LIMIT = 1.0  # seconds; a refused source would wait for ever
AT_ONCE = 4  # programs: all that each does is to wait for what does not answer
KEYWORDS = {  # systemd.resource-control(5)
    "any": ["0.0.0.0/0", "::/0"],
    "localhost": ["127.0.0.0/8", "::1/128"],
    "link-local": ["169.254.0.0/16", "fe80::/64"],
    "multicast": ["224.0.0.0/4", "ff00::/8"],
}
# (denied, allowed); the first four are the subject's own.
RULES = {
    "two resolvers but not the third": (["8.8.8.8"], ["1.1.1.1", "9.9.9.9"]),
    "localhost and one network": (["any"], ["localhost", "10.0.0.0/24"]),
    "no local network": (["10.0.0.0/8", "link-local"], []),
    "nothing": (["any"], []),
    "this host alone": (["any"], ["localhost"]),
    "not this host": (["localhost"], []),
    "no multicast": (["multicast"], []),
    "multicast and link-local": (["any"], ["multicast", "link-local"]),
    "version 6 by address": (["2001:db8:8::8", "fd00::/8"], ["2001:db8:1::1"]),
    "version 6 networks": (["any"], ["2001:db8::/64", "::1"]),
    "one of a denied network": (["10.0.0.0/8", "203.0.113.0/24"], ["10.0.0.7"]),
    "one family": (["0.0.0.0/0"], []),
}
# From the world into the lab; by TCP and UDP. fe80:: needs a scope that the world's client has not.
COMERS = [(ORIGIN, "203.0.113.2"), ("8.8.8.8", "203.0.113.2"), ("1.1.1.1", "203.0.113.2"), ("10.0.0.7", "10.0.0.2"),
          ("10.0.0.9", "10.0.0.2"), ("10.1.2.3", "203.0.113.2"), ("169.254.10.10", "169.254.10.2"),
          (ORIGIN6, "2001:db8::2"), ("2001:db8:8::8", "2001:db8::2"), ("2001:db8:1::1", "2001:db8::2"),
          ("fd00::7", "2001:db8::2")]


def networks(words):
    return [ipaddress.ip_network(network) for word in words for network in KEYWORDS.get(word, [word])]


def passes(rules, address):
    """Allow beats deny; what is in neither list passes."""
    denied, allowed = (networks(words) for words in rules)
    one = ipaddress.ip_address(address)
    return any(one in network for network in allowed) or not any(one in network for network in denied)


def by_appfw(rules, user="root"):
    denied, allowed = rules
    return ["appfw-run", "--via=none", f"--uid={user}", *(f"--deny={word}" for word in denied),
            *(f"--allow={word}" for word in allowed), "--"]


def by_systemd(rules):
    denied, allowed = rules
    # One word each: it takes a keyword only by itself.
    return ["systemd-run", "--quiet", "--wait", "--pipe", "--collect",
            *(f"--property=IPAddressDeny={word}" for word in denied),
            *(f"--property=IPAddressAllow={word}" for word in allowed), "--"]


def at_once(lab, runs, one):
    """What ONE(run) returns for each of RUNS, and what the world saw of them all."""
    with lab.world.watch() as w, concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(one, runs)), w


# One for each destination of one program, and none twice: below those that the kernel gives away.
first_ports = itertools.count(10_000, len(TARGETS))


def went_out(lab, commands):
    """For each of the programs: how each destination went, and to which the world saw its packets come. Whose they are
    is told by the ports that they come from."""
    runs = [([*command, PYTHON, APP, "client"], first) for command, first in zip(commands, first_ports)]

    def run(words_and_first):
        words, first = words_and_first
        done = lab.run([*words, str(first)])
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    results, w = at_once(lab, runs, run)
    packets = [packet for packet in w.foreign() if packet["proto"] in ("tcp", "udp")]
    seen = [{(packet["proto"], packet["dst"]) for packet in packets if 0 <= packet["sport"] - first < len(TARGETS)}
            for _, first in runs]
    # Nobody else sends.
    assert sum(map(len, seen)) == len({(packet["proto"], packet["dst"], packet["sport"]) for packet in packets})
    return list(zip(results, seen))


def expected_to_go_out(rules):
    """By the rules alone. A TCP packet that is dropped says nothing; a datagram says EPERM."""
    refused = {"tcp": "silence", "udp": "EPERM"}
    results = {}
    for target in TARGETS:
        kind, address = target.split()
        reached = "sent" if address in GROUPS else "answer"
        results[target] = reached if passes(rules, address) else refused[kind]
    seen = {tuple(target.split()) for target, result in results.items()
            if result in ("answer", "sent") and target.split()[1] not in LOOPBACK}
    return results, seen


def test_unruled_everything_answers(lab):
    assert went_out(lab, [[]]) == [expected_to_go_out(([], []))]


def by_both(lab, outcomes):
    """What each list of RULES makes of a program, under appfw-run and under systemd by itself."""
    commands = [by(rules) for rules in RULES.values() for by in (by_appfw, by_systemd)]
    found = iter(outcomes(lab, commands))
    return {name: list(itertools.islice(found, 2)) for name in RULES}


@pytest.fixture(scope="module")
def outgoing(lab):
    return by_both(lab, went_out)


@pytest.mark.parametrize("rules", RULES)
def test_rules_for_what_goes_out(outgoing, rules):
    by_us, by_itself = outgoing[rules]
    assert by_us == expected_to_go_out(RULES[rules])
    # What systemd's directives do, done by themselves.
    assert by_itself == by_us


@pytest.mark.parametrize("rules", ["two resolvers but not the third", "localhost and one network"])
def test_rules_hold_for_an_ordinary_user_as_well(lab, rules):
    assert went_out(lab, [by_appfw(RULES[rules], "bob")]) == [expected_to_go_out(RULES[rules])]


PORTS = iter(range(7100, 7200))


def came_in(lab, commands):
    """For each of the programs: who was served, and to whom the world saw any packet go from there."""
    def come(comer):
        (source, target), kind, port = comer
        try:
            return lab.world.connect(source, target, port, kind, timeout=CONNECT_LIMIT) == b"served"
        except OSError:
            return False

    def serve(command_and_port):
        command, port = command_and_port
        words = [*command, PYTHON, APP, "server", str(port)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with started(lab, words, **pipes) as process:
            assert process.stdout.readline() == b"ready\n", process.stderr.read()
            comers = [(comer, kind, port) for comer in COMERS for kind in ("tcp", "udp")]
            with concurrent.futures.ThreadPoolExecutor(len(comers)) as pool:
                served = {f"{kind} {source}": result
                          for (((source, _), kind, _), result) in zip(comers, pool.map(come, comers))}
            process.stdin.close()
            assert process.wait(20) == 0
        return served

    runs = list(zip(commands, PORTS))
    results, w = at_once(lab, runs, serve)
    # Of each server's port; and what the kernel says in its name, whichever it is.
    packets = [packet for packet in w.foreign() if packet["proto"] != "icmpv6"]
    others = {packet["dst"] for packet in packets if packet["proto"] not in ("tcp", "udp")}
    return [(served, others | {packet["dst"] for packet in packets if packet.get("sport") == port})
            for served, (_, port) in zip(results, runs)]


def expected_to_come_in(rules):
    served = {f"{kind} {source}": passes(rules, source) for source, _ in COMERS for kind in ("tcp", "udp")}
    return served, {source for source, _ in COMERS if passes(rules, source)}


def test_unruled_everyone_is_served(lab):
    assert came_in(lab, [[]]) == [expected_to_come_in(([], []))]


@pytest.fixture(scope="module")
def incoming(lab):
    return by_both(lab, came_in)


@pytest.mark.parametrize("rules", RULES)
def test_rules_for_who_comes_in(incoming, rules):
    """A server answers those who may, and gives the others no byte."""
    by_us, by_itself = incoming[rules]
    assert by_us == expected_to_come_in(RULES[rules])
    assert by_itself == by_us


def test_subjects_own_server_answers_the_network_and_gives_the_rest_no_byte(lab):
    (served, answered), = came_in(lab, [by_appfw(RULES["localhost and one network"])])
    assert {who for who, was in served.items() if was} == {f"{kind} 10.0.0.{last}" for kind in ("tcp", "udp")
                                                           for last in (7, 9)}
    assert answered == {"10.0.0.7", "10.0.0.9"}


# Names

@pytest.mark.parametrize("rules, found", [
    ("two resolvers but not the third", True),  # the host's resolver, untouched
    ("no local network", True),
    ("localhost and one network", False),  # off with --deny any, or resolved's socket would lead round the rules
    ("nothing", False),
])
def test_names_are_resolved_only_where_not_everything_is_denied(lab, world, rules, found):
    with world.watch() as w:
        done = lab.run([*by_appfw(RULES[rules]), "getent", "ahostsv4", "web.test"])
    assert (done.returncode == 0, ORIGIN.encode() in done.stdout) == (found, found)
    assert bool(w.events(server="dns", name="web.test")) == found
    if not found:
        assert w.foreign() == []


def test_no_rule_at_all_is_no_network_whatever(lab, world):
    with world.watch() as w:
        done = lab.run(["appfw-run", "--via=none", "--", "sh", "-c", "cat /proc/net/dev | tail -n +3; env"])
        lab.run(["appfw-run", "--via=none", "--", "curl", "-sS", "--max-time", "1", f"http://{ORIGIN}/"])
    assert done.stdout.split()[0] == b"lo:"
    assert b"proxy" not in done.stdout.lower()
    assert w.foreign() == []


# What systemd holds

@pytest.mark.parametrize("rules", RULES)
def test_unit_holds_these_lists_and_one_canary(lab, rules):
    """The canary proves that the filter is in force: a documentation address that nobody has, and the lists alike."""
    name = unique("lists")
    with started(lab, [*by_appfw(RULES[rules])[:1], "--unit", name, *by_appfw(RULES[rules])[1:], "sh", "-c",
                       "echo ready; read line"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        shown = lab.run(["systemctl", "show", "-p", "IPAddressAllow", "-p", "IPAddressDeny", f"appfw-{name}.service"],
                        check=True).stdout.decode()
        process.stdin.close()
        process.wait(20)
    held = dict(line.split("=", 1) for line in shown.splitlines())
    denied, allowed = RULES[rules]
    assert {ipaddress.ip_network(one) for one in held["IPAddressAllow"].split()} == set(networks(allowed))
    more = {ipaddress.ip_network(one) for one in held["IPAddressDeny"].split()} - set(networks(denied))
    documentation = [ipaddress.ip_network(one) for one in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.254/32")]
    assert len(more) <= 1 and all(any(one.subnet_of(net) for net in documentation) for one in more)
    assert bool(more) == passes(RULES[rules], "192.0.2.1")

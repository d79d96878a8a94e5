"""The lab itself: what it filters is filtered, what it lets through is seen. Else no other test proves anything."""

import json
import os
import struct
import subprocess
import sys

import pytest

from conftest import VERSIONS, boot
from lab import HERE, RUNNING, Lab, cgroup2_mount, is_alive, lab_cgroup, resize_terminal
from launching import started
from waiting import wait_until
from world_map import MULTICAST, MULTICAST6, ORIGIN, ORIGIN6, UPSTREAM

WAIT = ["systemd-run", "--quiet", "--wait", "--pipe", "--collect"]
CURL = ["curl", "-sS", "-g", "--max-time", "1.5"]


def test_versions(lab):
    assert lab.run(["systemctl", "--version"], check=True).stdout.startswith(b"systemd " + lab.version.encode())
    assert lab.run(["cat", "/proc/1/comm"]).stdout == b"systemd\n"


def test_unit_runs_and_its_exit_status_comes_back(lab):
    assert lab.run([*WAIT, "sh", "-c", "cat; exit 7"], input=b"text").stdout == b"text"
    assert lab.run([*WAIT, "sh", "-c", "exit 7"]).returncode == 7


@pytest.mark.parametrize("host", [ORIGIN, f"[{ORIGIN6}]", "8.8.8.8", "10.1.2.3", "[2001:db8:8::8]", "web.test"])
def test_unconfined_unit_reaches_and_is_seen(lab, world, host):
    with world.watch() as w:
        answer = lab.run([*WAIT, *CURL, f"http://{host}/"], check=True)
    assert answer.stdout.startswith(b"world ")
    assert len(w.events(server="http", kind="request")) == 1
    assert any(packet["flags"] == "S" for packet in w.packets(proto="tcp", dport=80))


@pytest.mark.parametrize("wall", ["IPAddressDeny=any", "PrivateNetwork=yes"])
@pytest.mark.parametrize("host", [ORIGIN, f"[{ORIGIN6}]"])
@pytest.mark.both
def test_walls_keep_everything_in(lab, world, wall, host):
    with world.watch() as w:
        assert lab.run([*WAIT, "-p", wall, *CURL, f"http://{host}/"]).returncode in (7, 28)
    assert w.foreign() == []


def test_filter_applies_to_udp_and_spares_what_is_allowed(lab, world):
    script = "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.sendto(b'x', ('{}', 9))"
    walls = ["-p", "IPAddressDeny=any", "-p", f"IPAddressAllow={UPSTREAM}"]
    with world.watch() as w:
        assert lab.run([*WAIT, *walls, "python3", "-c", script.format(UPSTREAM)]).returncode == 0
        assert lab.run([*WAIT, *walls, "python3", "-c", script.format(ORIGIN)]).returncode != 0
    assert [(packet["dst"], packet["dport"]) for packet in w.foreign()] == [(UPSTREAM, 9)]
    assert [event["at"] for event in w.events(server="udp-sink")] == [UPSTREAM]


def test_lying_kernel_lets_a_denied_unit_out(lying_lab):
    with lying_lab.world.watch() as w:
        lying_lab.run([*WAIT, "-p", "IPAddressDeny=any", *CURL, f"http://{ORIGIN}/"], check=True)
    assert w.foreign()
    status = lying_lab.run(["cat", "/proc/1/status"]).stdout.decode()
    assert "NoNewPrivs:\t0" in status


def test_nothing_is_seen_when_nothing_is_done(world):
    with world.watch() as w:
        pass
    assert w.foreign() == []
    assert w.events() == []


def test_what_ends_a_connection_made_before_is_nobodys_and_what_has_made_none_is_seen(lab, world):
    connect = f"import socket; s = socket.create_connection(('{ORIGIN}', 80)); print(flush=True); input()"
    with started(lab, ["python3", "-c", connect], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        with world.watch() as w:
            process.communicate(b"\n")
        assert w.packets(dport=80)
        assert w.foreign() == []
    # Its ACK alone, by who needs no connection for that.
    segment = struct.pack("!HHIIBBHHH", 9, 80, 1, 1, 5 << 4, 0x10, 512, 0, 0).hex()
    send = f"import socket; s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 6); " \
           f"s.sendto(bytes.fromhex('{segment}'), ('{ORIGIN}', 0))"
    with world.watch() as w:
        lab.run(["python3", "-c", send], check=True)
    assert [packet["flags"] for packet in w.foreign()] == ["A"]


@pytest.mark.parametrize("group", [MULTICAST, MULTICAST6])
def test_multicast_arrives(lab, world, group):
    family = "AF_INET6" if ":" in group else "AF_INET"
    script = f"import socket; socket.socket(socket.{family}, socket.SOCK_DGRAM).sendto(b'x', ('{group}', 9))"
    with world.watch() as w:
        lab.run(["python3", "-c", script], check=True)
    assert w.events(server="multicast", at=group)


@pytest.mark.parametrize("src, dst", [("10.0.0.7", "203.0.113.2"), (ORIGIN, "203.0.113.2"), ("8.8.8.8", "203.0.113.2"),
                                      ("2001:db8:8::8", "2001:db8::2")])
def test_world_reaches_into_the_lab(lab, world, src, dst):
    assert b"bait" in world.connect(src, dst, 8022, payload=b"GET / HTTP/1.0\r\n\r\n")
    assert any(src in event["peer"] for event in lab.bait_events())


def test_world_serves_https(lab):
    lab.run([*CURL, "--cacert", "/run/appfw-lab/ca.pem", "https://tls.test/"], check=True)


@pytest.mark.parametrize("proxy, server, auth", [
    ("socks5h://203.0.113.20:1080", "socks5", None),
    ("socks5h://lab:secret@203.0.113.20:1081", "socks5-password", ["lab", "secret"]),
    ("http://203.0.113.20:3128", "http-proxy", None),
    ("http://lab:secret@203.0.113.20:3129", "http-proxy-password", "Basic bGFiOnNlY3JldA=="),
])
def test_upstreams_take_names(lab, world, proxy, server, auth):
    with world.watch() as w:
        lab.run([*CURL, "--proxy", proxy, "http://web.test/"], check=True)
    request, = [event for event in w.events(server=server) if event["kind"] in ("socks", "http")]
    assert (request["name"], request["ip"], request["auth"]) == ("web.test", None, auth)
    assert w.foreign(allow=[(UPSTREAM, None)]) == []


def test_upstreams_refuse_a_wrong_password(lab):
    for proxy in "socks5h://lab:wrong@203.0.113.20:1081", "http://lab:wrong@203.0.113.20:3129":
        assert lab.run([*CURL, "--fail", "--proxy", proxy, "http://web.test/"]).returncode != 0


def test_tor_leads_to_the_world(lab, world, tor):
    with world.watch() as w:
        lab.run(["curl", "-sS", "--max-time", "20", "--socks5-hostname", "127.0.0.1:9050", "http://fetched-once.test/"],
                check=True)
    assert w.foreign() == []
    assert [event["host"] for event in w.events(server="http", kind="request")] == ["fetched-once.test"]
    assert w.events(server="exit-dns", name="fetched-once.test")


def test_ordinary_user_has_a_manager_and_a_bus(lab):
    assert lab.run(["id", "-Gn"], user="bob").stdout == b"bob\n"
    assert lab.run(["pwd"], user="bob").stdout == b"/home/bob\n"
    assert lab.run(["systemctl", "--user", "is-system-running", "--wait"], user="bob").stdout == b"running\n"
    assert lab.run(["systemd-run", "--user", *WAIT[1:], "id", "-un"], user="bob", check=True).stdout == b"bob\n"
    assert lab.run(["busctl", "--user", "list"], user="bob").returncode == 0


def test_process_is_the_program_itself(lab):
    with lab.popen(["sleep", "infinity"], stdout=subprocess.DEVNULL) as process:
        process.terminate()
        assert process.wait(5) == -15


def test_terminal(lab):
    traps = "trap 'stty size' WINCH; trap 'echo caught; exit 3' INT"
    script = f"tty; stty size; {traps}; echo ready; while sleep 0.05; do :; done"
    process = lab.popen(["bash", "-c", script], user="bob", tty=True)
    shown = b""

    def until(text):
        nonlocal shown
        while text not in shown:
            shown += os.read(process.terminal, 4096)

    until(b"ready")
    assert b"/dev/pts/" in shown and b"24 80" in shown
    resize_terminal(process.terminal, 50, 132)
    until(b"50 132")
    os.write(process.terminal, b"\x03")
    until(b"caught")
    assert process.wait(5) == 3
    os.close(process.terminal)


def test_labs_live_side_by_side_and_leave_nothing():
    with Lab("252") as one, Lab("252") as two:
        assert one.run(["hostname"]).stdout == two.run(["hostname"]).stdout == b"lab\n"
        with one.world.watch() as w:
            two.run([*CURL, f"http://{ORIGIN}/"], check=True)
        assert w.packets() == []
        names = one.name, two.name
        pids = one.pid, two.pid, one.world.pid, two.world.pid
    assert not [entry for entry in cgroup2_mount().iterdir() if any(name in entry.name for name in names)]
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
    assert not any(name in line for name in names for line in open("/proc/self/mounts"))


def test_killed_caller_takes_its_lab_along_and_sweep_spares_the_living(lab):
    script = "from lab import Lab; import time; print(Lab('252').start().name, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script], cwd=HERE, stdout=subprocess.PIPE, text=True) as caller:
        name = caller.stdout.readline().strip()
        systemd = json.loads((RUNNING / name / "lab.json").read_text())
        assert is_alive(systemd)
        caller.kill()
    wait_until(lambda: not is_alive(systemd), 10, "the end of the lab's systemd")
    subprocess.run([sys.executable, HERE / "lab.py", "sweep"], check=True)
    assert not (RUNNING / name).exists() and not lab_cgroup(name).exists()
    assert lab.run(["true"]).returncode == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_reboot_keeps_what_is_on_the_disk_and_nothing_else(version):
    rebooted = boot(version)
    try:
        for place in "/etc/kept", "/run/lost":
            rebooted.path(place).write_text("here")
        rebooted.reboot()
        assert rebooted.path("/etc/kept").read_text() == "here"
        assert not rebooted.path("/run/lost").exists()
        assert rebooted.run(["curl", "-sS", "--max-time", "5", "http://web.test/"]).returncode == 0
    finally:
        rebooted.stop()

"""appfw confine: what ordinary services have and are is no obstacle, and what is said of it is so."""

from confining import service, tree
from launching import SOCKS
from waiting import wait_until

SLEEPS = "[Service]\nExecStart=/bin/sleep 1000\n"


def test_who_has_the_journals_socket_elsewhere_is_confined(lab):
    """As haproxy of Debian's: each wall shows that socket anyway."""
    lab.run(["sh", "-c", "mkdir -p /opt/jail && touch /opt/jail/log"], check=True)
    with service(lab, f"{SLEEPS}BindReadOnlyPaths=/dev/log:/opt/jail/log\n") as svc:
        svc.confine("--via", SOCKS, "--now")
        assert svc.is_proven()


def test_what_systemd_writes_itself_is_no_change(lab):
    with service(lab, SLEEPS) as svc:
        generator = lab.path(f"/etc/systemd/system-generators/{svc.stem}")
        generator.parent.mkdir(exist_ok=True)
        generator.write_text(f'#!/bin/sh\nmkdir -p "$1/{svc.name}.d"\n'
                             f'printf "[Unit]\\nDescription=x\\n" >"$1/{svc.name}.d/50-x.conf"\n')
        generator.chmod(0o755)
        try:
            svc.systemctl("daemon-reload")
            svc.confine("--via", SOCKS, "--now")
            svc.systemctl("daemon-reload")
            assert not svc.listed()["stale"]
            svc.systemctl("set-property", svc.name, "MemoryMax=100M")
            assert not svc.listed()["stale"]
            assert "nothing to do" in svc.confine("--via", SOCKS)
            svc.systemctl("set-property", svc.name, "MemoryMax=")
            svc.restart()
            assert svc.is_proven()
        finally:
            generator.unlink()
            lab.run(["rm", "-rf", f"/etc/systemd/system.control/{svc.name}.d"], check=True)


def test_what_runs_to_its_end_is_behind_its_wall_meanwhile(lab):
    with service(lab, "[Service]\nType=oneshot\nExecStart=/bin/sleep 5\n") as svc:
        svc.confine("--via", SOCKS)
        svc.systemctl("start", "--no-block", svc.name)
        wait_until(lambda: svc.listed()["proven"], 4, "the proof")
        assert svc.listed()["state"] == "active"
        assert "nothing to do" in svc.confine("--via", SOCKS)


def test_what_may_not_be_stopped_is_confined_from_its_next_start_on(lab):
    with service(lab, "[Unit]\nRefuseManualStop=yes\n" + SLEEPS) as svc:
        before = tree(lab)
        assert "may not be stopped and started by hand" in svc.confine("--via", SOCKS, "--now", code=125)
        assert tree(lab) == before
        svc.confine("--via", SOCKS)


def test_the_port_that_is_to_be_published_is_told_as_it_is(lab):
    """A socket of all addresses is one of IPv4's, too."""
    program = lab.path("/usr/local/bin/listens")
    program.write_text("""#!/usr/bin/python3
import os, socket, sys, time
made = [socket.create_server(("", 8081), family=socket.AF_INET6, dualstack_ipv6=True)]
made.append(socket.create_server(("127.0.0.1", 8443)))
if sys.argv[1:]:
    made.append(socket.socket(type=socket.SOCK_DGRAM))
    made[-1].bind(("0.0.0.0", 514))
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
time.sleep(1000)
""")
    program.chmod(0o755)
    listens = "[Service]\nType=notify\nExecStart=/usr/local/bin/listens"
    with service(lab, listens + "\n") as svc:
        svc.start()
        said = svc.confine("--via", SOCKS, code=125)
        assert "--publish 127.0.0.1:8443" in said and "--publish 0.0.0.0:8081 --publish [::]:8081" in said, said
        said = svc.confine("--via", SOCKS, "--wall=namespace", "--publish=0.0.0.0:8081", "--publish=[::]:8081", "--now")
        assert "TCP 127.0.0.1:8443" in said and "no --publish names that" in said, said
        for address in "127.0.0.1", "[::1]":
            assert lab.run(["curl", "-sS", "--max-time", "1", f"http://{address}:8081/"]).returncode == 28
    with service(lab, listens + " udp\n") as svc:
        svc.start()
        said = svc.confine("--via", SOCKS, code=125)
        assert "carries no UDP: say --wall address" in said, said

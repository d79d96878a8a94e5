"""appfw confine and what a service may do more than others: it keeps what it had for itself, and gains nothing."""

import json
import shutil

import pytest

from confining import WAYS, service
from lab import STORE
from launching import SOCKS, script
from waiting import wait_until
from world_map import ORIGIN

INSIDE_ALONE = ["--via=none", "--deny=any", "--allow=10.0.0.0/24"]


@pytest.mark.parametrize("line", ["LD_TRACE_LOADED_OBJECTS=1", "LD_DEBUG=help"])
def test_the_dynamic_linker_ends_no_proof(lab, world, line):
    """It would end appfw with success before that has begun; a static program it has no part in."""
    shutil.copy(STORE / "connect", lab.path("/usr/local/bin/connect"))
    sends = f"/usr/local/bin/connect {ORIGIN} 80"
    environment = lab.path("/home/bob/env")
    environment.write_text("")
    lines = ["[Service]", "User=bob", "EnvironmentFile=/home/bob/env", f"ExecStart=-{sends}", "Restart=always", ""]
    with service(lab, "\n".join(lines)) as svc:
        svc.confine(*INSIDE_ALONE, "--now")
        assert svc.listed()["proven"]
        environment.write_text(f"{line}\n")
        # What the proof is there for: what was opened since.
        lab.run(["systemctl", "set-property", "--runtime", "system.slice", f"IPAddressAllow={ORIGIN}"], check=True)
        try:
            with world.watch() as w:
                assert svc.systemctl("restart", svc.name, check=False).returncode != 0
            assert w.foreign() == []
        finally:
            lab.run(["systemctl", "set-property", "--runtime", "system.slice", "IPAddressAllow="], check=True)
            lab.run(["systemctl", "revert", "system.slice"], check=True)
    with service(lab, f"[Service]\nEnvironment={line}\nExecStart={sends}\n") as svc:
        assert f"sets {line.partition('=')[0]}" in svc.confine(*INSIDE_ALONE, code=125)


def test_a_start_whose_proof_was_not_made_is_told_and_stopped(lab):
    """systemd's word that the first command ended well is not that it was ours."""
    appfw = lab.path("/usr/local/bin/appfw")
    real = appfw.with_name("appfw-real")
    appfw.rename(real)
    try:
        appfw.write_text("#!/bin/sh\n")
        appfw.chmod(0o755)
        with service(lab, "[Service]\nUser=bob\nExecStart=/bin/sleep 1000\n") as svc:
            # systemd has the one, who calls it the other.
            sees = "mount --bind /usr/local/bin/appfw-real /usr/local/bin/appfw; exec appfw"
            words = ["confine", svc.name, *INSIDE_ALONE, "--now"]
            done = lab.run(["unshare", "--mount", "sh", "-c", f'{sees} "$@"', "sh", *words])
            assert done.returncode == 125 and b"without the proof of its wall, and is stopped" in done.stderr, done
            assert not svc.is_active()
            real.rename(appfw)
    finally:
        if real.exists():
            real.rename(appfw)


@pytest.mark.parametrize("lines", [
    ["User=bob", "AmbientCapabilities=CAP_CHOWN CAP_FOWNER"],
    ["User=bob", "AmbientCapabilities=CAP_DAC_OVERRIDE"],
    ["DynamicUser=yes", "User=root"],
], ids=" ".join)
def test_whom_no_permission_stops_does_not_leave_its_cgroup(lab, world, lines):
    program = script(lab, "leaves.py", f"""{WAYS}
PLACES = [pathlib.Path("/sys/fs/cgroup", name, "cgroup.procs") for name in ("init.scope", "")]

def leaves():
    PLACES[0].write_text(str(os.getpid()))
    return "gone"

def opens_and_leaves():
    try:
        for place in PLACES:
            os.chmod(place, 0o666)
        return leaves()
    finally:
        for place in PLACES:
            os.chmod(place, 0o644)

found = [ends(leaves), ends(opens_and_leaves), ends(by_tcp), ends(by_udp)]
pathlib.Path(os.environ["RUNTIME_DIRECTORY"], "found").write_text(json.dumps(found))
ready()
time.sleep(1000)
""")
    text = ["[Service]", "Type=notify", "RuntimeDirectory=@NAME@", *lines, f"ExecStart=/usr/bin/python3 {program}", ""]
    with service(lab, "\n".join(text)) as svc, world.watch() as w:
        svc.confine(*INSIDE_ALONE, "--now")
        found = json.loads(lab.path(f"/run/{svc.stem}/found").read_text())
        assert "gone" not in found and "open" not in found, found
    assert w.foreign() == []


@pytest.mark.parametrize("directive", ["ExecStartPre", "ExecStartPost", "ExecReload", "ExecStopPost"])
def test_a_command_of_roots_does_not_leave_either(lab, world, directive):
    """What has a `!` is root's, and behind all but User=."""
    found = lab.path("/run/found-roots")
    program = script(lab, "roots.py", f"""{WAYS}
PLACE = pathlib.Path("/sys/fs/cgroup/cgroup.procs")

def leaves():
    PLACE.write_text(str(os.getpid()))
    return "gone"

def plans():
    pathlib.Path("/etc/cron.d/roots").write_text("")
    return "gone"

told = [os.getuid(), ends(leaves), ends(plans), ends(by_tcp), ends(by_udp)]
pathlib.Path("/run/found-roots").write_text(json.dumps(told))
""")
    text = ["[Service]", "User=bob", "ExecStart=/bin/sleep 1000", f"{directive}=!/usr/bin/python3 {program}", ""]
    with service(lab, "\n".join(text)) as svc, world.watch() as w:
        svc.confine(*INSIDE_ALONE, "--now")
        found.unlink(missing_ok=True)
        svc.systemctl("reload" if directive == "ExecReload" else "restart", svc.name)
        uid, *rest = json.loads(found.read_text())
        assert uid == 0 and "gone" not in rest and "open" not in rest, rest
    assert w.foreign() == []
    found.unlink()


@pytest.mark.parametrize("words", [["--via", SOCKS], ["--via", SOCKS, "--wall=namespace"], ["--via=none"]],
                         ids=lambda words: "-".join(words[-1:]))
def test_what_a_service_has_for_itself_it_keeps(lab, words):
    """Who shares a network namespace shares /tmp as well: it has that of who was there first."""
    mark = lab.path("/tmp/host-marker")
    mark.write_text("")
    program = script(lab, "private.py", f"""{WAYS}
found = [os.listdir("/tmp"), os.readlink("/proc/self/ns/ipc")]
pathlib.Path(os.environ["RUNTIME_DIRECTORY"], "found").write_text(json.dumps(found))
ready()
time.sleep(1000)
""")
    text = ["[Service]", "Type=notify", "RuntimeDirectory=@NAME@", "User=bob", "PrivateTmp=yes", "PrivateIPC=yes",
            f"ExecStart=/usr/bin/python3 {program}", ""]
    with service(lab, "\n".join(text)) as svc:
        svc.confine(*words, "--now")
        for _ in range(2):
            there, ipc = json.loads(lab.path(f"/run/{svc.stem}/found").read_text())
            assert "host-marker" not in there
            assert ipc != lab.run(["readlink", "/proc/1/ns/ipc"]).stdout.decode().strip()
            assert svc.is_proven()
            svc.restart()
            wait_until(svc.is_active, 5, svc.name)


@pytest.mark.parametrize("words", [["--via", SOCKS], ["--via=none"]], ids=lambda words: words[-1])
def test_a_launch_has_the_private_tmp_that_it_was_given(lab, words):
    lab.path("/tmp/host-marker").write_text("")
    done = lab.run(["appfw-run", *words, "-p", "PrivateTmp=yes", "ls", "-A", "/tmp"], check=True)
    assert b"host-marker" not in done.stdout, done.stdout

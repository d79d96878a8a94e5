"""Where a launch can't be what was asked for, the app never runs: 125, one sentence that names the thing, and nothing of
the launch is left. What is run leaves a mark and goes out to the world, so that neither can be missed."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import pytest

from conftest import VERSIONS, boot
from lab import Lab
from launching import SOCKS, launched, listeners, populated, secret_file, unique
from waiting import wait_until
from world_map import ORIGIN, UPSTREAM

HERE = pathlib.Path(__file__).parent
PYTHON = "/usr/bin/python3"
MARKS = "/run/appfw-lab/marks"
GONE = 3  # seconds in which nothing of a launch may be left
OURS = 125
DIRECT = ["--via=direct"]
NAMESPACE = [*DIRECT, "--wall=namespace"]
WALLS = {
    "strict": DIRECT,
    "address": [*DIRECT, "--wall=address"],
    "plain rules": ["--via=none", "--deny=any", "--allow=localhost"],
    "rules that deny little": ["--via=none", "--deny=10.0.0.0/8"],
    "no network": ["--via=none"],
}


def marks(lab):
    folder = lab.path(MARKS)
    folder.mkdir(exist_ok=True)
    folder.chmod(0o777)
    return folder


def app(name):
    """A program that can't run unseen, by a file and by the world."""
    return ["sh", "-c", f"touch {MARKS}/{name}; curl -s --noproxy '*' --max-time 1 http://{ORIGIN}/ >/dev/null; id -un"]


def left_of_launches(lab):
    """Everything of ours in that lab: there must be no launch that lives."""
    units = lab.run(["systemctl", "list-units", "--all", "--plain", "--no-legend", "appfw-*"], check=True).stdout
    places = [lab.path("/run/appfw"), *lab.path("/run/user").glob("*/appfw")]
    entries = [str(entry) for place in places if place.is_dir() for entry in place.iterdir()]
    transient = [str(path) for path in lab.path("/run/systemd/transient").glob("appfw-*")]
    cgroups = [str(path) for path in populated(lab, "")]
    return units.decode().split() + entries + transient + cgroups + listeners(lab)


def refusal(lab, *words, user="root", env=None, command=None, limit=15, program="appfw-run"):
    """Launches what must be refused; returns what was said, less the program's name."""
    name = unique("mark")
    place = marks(lab) / name
    started = time.monotonic()
    with lab.world.watch() as w:
        done = lab.run([program, *words, "--", *(command or app(name))], user=user, env=env, timeout=60)
    took = time.monotonic() - started
    assert not place.exists(), "the app has run"
    assert w.foreign() == []
    assert (done.returncode, done.stdout) == (OURS, b"")
    said = done.stderr.decode()
    lines = said.splitlines()
    assert len(lines) == 1 and lines[0].startswith("appfw-run: "), said
    assert took < limit, f"{took:.1f} s: {said}"
    wait_until(lambda: not left_of_launches(lab), GONE, f"the end of what is left: {left_of_launches(lab)}")
    return lines[0].removeprefix("appfw-run: ")


def runs(lab, *words, user="root", env=None):
    """The counterpart: the same, allowed; returns as whom it ran."""
    name = unique("mark")
    place = marks(lab) / name
    done = lab.run(["appfw-run", *words, "--", *app(name)], user=user, env=env)
    assert done.returncode == 0, done.stderr
    assert place.exists()
    wait_until(lambda: not left_of_launches(lab), GONE, "the launch's end")
    return done.stdout.decode().strip()


@pytest.mark.parametrize("wall", WALLS)
@pytest.mark.both
def test_where_nothing_is_wrong_the_same_app_runs(lab, wall):
    assert runs(lab, *WALLS[wall]) == "root"


# A systemd that says yes and does nothing

@pytest.mark.parametrize("wall", WALLS)
def test_kernel_that_refuses_bpf_leaves_the_app_unrun(lying_lab, wall):
    assert "BPF filter" in refusal(lying_lab, *WALLS[wall])


def test_bpf_is_missed_where_what_it_is_proven_by_is_opened(lying_lab):
    opened = [f"--allow-destination={address}:80" for address in ("[::1]", "127.100.90.51", "127.100.90.52")]
    assert "BPF filter" in refusal(lying_lab, *DIRECT, *opened)


@pytest.mark.parametrize("user", ["root", "bob"])
def test_bpf_is_missed_whoever_the_app_runs_as(lying_lab, user):
    assert "BPF filter" in refusal(lying_lab, *DIRECT, "--uid", user)


class DeniedLab(Lab):
    """A systemd started by a program that has the kernel refuse something."""

    denial = None  # a program of this folder

    def _in_cgroup(self, part):
        command = super()._in_cgroup(part)
        return [*command, sys.executable, HERE / self.denial] if part == "systemd" else command


class NoNamespacesLab(DeniedLab):
    """A systemd that may make no network namespace for a unit; it says so in its log and carries on without."""

    denial = "deny_netns.py"


@pytest.fixture(scope="module", params=VERSIONS)
def no_namespaces_lab(request):
    booted = boot(request.param, NoNamespacesLab)
    yield booted
    booted.stop()


def test_systemd_without_network_namespaces_lets_a_private_unit_out(no_namespaces_lab):
    """Non-vacuity: this is what systemd makes of PrivateNetwork= there."""
    with no_namespaces_lab.world.watch() as w:
        no_namespaces_lab.run(["systemd-run", "--quiet", "--wait", "--pipe", "--collect", "-p", "PrivateNetwork=yes",
                               "curl", "-sS", f"http://{ORIGIN}/"], check=True)
    assert w.foreign()


@pytest.mark.parametrize("wall, says", [("no network", "no network namespace of its own"), ("strict", "")])
def test_systemd_without_network_namespaces_leaves_the_app_unrun(no_namespaces_lab, wall, says):
    assert says in refusal(no_namespaces_lab, *WALLS[wall])


@pytest.fixture(scope="module", params=VERSIONS)
def weak_lab(request):
    """A systemd without CAP_SYS_ADMIN and CAP_BPF, as in many a container."""
    booted = boot(request.param)
    try:
        configuration = booted.path("/etc/systemd/system.conf.d/weak.conf")
        configuration.parent.mkdir(exist_ok=True)
        configuration.write_text("[Manager]\nCapabilityBoundingSet=~CAP_SYS_ADMIN CAP_BPF\n")
        booted.run(["systemctl", "daemon-reexec"], check=True)
        yield booted
    finally:
        booted.stop()


@pytest.mark.parametrize("wall", WALLS)
@pytest.mark.both
def test_manager_without_capabilities_leaves_the_app_unrun(weak_lab, wall):
    assert refusal(weak_lab, *WALLS[wall])


# The namespace wall, which has no filter

@pytest.mark.parametrize("user", ["root", "bob"])
@pytest.mark.parametrize("words", [NAMESPACE, [*NAMESPACE, "--no-capture"], ["--via=none", "--wall=namespace"]],
                         ids=["capture", "no-capture", "none"])
def test_the_namespace_wall_needs_no_bpf(lying_lab, words, user):
    assert runs(lying_lab, *words, "--uid", user) == user


def network_of(lab):
    """The host's interfaces and its routes."""
    links = json.loads(lab.run(["ip", "-j", "link"], check=True).stdout)
    routes = lab.run(["ip", "-4", "route", "show", "table", "all"], check=True).stdout
    return {link["ifname"] for link in links}, routes


@pytest.mark.parametrize("words", [NAMESPACE, ["--via=none", "--wall=namespace"]], ids=["capture", "none"])
def test_the_namespace_wall_is_no_wall_without_a_namespace(no_namespaces_lab, words):
    # What makes the network there must not touch the host's, which is where it finds itself.
    before = network_of(no_namespaces_lab)
    assert refusal(no_namespaces_lab, *words)
    assert network_of(no_namespaces_lab) == before


@pytest.mark.parametrize("outside", ["own", "1"])
def test_the_hosts_network_is_never_made_over(lab, outside):
    """Whatever systemd has run there as root: in the launcher's namespace, or in one that something else is in."""
    inode = lab.run(["stat", "-Lc", "%i", "/proc/self/ns/net"], check=True).stdout.decode().strip()
    before = network_of(lab)
    words = ["--capture=streams", f"--outside={inode if outside == 'own' else outside}", "--control=/nowhere"]
    done = lab.run(["appfw", "network", *words])
    assert done.returncode == OURS and b"network namespace" in done.stderr
    assert network_of(lab) == before


class NoNftablesLab(DeniedLab):
    """A systemd on a kernel without nf_tables."""

    denial = "deny_nftables.py"


@pytest.fixture(scope="module", params=VERSIONS)
def no_nftables_lab(request):
    booted = boot(request.param, NoNftablesLab)
    yield booted
    booted.stop()


@pytest.mark.parametrize("user", ["root", "bob"])
def test_without_nf_tables_there_is_no_capture_and_the_sentence_says_so(no_nftables_lab, user):
    said = refusal(no_nftables_lab, *NAMESPACE, "--uid", user)
    assert "nf_tables" in said and "--no-capture" in said
    assert runs(no_nftables_lab, *NAMESPACE, "--no-capture", "--uid", user) == user


def test_without_nf_tables_an_ordinary_users_launch_says_so_as_well(no_nftables_lab):
    denied = no_nftables_lab.run(["appfw-run", "--via=direct", "id", "-un"], user="bob")
    said = denied.stderr.decode()
    assert denied.returncode == OURS and denied.stdout == b"" and "nf_tables" in said and "--no-capture" in said, said
    done = no_nftables_lab.run(["appfw-run", "--via=direct", "--no-capture", "id", "-un"], user="bob")
    assert (done.returncode, done.stdout) == (0, b"bob\n"), done.stderr


@pytest.mark.parametrize("text", ["ExecStartPre=/bin/true", "ExecStartPre=; ExecStartPre=+/bin/true", "ExecStartPre="])
def test_only_our_own_command_comes_before_the_namespaces_proof(lab, text):
    with drop_in(lab, "appfw-.service", f"[Service]; {text}") as path:
        said = refusal(lab, *NAMESPACE)
        assert "ExecStartPre=" in said and path in said


# What drop-ins change

@contextlib.contextmanager
def drop_in(lab, unit, text):
    """A drop-in of the administrator's, for the block."""
    folder = lab.path(f"/etc/systemd/system/{unit}.d")
    folder.mkdir(exist_ok=True)
    file = folder / "zz-lab.conf"
    file.write_text(text.replace("; ", "\n") + "\n")
    lab.run(["systemctl", "daemon-reload"], check=True)
    try:
        yield f"/etc/systemd/system/{unit}.d/zz-lab.conf"
    finally:
        file.unlink()
        folder.rmdir()
        lab.run(["systemctl", "daemon-reload"], check=True)


@pytest.mark.parametrize("wall", WALLS)
@pytest.mark.parametrize("unit, section", [
    ("appfw.slice", "Slice"), ("-.slice", "Slice"), ("service", "Service"), ("appfw-.service", "Service"),
])
def test_address_allowed_by_a_drop_in_is_found(lab, wall, unit, section):
    with drop_in(lab, unit, f"[{section}]; IPAddressAllow=any") as path:
        said = refusal(lab, *WALLS[wall])
    assert "IPAddressAllow=" in said and path in said


def test_narrow_address_allowed_by_a_drop_in_is_found(lab):
    """No probe could tell: the lists are compared."""
    with drop_in(lab, "appfw.slice", "[Slice]; IPAddressAllow=10.0.0.7"):
        assert "appfw.slice has IPAddressAllow=" in refusal(lab, *DIRECT)


STRICT, PLAIN = DIRECT, WALLS["plain rules"]
BOB = [*DIRECT, "--uid=bob"]


CHANGED = [
    ("PAMName=login", "PAMName", STRICT),
    ("Delegate=yes", "Delegate", STRICT),
    ("ExecStartPre=/bin/true", "ExecStartPre", STRICT),
    ("ExecStartPre=+/bin/true", "ExecStartPre", STRICT),
    ("ExecCondition=/bin/true", "ExecCondition", STRICT),
    ("ExecStartPost=/bin/true", "ExecStartPost", STRICT),
    ("ExecStopPost=/bin/true", "ExecStopPost", STRICT),
    ("Environment=LD_PRELOAD=/tmp/x.so", "Environment", STRICT),
    ("Environment=LD_PRELOAD=/tmp/x.so", "Environment", PLAIN),
    ("EnvironmentFile=-/etc/environment", "EnvironmentFile", PLAIN),
    ("PassEnvironment=LD_PRELOAD", "PassEnvironment", PLAIN),
    ("User=eve", "User", STRICT),
    ("User=eve", "User", BOB),
    ("NoNewPrivileges=no", "NoNewPrivileges", STRICT),
    ("PrivateNetwork=no", "PrivateNetwork", STRICT),
    ("PrivateUsers=no", "PrivateUsers", BOB),
    ("IPAddressDeny=", "IPAddressDeny", STRICT),
    ("BindPaths=/run/dbus/system_bus_socket:/run/bus", "BindPaths", STRICT),
    ("BindReadOnlyPaths=/run/dbus/system_bus_socket:/run/bus", "BindReadOnlyPaths", STRICT),
    ("ReadWritePaths=/etc/systemd/system", "ReadWritePaths", STRICT),
    ("RestrictAddressFamilies=", "RestrictAddressFamilies", STRICT),
    ("SystemCallFilter=", "SystemCallFilter", STRICT),
    ("SystemCallArchitectures=", "SystemCallArchitectures", STRICT),
    ("CapabilityBoundingSet=CAP_SYS_PTRACE", "CapabilityBoundingSet", STRICT),
    ("AmbientCapabilities=CAP_NET_RAW", "AmbientCapabilities", BOB),
    ("AmbientCapabilities=CAP_NET_RAW", "AmbientCapabilities", STRICT),
    ("RootDirectory=/", "RootDirectory", STRICT),
    ("NetworkNamespacePath=/proc/1/ns/net", "NetworkNamespacePath", PLAIN),
    ("Slice=system.slice", "Slice", STRICT),
    ("ExecStart=; ExecStart=/bin/true", "ExecStart", STRICT),
    ("RemainAfterExit=yes", "RemainAfterExit", STRICT),
    ("StandardInput=socket", "StandardInput", STRICT),
]


@pytest.mark.parametrize("setting, named, words", CHANGED)
def test_setting_of_a_drop_in_is_found(lab, setting, named, words):
    name = unique("dropped")
    with drop_in(lab, f"appfw-{name}.service", f"[Service]; {setting}") as path:
        said = refusal(lab, "--unit", name, *words)
    assert named in said and path in said


@pytest.mark.parametrize("setting, named, words", [row for row in CHANGED if row[1] in (
    "PAMName", "Delegate", "ExecStartPre", "Environment", "User", "NoNewPrivileges", "PrivateNetwork", "BindPaths")])
def test_setting_of_a_drop_in_for_all_launches_is_found(lab, setting, named, words):
    """It changes the life-line and the forwarder as well, so any of them may be what is named."""
    with drop_in(lab, "appfw-.service", f"[Service]; {setting}"):
        assert "appfw-" in refusal(lab, *words)


def test_namespace_of_another_unit_is_found(lab):
    name = unique("joins")
    with drop_in(lab, f"appfw-{name}.service", "[Unit]; JoinsNamespaceOf=lab-bait.service"):
        assert "JoinsNamespaceOf" in refusal(lab, "--unit", name, *WALLS["no network"])


# Programs

@pytest.fixture
def folder(lab):
    """A place of its own for copies of the programs."""
    path = lab.path(f"/usr/local/{unique('programs')}")
    path.mkdir()
    yield path
    lab.run(["rm", "-rf", f"/usr/local/{path.name}"], check=True)


def copy(lab, program, folder, change=lambda data: data):
    target = folder / program
    target.write_bytes(change(lab.path(f"/usr/local/bin/{program}").read_bytes()))
    target.chmod(0o755)
    return f"/usr/local/{folder.name}/{program}"


def test_missing_appfw_is_said(lab, folder):
    program = copy(lab, "appfw-run", folder)
    said = refusal(lab, *DIRECT, program=program)
    assert "appfw is missing" in said and f"/usr/local/{folder.name}/appfw" in said


def test_appfw_of_another_version_is_said(lab, folder):
    version = lab.run(["appfw-run", "--version"], check=True).stdout.split()[-1]
    # The compiler keeps a short string in the instructions that write it, at most four bytes in one piece.
    kept, other = version[:4], version[:2] + b"9" + version[3:4]
    assert len(version) == 5
    program = copy(lab, "appfw-run", folder)
    copy(lab, "appfw", folder, lambda data: data.replace(kept, other))
    other += version[4:]
    assert f"version {other.decode()} and appfw-run is {version.decode()}" in refusal(lab, *DIRECT, program=program)


def test_appfw_that_is_something_else_is_refused(lab, folder):
    program = copy(lab, "appfw-run", folder)
    copy(lab, "appfw", folder, lambda data: b"#!/bin/sh\nexit 0\n")
    assert refusal(lab, *DIRECT, program=program)


# A forwarder that does not come up

@pytest.mark.parametrize("setting", [
    "ExecStart=; ExecStart=/bin/false", "DynamicUser=no; User=nobody", "IPAddressAllow=any", "IPAddressDeny=",
])
@pytest.mark.parametrize("wall", [[], ["--wall=address"]], ids=["strict", "address"])
def test_forwarder_that_a_drop_in_changes_is_not_trusted(lab, setting, wall):
    name = unique("dead")
    with drop_in(lab, f"appfw-{name}-forward.service", f"[Service]; {setting}"):
        assert f"appfw-{name}-forward.service" in refusal(lab, "--unit", name, "--via", SOCKS, *wall)


@pytest.mark.parametrize("setting", ["ListenStream=0.0.0.0:1080", "PrivateNetwork=no"])
def test_socket_that_a_drop_in_changes_is_not_trusted(lab, setting):
    name = unique("dead")
    with drop_in(lab, f"appfw-{name}-forward.socket", f"[Socket]; {setting}"):
        assert "forward" in refusal(lab, "--unit", name, "--via", SOCKS)


BROKEN = {
    "ends at once": "ExecStart=; ExecStart=/bin/false",
    "has no credential": "LoadCredential=via:/nonexistent",
}


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("wall", ["strict", "address"])
def test_forwarder_that_cannot_start_is_no_direct_connection(lab, wall, what):
    """Its first connection starts it. The app fails soon, nothing gets out, and the launcher says whose fault it was."""
    app = ["sh", "-c", "echo ready; read go; exec curl -sS --max-time 12 http://web.test/"]
    with lab.world.watch() as w, launched(lab, *WALLS[wall], *app, stdin=subprocess.PIPE) as process:
        unit = f"appfw-{process.name}-forward.service"
        # Once the launch has been compared with its plan.
        with drop_in(lab, unit, f"[Service]; {BROKEN[what]}"):
            process.stdin.write(b"\n")
            process.stdin.close()
            assert process.shown.to_the_end().strip() == b""
            said = process.said.to_the_end().decode()
    assert process.returncode not in (0, OURS)
    assert f"appfw-run: the forwarder did not start; see: journalctl -u {unit}\n" in said
    assert w.foreign() == []


# Command lines

@pytest.mark.parametrize("via, says", [
    ("", "empty"),
    ("tor:", "tor"),
    ("tor://", "host is empty"),
    ("socks5h://", "host is empty"),
    ("socks5h://:1080", "host is empty"),
    ("socks5h://203.0.113.20:99999", "`99999` is not a port"),
    ("socks5h://203.0.113.20:0", "`0` is not a port"),
    ("socks5h://203.0.113.20:1080/path", "`/path` has something after its port"),
    ("socks5h://[::1:1080", "`[::1` has a character"),
    ("socks5h://a b:1080", "has a space"),
    ("http://", "host is empty"),
    ("ftp://203.0.113.20:1080", "`ftp://` is no scheme"),
    ("203.0.113.20:1080", "does not say how to speak to it"),
    ("nonsense", "nonsense"),
    ("unix:relative", "needs an absolute path"),
    ("@/nonexistent", "/nonexistent"),
    ("Tor ", "Tor"),
])
def test_malformed_way_out_is_refused(lab, via, says):
    assert says in refusal(lab, "--via", via)


@pytest.mark.parametrize("vias", [["direct", SOCKS], [SOCKS, "direct"], ["none", SOCKS], ["direct", "none"]])
def test_direct_and_none_stand_alone(lab, vias):
    said = refusal(lab, *[f"--via={via}" for via in vias])
    assert vias[0] in said or vias[1] in said


def test_file_that_others_read_is_no_secret(lab):
    via = secret_file(lab, SOCKS)
    lab.path(via[1:]).chmod(0o644)
    assert "can be read or changed by other users" in refusal(lab, "--via", via)


def test_no_way_out_is_a_question(lab):
    said = refusal(lab)
    assert said.startswith("where may sh go? --via tor")


@pytest.mark.parametrize("words, says", [
    (["--via=none", "--deny=any", "--allow=example.org"], "takes addresses; for names use --only/--block"),
    (["--via=none", "--deny=example.org"], "takes addresses; for names use --only/--block"),
    (["--via=none", "--deny=al"], "did you mean any?"),
    (["--via=none", "--deny=10.0.0.5/24"], "write 10.0.0.0/24"),
    (["--via=none", "--allow=10.0.0.0/24"], "allows alone restrict nothing: add --deny any"),
    (["--via=none", "--wall=address"], "needs rules"),
    (["--via=none", "--wall=strict", "--deny=any"], "--wall address"),
    (["--via=direct", "--deny=8.8.8.8"], "--via none"),
    (["--via=direct", "--allow=10.0.0.0/24"], "--wall address"),
    (["--via=direct", "--wall=address", "--allow=any"], "--allow covers every documentation network"),
    (["--via=none", "--allow-destination=127.0.0.1:80"], "--allow-destination"),
    (["--via=direct", "--allow-destination=127.100.90.50:1080"], "the forwarder itself listens there"),
    (["--via=direct", "--allow-destination=127.100.90.50:53"], "its DNS listens there"),
    (["--via=none", "--only=example.org"], "--only is the forwarder's"),
    (["--via=direct", "--block=https://example.org/"], "did you mean example.org:443?"),
    (["--via=direct", "--address=127.0.0.9"], "--address"),
    (["--via=direct", "--wall=address", "--address=203.0.113.2"], "127.0.0.0/8"),
    (["--via=direct", "--uid=nobody-such"], "no user"),
    (["--via=direct", "--unit=../x"], "launch name"),
    (["--via=direct", "--unit=x-forward"], "launch name"),
    (["--via=direct", "--workdir=/nonexistent"], "/nonexistent"),
])
def test_what_cannot_be_honoured_is_refused_with_a_word_on_what_can(lab, words, says):
    assert says in refusal(lab, *words)


def test_address_on_which_something_listens_is_refused(lab):
    assert "listens there already" in refusal(lab, *WALLS["address"], "--address=127.0.0.1:8023")


@pytest.mark.parametrize("wall", WALLS)
def test_bus_that_is_not_there_is_said(lab, wall):
    env = {"DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/nonexistent"}
    assert "system bus" in refusal(lab, *WALLS[wall], env=env)


def test_socket_as_standard_input_is_refused(lab):
    name = unique("mark")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = lab.popen(["appfw-run", *DIRECT, "--", *app(name)], stdin=theirs, stdout=-1, stderr=-1)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (OURS, b"")
    assert b"standard input is a socket" in err
    assert not (marks(lab) / name).exists()


def test_directory_as_standard_input_is_refused(lab):
    """By `..` it leads to all that is hidden."""
    name = unique("mark")
    directory = os.open(lab.path("/home"), os.O_RDONLY)
    process = lab.popen(["appfw-run", *DIRECT, "--", *app(name)], stdin=directory, stdout=-1, stderr=-1)
    os.close(directory)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (OURS, b"")
    assert b"standard input is a directory" in err
    assert not (marks(lab) / name).exists()


# Tor

@pytest.fixture(scope="module", params=VERSIONS)
def bare_lab(request):
    """A lab without Tor, whatever other tests have brought up in theirs."""
    booted = boot(request.param)
    yield booted
    booted.stop()


def test_no_tor_is_said_before_anything_starts(bare_lab):
    said = refusal(bare_lab, "--via=tor")
    assert "no Tor was found" in said and "--via tor://HOST:PORT" in said


def test_something_else_on_tors_port_is_not_tor(bare_lab):
    bare_lab.run(["systemd-run", "--quiet", "--collect", "--unit=not-tor", PYTHON, "-m", "http.server",
                  "--bind=127.0.0.1", "9050"], check=True)
    try:
        wait_until(lambda: bare_lab.run(["curl", "-s", "-o", "/dev/null", "http://127.0.0.1:9050/"]).returncode == 0,
                   20, "the server")
        said = refusal(bare_lab, "--via=tor")
        assert "127.0.0.1:9050 answers but is not Tor" in said
    finally:
        bare_lab.run(["systemctl", "stop", "not-tor"])


# Ordinary users

@pytest.mark.parametrize("wall", ["strict", "address"])
def test_an_ordinary_users_wall_is_never_another_than_was_asked_for(lab, wall):
    assert f"--wall {wall} needs the system manager" in refusal(lab, "--via=direct", f"--wall={wall}", user="bob")


@pytest.mark.parametrize("wall", ["strict", "address"])
def test_ordinary_user_whom_polkit_refuses_runs_nothing(lab, wall):
    said = refusal(lab, "--system", *WALLS[wall], user="bob", limit=30)
    assert "authentication" in said.lower() or "authorization" in said.lower() or "polkit" in said.lower()


ALLOW_BOB = """
polkit.addRule(function(action, subject) {
    if (action.id == "org.freedesktop.systemd1.manage-units" && subject.user == "bob")
        return polkit.Result.YES;
});
"""


def restart_polkit(lab):
    """It reads its rules anew in its own time, and may not be started often in a short time."""
    lab.run(["systemctl", "reset-failed", "polkit.service"])
    lab.run(["systemctl", "restart", "polkit.service"], check=True)


@contextlib.contextmanager
def polkit_rule(lab, text):
    rule = lab.path("/etc/polkit-1/rules.d/00-lab.rules")
    rule.write_text(text)
    rule.chmod(0o644)
    restart_polkit(lab)
    try:
        yield
    finally:
        rule.unlink()
        restart_polkit(lab)


@pytest.mark.parametrize("wall", WALLS)
def test_ordinary_user_whom_polkit_allows_runs_as_themselves(lab, wall):
    with polkit_rule(lab, ALLOW_BOB):
        assert runs(lab, "--system", *WALLS[wall], user="bob") == "bob"


def test_polkit_that_allows_bob_does_not_allow_eve(lab):
    with polkit_rule(lab, ALLOW_BOB):
        assert refusal(lab, "--system", *DIRECT, user="eve", limit=30)

"""Ways out of a launch, tried from inside. A leak is what the world or a service of the host has seen; a probe that
says "blocked" is only half of the proof."""

import contextlib
import errno
import json
import os
import pathlib
import platform
import subprocess

import pytest

from conftest import VERSIONS, boot, missing
from launching import Output, launched, secret_file, started, unique, wait_gone
from waiting import wait_until
from world_map import ORIGIN, UPSTREAM

HERE = pathlib.Path(__file__).parent
PYTHON = "/usr/bin/python3"
PROBE, TAKEOVER = HERE / "probe.py", HERE / "probe_takeover.py"
CORE_PATTERN = pathlib.Path("/proc/sys/kernel/core_pattern")
USERS = ["root", "bob"]
# What is captured is taken and refused, by --only, so that what is sent anywhere is nobody's.
WALLS = {
    "strict": ["--wall=strict", "--dns=synthetic"],
    "namespace": ["--wall=namespace", "--dns=synthetic", "--only=nothing.test"],
    "namespace-without-capture": ["--wall=namespace", "--no-capture", "--dns=synthetic"],
    "address": ["--wall=address"],
}

# Every entry below is open on purpose, or as far as that systemd offers no means; docs/security.md says why. The lists
# are compared as a whole, so that what opens, and what closes, is noticed.

# Connections to anywhere, which the forwarder takes in the kernel's name before it judges them.
CAPTURED = [
    "tcp-origin-v4", "tcp-origin-v6", "tcp-origin-v4-mapped", "mptcp-origin-v4", "tcp-public-v4", "tcp-public-v6",
    "tcp-local-network", "tcp-link-local", "dns-direct-tcp", "host-wildcard-by-own-v4", "host-wildcard-by-own-v6",
    "static-binary", "double-fork",
]
OPEN_BY_DESIGN = {
    "strict": {
        "getaddrinfo": "the forwarder answers with an address that stands for the name, and asks nobody",
    },
    "namespace": {
        **dict.fromkeys(CAPTURED, "captured, and refused"),
        "dns-direct-udp": "the forwarder answers for every server, here that it refuses the name",
        "host-resolver-stub-udp": "the same",
        "udp-multicast": "sent, to its own loopback",
    },
    "namespace-without-capture": {
        "getaddrinfo": "as in strict",
    },
    "address": {
        "unix-abstract": "abstract sockets belong to the host's network namespace",
        "host-wildcard-by-forwarders-address": "0.0.0.0 answers at the forwarder's own address as well",
    },
}
OPEN_TO_ROOT = {
    "write-/run/systemd/system": "an empty directory of the app's own (sd_booted looks at it); see the test of what "
                                 "arrives on the host",
}
OPEN_TO_ROOT_WITHOUT_PID_NAMESPACE = {
    "takeover-bob-proc-root-system-bus": "root takes on any user by CAP_SETUID, and is then that user's processes' peer",
    "takeover-bob-pidfd-getfd": "the same",
    "takeover-bob-proc-mem": "the same",
}
# What a stolen socket sends is seen by the world.
LEAKS_TO_ROOT_WITHOUT_PID_NAMESPACE = {("udp", ORIGIN, 7)}

def has_pid_namespaces(lab):
    return int(lab.version) >= 257


def open_to(lab, wall, user):
    """Everything that a program of USER may reach in that wall."""
    wanted = set(OPEN_BY_DESIGN[wall])
    if wall == "namespace" and user != "root":
        # A user namespace of the app's own alone leaves it where it is: captured.
        wanted.add("unshare-user")
    if user == "root":
        wanted |= set(OPEN_TO_ROOT)
        if not has_pid_namespaces(lab):
            wanted |= set(OPEN_TO_ROOT_WITHOUT_PID_NAMESPACE)
    return wanted


def leaks_of(lab, user):
    return LEAKS_TO_ROOT_WITHOUT_PID_NAMESPACE if user == "root" and not has_pid_namespaces(lab) else set()


def results_of(text):
    return {result["name"]: result for result in json.loads(text)}


def reached(results):
    return {name for name, result in results.items() if result["outcome"] == "reached"}


def errors_of(lab, results):
    """What probes could not try, by their names; resolvectl is not in every lab."""
    errors = {name: result["detail"] for name, result in results.items() if result["outcome"] == "error"}
    if not lab.path("/usr/bin/resolvectl").exists():
        errors.pop("resolver-resolvectl")
    return errors


def seen_by_world(watch, allow=()):
    """Every packet that is nobody's: protocol, destination, port. Once each."""
    return {(packet["proto"], packet["dst"], packet.get("dport")) for packet in watch.foreign(allow)}


def write_handle(lab):
    lab.run([PYTHON, TAKEOVER, "--write-handle"], check=True)


MULTIPLEXER = """
import os, pwd, signal, socket
bob = pwd.getpwnam("bob")
listeners = []
for path, uid in [("/tmp/tmux-0/default", 0), (f"/tmp/tmux-{bob.pw_uid}/default", bob.pw_uid),
                  ("/run/screen/S-bob/1.lab", bob.pw_uid)]:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    listeners.append(socket.socket(socket.AF_UNIX))
    listeners[-1].bind(path)
    listeners[-1].listen()
    for one in path, os.path.dirname(path):
        os.chown(one, uid, uid)
signal.pause()
"""


def serve_terminal_multiplexers(lab):
    """tmux of both users and bob's screen, as far as who connects can tell."""
    if not lab.path("/run/screen").exists():
        lab.run(["systemd-run", "--quiet", "--unit=lab-screen", PYTHON, "-c", MULTIPLEXER], check=True)
        wait_until(lab.path("/run/screen/S-bob/1.lab").exists, 10, "the sockets")


class Baits:
    """What the host's own services have seen in the block."""

    def __init__(self, lab):
        self._lab = lab

    def __enter__(self):
        self._before = len(self._lab.bait_events())
        return self

    def __exit__(self, *_):
        self.servers = {event["server"] for event in self._lab.bait_events()[self._before:]}


@pytest.fixture(scope="module", autouse=True)
def core_pattern_is_as_it_was():
    """It is the whole machine's, not the lab's."""
    before = CORE_PATTERN.read_text()
    yield
    after = CORE_PATTERN.read_text()
    CORE_PATTERN.write_text(before)
    assert after == before


@pytest.fixture(autouse=True)
def prepared(request):
    """What probes look for; and folders that the packages bring which are to be protected."""
    if "lab" in request.fixturenames:
        lab = request.getfixturevalue("lab")
        write_handle(lab)
        serve_terminal_multiplexers(lab)
        lab.run(["mkdir", "-p", "/var/spool/cron/crontabs", "/etc/cron.d", "/etc/cron.daily", "/etc/udev/rules.d"],
                check=True)


def confined(lab, wall, user, via="direct", program=TAKEOVER, names="all", more=""):
    """Runs probes as the app of a launch. They learn the forwarder's address as programs do."""
    script = f'exec {PYTHON} {program} --json --forwarder="${{http_proxy#http://}}" {names} {more}'
    # With direct alone the host's resolver would be asked, by the forwarder.
    command = ["appfw-run", "--via", via, *WALLS[wall], "--uid", user, "--", "sh", "-fc", script]
    done = lab.run(command, timeout=120)
    assert done.returncode == 0, done.stderr
    return results_of(done.stdout)


# Non-vacuity: the same probes get out where nothing holds them (test_probe.py has those of probe.py).

@pytest.mark.parametrize("user, names", [
    ("root", {"takeover-bob-proc-root-system-bus", "takeover-bob-pidfd-getfd", "takeover-bob-proc-mem",
              "takeover-others-memory", "mount-unmount", "mount-bind", "file-handle", "bpf", "unix-screen"}),
    ("bob", {"mount-unmount", "unix-screen"}),
])
def test_unconfined_probes_of_other_processes_and_mounts_get_out(lab, world, user, names):
    with world.watch() as w:
        done = lab.run([PYTHON, TAKEOVER, "--json", *names], user=user, check=True)
    assert names - reached(results_of(done.stdout)) == set(), done.stdout
    assert bool(w.foreign()) == ("takeover-bob-pidfd-getfd" in names)


# Everything at once

@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("wall", WALLS)
@pytest.mark.both
def test_what_a_launch_reaches_is_what_is_open_by_design(lab, world, wall, user):
    before = CORE_PATTERN.read_text()
    with Baits(lab) as baits, world.watch() as w:
        results = confined(lab, wall, user)
    assert len(results) > 100
    assert {name: results[name]["detail"] for name in reached(results) ^ open_to(lab, wall, user)} == {}
    assert seen_by_world(w) == leaks_of(lab, user)
    assert baits.servers == ({"abstract", "0.0.0.0:8022"} if wall == "address" else set())
    # No name was asked for, by whatever resolver.
    assert w.events(server="dns") == []
    assert CORE_PATTERN.read_text() == before
    assert errors_of(lab, results) == {}


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("wall", WALLS)
@pytest.mark.parametrize("call", ["io-uring"])
def test_io_uring_is_said_not_to_exist(lab, wall, user, call):
    """ENOSYS, by which programs do without; a kill or EPERM would end some."""
    assert "Function not implemented" in confined(lab, wall, user, names=call)[call]["detail"]


# The forwarder as a way to the inside

@pytest.mark.parametrize("via", ["direct", f"socks5h://{UPSTREAM}:1080", f"http://{UPSTREAM}:3128"])
@pytest.mark.parametrize("port", ["8022", "80"])
def test_forwarder_never_leads_inside_whatever_is_behind_it(lab, world, via, port):
    """The world's upstreams would lead to their own loopback: they must not even be asked."""
    with Baits(lab) as baits, world.watch() as w:
        results = confined(lab, "strict", "bob", via, PROBE, "forwarder-*", f"--forwarder-port={port}")
    assert len(results) >= 35
    assert reached(results) == set()
    assert baits.servers == set()
    assert w.foreign() == []
    assert w.events() == []


def test_forwarder_leads_outside_all_the_same(lab, world):
    """The counterpart of all the above: it isn't that nothing works."""
    with world.watch() as w:
        done = lab.run(["appfw-run", "--via", "direct", "curl", "-sS", "http://v4.test/"], check=True)
    assert done.stdout.startswith(b"world ")
    assert seen_by_world(w, [(ORIGIN, 80)]) <= {("udp", "203.0.113.53", 53)}


# Files that others run later

UNIT = "[Service]\nExecStart=/bin/true\n"
RUN_LATER = [
    "/etc/systemd/system", "/etc/systemd/user", "/run/systemd/system", "/run/systemd/transient",
    "/run/systemd/generator", "/run/systemd/system.control", "/run/systemd/user", "/usr/lib/systemd/system",
    "/usr/lib/systemd/system-generators", "/usr/lib/systemd/user", "/etc/cron.d", "/etc/cron.daily",
    "/var/spool/cron/crontabs", "/etc/udev/rules.d", "/run/udev/rules.d", "/usr/lib/udev/rules.d",
]
# A program of root's writes files that root uses: hostile root is not contained, says docs/security.md.
OPEN_FILES = ["/etc/profile.d", "/etc/ld.so.conf.d", "/etc/tmpfiles.d", "/usr/local/bin", "/root"]


def write_from_inside(lab, wall, user, folders):
    """An app of USER tries to leave a file in each; those that the host then has, which are taken away again."""
    name = unique("escape") + ".service"
    script = f"for folder; do mkdir -p $folder; echo x >$folder/{name}; done 2>/dev/null; true"
    done = lab.run(["appfw-run", "--via=direct", *WALLS[wall], "--uid", user, "sh", "-c", script, "sh", *folders])
    assert done.returncode == 0, done.stderr
    there = [folder for folder in folders if lab.path(f"{folder}/{name}").exists()]
    for folder in there:
        lab.path(f"{folder}/{name}").unlink()
    return there


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("wall", WALLS)
def test_no_unit_cron_job_or_udev_rule_arrives_on_the_host(lab, wall, user):
    assert write_from_inside(lab, wall, user, RUN_LATER) == []


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("wall", WALLS)
def test_no_capability_of_the_proof_is_left_to_the_app(lab, wall, user):
    """Issue 2's list and no more, for good; `inside` itself had CAP_SYS_ADMIN."""
    def sets(text):
        return {line.split(":")[0]: int(line.split()[1], 16) for line in text.splitlines() if line.startswith("Cap")}
    # Root has them as far as this machine lets its PID 1; bob's are those of his user namespace.
    limit = sets(lab.path("/proc/1/status").read_text())["CapBnd"] if user == "root" else -1
    bounding = 0x218405FF & limit
    held = bounding if user == "root" else 0
    shown = lab.run(["appfw-run", "--via=direct", *WALLS[wall], "--uid", user, "cat", "/proc/self/status"], check=True)
    assert sets(shown.stdout.decode()) == {
        "CapInh": 0, "CapPrm": held, "CapEff": held, "CapBnd": bounding, "CapAmb": 0}


LISTEN = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(9); " \
         "print('up', flush=True); sys.stdin.read()"
CONNECT = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1]); print('open')"


@contextlib.contextmanager
def agent(lab, path):
    """A socket of bob's, as an agent has it."""
    words = ["setpriv", "--reuid=bob", "--regid=bob", "--clear-groups", PYTHON, "-c", LISTEN, path]
    with started(lab, words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        Output(process.stdout.fileno()).until(b"up")
        yield


def reaches(lab, path, *words, before="true", **options):
    """Whether an app of bob's can connect to PATH."""
    script = f"{before}; exec {PYTHON} -c \"{CONNECT}\" {path}"
    done = lab.run(["appfw-run", "--via=none", "--uid=bob", *words, "sh", "-c", script], **options)
    return b"open" in done.stdout


def test_a_link_does_not_show_what_it_hides(lab):
    home = f"/home/bob/{unique('agent')}"
    lab.run(["mkdir", home], user="bob", check=True)
    real, link = f"{home}/real", f"/run/{unique('link')}"
    with agent(lab, real):
        assert reaches(lab, real)
        lab.run(["ln", "-s", real, link], check=True)
        assert not reaches(lab, real, env={"SSH_AUTH_SOCK": link})
        assert not reaches(lab, real, env={"DBUS_SESSION_BUS_ADDRESS": f"unix:path={link},guid=1"})
    lab.run(["rm", link], check=True)


def test_what_the_app_could_open_again_is_hidden_too(lab):
    """A directory that its owner, the app's user, has closed for the moment."""
    gnupg = "/home/bob/.gnupg"
    lab.run(["mkdir", gnupg], user="bob", check=True)
    with agent(lab, f"{gnupg}/S.gpg-agent"):
        for mode in "700", "000":
            lab.run(["chmod", mode, gnupg], check=True)
            assert not reaches(lab, f"{gnupg}/S.gpg-agent", before=f"chmod 700 {gnupg}")
    lab.run(["rm", "-r", gnupg], check=True)


def test_what_a_link_leads_to_in_a_closed_directory_is_hidden_too(lab):
    gnupg, closed = "/home/bob/.gnupg", "/home/bob/closed"
    lab.run(["mkdir", gnupg, closed], user="bob", check=True)
    lab.run(["ln", "-s", f"{closed}/S.real", f"{gnupg}/S.gpg-agent"], user="bob", check=True)
    with agent(lab, f"{closed}/S.real"):
        for mode in "700", "000":
            lab.run(["chmod", mode, closed], check=True)
            assert not reaches(lab, f"{closed}/S.real", before=f"chmod 700 {closed}")
    lab.run(["rm", "-r", gnupg, closed], check=True)


def test_somebody_elses_link_takes_nothing_from_roots_app(lab):
    link = f"/tmp/ssh-{unique('x').replace('-', '')}"
    lab.run(["ln", "-s", "/etc/hostname", link], user="eve", check=True)
    done = lab.run(["appfw-run", "--via=none", "cat", "/etc/hostname"])
    lab.run(["rm", link], check=True)
    assert done.returncode == 0 and done.stdout, done.stderr.decode()


def test_a_mount_that_another_one_covers_is_no_obstacle(lab):
    """Below what is made read-only for root: the way to it is closed anyway."""
    mounts = "mount -t tmpfs x /sys/fs/fuse && mkdir /sys/fs/fuse/below && mount -t tmpfs y /sys/fs/fuse/below && " \
             "mount -t tmpfs z /sys/fs/fuse"
    lab.run(["sh", "-c", mounts], check=True)
    try:
        done = lab.run(["appfw-run", "--via=none", "sh", "-c", "touch /sys/fs/fuse/x"])
        assert done.returncode == 1 and b"Read-only" in done.stderr, done.stderr.decode()
    finally:
        for mounted in "", "/below", "":
            lab.run(["umount", f"/sys/fs/fuse{mounted}"], check=True)


def test_sessions_of_the_hosts_own_tmp_are_hidden(lab):
    """Whatever /tmp the launcher has."""
    folder = f"/tmp/ssh-{unique('x').replace('-', '')}"
    lab.run(["mkdir", folder], user="bob", check=True)
    with agent(lab, f"{folder}/agent.7"):
        script = ["appfw-run", "--via=none", "--uid=bob", PYTHON, "-c", CONNECT, f"{folder}/agent.7"]
        done = lab.run(["systemd-run", "--quiet", "--wait", "--pipe", "-p", "PrivateTmp=yes", *script])
        assert done.returncode == 1 and b"open" not in done.stdout
    lab.run(["rm", "-r", folder], check=True)


@pytest.mark.parametrize("user", USERS)
def test_the_kernel_looks_no_key_up_for_an_app(lab, user):
    """It would have /sbin/request-key ask, as root, in the host's network. Without that file it is ENOENT or ENOKEY."""
    number = {"x86_64": 249, "aarch64": 219}[platform.machine()]
    program = f"import ctypes; libc = ctypes.CDLL(None, use_errno=True); " \
              f"libc.syscall({number}, b'dns_resolver', b'web.test', b'ipv4', -2); print(ctypes.get_errno())"
    done = lab.run(["appfw-run", "--via=none", "--uid", user, PYTHON, "-c", program], check=True)
    assert int(done.stdout) == errno.ENOSYS


def test_many_entries_of_run_are_no_obstacle(lab):
    folder = lab.path("/run")
    names = [folder / f"many-{number}" for number in range(1500)]
    for name in names:
        name.touch()
    try:
        assert lab.run(["appfw-run", "--via=none", "sh", "-c", "ls /run | grep -c many-; ulimit -n"],
                       check=True).stdout.split()[0] == b"1500"
    finally:
        for name in names:
            name.unlink()


# Mounts FUSE of the user with a number at each place; whether its server is gone then, or never answers.
FUSE = """import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
servers = [os.open("/dev/fuse", os.O_RDWR) for place in sys.argv[3:]]
for server, place in zip(servers, sys.argv[3:]):
    options = f"fd={server},rootmode=40000,user_id={sys.argv[2]},group_id=0"
    if libc.mount(b"x", place.encode(), b"fuse", 0, options.encode()):
        sys.exit(os.strerror(ctypes.get_errno()))
    if sys.argv[1] == "gone":
        os.close(server)
print("up", flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.parametrize("server", ["gone", "silent"])
@pytest.mark.parametrize("owner", [0, 1001])
def test_a_mount_that_does_not_answer_is_no_obstacle(lab, server, owner):
    if not lab.path("/dev/fuse").exists():
        missing("there is no /dev/fuse here, as in some containers")
    gnupg, places = "/home/bob/.gnupg", [f"/run/{unique('fuse')}"]
    if server == "gone" and owner:
        places.append(gnupg)
    lab.run(["mkdir", *places], check=True)
    try:
        with started(lab, [PYTHON, "-c", FUSE, server, str(owner), *places], stdin=subprocess.PIPE,
                     stdout=subprocess.PIPE) as process:
            Output(process.stdout.fileno()).until(b"up")
            for words in [[], ["--uid=bob"], ["--uid=bob", "--standalone"]]:
                done = lab.run(["appfw-run", *words, "--via=none", "ls", gnupg], timeout=10)
                assert b"appfw" not in done.stderr, (words, done)
                # One that has a server again would show what it hides.
                assert gnupg not in places or b"Permission denied" in done.stderr or not words, done
    finally:
        lab.run(["umount", "-l", *places])
        lab.run(["rmdir", *places], check=True)


def test_other_files_of_roots_are_written_by_root(lab):
    assert write_from_inside(lab, "strict", "root", OPEN_FILES) == OPEN_FILES
    assert write_from_inside(lab, "strict", "bob", OPEN_FILES) == []


@pytest.mark.xfail(strict=True, reason="a folder that is not there can't be made read-only, and this one is in "
                                       "systemd's path for units: a hole for root's apps, reported")
def test_unit_folder_that_does_not_exist_yet_stays_away(lab):
    folder = "/usr/local/lib/systemd/system"
    assert not lab.path(folder).exists()
    try:
        assert write_from_inside(lab, "strict", "root", [folder]) == []
    finally:
        lab.run(["rm", "-rf", "/usr/local/lib/systemd"], check=True)


def test_password_of_the_way_out_is_not_the_apps_to_read(lab):
    """Root may read every file but these: the credential is hidden, and the state directory."""
    via = secret_file(lab, f"socks5h://lab:secret@{UPSTREAM}:1081")
    script = "curl -s http://web.test/ >/dev/null; cat /run/credentials/*/* /run/appfw/* /run/appfw/*/*; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline " \
             "/proc/[0-9]*/root/run/credentials/*/* | tr '\\0' '\\n'; true"
    done = lab.run(["appfw-run", "--via", via, "sh", "-c", f"({script}) 2>/dev/null"], check=True)
    assert b"forward" in done.stdout or has_pid_namespaces(lab)
    assert b"secret" not in done.stdout + done.stderr


# Who else may use a forwarder on the host's loopback

FETCHES = {
    "by http": lambda address: ["curl", "-sS", "--max-time", "3", "--proxy", f"http://{address}:1080", "http://web.test/"],
    "by socks": lambda address: ["curl", "-sS", "--max-time", "3", "--socks5-hostname", f"{address}:1080",
                                 "http://web.test/"],
}


ADDRESSES = (f"127.101.0.{last}" for last in range(1, 255))


def next_address():
    """One of its own for each launch: a launch may outlast its launcher by a moment."""
    return next(ADDRESSES)


@contextlib.contextmanager
def forwarder_on_the_host(lab):
    """The forwarder of an app of bob's that does nothing. `.address` is where it listens."""
    address = next_address()
    words = ["--via=direct", "--wall=address", f"--address={address}", "--uid=bob", "sh", "-c", "echo ready; read line"]
    with launched(lab, *words, stdin=subprocess.PIPE) as launch:
        launch.address = address
        yield launch


@pytest.mark.parametrize("fetch", FETCHES)
@pytest.mark.parametrize("stranger", ["root", "bob", "eve"])
def test_forwarder_on_the_hosts_loopback_serves_no_stranger(lab, world, stranger, fetch):
    with forwarder_on_the_host(lab) as launch, world.watch() as w:
        done = lab.run(FETCHES[fetch](launch.address), user=stranger)
        assert done.returncode != 0 and done.stdout == b""
        assert "it does not belong to the app" in lab.journal(f"appfw-{launch.name}-forward.service")
    assert w.foreign() == []


def test_apps_do_not_share_forwarders(lab, world):
    """Another app knows the address, and its filter knows better."""
    with forwarder_on_the_host(lab) as launch, world.watch() as w:
        done = lab.run(["appfw-run", "--via=direct", "--wall=address", "--uid=bob", "--",
                        *FETCHES["by http"](launch.address)])
        assert done.returncode != 0 and done.stdout == b""
    assert w.foreign() == []


def test_address_is_free_again_as_soon_as_its_launch_is_over(lab):
    words = ["--via=direct", "--wall=address", f"--address={next_address()}", "--unit", unique("again")]
    for _ in range(2):
        lab.run(["appfw-run", *words, "curl", "-sS", "http://v4.test/"], check=True)


def test_children_and_grandchildren_in_cgroups_of_their_own_are_the_app(lab):
    """They fetch when told to, after they were moved below the unit's cgroup."""
    address = next_address()
    fetch = " ".join(FETCHES["by http"](address))
    script = f"""
        mkfifo /tmp/$1; exec 3<>/tmp/$1
        (sh -c 'read line <&3; {fetch}; echo over >&2' &)
        echo ready; read line; echo go >&3; read line
    """
    name = unique("fifo")
    words = ["--via=direct", "--wall=address", f"--address={address}", "--", "sh", "-c", script, "sh", name]
    with launched(lab, *words, stdin=subprocess.PIPE) as launch:
        unit = lab.path(f"/sys/fs/cgroup/appfw.slice/appfw-{launch.name}.service")
        deeper = unit / "sub" / "deeper"
        deeper.mkdir(parents=True)

        def child():
            """Once it is executed, which may be after its parent says that it is ready."""
            pids = (unit / "cgroup.procs").read_text().split()
            commands = {pid: pathlib.Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids}
            return next((pid for pid, command in commands.items() if command.startswith(b"sh\0-c\0read line")), None)

        (deeper / "cgroup.procs").write_text(wait_until(child, 5, "the child that reads"))
        launch.stdin.write(b"go\n")
        launch.stdin.flush()
        launch.shown.until(b"world ")
        launch.said.until(b"over")
        launch.stdin.write(b"end\n")
        launch.stdin.flush()
        assert launch.wait(10) == 0


# Long-running apps

@pytest.fixture(scope="module", params=VERSIONS)
def worn_lab(request):
    """A lab of its own: what is restarted here, others need."""
    booted = boot(request.param)
    try:
        yield booted
    finally:
        booted.stop()


def log_in_again(lab):
    """bob's user manager, bus and runtime directory go and come."""
    uid = lab.path("/home/bob").stat().st_uid
    lab.run(["systemctl", "restart", f"user-runtime-dir@{uid}.service", f"user@{uid}.service"], check=True)
    wait_until(lab.path(f"/run/user/{uid}/bus").exists, 10, "bob's bus")


def restart(*units):
    def change(lab):
        # One by one: not every image has them all.
        for unit in units:
            lab.run(["systemctl", "restart", unit])
    return change


CHANGES = {
    "daemon-reload": lambda lab: lab.run(["systemctl", "daemon-reload"], check=True),
    "daemon-reexec": lambda lab: lab.run(["systemctl", "daemon-reexec"], check=True),
    "systemd-resolved is restarted": restart("systemd-resolved.service"),
    "nscd is restarted": restart("nscd.service"),
    "the user logs in": log_in_again,
    "dbus is restarted": restart("dbus.socket", "dbus.service"),
}
HIDDEN = ["unix-system-bus", "unix-session-bus", "unix-systemd-private", "unix-user-systemd-private", "unix-nscd",
          "unix-docker", "unix-others", "resolver-*", "systemd-run*", "bus-attach-process", "host-*", "tcp-*", "udp-*"]


def probed_after(lab, user, change):
    """What an app reaches that was there before CHANGE. It is detached: a launcher ends with its bus."""
    name = unique("long")
    begin, answer = (lab.path(f"/run/appfw-lab/{name}.{part}") for part in ("begin", "answer"))
    os.mkfifo(begin)
    answer.touch()
    for path in begin, answer:
        path.chmod(0o666)
    script = f"read line </run/appfw-lab/{begin.name}; " \
             f"exec {PYTHON} {PROBE} --json {' '.join(HIDDEN)} >/run/appfw-lab/{answer.name}"
    lab.run(["appfw-run", "--unit", name, "--detach", "--via=direct", "--uid", user, "sh", "-fc", script], check=True)
    with lab.world.watch() as w:
        change(lab)
        begin.write_text("go\n")
        wait_until(lambda: answer.read_text().endswith("]"), 60, "the probes")
        results = results_of(answer.read_text())
    wait_gone(lab, name, 10)
    assert w.foreign() == []
    # What is hidden is there.
    free = lab.run([PYTHON, PROBE, "--json", "unix-system-bus", "unix-docker"], user=user, check=True)
    assert reached(results_of(free.stdout)) == {"unix-system-bus", "unix-docker"}
    return reached(results)


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("change", CHANGES)
def test_hidden_sockets_stay_hidden_when(worn_lab, user, change):
    assert probed_after(worn_lab, user, CHANGES[change]) == set()


@pytest.mark.parametrize("user", USERS)
def test_docker_socket_stays_hidden_when_docker_is_restarted(worn_lab, user):
    assert probed_after(worn_lab, user, restart("lab-bait.service")) == set()

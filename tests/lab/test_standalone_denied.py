"""Machines that deny what the wall is built of: a launch works, or is refused with a sentence that is true, and its
program never runs unconfined."""

import pathlib

import pytest

from launching import SOCKS, unique
from test_escapes import reached, results_of, seen_by_world
from test_standalone import OPEN_BY_DESIGN, OPEN_TO_ROOT, PROBES, PYTHON
from test_standalone_life import left
from waiting import wait_until
from world_map import ORIGIN, UPSTREAM

HERE = pathlib.Path(__file__).parent
DENY = f"{PYTHON} {HERE / 'deny_calls.py'}"
AS_BOB = "setpriv --reuid=bob --regid=bob --clear-groups env HOME=/home/bob"
USERS = pytest.mark.parametrize("user", ["root", "bob"])
CAPS = "--cap-add SETUID --cap-add SETGID --cap-add SETFCAP"


def attempted(lab, setting, user, program="--via=none touch {mark}", more=""):
    """Has root's shell make the SETTING, then USER launch a program that leaves a mark. Whether it ran, and
    how it ended."""
    name = unique("denied")
    mark = f"/tmp/{name}"
    launch = f"appfw-run --standalone --unit {name} {program.format(mark=mark)}"
    command = launch if user == "root" else f"{AS_BOB} {launch}"
    script = setting if "{launch}" in setting else setting + "\n{launch}"
    with lab.world.watch() as w:
        # From where everybody may be.
        done = lab.run(["sh", "-c", "cd /\n" + script.format(launch=command)], timeout=40)
    assert w.foreign(allow=[(UPSTREAM, 1080)]) == []
    wait_until(lambda: not left(lab, name), 3, f"the end of {name}")
    ran = lab.path(mark).exists()
    assert ran == (done.returncode == 0), done.stderr
    return ran, done


def refused(lab, setting, user, *phrases, **program):
    ran, done = attempted(lab, setting, user, **program)
    said, = [line for line in done.stderr.decode().splitlines() if line.startswith("appfw-run: ")]
    assert not ran and done.returncode == 125
    for phrase in phrases:
        assert phrase in said
    assert any(words in said for words in ("nothing was run", "read-only file system", "--no-capture"))
    return said


def runs(lab, setting, user, **program):
    ran, done = attempted(lab, setting, user, **program)
    assert ran, done.stderr.decode()


def limited(kind, value):
    return f"{PYTHON} {HERE / 'limit_namespaces.py'} {kind} {value} {{launch}}"


@USERS
@pytest.mark.parametrize("kind", ["net", "mnt", "ipc", "pid"])
def test_a_limit_of_namespaces_is_named_and_raising_it_helps(lab, user, kind):
    said = refused(lab, limited(kind, 0), user, f"user.max_{kind}_namespaces", "set it to 1000")
    assert "No space" in said
    runs(lab, limited(kind, 1000), user)


def test_without_user_namespaces_an_ordinary_user_is_refused(lab):
    refused(lab, limited("user", 0), "bob", "user.max_user_namespaces", "no user namespace", "or use --system")
    runs(lab, limited("user", 1000), "bob")


def test_without_user_namespaces_root_does_without(lab):
    runs(lab, limited("user", 0), "root")
    runs(lab, f"{DENY} user-namespaces {{launch}}", "root")


def test_what_root_reaches_without_a_user_namespace_is_what_it_reaches_with_one(lab):
    script = f"exec {PYTHON} {PROBES} --json --forwarder=127.100.90.50:1080 all"
    words = ["appfw-run", "--standalone", "--via=direct", "--no-capture", "--dns=synthetic", "sh", "-c", script]
    with lab.world.watch() as w:
        done = lab.run([*DENY.split(), "user-namespaces", *words], timeout=180)
    assert done.returncode == 0, done.stderr
    results = results_of(done.stdout)
    assert {name: results[name]["detail"] for name in reached(results) ^ {*OPEN_BY_DESIGN, *OPEN_TO_ROOT}} == {}
    assert seen_by_world(w) == set()


@USERS
def test_under_a_filter_like_dockers_nothing_runs(lab, user):
    """seccomp=unconfined is the same without the filter, and there it works."""
    refused(lab, f"{DENY} docker {{launch}}", user, "Operation not permitted", "--security-opt seccomp=unconfined")
    runs(lab, "{launch}", user)


@USERS
def test_without_nf_tables_there_is_no_capture_and_the_sentence_says_so(lab, user):
    denied = f"{PYTHON} {HERE / 'deny_nftables.py'} {{launch}}"
    refused(lab, denied, user, "nf_tables", "--no-capture", program="--via=direct touch {mark}")
    runs(lab, denied, user, program="--via=direct --no-capture touch {mark}")


MASK = "mount --bind /dev/null /proc/keys; mount -t tmpfs -o ro x /proc/scsi; mount -t tmpfs -o ro x /proc/acpi\n"


@USERS
@pytest.mark.parametrize("mask", [MASK, "mount --bind /proc/sys /proc/sys; mount -o remount,ro,bind /proc/sys\n"],
                         ids=["masked", "read-only"])
def test_parts_of_proc_that_are_covered_are_said(lab, user, mask):
    """systempaths=unconfined is the same without the mounts, and there it works."""
    refused(lab, f"unshare --mount sh -c '{mask}{{launch}}'", user, "systempaths=unconfined")
    runs(lab, "unshare --mount sh -c '{launch}'", user)


def test_root_without_a_user_namespace_has_its_proc_all_the_same(lab):
    """The kernel looks for what a mount would reveal in user namespaces alone."""
    runs(lab, f"unshare --mount sh -c '{MASK}{DENY} user-namespaces {{launch}}'", "root")


READ_ONLY = "mount --rbind {0} {0}; mount -o remount,ro,bind {0}\n"


@USERS
@pytest.mark.parametrize("folder", ["/sys", "/etc", "/usr", "/tmp"])
def test_read_only_folders_are_no_obstacle(lab, user, folder):
    mark = f"/var/tmp/{unique('mark')}"
    script = f"unshare --mount sh -c '{READ_ONLY.format(folder)}{{launch}}'"
    name = unique("denied")
    launch = f"appfw-run --standalone --unit {name} --via=none touch {mark}"
    if user == "bob":
        launch = f"{AS_BOB} XDG_RUNTIME_DIR=/run/user/{lab.path('/home/bob').stat().st_uid} {launch}"
    done = lab.run(["sh", "-c", script.format(launch=launch)])
    assert done.returncode == 0 and lab.path(mark).exists(), done.stderr


def test_a_read_only_run_is_said_to_root_and_a_tmpfs_helps(lab):
    read_only = "unshare --mount sh -c 'mount -t tmpfs -o ro x /run; {launch}'"
    refused(lab, read_only, "root", "/run/appfw", "--tmpfs /run")
    runs(lab, read_only.replace("-o ro", ""), "root")


def test_a_read_only_run_is_no_obstacle_to_others(lab):
    runs(lab, "unshare --mount sh -c 'mount -t tmpfs -o ro x /run; {launch}'", "bob")


@USERS
def test_an_empty_run_is_no_obstacle(lab, user):
    runs(lab, "unshare --mount sh -c 'mount -t tmpfs x /run; {launch}'", user)


def test_root_without_capabilities_is_told_which(lab):
    said = refused(lab, "setpriv --bounding-set=-all --inh-caps=-all {launch}", "root", CAPS, "another user than root")
    assert "CAP_SETFCAP" in said
    runs(lab, "setpriv --bounding-set=-all,+setuid,+setgid,+setfcap --inh-caps=-all {launch}", "root")
    # The other way: another user.
    runs(lab, "setpriv --bounding-set=-all,+setuid,+setgid --inh-caps=-all {launch}", "bob")


def test_root_without_the_capability_for_mounts_uses_a_user_namespace(lab):
    runs(lab, "setpriv --bounding-set=-sys_admin,-net_admin --inh-caps=-all {launch}", "root")


def test_root_that_has_neither_is_refused(lab):
    refused(lab, f"{DENY} user-namespaces setpriv --bounding-set=-sys_admin --inh-caps=-all {{launch}}", "root",
            "no PID namespace")


@pytest.mark.parametrize("limit", [5, 8, 20, 31])
def test_too_few_files_are_told_of(lab, limit):
    refused(lab, f"ulimit -n {limit}; exec {{launch}}", "bob", "files may be open", "ulimit -n 1024")


@pytest.mark.parametrize("variable", ["XDG_CONFIG_HOME", "SSH_AUTH_SOCK"])
def test_a_path_that_is_no_text_is_named(lab, variable):
    refused(lab, f"env {variable}=$(printf '/tmp/\\377x') {{launch}}", "bob", "/tmp/", "UTF-8", variable)


@pytest.mark.parametrize("setting", [
    "unshare --mount sh -c 'mount --bind /dev/null /etc/passwd; {launch}'",
    "env -u HOME {launch}",
    "env HOME=/nonexistent {launch}",
    "mkdir /tmp/gone-$$; cd /tmp/gone-$$; rmdir /tmp/gone-$$; {launch}",
    "env XDG_RUNTIME_DIR=/nonexistent {launch}",
    "unshare --mount sh -c 'mount --bind /dev/null /etc/resolv.conf; {launch}'",
    "unshare --mount sh -c 'mount --bind /dev/null /etc/nsswitch.conf; {launch}'",
    "ulimit -n 64; {launch}",
], ids=["no passwd", "no home", "home missing", "directory gone", "no runtime",
        "no resolv.conf", "no nsswitch", "few files"])
@USERS
def test_what_is_missing_is_no_obstacle(lab, user, setting):
    if user == "bob" and "passwd" in setting:
        setting = setting.replace("{launch}", "setpriv --reuid=4242 --regid=4242 --clear-groups "
                                              "appfw-run --standalone --via=none true")
        assert lab.run(["sh", "-c", setting]).returncode == 0
        return
    runs(lab, setting, user)


def test_a_number_without_a_name_gets_out_by_the_forwarder(lab, world):
    """As containers run their programs."""
    words = ["setpriv", "--reuid=4242", "--regid=4242", "--clear-groups", "env", "-i",
             "PATH=/usr/bin:/bin:/usr/local/bin", "appfw-run", "--standalone"]
    with world.watch() as w:
        done = lab.run([*words, "--via", SOCKS, "curl", "-sS", "http://web.test/"], check=True)
    assert done.stdout.startswith(f"world {ORIGIN}".encode())
    assert w.foreign(allow=[(UPSTREAM, 1080)]) == []

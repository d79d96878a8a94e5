"""What an ordinary user's own systemd is denied: a launch works, or ends with 125 and a sentence, and nothing ran."""

import contextlib
import pathlib

import pytest

from launching import unique
from test_user import BOB, MANAGER, run

LIMIT = pathlib.Path(__file__).with_name("limit_namespaces.py")


@contextlib.contextmanager
def launches_with(lab, *settings):
    """Settings that bob's systemd has for all of his launches, as those that come from above it do."""
    folder = lab.path("/home/bob/.config/systemd/user/appfw-.service.d")
    lab.run(["mkdir", "-p", "/home/bob/.config/systemd/user/appfw-.service.d"], **BOB, check=True)
    (folder / "denied.conf").write_text("\n".join(["[Service]", *settings, ""]))
    lab.run([*MANAGER.split(), "daemon-reload"], **BOB, check=True)
    try:
        yield
    finally:
        (folder / "denied.conf").unlink()
        lab.run([*MANAGER.split(), "daemon-reload"], **BOB, check=True)


def launch(lab, *words):
    """Its end, and whether the program ran."""
    mark = f"/var/tmp/{unique('mark')}"
    done = run(lab, *words, "--via=direct", "touch", mark)
    return done, lab.path(mark).exists()


@pytest.mark.parametrize("settings", [
    ["RestrictNamespaces=yes"],
    ["RestrictNamespaces=~user"],
    ["RestrictNamespaces=~net"],
    # What Docker's default filter keeps from who has no capability.
    ["SystemCallFilter=~unshare setns mount umount2 pivot_root", "SystemCallErrorNumber=EPERM"],
], ids=["no-namespaces", "no-user-namespaces", "no-network-namespaces", "docker"])
def test_without_namespaces_nothing_runs_and_the_sentence_says_why(lab, settings):
    with launches_with(lab, *settings):
        for words in [], ["--no-capture"]:
            done, ran = launch(lab, *words)
            said = done.stderr.decode()
            assert done.returncode == 125 and not ran, said
            assert "namespace" in said and "Operation not permitted" in said and len(said.splitlines()) == 1, said
    assert launch(lab)[1]


@contextlib.contextmanager
def limited_manager(lab):
    """Has eve's systemd in a user namespace in which she may make as many more as it is told, as a sysctl has it on the
    whole machine."""
    uid = lab.path("/home/eve").stat().st_uid
    folder = lab.path(f"/run/systemd/system/user@{uid}.service.d")
    eve = f"setpriv --reuid=eve --regid=eve --init-groups env HOME=/home/eve USER=eve XDG_RUNTIME_DIR=/run/user/{uid}"

    def restart():
        lab.run(["sh", "-c", f"systemctl daemon-reload; systemctl restart user@{uid}.service"], check=True)

    def limit(number):
        started = f"+/usr/bin/python3 {LIMIT} user {number} {eve} /usr/lib/systemd/systemd --user"
        (folder / "limited.conf").write_text(f"[Service]\nNotifyAccess=all\nExecStart=\nExecStart={started}\n")
        restart()

    folder.mkdir()
    try:
        yield limit
    finally:
        (folder / "limited.conf").unlink()
        folder.rmdir()
        restart()


def test_a_limit_of_user_namespaces_is_named_and_raising_it_helps(lab):
    def launch():
        mark = f"/var/tmp/{unique('mark')}"
        done = lab.run(["appfw-run", "--verbose", "--via=direct", "touch", mark], user="eve")
        assert b"who runs it: user" in done.stderr
        return done.returncode, lab.path(mark).exists(), done.stderr.decode()

    with limited_manager(lab) as limit:
        limit(0)
        code, ran, said = launch()
        assert (code, ran) == (125, False) and "user.max_user_namespaces" in said, said
        limit(1000)
        code, ran, said = launch()
        assert (code, ran) == (0, True), said


@pytest.mark.parametrize("settings", [["ReadOnlyPaths=/sys"], ["InaccessiblePaths=-/proc/keys -/proc/kcore"]],
                         ids=["read-only-sys", "masked-proc"])
def test_what_is_read_only_or_masked_is_no_obstacle(lab, settings):
    with launches_with(lab, "PrivateUsers=yes", *settings):
        done, ran = launch(lab)
        assert done.returncode == 0 and ran, done.stderr

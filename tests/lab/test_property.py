"""`-p K=V`: what it sets is in force, and what is not on its list changes nothing."""

import pytest

from launching import text_of, unique

PYTHON = "/usr/bin/python3"
MANAGERS = [("root", []), ("bob", ["--user"])]
HUNGRY = "print(len(b'x' * (300 << 20)))"
FORKING = "for i in 1 2 3 4 5 6 7 8 9; do sleep 1 & done; wait"


@pytest.mark.parametrize("user, words", MANAGERS)
def test_limits_are_those_of_the_program(lab, user, words):
    shown = text_of(lab, *words, "--via=none", "-p", "LimitNOFILE=77", "-p", "Nice=5", "-p", "LimitCORE=0",
                    "sh", "-c", "ulimit -n; nice; ulimit -c", user=user)
    assert shown.split() == ["77", "5", "0"]


@pytest.mark.parametrize("word", ["Nice=-5", "OOMScoreAdjust=-1", "LimitNOFILE=1000000000"])
def test_what_a_users_manager_would_clamp_is_not_run(lab, word):
    refused = lab.run(["appfw-run", "--via=none", "-p", word, "true"], user="bob")
    assert refused.returncode == 125 and b"is not this user's manager's to give: use --system" in refused.stderr


@pytest.mark.parametrize("user, words", MANAGERS)
@pytest.mark.parametrize("controller, limits, command, signs", [
    ("memory", ["MemoryMax=60M", "MemorySwapMax=0"], [PYTHON, "-c", HUNGRY], [b""]),
    ("pids", ["TasksMax=5"], ["sh", "-c", FORKING], [b"Cannot fork", b"Resource temporarily unavailable"]),
])
def test_what_is_bounded_is_so_or_is_not_run(lab, user, words, controller, limits, command, signs):
    """A systemd without the controller leaves the setting out without a word."""
    uid = lab.run(["id", "-u"], user=user, check=True).stdout.decode().strip()
    of_user = f"/user.slice/user-{uid}.slice/user@{uid}.service" if uid != "0" else ""
    there = lab.path(f"/sys/fs/cgroup{of_user}")
    is_there = controller in (there / "cgroup.controllers").read_text().split()
    given = [word for limit in limits for word in ("-p", limit)]
    done = lab.run(["appfw-run", *words, "--via=none", *given, *command], user=user)
    if is_there:
        assert done.returncode != 0 and any(sign in done.stderr for sign in signs), done
    else:
        assert done.returncode == 125, done
        assert f"would do nothing: the manager has not the cgroup controller {controller}".encode() in done.stderr


def test_what_restricts_by_mounts_is_the_system_managers(lab):
    name = unique("home")
    lab.run(["sh", "-c", f"echo kept >/home/bob/{name}"], check=True)
    words = ["appfw-run", "--via=none", "--uid=bob", "-p", "ProtectHome=yes", "cat", f"/home/bob/{name}"]
    assert lab.run(words).returncode == 1
    refused = lab.run(["appfw-run", "--via=none", "-p", "ProtectHome=yes", "true"], user="bob")
    assert refused.returncode == 125 and b"only the system manager is sure to make" in refused.stderr


@pytest.mark.parametrize("word", ["IPAddressAllow=any", "PrivateNetwork=no", "Delegate=yes", "PAMName=login"])
def test_nothing_else_is_set(lab, word):
    refused = lab.run(["appfw-run", "--via=none", "-p", word, "touch", "/tmp/ran"])
    assert refused.returncode == 125 and b"cannot be set" in refused.stderr
    assert not lab.path("/tmp/ran").exists()

"""A running launch and `systemctl daemon-reload`, which any package's installation does."""

import pytest

from launching import SOCKS, started, unique
from test_takeover import PIPES
from world_map import UPSTREAM

FETCH = "echo ready; while read line; do curl -sS --max-time 9 http://web.test/; done"


@pytest.mark.parametrize("wall", ["strict", "namespace", "address", "user"])
def test_a_launch_is_as_good_after_a_reload(lab, world, wall):
    name = unique("reloaded")
    if wall == "user":
        words, user, systemctl = ["--user"], "bob", ["systemctl", "--user"]
    else:
        words, user, systemctl = [f"--wall={wall}"], "root", ["systemctl"]
    command = ["appfw-run", *words, "--unit", name, "--via", SOCKS, "bash", "-c", FETCH]
    forwarder = f"appfw-{name}-forward.service"
    with world.watch() as w, started(lab, command, user=user, **PIPES) as process:
        assert process.stdout.readline() == b"ready\n", process.stderr.read()
        for _ in range(2):
            lab.run([*systemctl, "daemon-reload"], user=user, check=True)
            show = [*systemctl, "show", "--value", "-p", "LoadState", "-p", "RestrictNamespaces", forwarder]
            shown = lab.run(show, user=user, check=True).stdout
            assert sorted(shown.split()) == [b"cgroup", b"loaded"]
            process.stdin.write(b"again\n")
            process.stdin.flush()
            assert process.stdout.readline().startswith(b"world ")
            lab.run(["pkill", "-KILL", "-f", "appfw forward"])
        process.stdin.close()
        assert process.wait(10) == 0
    assert {packet["dst"] for packet in w.foreign()} == {UPSTREAM}

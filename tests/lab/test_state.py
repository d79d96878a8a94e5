"""Where launches keep their files, and what anybody can put beside them in /tmp."""

import pytest

from launching import run, unique

# Whose base is not a directory of root's.
IN_TMP = {"XDG_RUNTIME_DIR": ""}


def base_in_tmp(lab):
    """Where bob's launches have their directories without a runtime directory."""
    return f"/tmp/appfw-{lab.path('/home/bob').stat().st_uid}"


# A directory is made whole or not at all

@pytest.mark.parametrize("user, env, base", [("root", {}, "/run/appfw"), ("bob", IN_TMP, None)], ids=["root", "bob"])
def test_a_launch_that_runs_out_of_descriptors_leaves_its_name_free(lab, user, env, base):
    name = unique("few")
    ended = set()
    for limit in range(6, 24):
        command = f"ulimit -n {limit}; exec appfw-run --standalone --via=none --unit {name} true"
        ended.add(lab.run(["sh", "-c", command], user=user, env=env).returncode == 0)
        assert not lab.path(f"{base or base_in_tmp(lab)}/{name}").exists(), limit
    # Else it was never tried where it fails, or where it could.
    assert False in ended
    run(lab, "--standalone", "--via=none", "--unit", name, "true", user=user, env=env, check=True)


def test_a_name_whose_launcher_was_killed_before_it_wrote_anything_is_free(lab):
    name = unique("killed")
    lab.path(f"/run/appfw/{name}").mkdir(parents=True)
    run(lab, "--standalone", "--via=none", "--unit", name, "true", check=True)
    assert not lab.path(f"/run/appfw/{name}").exists()


def test_who_finds_the_place_in_tmp_taken_is_told_the_way_round(lab):
    base, runtime = base_in_tmp(lab), f"/home/bob/{unique('runtime')}"
    lab.run(["rm", "-rf", base], check=True)
    lab.run(["mkdir", base], user="eve", check=True)
    try:
        done = run(lab, "--standalone", "--via=none", "true", user="bob", env=IN_TMP)
        assert done.returncode == 125
        assert f"{base} is not a directory of the caller's alone" in done.stderr.decode()
        assert "XDG_RUNTIME_DIR" in done.stderr.decode()
        lab.run(["mkdir", runtime], user="bob", check=True)
        run(lab, "--standalone", "--via=none", "true", user="bob", env={"XDG_RUNTIME_DIR": runtime}, check=True)
    finally:
        lab.run(["rm", "-rf", base, runtime], check=True)

"""Profiles and the configuration: what an ordinary user's and root's launches take from them."""

import contextlib
import json

import pytest

from confining import service
from launching import SOCKS, run, unique
from test_user_units import BY_BOB
from world_map import PASSWORD, UPSTREAM

CURL = ["curl", "-sS", "--max-time", "30", "http://web.test/"]
SECRET = f"socks5h://{':'.join(PASSWORD)}@{UPSTREAM}:1081"
OWN = "$HOME/.config/appfw"


@contextlib.contextmanager
def files(lab, texts, user="bob", place=OWN):
    """Files of USER's below PLACE, gone at the block's end."""
    for name, text in texts.items():
        script = f'umask 077; mkdir -p "$(dirname "{place}/{name}")"; cat >"{place}/{name}"'
        lab.run(["sh", "-c", script], user=user, input=text.encode(), check=True)
    try:
        yield
    finally:
        lab.run(["sh", "-c", f'rm -r "{place}"'], user=user, check=True)


def appfw(lab, *words, user="bob"):
    return lab.run(["appfw", "profile", *words], user=user, check=True).stdout.decode()


@pytest.mark.parametrize("program", ["firefox", "chromium", "curl", "ssh", "git"])
def test_what_is_shipped_is_found(lab, program):
    done = run(lab, "--dry-run", "--via", "direct", program, user="bob", check=True)
    assert done.stdout.startswith(f"# profile {program} (built in)\n".encode())
    done = run(lab, "--dry-run", "--no-profile", "--via", "direct", program, user="bob", check=True)
    assert b"# profile" not in done.stdout


def test_a_users_profile_overrides_key_by_key_and_show_knows_where_from(lab):
    texts = {"profiles/ssh.toml": 'via = "direct"\ncapture = false\n',
             "config.toml": 'via = "none"\nblock = "a.test"\n'}
    with files(lab, texts):
        done = run(lab, "--dry-run", "ssh", user="bob", check=True)
        assert b"--via=direct" in done.stdout and b"--block=a.test" in done.stdout and b"0.0.0.0:" not in done.stdout
        own, = [line for line in done.stderr.decode().splitlines() if "profile ssh" in line]
        place = "/home/bob/.config/appfw"
        said = f'capture = false, via = "direct" in place of {place}/config.toml:1'
        assert own.endswith(f"({place}/profiles/ssh.toml): {said}"), own
        shown = json.loads(appfw(lab, "show", "scp", "--json"))["keys"]
        below = {key: [origin.partition(".config/appfw/")[2] or origin for origin in said["from"]]
                 for key, said in shown.items()}
        assert below == {"via": ["profiles/ssh.toml:1"], "capture": ["profiles/ssh.toml:2"], "block": ["config.toml:2"],
                         "wall": ["built in"], "commands": ["built in"], "description": ["built in"]}
        # Root's launches take nothing from a user, whatever sudo has left of the environment.
        home = lab.run(["sh", "-c", "echo $HOME"], user="bob", check=True).stdout.decode().strip()
        done = run(lab, "--dry-run", "ssh", env={"HOME": home, "XDG_CONFIG_HOME": f"{home}/.config"})
        assert (done.returncode, b"where may ssh go?" in done.stderr) == (125, True)


def test_a_way_out_of_the_configuration_is_taken_with_its_password(lab, world):
    texts = {"secret": SECRET + "\n",
             "config.toml": 'via = "work"\n[vias.work]\nfile = "/home/bob/.config/appfw/secret"\n'}
    with files(lab, texts), world.watch() as w:
        done = run(lab, *CURL, user="bob", check=True)
    assert done.stdout.startswith(b"world ") and done.stderr == b""
    asked, = w.events(server="socks5-password", kind="socks")
    assert (asked["name"], asked["auth"]) == ("web.test", list(PASSWORD))
    assert w.foreign(allow=[(UPSTREAM, 1081)]) == []


def test_roots_by_a_credential_of_systemds_store(lab, world):
    name = unique("via")
    text = f'[vias.work]\ncredential = "{name}"\n'
    with files(lab, {"config.toml": text}, "root", "/etc/appfw"), files(lab, {name: SECRET}, "root", "/etc/credstore"):
        with world.watch() as w:
            done = run(lab, "--via", "work", *CURL, check=True)
    assert done.stdout.startswith(b"world ")
    asked, = w.events(server="socks5-password", kind="socks")
    assert (asked["name"], asked["auth"]) == ("web.test", list(PASSWORD))


def test_a_launch_is_detached_by_a_profile_and_says_once_what_that_opens(lab):
    text = 'via = "direct"\nmanager = "standalone"\ndetach = true\n'
    with files(lab, {"config.toml": text}):
        done = run(lab, "--unit", unique("detached"), "sleep", "1", user="bob", check=True)
        assert done.stderr.decode().count('via = "direct"') == 1 and b"in the background" in done.stderr, done.stderr


def test_what_others_could_change_lets_nothing_out(lab, world):
    with files(lab, {"config.toml": 'via = "direct"\n'}), world.watch() as w:
        changed = "can be changed by other users"
        for change, why in [("o+w config.toml", changed), ("g+w .", changed), ("000 config.toml", "cannot be opened")]:
            before = "chmod 700 .; chmod 600 config.toml"
            lab.run(["sh", "-c", f"cd {OWN}; {before}; chmod {change}"], user="bob", check=True)
            done = run(lab, *CURL, user="bob")
            assert done.returncode == 125 and why.encode() in done.stderr, done.stderr
    assert w.foreign() == []


def test_profiles_are_written_checked_and_edited(lab):
    with files(lab, {"config.toml": "# mine\n"}):
        path = appfw(lab, "new", "web", "--command", "curl", "--via", "tor", "--only", "*.test").strip()
        done = run(lab, "--verbose", "--dry-run", "--via", "direct", "--profile", "web", "curl", user="bob", check=True)
        assert f"profile web ({path})".encode() in done.stderr and b"--only=*.test" in done.stdout
        assert "nothing is wrong" in appfw(lab, "check")
        edit = ["sh", "-c", "EDITOR='sed -i s/only/onyl/' appfw profile edit web"]
        done = lab.run(edit, user="bob")
        mistake = b"web.toml:3:1: onyl is no key: did you mean only?"
        assert done.returncode == 125 and mistake in done.stderr, done.stderr
        done = run(lab, "--via", "direct", "curl", user="bob")
        assert done.returncode == 125 and b"web.toml:3:1" in done.stderr


def test_a_configuration_makes_no_network_of_none(lab, world):
    """With a rule `--via none` is the host's network less that."""
    with files(lab, {"config.toml": 'deny = ["8.8.8.8"]\n'}, "root", "/etc/appfw"), world.watch() as w:
        name = unique("none")
        for words in [["appfw-run", "--via", "none", *CURL],
                      ["appfw", "unit", "install", name, "--via", "none", "--", *CURL],
                      ["appfw", "confine", "cron", "--via", "none", "--now"]]:
            done = lab.run(words)
            assert done.returncode == 125, done
            assert b"/etc/appfw/config.toml:1) would leave all else open" in done.stderr, done
        done = run(lab, "--via", "none", "--deny", "any", *CURL)
        assert done.returncode not in (0, 125), done
    assert w.foreign() == []


def test_a_configuration_that_opens_a_resolver_says_so(lab):
    with files(lab, {"config.toml": 'dns = "host"\n'}, "root", "/etc/appfw"):
        done = run(lab, "--via", "none", "--deny", "any", "true", check=True)
        assert b'configuration (/etc/appfw/config.toml): dns = "host"' in done.stderr


@pytest.mark.parametrize("there, closed", [(".config/appfw", ".config"), ("dot/appfw", "dot")])
def test_a_program_that_closes_its_users_configuration_closes_the_next_launch(lab, world, there, closed):
    """Whether a home is another's is its owner's to say, and not that it cannot be read."""
    place = f"$HOME/{there}"
    with files(lab, {"config.toml": 'via = "direct"\nblock = ["any"]\n'}, place=place):
        link = "cd; [ -e .config/appfw ] || { mkdir -p .config; ln -s ../dot/appfw .config/; }"
        lab.run(["sh", "-c", link], user="bob", check=True)
        before = lab.run(["stat", "-c", "%a", f"/home/bob/{closed}"], check=True).stdout.decode().strip()
        try:
            run(lab, "sh", "-c", f"chmod 000 ~/{closed}", user="bob")
            with world.watch() as w:
                done = run(lab, "--via", "direct", *CURL, user="bob")
            checked = lab.run(["appfw", "profile", "check"], user="bob")
        finally:
            lab.run(["chmod", before, f"/home/bob/{closed}"], check=True)
            lab.run(["sh", "-c", "cd; [ ! -L .config/appfw ] || rm .config/appfw"], user="bob", check=True)
    assert done.returncode == 125 and b"namei -l /home/bob/.config/appfw" in done.stderr, done
    assert checked.stderr.count(b"may hold rules") == 1, checked.stderr
    assert w.foreign() == []


def test_anothers_home_that_can_be_read_drops_no_rules(lab, world):
    with files(lab, {"config.toml": 'block = ["any"]\n'}), world.watch() as w:
        home = lab.path("/home/eve")
        before = home.stat().st_mode & 0o7777
        home.chmod(0o755)
        try:
            done = run(lab, "--via", "direct", *CURL, user="bob", env={"HOME": "/home/eve"})
        finally:
            home.chmod(before)
    assert b"refused 1 name: web.test:80; --block keeps it out" in done.stderr, done
    assert w.foreign() == []


def test_a_program_does_not_choose_its_next_profile_by_a_link(lab, world):
    texts = {"config.toml": f'via = "{SOCKS}"\n', "profiles/git.toml": 'via = "direct"\n'}
    make = "mkdir -p ~/bin; cp /usr/bin/curl ~/bin/tool-1.0; ln -s tool-1.0 ~/bin/tool"
    lab.run(["sh", "-c", make], user="bob", check=True)
    try:
        with files(lab, texts), world.watch() as w:
            run(lab, "sh", "-c", "cd ~/bin; cp tool-1.0 git; ln -sf git tool", user="bob", check=True)
            done = run(lab, "/home/bob/bin/tool", *CURL[1:], user="bob", check=True)
    finally:
        lab.run(["rm", "-r", "/home/bob/bin"], check=True)
    assert done.stdout.startswith(b"world ") and done.stderr == b""
    assert {packet["dst"] for packet in w.foreign()} == {UPSTREAM}


def test_what_is_of_launches_alone_is_left_out_by_root(lab):
    of_units = {"detach": "true", "manager": '"standalone"'}
    of_services = {"env": '["A=b"]', "workdir": '"/"', "property": '"TasksMax=50"', "own-profile": "true",
                   "uid": '"bob"', "exit-with-main": "true", "dbus": '"session"', **of_units}
    with service(lab, "[Service]\nExecStart=/usr/bin/sleep 99\n") as svc:
        for words, keys in [(["confine", svc.name, "--dry-run"], of_services),
                            (["unit", "show", "x", "--", "true"], of_units)]:
            text = 'via = "direct"\n' + "".join(f"{key} = {value}\n" for key, value in keys.items())
            with files(lab, {"config.toml": text}, "root", "/etc/appfw"):
                done = lab.run(["appfw", *words], check=True)
            said, = [line for line in done.stderr.decode().splitlines() if "left out" in line]
            assert all(f"{key} (/etc/appfw/config.toml:" in said for key in keys), said


def test_a_block_for_every_program_is_no_hindrance_where_there_is_no_network(lab, world):
    with files(lab, {"config.toml": 'block = ["*.doubleclick.net"]\n'}), world.watch() as w:
        done = run(lab, "--via", "none", *CURL, user="bob")
        assert done.returncode not in (0, 125), done
    with files(lab, {"config.toml": 'block = ["*.doubleclick.net"]\n'}, "root", "/etc/appfw"):
        for rules, code in [([], 0), (["--deny", "any", "--allow", "192.0.2.0/24"], 0), (["--deny", "192.0.2.7"], 125)]:
            done = run(lab, "--via", "none", *rules, "true")
            assert done.returncode == code and (b"/etc/appfw/config.toml:1" in done.stderr) == (code == 125), done
    assert w.foreign() == []


def test_what_the_configuration_lets_through_is_to_be_said_again_with_more(lab):
    with files(lab, {"config.toml": 'only = ["a.test"]\n'}):
        done = run(lab, "--via", "direct", *CURL, user="bob")
        assert b"--only NAME --only a.test lets it through" in done.stderr, done
        done = run(lab, "--via", "direct", "--only", "b.test", *CURL, user="bob")
        assert b"--only NAME lets it through" in done.stderr, done


def test_a_full_disk_leaves_no_half_of_a_new_profile(lab):
    place = "/home/bob/.config/appfw/profiles"
    fill = f"""mount -t tmpfs -o size=4k,uid=$(id -u bob),mode=755 tmpfs {place}
        head -c 4096 /dev/zero >{place}/other
        {BY_BOB} appfw profile new full --via tor
        echo $?; ls -A {place}"""
    with files(lab, {"profiles/kept.toml": 'via = "direct"\n'}):
        done = lab.run(["unshare", "--mount", "sh", "-c", fill])
        assert done.stdout == b"125\nother\n", done
        assert f"cannot write {place}/full.toml, so nothing was changed".encode() in done.stderr, done
        assert len(done.stderr.splitlines()) == 1

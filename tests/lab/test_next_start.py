"""What a program leaves behind for its own next start, and for its user's next launches."""

import contextlib

import pytest

from launching import SOCKS, journal_of_user, run, script, text_of, unique
from test_fail_closed import ALLOW_BOB, polkit_rule
from test_user_confine import of_bob as appfw_of_bob
from test_user_confine import service
from test_user_units import installed, journal, systemctl
from test_units import unit
from waiting import wait_until
from world_map import PASSWORD, UPSTREAM

HOME = "/home/bob"
WAY = f"socks5h://{':'.join(PASSWORD)}@{UPSTREAM}:1081"
# Each way to put something else where ways out are read from; whatever of it works, works.
TRICKS = """
cd
( mv .config .c2; mv .config/appfw .config/a2; mv dotfiles d2; mv dotfiles/appfw dotfiles/a2
  mv ways w2; mv dotfiles/config.toml dotfiles/other
  rm -f .config/appfw .config/proxy ways/proxy .config/credstore/proxy
  rmdir .config/appfw; ln -sfn /tmp .config/appfw; mv .config/credstore .config/cs2
  mkdir -p .config/appfw/credentials .config/credstore ways
  for file in .config/appfw/credentials/{name} .config/proxy ways/proxy .config/credstore/proxy
  do echo direct >$file; chmod 600 $file; done
  printf 'dbus = "session"\\n[vias.work]\\nspec = "direct"\\n' | tee dotfiles/config.toml >.config/appfw/config.toml
  chmod 600 .config/appfw/config.toml
  cp -a .c2/systemd .config/ ) 2>/dev/null
grep -rs {password} . && echo it has the password
curl -sS --max-time 9 http://web.test/ && echo
"""
# What every program may do at home still.
ORDINARY = """
set -e
cd; rm -rf .config/third file2 directory2
mkdir .config/other; echo x >.config/other/file; mv .config/other .config/third; echo x >.config/third/file
echo x >.config/file; mv .config/file .config/third/
echo x >file; mv file file2; mkdir directory; mv directory directory2
ln file2 directory2/file3; mv file2 .config/third/; rm -r .config/third directory2
"""
CONFIGURATIONS = ["absent", "there", "a link", "a file that is a link", "below a link"]


def of_bob(lab, *words):
    done = lab.run(words, user="bob")
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


@contextlib.contextmanager
def configuration(lab, how):
    """bob's ~/.config/appfw, with a way out called "work" in it, as HOW says."""
    text = f'[vias.work]\nspec = "{WAY}"\n'
    of_bob(lab, "sh", "-c", "cd; mkdir -p .config; rm -rf dotfiles .config/appfw; mkdir dotfiles dotfiles/appfw")
    make = {
        "absent": "true",
        "there": f"mkdir .config/appfw; echo '{text}' >.config/appfw/config.toml",
        "a link": f"echo '{text}' >dotfiles/appfw/config.toml; ln -s ../dotfiles/appfw .config/appfw",
        "a file that is a link": f"mkdir .config/appfw; echo '{text}' >dotfiles/config.toml; chmod 600 dotfiles/*.toml;"
                                 "ln -s ../../dotfiles/config.toml .config/appfw/",
        "below a link": f"mv .config dotfiles/conf; ln -s dotfiles/conf .config; mkdir .config/appfw;"
                        f"echo '{text}' >.config/appfw/config.toml",
    }[how]
    of_bob(lab, "sh", "-c", f"set -e; cd; {make}; chmod -fR go-rwx .config/appfw/. || true")
    try:
        yield
    finally:
        of_bob(lab, "sh", "-c", "cd; [ -L .config ] && rm .config && mv dotfiles/conf .config;"
                                "rm -rf dotfiles d2 ways w2 .config/appfw .config/credstore .config/proxy")


def tricks(lab, name, end=""):
    return script(lab, unique("tricks"), f"#!/bin/sh\n{TRICKS.format(name=name, password=PASSWORD[1])}{end}\n")


def stays_behind(lab, w, said, starts=2):
    """Each start went by the proxy, and nobody saw its password."""
    assert {packet["dst"] for packet in w.foreign()} == {UPSTREAM}
    assert said.count("world ") >= starts and PASSWORD[1] not in said, said
    assert not lab.path(f"{HOME}/.c2").exists()


def way_in_a_file(lab, path):
    of_bob(lab, "sh", "-c", f"mkdir -p $(dirname {path}); umask 077; echo '{WAY}' >{path}")
    return f"@{path}"


@pytest.mark.parametrize("how", CONFIGURATIONS)
@pytest.mark.parametrize("manager", ["--standalone", "--user", "--system"])
def test_the_next_launch_goes_the_same_way(lab, world, manager, how):
    """The one that nothing names the way of in the configuration is told by the command line."""
    with configuration(lab, how), polkit_rule(lab, ALLOW_BOB):
        via = way_in_a_file(lab, f"{HOME}/.config/proxy") if how == "absent" else "work"
        program = tricks(lab, "x")
        with world.watch() as w:
            said = "".join(text_of(lab, manager, "--via", via, program, user="bob") for _ in range(2))
        stays_behind(lab, w, said)
        assert not lab.path(f"{HOME}/.config/appfw/config.toml").exists() or how != "absent"
        run(lab, manager, "--via", via, "sh", "-c", ORDINARY, user="bob", check=True)


@pytest.mark.parametrize("how, at", [
    ("a link", "ways/proxy"),
    *[pytest.param(*each, marks=pytest.mark.slow)
      for each in (("absent", ""), ("a link", ""), ("absent", ".config/proxy"), ("a link", ".config/proxy"),
                   ("absent", "ways/proxy"))],
])
def test_a_units_next_start_goes_the_same_way(lab, world, how, at):
    name = unique("bad")
    with configuration(lab, how):
        via = way_in_a_file(lab, f"{HOME}/{at}") if at else WAY
        command = [tricks(lab, name, "exit 1")]
        with world.watch() as w, installed(lab, f"--via={via}", name=name, command=command, now=False):
            systemctl(lab, "start", unit(name))
            wait_until(lambda: journal(lab, name).count("world ") > 1, 30, "a second start")
            systemctl(lab, "stop", unit(name), code=None)
            stays_behind(lab, w, journal(lab, name))


@pytest.mark.parametrize("at", ["", "ways/proxy"])
def test_a_confined_services_next_start_goes_the_same_way(lab, world, at):
    with configuration(lab, "absent"):
        via = way_in_a_file(lab, f"{HOME}/{at}") if at else WAY
        with service(lab, "simple", "Restart=on-failure\n", tricks(lab, "*", "exit 1"), start=False) as name:
            with world.watch() as w:
                appfw_of_bob(lab, "confine", name, f"--via={via}")
                systemctl(lab, "start", name)
                wait_until(lambda: journal_of_user(lab, name).count("world ") > 1, 30, "a second start")
                systemctl(lab, "stop", name, code=None)
            stays_behind(lab, w, journal_of_user(lab, name))


@pytest.mark.parametrize("manager", ["--standalone", "--user"])
def test_each_file_of_a_chain_and_a_credential_are_hidden(lab, world, manager):
    with configuration(lab, "there"):
        first, _ = (way_in_a_file(lab, f"{HOME}/{place}") for place in ("ways/first", ".config/credstore/proxy"))
        lab.path(f"{HOME}/.config/appfw/config.toml").write_text('[vias.stored]\ncredential = "proxy"\n')
        for vias, places in ((["stored"], "~/.config"), ([first, SOCKS], "~/ways"), (["stored", first], "~")):
            words = [word for via in vias for word in ("--via", via)]
            done = run(lab, manager, *words, "sh", "-c", f"grep -rs {PASSWORD[1]} {places}; true", user="bob")
            assert (done.returncode, done.stdout) == (0, b""), done
    # A unit reads each file of a chain where it is.
    name = unique("chain")
    with configuration(lab, "absent"):
        vias = [f"--via={way_in_a_file(lab, f'{HOME}/ways/{which}')}" for which in ("first", "second")]
        greps = f"#!/bin/sh\ngrep -rs {PASSWORD[1]} ~/ways\necho that is all; sleep 60\n"
        command = [script(lab, unique("greps"), greps)]
        with installed(lab, *vias, name=name, command=command):
            wait_until(lambda: "that is all" in journal(lab, name), 20, "its end")
            assert PASSWORD[1] not in journal(lab, name)


STORE = "/usr/local/lib/credstore"


@pytest.mark.parametrize("manager, planted, variable", [
    ("--standalone", ".config/credstore", {}),
    ("--user", ".config/credstore", {}),
    ("--user", "xdg/credstore", {"XDG_CONFIG_HOME": f"{HOME}/xdg"}),
    ("--standalone", "run/credstore", {"XDG_RUNTIME_DIR": f"{HOME}/run"}),
])
def test_a_store_of_credentials_that_was_not_there_is_not_the_programs_to_make(lab, world, manager, planted, variable):
    """Also by a launch that uses none, for one that does."""
    plant = f"mkdir -p ~/{planted}; umask 077; echo direct >~/{planted}/proxy; true"
    with configuration(lab, "there"):
        of_bob(lab, "sh", "-c", "cd; rm -rf .config/credstore xdg run; mkdir -p xdg/appfw; chmod 755 .config")
        for place in ".config", "xdg":
            of_bob(lab, "sh", "-c", f"printf '[vias.stored]\\ncredential = \"proxy\"\\n' >~/{place}/appfw/config.toml")
        install = ["install", "-D", "-m", "600", "-o", "bob", "/dev/stdin", f"{STORE}/proxy"]
        lab.run(install, input=WAY.encode(), check=True)
        try:
            with world.watch() as w:
                for via in ("none", "stored"):
                    run(lab, manager, "--via", via, "sh", "-c", plant, user="bob", env=variable, check=True)
                    assert "world" in text_of(lab, manager, "--via", "stored", "curl", "-sS", "http://web.test/",
                                              user="bob", env=variable)
            assert {packet["dst"] for packet in w.foreign()} == {UPSTREAM}
        finally:
            lab.run(["rm", "-rf", f"{STORE}/proxy", f"{HOME}/xdg", f"{HOME}/run"], check=True)


def test_what_could_not_be_covered_later_is_refused(lab):
    with configuration(lab, "absent"), polkit_rule(lab, ALLOW_BOB):
        of_bob(lab, "ln", "-s", "nowhere", f"{HOME}/.config/appfw")
        done = run(lab, "--standalone", "--via", "direct", "true", user="bob")
        assert done.returncode == 125 and b"/home/bob/.config/appfw: is a symbolic link that leads nowhere" in done.stderr
        of_bob(lab, "rm", f"{HOME}/.config/appfw")
        of_bob(lab, "chmod", "500", f"{HOME}/.config")
        try:
            done = run(lab, "--system", "--via", "direct", "true", user="bob")
        finally:
            of_bob(lab, "chmod", "700", f"{HOME}/.config")
        assert done.returncode == 125 and b"/home/bob/.config/appfw cannot be made" in done.stderr, done


@pytest.mark.parametrize("manager", ["--system", "--standalone"])
def test_roots_launch_of_his_program_writes_no_configuration_of_his_and_replaces_nothing(lab, manager):
    words = [manager, "--uid=bob", "--via=none", "sh", "-c"]
    with configuration(lab, "absent"):
        plant = f"mkdir -p {HOME}/.config/appfw; echo 'via = \"direct\"' >{HOME}/.config/appfw/config.toml"
        done = run(lab, *words, plant)
        made = lab.path(f"{HOME}/.config/appfw")
        assert (made.stat().st_uid, list(made.iterdir())) == (lab.path(HOME).stat().st_uid, []), done
        # As him: by no link of his does root write elsewhere.
        of_bob(lab, "sh", "-c", f"rmdir {HOME}/.config/appfw; ln -s /etc/planted {HOME}/.config/appfw")
        done = run(lab, *words, "true")
        assert done.returncode == 125 and b"/.config/appfw cannot be made" in done.stderr, done
        assert not lab.path("/etc/planted").exists()
        of_bob(lab, "rm", f"{HOME}/.config/appfw")
    with configuration(lab, "there"):
        done = run(lab, *words, "mv ~/.config ~/.c2; mv ~/.config/appfw ~/.config/a2; ls ~/.config/appfw ~/.c2")
        assert b"busy" in done.stderr and not lab.path(f"{HOME}/.c2").exists(), done


@pytest.mark.parametrize("manager", ["--system", "--standalone"])
def test_roots_program_moves_no_way_out_away(lab, manager):
    lab.run(["mkdir", "-p", "/etc/appfw/credentials"], check=True)
    done = run(lab, manager, "--via=none", "sh", "-c", "touch /etc/appfw/config.toml; mv /etc/appfw /etc/a2")
    lab.run(["sh", "-c", "[ ! -e /etc/a2 ] || mv /etc/a2 /etc/appfw"], check=True)
    assert b"Read-only" in done.stderr and b"busy" in done.stderr, done
    assert not lab.path("/etc/appfw/config.toml").exists()
    lab.run(["rmdir", "/etc/appfw/credentials", "/etc/appfw"])

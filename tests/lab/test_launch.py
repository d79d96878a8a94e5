"""A launch from the command line to the world's servers: what they see, what the app sees, what is said."""

import base64
import re

import pytest

from launching import (HOLD, PROXY, PROXY_VARIABLES, SOCKS, launched, left, main_pid, plan_of, processes_of, run,
                       script, secret_file, text_of, unique, variables, wait_gone)
from waiting import wait_until
from world_map import DNS, ORIGIN, ORIGIN6, UPSTREAM

CURL = ["curl", "-sS", "--max-time", "20"]
AS = pytest.mark.parametrize("user", [[], ["--uid", "bob"]], ids=["root", "bob"])
PASSWORD = base64.b64encode(b"lab:secret").decode()


# The ways out

@AS
@pytest.mark.parametrize("spec, port, server, auth", [
    (SOCKS, 1080, "socks5", None),
    (f"socks5h://lab:secret@{UPSTREAM}:1081", 1081, "socks5-password", ["lab", "secret"]),
    (f"http://{UPSTREAM}:3128", 3128, "http-proxy", None),
    (f"http://lab:secret@{UPSTREAM}:3129", 3129, "http-proxy-password", f"Basic {PASSWORD}"),
])
@pytest.mark.both
def test_upstream_sees_one_request_with_the_name_and_nobody_sees_more(lab, world, user, spec, port, server, auth):
    via = secret_file(lab, spec) if auth else spec
    with world.watch() as w:
        result = run(lab, "--via", via, *user, *CURL, "http://web.test/")
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.startswith(b"world ")
    request, = [event for event in w.events() if event["kind"] in ("socks", "http")]
    seen = request["server"], request["name"], request["ip"], request["dport"], request["auth"]
    assert seen == (server, "web.test", None, 80, auth)
    fetched, = w.events(server="http", kind="request")
    assert fetched["host"] == "web.test"
    assert w.foreign(allow=[(UPSTREAM, port)]) == []
    assert w.packets(dst=UPSTREAM, dport=port, flags="S")


@AS
@pytest.mark.parametrize("via, server", [(SOCKS, "socks5"), (f"http://{UPSTREAM}:3128", "http-proxy")])
def test_https_goes_through_as_a_tunnel_by_name(lab, world, user, via, server):
    lab.path("/run/appfw-lab/ca.pem").write_bytes((lab.directory.parents[1] / "ca/ca.pem").read_bytes())
    with world.watch() as w:
        text_of(lab, "--via", via, *user, *CURL, "--cacert", "/run/appfw-lab/ca.pem", "https://tls.test/")
    request, = [event for event in w.events(server=server) if event["kind"] in ("socks", "http")]
    assert (request["name"], request["dport"]) == ("tls.test", 443)
    assert w.foreign(allow=[(UPSTREAM, None)]) == []


@pytest.mark.parametrize("scheme", ["socks5h", "socks5", "http"])
def test_app_may_speak_any_protocol_to_the_forwarder(lab, world, scheme):
    """What the forwarder speaks to its upstream is another matter."""
    target = f"http://{ORIGIN}/" if scheme == "socks5" else "http://web.test/"
    with world.watch() as w:
        text_of(lab, "--via", SOCKS, *CURL, "--proxy", f"{scheme}://127.100.90.50:1080", target)
    assert w.foreign(allow=[(UPSTREAM, 1080)]) == []


@AS
def test_direct_resolves_and_dials_in_the_forwarder(lab, world, user):
    with world.watch() as w:
        text_of(lab, "--via", "direct", *user, *CURL, "http://web.test/")
    assert {event["name"] for event in w.events(server="dns", kind="query")} == {"web.test"}
    assert len(w.events(server="http", kind="request")) == 1
    assert w.foreign(allow=[(DNS, 53), (ORIGIN, 80), (ORIGIN6, 80)]) == []


@AS
def test_tor_resolves_and_dials_at_its_exit_and_nothing_else_leaves(lab, world, tor, user):
    with world.watch() as w:
        text_of(lab, "--via", "tor", *user, *CURL, "http://exit-only.test/")
    assert w.foreign() == []
    # A name that nobody but the exits can resolve.
    assert [event["host"] for event in w.events(server="http", kind="request")] == ["exit-only.test"]


# Passwords

@pytest.mark.parametrize("spec", [f"http://lab:secret@{UPSTREAM}:3129", f"socks5h://lab:secret@{UPSTREAM}:1081"])
@pytest.mark.parametrize("wall", ["strict", "address"])
def test_password_from_a_file_stands_nowhere_that_others_read(lab, spec, wall):
    secrets = [b"secret", PASSWORD.rstrip("=").encode()]
    via = secret_file(lab, spec)
    with launched(lab, "--verbose", "--wall", wall, "--via", via, *HOLD) as process:
        for directory in processes_of(lab):
            for file in "cmdline", "environ":
                try:
                    text = (directory / file).read_bytes()
                except (FileNotFoundError, ProcessLookupError):
                    continue
                assert not any(secret in text for secret in secrets), (directory, file, text)
        units = f"appfw-{process.name}*"
        for command in ["systemctl", "show", "--all", units], ["systemctl", "cat", units], ["journalctl", "--no-pager"]:
            text = lab.run(command, check=True).stdout
            assert process.name.encode() in text
            assert not any(secret in text for secret in secrets), command
        for file in lab.path("/run/systemd/transient").rglob("*"):
            assert not any(secret in file.read_bytes() for secret in secrets if file.is_file()), file
        plan = lab.path(f"/run/appfw/{process.name}/plan.json").read_text()
        assert "secret" not in plan and plan_of(lab, process.name)["via"] == spec.replace("lab:secret", "***:***")
        places = ["/run", "/tmp", "/var/tmp", "/dev/shm"]
        readable = lab.run(["grep", "-rlas", "-e", "lab:secret", "-e", secrets[1].decode(), *places], user="bob")
        assert readable.stdout == b""
        process.kill()
        assert b"secret" not in process.said.to_the_end()


def test_app_does_not_see_the_password(lab):
    via = secret_file(lab, f"http://lab:secret@{UPSTREAM}:3129")
    look = ("env; cat /proc/*/environ /proc/*/cmdline | tr '\\0' '\\n';"
            " find /run/appfw /run/credentials -type f -exec cat {} +")
    for user in [], ["--uid", "bob"]:
        name = unique("looks")
        result = run(lab, "--unit", name, "--via", via, *user, "sh", "-c", look)
        assert b"http_proxy" in result.stdout and b"appfw-" in result.stdout
        assert b"lab:secret" not in result.stdout
        wait_gone(lab, name)


def test_password_in_the_command_line_is_accepted_with_a_warning_and_masked(lab):
    result = run(lab, "--verbose", "--via", f"http://lab:secret@{UPSTREAM}:3129", *CURL, "http://web.test/")
    assert result.returncode == 0
    assert result.stderr.count(b"warning:") == 1 and b"--via @FILE" in result.stderr
    assert b"secret" not in result.stderr


@pytest.mark.parametrize("mode, owner, words", [(0o644, 0, "chmod 600"), (0o600, 1001, "another user")])
def test_a_file_that_others_can_read_or_own_is_refused(lab, mode, owner, words):
    via = secret_file(lab, SOCKS)
    file = lab.path(via[1:])
    file.chmod(mode)
    lab.run(["chown", str(owner), via[1:]], check=True)
    result = run(lab, "--via", via, "true")
    assert result.returncode == 125 and words in result.stderr.decode()


# The app's environment

def test_environment_holds_the_proxy_variables(lab):
    env = variables(text_of(lab, "--via", SOCKS, "env"))
    assert {name: env.get(name) for name in PROXY_VARIABLES} == dict.fromkeys(PROXY_VARIABLES, PROXY)
    assert env["NODE_USE_ENV_PROXY"] == "1"
    assert env["RSYNC_PROXY"] == "127.100.90.50:1080"


@pytest.mark.parametrize("scheme", ["socks", "socks5", "socks5h", "http"])
def test_environment_scheme(lab, scheme):
    env = variables(text_of(lab, "--via", SOCKS, "--env-scheme", scheme, "env"))
    assert {env[name] for name in PROXY_VARIABLES} == {f"{scheme}://127.100.90.50:1080"}
    assert ("NODE_USE_ENV_PROXY" in env) == (scheme == "http")


def test_via_none_has_no_proxy_variables(lab):
    env = variables(text_of(lab, "--via", "none", "env"))
    assert not [name for name in env if "proxy" in name.lower()]


def test_address_wall_has_its_own_address_and_exempts_what_is_allowed(lab):
    env = variables(text_of(lab, "--via", SOCKS, "--wall", "address", "--allow", "10.0.0.0/24", "env"))
    values = {env[name] for name in PROXY_VARIABLES}
    assert len(values) == 1 and re.fullmatch(r"http://127\.100\.\d+\.\d+:1080", values.pop())
    assert env["no_proxy"] == env["NO_PROXY"] == "10.0.0.0/24"


CALLERS = {
    "MINE": "a b\n=c", "EMPTY": "", "SSH_AUTH_SOCK": "/tmp/ssh-bob/agent", "GPG_AGENT_INFO": "x", "LD_PRELOAD": "",
    "LD_LIBRARY_PATH": "/x", "DBUS_SESSION_BUS_ADDRESS": "unix:path=/x", "DBUS_X": "x", "http_proxy": "http://old",
    "NO_PROXY": "*", "no_proxy": "*", "ftp_proxy": "http://old", "npm_config_https_proxy": "http://old", "LC_ALL": "C",
    "TZ": "Asia/Tokyo", "COLORTERM": "x", "NO_COLOR": "1",
}
DROPPED = ["SSH_AUTH_SOCK", "GPG_AGENT_INFO", "LD_PRELOAD", "LD_LIBRARY_PATH", "DBUS_SESSION_BUS_ADDRESS", "DBUS_X",
           "NO_PROXY", "no_proxy", "ftp_proxy", "npm_config_https_proxy"]


def nul_separated(text):
    return dict(entry.split("=", 1) for entry in text.split("\0") if entry)


def test_the_same_user_keeps_the_callers_environment_less_what_leads_past_the_forwarder(lab):
    env = nul_separated(text_of(lab, "--via", SOCKS, "env", "-0", env=CALLERS))
    assert not [name for name in DROPPED if name in env]
    assert env["http_proxy"] == PROXY
    kept = {name: value for name, value in CALLERS.items() if name not in DROPPED and name != "http_proxy"}
    assert {name: env.get(name) for name in kept} == kept
    assert env["HOME"] == "/root" and env["USER"] == "root"


def test_another_user_gets_little_of_it(lab):
    env = nul_separated(text_of(lab, "--via", SOCKS, "--uid", "bob", "env", "-0", env=CALLERS))
    assert {name: env.get(name) for name in ["HOME", "USER", "LOGNAME", "SHELL"]} == {
        "HOME": "/home/bob", "USER": "bob", "LOGNAME": "bob", "SHELL": "/bin/bash"}
    assert {name: env.get(name) for name in ["LC_ALL", "TZ", "COLORTERM", "NO_COLOR", "TERM", "LANG"]} == {
        "LC_ALL": "C", "TZ": "Asia/Tokyo", "COLORTERM": "x", "NO_COLOR": "1", "TERM": "xterm", "LANG": "C.UTF-8"}
    assert not {*DROPPED, "MINE", "EMPTY"} & env.keys()


@AS
def test_env_option_sets_and_keeps(lab, user):
    words = ["--env", "SET=a=b c", "--env", "MINE", "--env", "SSH_AUTH_SOCK", "--env", "ABSENT", "--env", "NO_PROXY=x"]
    env = nul_separated(text_of(lab, "--via", SOCKS, *user, *words, "env", "-0", env=CALLERS))
    assert env["SET"] == "a=b c"
    assert env["MINE"] == CALLERS["MINE"]
    assert env["SSH_AUTH_SOCK"] == CALLERS["SSH_AUTH_SOCK"]
    assert env["NO_PROXY"] == "x"
    assert "ABSENT" not in env


def test_unit_shows_the_proxy_variables_and_nothing_else_of_the_environment_or_command(lab):
    hold = ["sh", "-c", "echo ready; exec sleep 60", "private-argument"]
    with launched(lab, "--via", SOCKS, "--env", "TOKEN=private-value", *hold) as process:
        unit = f"appfw-{process.name}.service"
        shown = lab.run(["systemctl", "show", unit], user="bob", check=True).stdout.decode()
        line, = [line for line in shown.splitlines() if line.startswith("Environment=")]
        names = {word.split("=")[0] for word in line.removeprefix("Environment=").split()}
        assert names == {*PROXY_VARIABLES, "RSYNC_PROXY", "NODE_USE_ENV_PROXY"}
        assert "private-" not in shown
        assert "private-" not in lab.run(["systemctl", "cat", f"appfw-{process.name}*"], user="bob").stdout.decode()


# Where it starts

def test_working_directory_is_the_callers(lab):
    lab.path("/tmp/some where").mkdir(exist_ok=True)
    assert text_of(lab, "--via", "none", "pwd", cwd="/tmp/some where") == "/tmp/some where\n"


def test_working_directory_that_the_user_cannot_enter_becomes_the_home(lab):
    lab.path("/root/closed").mkdir(mode=0o700, exist_ok=True)
    assert text_of(lab, "--via", "none", "--uid", "bob", "pwd", cwd="/root/closed") == "/home/bob\n"


def test_working_directory_without_a_home_becomes_the_root(lab):
    lab.path("/root/closed").mkdir(mode=0o700, exist_ok=True)
    assert text_of(lab, "--via", "none", "--uid", "nobody", "pwd", cwd="/root/closed") == "/\n"


def test_a_home_that_is_no_directory_is_no_obstacle(lab):
    """Nor one that the program could put a directory in, or replace by one."""
    name = unique("user")
    lab.run(["useradd", "--system", "--home-dir=/dev/null", name], check=True)
    try:
        run(lab, "--via=none", "--uid", name, "true", check=True)
        for manager in "--user", "--standalone":
            run(lab, manager, "--via=none", "true", user="bob", env={"HOME": "/dev/null"}, check=True)
    finally:
        lab.run(["userdel", name], check=True)


@pytest.mark.parametrize("manager", ["--user", "--standalone"])
def test_nothing_is_made_in_a_home_that_its_user_does_not_write(lab, manager):
    home = f"/home/bob/{unique('home')}"
    lab.run(["mkdir", "-m", "500", home], user="bob", check=True)
    try:
        done = run(lab, manager, "--via=none", "true", user="bob", env={"HOME": home})
        assert done.returncode == 125
        assert f"{home}/.config/appfw cannot be made (Permission denied" in done.stderr.decode()
        assert list(lab.path(home).iterdir()) == []
    finally:
        lab.run(["rmdir", home], check=True)


def test_workdir_option(lab):
    assert text_of(lab, "--via", "none", "--workdir", "/tmp", "pwd") == "/tmp\n"
    assert text_of(lab, "--via", "none", "--workdir", "lib", "pwd", cwd="/usr") in ("/usr/lib\n", "/lib\n")


@pytest.mark.parametrize("words, why", [
    (["--workdir", "/nowhere"], "No such file"),
    (["--workdir", "/root", "--uid", "bob"], "Permission denied"),
    (["--workdir", "/etc/passwd"], "Not a directory"),
])
def test_workdir_that_cannot_be_entered_is_an_error(lab, words, why):
    result = run(lab, "--via", "none", *words, "echo", "ran")
    assert (result.returncode, result.stdout) == (125, b"")
    assert result.stderr.startswith(b"appfw-run: cannot start in ") and why in result.stderr.decode()


@AS
def test_umask_is_the_callers(lab, user):
    result = lab.run(["sh", "-c", 'umask 027; exec appfw-run --via none "$@"', "sh", *user, "sh", "-c", "umask"])
    assert result.stdout == b"0027\n"


# An upstream that does not answer

def say_lines(result):
    """What the launcher said: it may come in the middle of a line of the program's own."""
    return [before + said for line in result.stderr.decode().splitlines()
            for _, before, said in [line.partition("appfw-run: ")] if before]


@pytest.mark.parametrize("via", [f"socks5h://{UPSTREAM}:9", f"http://{UPSTREAM}:9", "socks5h://127.0.0.1:9",
                                 "tor://127.0.0.1:9"])
def test_dead_upstream_is_a_502_each_time_and_is_said_once(lab, world, via):
    with world.watch() as w:
        result = run(lab, "--via", via, *CURL, "-o", "/dev/null", "-o", "/dev/null", "-w", "%{http_code}\\n",
                     "http://web.test/", "http://web.test/")
    assert result.stdout == b"502\n502\n"
    assert result.returncode == 0
    assert len(say_lines(result)) == 1 and ":9 cannot be reached" in say_lines(result)[0]
    assert w.foreign(allow=[(UPSTREAM, 9)]) == []


def test_dead_upstream_is_an_error_in_socks_as_well(lab):
    result = run(lab, "--via", f"socks5h://{UPSTREAM}:9", *CURL, "--proxy", "socks5h://127.100.90.50:1080",
                 "http://web.test/")
    assert result.returncode == 97  # CURLE_PROXY
    assert "cannot be reached" in say_lines(result)[0]


def test_wrong_password_is_said_without_the_password(lab):
    for spec in f"socks5h://lab:wrong-word@{UPSTREAM}:1081", f"http://lab:wrong-word@{UPSTREAM}:3129":
        result = run(lab, "--via", secret_file(lab, spec), *CURL, "--fail", "http://web.test/")
        assert result.returncode == 22
        # Beside curl's own words, which may come in the middle of a line.
        assert result.stderr.count(b"appfw-run: ") == 1 and b"user and password" in result.stderr
        assert b"wrong-word" not in result.stderr


def test_name_that_does_not_exist_is_no_fault_of_the_upstream(lab):
    result = run(lab, "--via", "direct", *CURL, "-w", "%{http_code}", "-o", "/dev/null", "http://no-such.test/")
    assert (result.stdout, result.stderr) == (b"502", b"")


# The line about a program that ignores the proxy

def test_a_program_that_fails_and_never_used_the_proxy_is_told_of(lab):
    result = run(lab, "--via", "direct", *CURL, "--noproxy", "*", f"http://{ORIGIN}/")
    assert result.returncode == 7
    assert len(say_lines(result)) == 1
    assert say_lines(result)[0].startswith("appfw-run: curl never used the proxy")


@pytest.mark.parametrize("words", [
    ["--via", "direct", "true"],
    ["--via", "none", "false"],
    ["--via", "direct", "sh", "-c", "curl -sS http://web.test/; exit 3"],
    ["--quiet", "--via", "direct", "false"],
])
def test_that_line_is_for_nobody_else(lab, words):
    assert run(lab, *words).stderr == b""


# --only and --block

FETCH = "for url; do curl -sS -o /dev/null --max-time 9 -w '%{http_code} ' $url; done"


@pytest.mark.parametrize("via", ["direct", SOCKS])
def test_only_lets_through_what_it_names_and_the_rest_is_said_once_at_the_end(lab, world, via):
    urls = ["http://v4.test/", "http://web.test/", f"http://{ORIGIN}/", "http://web.test/x"]
    with world.watch() as w:
        result = run(lab, "--via", via, "--only", "v4.test", "sh", "-c", FETCH, "sh", *urls)
    assert result.stdout == b"200 403 403 403 "
    assert say_lines(result) == [f"appfw-run: refused 2 names: web.test:80, {ORIGIN}:80; --only NAME lets one through"]
    assert w.events(name="web.test") == []
    fetched, = w.events(server="http", kind="request")
    assert fetched["host"] == "v4.test"


def test_a_name_never_leads_to_a_blocked_or_an_inside_address(lab, world):
    urls = ["http://v4.test/", "http://ten.test/", "http://loopback.test/"]
    with world.watch() as w:
        result = run(lab, "--via", "direct", "--only", "*.test", "--block", ORIGIN, "sh", "-c", FETCH, "sh", *urls)
    assert result.stdout == b"403 403 403 "
    assert say_lines(result) == ["appfw-run: refused 1 name: v4.test:80; --block keeps it out"]
    assert w.foreign(allow=[(DNS, 53)]) == []


# Inside addresses

def test_allow_destination_opens_one_inside_address_and_no_other(lab):
    fetch = ("for url in http://127.0.0.1:8023/ http://127.0.0.1:8022/ http://localhost:8023/ http://203.0.113.2:8022/"
             " http://10.0.0.2:8022/; do curl -sS -o /dev/null --max-time 9 -w '%{http_code} ' $url; done")
    closed = run(lab, "--via", "direct", "sh", "-c", fetch).stdout
    assert closed == b"403 " * 5
    opened = run(lab, "--via", "direct", "--allow-destination", "127.0.0.1:8023", "sh", "-c", fetch).stdout
    # localhost is another spelling of the address that is let through.
    assert opened.split() in ([b"200", b"403", b"200", b"403", b"403"], [b"200", b"403", b"403", b"403", b"403"])


def test_allow_destination_of_more_than_one_port_does_not_open_it_past_the_forwarder(lab):
    result = run(lab, "--via", "direct", "--allow-destination", "127.0.0.1:8023-8024", *CURL, "--noproxy", "*",
                 "--max-time", "1", "http://127.0.0.1:8023/")
    assert result.returncode in (7, 28)


def test_inside_addresses_are_not_asked_of_an_upstream(lab, world):
    with world.watch() as w:
        for target in "127.0.0.1", "localhost", "10.0.0.7", "169.254.10.10", "[::1]", "[fe80::10]":
            result = run(lab, "--via", SOCKS, *CURL, "-g", "-o", "/dev/null", "-w", "%{http_code}", f"http://{target}/")
            assert result.stdout == b"403", target
    assert w.foreign() == []


# Seeing

SHOWN = [["--via", SOCKS], ["--via", "direct", "--uid", "bob"], ["--via", "none"],
         ["--via", SOCKS, "--wall", "address", "--allow", "10.0.0.0/24"],
         ["--via", "none", "--deny", "any", "--allow", "localhost"],
         ["--via", "direct", "--allow-destination", "127.0.0.1:8023", "--exit-with-main", "--detach"]]


@pytest.mark.parametrize("words", SHOWN, ids=" ".join)
def test_dry_run_prints_valid_units_and_starts_nothing(lab, words):
    name = unique("dry")
    units = run(lab, "--dry-run", "--unit", name, *words, "sh", "-c", "echo $HOME 100%")
    assert (units.returncode, units.stderr) == (0, b"")
    assert left(lab, name) == []
    directory = f"/tmp/{name}"
    lab.path(directory).mkdir()
    parts = re.split(r"^# (appfw-\S+)\n", units.stdout.decode(), flags=re.MULTILINE)[1:]
    files = dict(zip(parts[::2], parts[1::2]))
    assert f"appfw-{name}.service" in files
    assert any(file.endswith("-forward.socket") for file in files) == ("none" not in words)
    for file, text in files.items():
        # The program is bound in at the start only.
        lab.path(f"{directory}/{file}").write_text(text.replace(":/run/appfw/appfw ", ":/usr/local/bin/appfw "))
    verified = lab.run(["systemd-analyze", "verify", *(f"{directory}/{file}" for file in files)])
    assert (verified.returncode, verified.stderr.decode()) == (0, "")


def test_dry_run_masks_passwords(lab):
    via = secret_file(lab, f"http://lab:secret@{UPSTREAM}:3129")
    result = run(lab, "--dry-run", "--via", via, "true")
    assert result.returncode == 0 and b"secret" not in result.stdout


def test_verbose_says_what_is_done_and_quiet_says_nothing(lab):
    name = unique("said")
    said = run(lab, "--verbose", "--unit", name, "--via", SOCKS, "true")
    assert f"launch {name} in the strict wall, via {SOCKS}; who runs it: system\n" in said.stderr.decode()
    assert run(lab, "--via", SOCKS, "true").stderr == b""
    quiet = run(lab, "--quiet", "--via", f"http://{UPSTREAM}:9", *CURL, "-o", "/dev/null", "http://web.test/")
    assert (quiet.returncode, quiet.stderr) == (0, b"")
    assert run(lab, "--quiet", "--verbose", "--via", "none", "true").returncode == 125


def test_quiet_still_says_errors(lab):
    assert run(lab, "--quiet", "--via", "none", "no-such-program").stderr.startswith(b"appfw-run: no-such-program ")


@pytest.mark.parametrize("via", ["direct", SOCKS, "socks5h://upstream.test:1080", "password"])
@pytest.mark.parametrize("wall", ["strict", "address"])
def test_forwarder_is_little_exposed(lab, via, wall):
    if via == "password":
        via = secret_file(lab, f"socks5h://lab:secret@{UPSTREAM}:1081")
    with launched(lab, "--via", via, "--wall", wall, *HOLD) as process:
        unit = f"appfw-{process.name}-forward.service"
        report = lab.run(["systemd-analyze", "--no-pager", "security", unit], check=True).stdout.decode()
        level = float(re.search(r"exposure level for \S+: ([\d.]+)", report).group(1))
        assert level <= 2.0, report
        owner = lab.path(f"/proc/{main_pid(lab, unit)}").stat().st_uid
        assert 61184 <= owner <= 65519  # DynamicUser=, see systemd.exec(5)


@pytest.mark.parametrize("spec, via", [
    ("direct", "direct"), (SOCKS, "socks5"), (f"http://lab:secret@{UPSTREAM}:3129", "http"),
    (f"socks5h://lab:secret@{UPSTREAM}:1081", "socks5"),
])
def test_journal_has_a_line_for_each_connection_with_its_target_and_no_credentials(lab, spec, via):
    name = unique("journal")
    given = secret_file(lab, spec) if "secret" in spec else spec
    text_of(lab, "--unit", name, "--via", given, *CURL, "http://web.test/", "http://user:pw@v4.test/")
    log = lab.journal(f"appfw-{name}-forward.service")
    lines = [line for line in log.splitlines() if "destination=" in line]
    assert len(lines) == 2
    assert "destination=web.test:80" in lines[0] and "destination=v4.test:80" in lines[1]
    assert all(f'via="{via}"' in line for line in lines)
    assert "secret" not in log and "pw" not in log and PASSWORD not in log


# Names

def test_name_in_use_is_refused_with_its_holder_named(lab):
    with launched(lab, "--via", SOCKS, "sh", "-c", "echo ready; exec sleep 60") as process:
        second = run(lab, "--unit", process.name, "--via", SOCKS, "true")
        assert second.returncode == 125
        holder = plan_of(lab, process.name)["launcher"]
        assert f"{process.name} is in use by process {holder} running \"sh\"" in second.stderr.decode()
        assert process.poll() is None and main_pid(lab, f"appfw-{process.name}.service")


def test_name_is_free_again_right_after_the_end(lab):
    name = unique("again")
    for wall in ["strict", "address"] * 3:
        assert text_of(lab, "--unit", name, "--wall", wall, "--via", SOCKS, "echo", "ran") == "ran\n"
    for code in 3, 0, 3:
        assert run(lab, "--unit", name, "--via", SOCKS, "sh", "-c", f"exit {code}").returncode == code


@pytest.mark.parametrize("name", ["a b", "../x", "x-forward", "a/b", "é", "", "x" * 65])
def test_name_that_would_become_syntax_is_refused(lab, name):
    result = run(lab, "--unit", name, "--via", SOCKS, "true")
    assert result.returncode == 125 and b"launch name" in result.stderr


def test_command_of_any_bytes_arrives_as_it_is(lab):
    words = ["a b", "$HOME", "${HOME}", "%n", "%%", "'\"", "\\n", "line\nline", "", "é", "-x", "--via"]
    show = script(lab, "words", "#!/bin/sh\nprintf '%s\\0' \"$@\"\n")
    assert text_of(lab, "--via", "none", show, *words).split("\0")[:-1] == words


def test_default_name_is_the_commands(lab):
    result = run(lab, "--verbose", "--via", SOCKS, "/usr/bin/true")
    assert re.match(r"appfw-run: launch true-[0-9a-f]{8} in the strict wall", result.stderr.decode())


def test_nothing_is_left_of_a_launch(lab):
    name = unique("over")
    text_of(lab, "--unit", name, "--via", SOCKS, "true")
    wait_gone(lab, name)


def test_forwarder_serves_the_app_alone_in_the_address_wall(lab, world):
    address = "127.100.77.77"
    hold = ["sh", "-c", "echo ready; exec sleep 60"]
    with launched(lab, "--via", SOCKS, "--wall", "address", "--address", address, *hold) as process:
        with world.watch() as w:
            for user in "root", "bob":
                stranger = lab.run([*CURL, "--proxy", f"http://{address}:1080", "http://web.test/"], user=user)
                assert stranger.returncode != 0 and stranger.stdout == b""
        assert w.foreign() == []
        unit = f"appfw-{process.name}-forward.service"
        wait_until(lambda: "it does not belong to the app" in lab.journal(unit), 5, "the forwarder's word on it")
        process.kill()
    wait_gone(lab, process.name, 5)

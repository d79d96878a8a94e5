"""What is rendered, as systemd takes it: one plan as a launch and as a unit that lasts holds the same, property by
property, as they run; and no systemd has anything to say of any unit."""

import json
import pathlib
import re
import socket

import pytest

from bpf_programs import drops_packets, streams_from
from launching import HOLD, SOCKS, launched, unit_names
from namespaces import network_namespace
from test_filters import pinned  # noqa: F401
from test_units import installed
from waiting import wait_until
from world_map import PASSWORD, UPSTREAM

PUBLISHED = 7302
PLANS = {
    "strict": [f"--via=socks5h://{':'.join(PASSWORD)}@{UPSTREAM}:1081", "--uid=bob"],
    "address": [f"--via={SOCKS}", "--wall=address", "--address=127.100.90.60", "--allow=10.0.0.0/24", "--dbus=system",
                "-pLimitNOFILE=5000"],
    "rules": ["--via=none", "--deny=any", "--allow=localhost", "--allow=10.0.0.0/24", "--uid=bob",
              "--ingress-filter=FILTER", "--egress-filter=FILTER"],
    "namespace": [f"--via={SOCKS}", "--wall=namespace", "--uid=bob", f"--publish={PUBLISHED}=8080"],
}
# What every part has of its own, whatever its wall: exact names, but for those of times.
LEFT_OUT = {
    # which run it is, and what it has used
    "InvocationID", "MainPID", "ExecMainPID", "ControlGroupId", "CPUUsageNSec", "MemoryCurrent", "MemoryPeak",
    "MemoryAvailable", "TasksCurrent", "EffectiveMemoryHigh", "EffectiveMemoryMax",
    # where its text is, and what it is called
    "Transient", "FragmentPath", "UnitFileState", "UnitFilePreset", "Description",
    # a launch is held by its launcher, and forgotten when it has failed; a unit's failure stays to be looked at
    "CollectMode", "Refs",
}
# What else may differ, part by part.
DIFFER = {
    ".service": {
        # `appfw ready` does what a launcher does, who asks systemd and waits for the proof
        "ExecStartPre", "ExecStartPreEx",
        # started again when it fails, though not for want of a wall, and given a service's time to stop
        "Restart", "RestartUSec", "RestartUSecNext", "RestartPreventExitStatus", "TimeoutStopUSec", "TimeoutAbortUSec",
        # its socket stops with it; a launcher stops a launch's
        "ConsistsOf",
    },
    # tried as often as the unit is
    "-forward.socket": {"PartOf", "StartLimitIntervalUSec"},
    # a user of the moment (DynamicUser=)
    "-forward.service": {"UID", "GID"},
    # that too; its socket starts and stops it, where a launcher starts a launch's and hands it its descriptors
    "-publish.service": {"UID", "GID", "PartOf", "StopWhenUnneeded", "TriggeredBy", "WantedBy", "NFileDescriptorStore"},
}
# How the program is found and who is told of the proof: a launcher by a socket, or the unit's own directory.
TOLD = ("--control=", "--order=", "--report=", "--outside=", "--outside-user=")
# Units that others name: a launch has a life-line, a unit a socket for what it publishes, and a boot that starts it.
ONE_ALONE = {"appfw-NAME-lifeline.service", "appfw-NAME-publish.socket", "appfw-NAME-publish.service",
             "multi-user.target"}
WALL = {"IPAddressAllow", "IPAddressDeny", "IPIngressFilterPath", "IPEgressFilterPath", "SystemCallFilter",
        "LoadCredential", "MemoryDenyWriteExecute", "PrivateNetwork", "InaccessiblePaths", "CapabilityBoundingSet",
        "Requires", "TasksMax"}
FORWARDED = {".service", "-forward.service", "-forward.socket"}


def parts(lab, name):
    return {part.removeprefix(f"appfw-{name}") for part in unit_names(lab, name)}


def held(lab, name, ending):
    """All that systemd holds of a unit's part: as the bus tells, as systemctl prints no credentials and no filters."""
    part = name + ending
    path = "/org/freedesktop/systemd1/unit/" + "".join(
        letter if letter.isalnum() else f"_{ord(letter):02x}" for letter in part)
    words = ["busctl", "--json=short", "call", "org.freedesktop.systemd1", path, "org.freedesktop.DBus.Properties",
             "GetAll", "s", ""]
    answer = json.loads(lab.run(words, check=True).stdout)["data"][0]
    return {key: compared(key, value["data"], name) for key, value in answer.items()
            if key not in LEFT_OUT and "Timestamp" not in key}


def compared(key, value, name):
    """Without the name, in any order where it has none, and commands without how they went."""
    value = json.loads(json.dumps(value).replace(name.removeprefix("appfw-"), "NAME"))
    if key in ("ExecStart", "ExecStartEx"):
        # Path, words, flags; then times and how it ended.
        return [[path, [word for word in words if not word.startswith(TOLD)], flags]
                for path, words, flags, *_ in value]
    if key == "BindPaths":
        return [bind for bind in value if bind[0] not in ("/run/appfw/NAME/report", "/run/appfw/NAME/publish")]
    if key == "LoadCredential":
        return [[kind, "HERE" if file in ("/run/appfw/NAME/via", "/etc/appfw/credentials/NAME") else file]
                for kind, file in value]
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return sorted({*value} - ONE_ALONE)
    return sorted(value) if key in ("IPAddressAllow", "IPAddressDeny") else value


def runs(lab, name, endings):
    """Returns when each part of it is at work: what serves it is started by its first connection."""
    services = [name + ending for ending in endings if ending.endswith(".service")]

    def active():
        with network_namespace(lab.pid):
            client = socket.socket()
        with client:
            client.connect_ex(("127.0.0.1", PUBLISHED))
            return lab.run(["systemctl", "is-active", *services]).stdout == b"active\n" * len(services)

    wait_until(active, 10, f"all of {services}")


@pytest.mark.parametrize("plan", [
    "strict",
    "address",
    "rules",
    "namespace",
])
def test_a_unit_holds_what_a_launch_of_the_same_plan_holds(lab, plan, pinned):  # noqa: F811
    path = pinned(drops_packets(streams_from("10.0.0.9")))
    words = [word.replace("FILTER", path) for word in PLANS[plan]]
    with launched(lab, *words, *HOLD) as launch:
        name = f"appfw-{launch.name}"
        endings = parts(lab, launch.name) - {"-lifeline.service"}
        assert endings == {"strict": FORWARDED, "address": FORWARDED, "rules": {".service"},
                           "namespace": FORWARDED | {"-publish.service"}}[plan]
        runs(lab, name, endings)
        of_launch = {ending: held(lab, name, ending) for ending in endings}
        launch.terminate()
        launch.wait(20)
    with installed(lab, *words, command=HOLD) as unit:
        name = f"appfw-{unit}"
        runs(lab, name, endings)
        assert parts(lab, unit) - {"-publish.socket"} == endings
        of_unit = {ending: held(lab, name, ending) for ending in endings}
    # As much as the wall has of it, at least.
    assert WALL <= of_unit[".service"].keys() and of_unit[".service"]["ExecStart"]
    differences = {(ending, key): (of_launch[ending].get(key), of_unit[ending].get(key))
                   for ending in endings for key in {*of_launch[ending], *of_unit[ending]}
                   if of_launch[ending].get(key) != of_unit[ending].get(key)}
    assert {key: values for key, values in differences.items() if key[1] not in DIFFER[key[0]]} == {}


# All that is rendered

REPOSITORY = pathlib.Path(__file__).parents[2]


def written_units():
    """The unit files of all golden cases, by case: name and text. Another's service is only named by its drop-in."""
    cases = {}
    for expected in [*REPOSITORY.glob("tests/golden/*/expected"), *REPOSITORY.glob("tests/confine/*/expected")]:
        parts = re.split(r"^# (\S+\.(?:service|socket|conf))(?: \(\d+\))?\n", expected.read_text(), flags=re.MULTILINE)
        cases[expected.parent] = [*zip(parts[1::2], parts[2::2])]
    for directory in REPOSITORY.glob("units/examples/*/"):
        cases[directory] = [(path.name, path.read_text()) for path in directory.iterdir()]
    return {case: [(name, text) for name, text in files if "etc/appfw" not in name] for case, files in cases.items()}


@pytest.mark.both
def test_this_systemd_understands_every_unit(lab):
    cases = written_units()
    assert len(cases) > 60
    for number, files in enumerate(cases.values()):
        top = lab.path(f"/run/verify/{number}")
        for name, text in files:
            path = top / re.sub("^.*/systemd/(?:system|user)/", "", name)
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.parent != top:
                (top / path.parent.name.removesuffix(".d")).write_text("[Service]\nExecStart=/bin/true\n")
            text = re.sub(r'^(Exec\w+=[+:@!-]*)("(?:[^"\\]|\\.)*"|[^\s"]+)', r"\1/bin/true", text, flags=re.MULTILINE)
            path.write_text(text if lab.version != "252" else text.replace("PrivatePIDs=yes\n", ""))
    verify = """cd /run/verify && for case in *; do
        SYSTEMD_UNIT_PATH=/run/verify/$case: systemd-analyze verify --man=no --recursive-errors=no --generators=no \\
            $(cd "$case" && ls -d *.service *.socket 2>/dev/null | sed "s,^,/run/verify/$case/,") 2>&1 |
            grep -E 'appfw-|zz-appfw' | sed "s,^,$case: ,"
    done; rm -r /run/verify"""
    told = lab.run(["sh", "-c", verify]).stdout.decode()
    assert told == "", (told, [str(case) for case in cases])

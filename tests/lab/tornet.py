"""A private Tor network with the real `tor`: an authority, three exits and an onion service in the world, a client on
the lab's own 127.0.0.1:9050.

Everything here is what facts were measured for: fewer relays never finish a circuit to the onion service, KIST is ten
times slower on a loopback, and without RefuseUnknownExits one first request in eight fails.
"""

import re
import subprocess
import threading
import time

import world_map
from waiting import wait_until

LIMIT = 60  # seconds; usually 8 to 10
SOCKS = ("127.0.0.1", 9050)
CONTROL_PORT = 9051
OR_PORT, DIRECTORY_PORT = 9001, 9030

COMMON = """
TestingTorNetwork 1
UseDefaultFallbackDirs 0
AssumeReachable 1
PathsNeededToBuildCircuits 0.67
TestingDirAuthVoteExit *
TestingDirAuthVoteGuard *
TestingDirAuthVoteHSDir *
TestingMinExitFlagThreshold 0
V3AuthNIntervalsValid 3
Schedulers Vanilla
ShutdownWaitLength 0
Log notice stdout
"""
SERVER = """
SocksPort 0
ServerDNSDetectHijacking 0
ServerDNSTestAddresses
ServerDNSAllowBrokenConfig 1
"""
AUTHORITY = """
AuthoritativeDirectory 1
V3AuthoritativeDirectory 1
ContactInfo lab
ExitPolicy reject *:*
TestingV3AuthInitialVotingInterval 6
TestingV3AuthInitialVoteDelay 2
TestingV3AuthInitialDistDelay 2
V3AuthVotingInterval 10
V3AuthVoteDelay 2
V3AuthDistDelay 2
"""
EXIT = """
DirCache 0
ExitRelay 1
ExitPolicyRejectPrivate 0
ExitPolicy accept *:*
RefuseUnknownExits 0
IPv6Exit 0
"""
CLIENT = f"""
SocksPort {SOCKS[0]}:{SOCKS[1]} IsolateSOCKSAuth KeepAliveIsolateSOCKSAuth
ControlPort {CONTROL_PORT}
CookieAuthentication 1
ClientRejectInternalAddresses 0
ClientDNSRejectInternalAddresses 0
ConfluxEnabled 0
"""
# The last line says when the service can be found.
ONION = f"""
SocksPort 0
HiddenServicePort 80 {world_map.ORIGIN}:80
Log [rend]info stdout
"""


class TorNetwork:
    """The Tor of one lab. start() returns at once; wait() when the client has circuits to exits, wait_onion() when the
    onion service is published as well."""

    def __init__(self, lab):
        self._lab = lab
        self.directory = lab.directory / "tor"
        self._thread = None
        self._failure = None

    def start(self):
        """Brings the network up in the background. Safe to call again."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._bring_up, daemon=True)
            self._thread.start()

    def wait(self):
        """Returns when `--socks5-hostname 127.0.0.1:9050` works in the lab."""
        self.start()
        self._thread.join()
        if self._failure:
            raise RuntimeError(f"no Tor, see {self.directory}") from self._failure

    def wait_onion(self):
        """The name of a service that is the world's web server, by Tor alone."""
        self.wait()
        self._logged("onion", "Uploading hidden service descriptor: finished with status 200")
        name = (self._data("onion") / "service" / "hostname").read_text().strip()
        # Some other of its directories may not have it yet.
        fetch = ["curl", "-sS", "--max-time", "10", "--socks5-hostname", "{}:{}".format(*SOCKS), f"http://{name}/"]
        wait_until(lambda: self._lab.run(fetch).returncode == 0, LIMIT, name)
        return name

    def _bring_up(self):
        try:
            self.directory.mkdir()
            authority, *exits = world_map.TOR_RELAYS
            trust = self._make_authority(authority)
            self._run("authority", self._lab.world.pid, trust, COMMON, SERVER, AUTHORITY, self._place(authority),
                      f"DirPort {DIRECTORY_PORT}",
                      f"TestingV3AuthVotingStartOffset {(int(time.time()) + 6) % 6}")
            for number, address in enumerate(exits):
                self._run(f"exit{number}", self._lab.world.pid, trust, COMMON, SERVER, EXIT, self._place(address))
            # A client that starts before there is a consensus waits long before it asks again.
            self._logged("authority", "Published microdesc consensus")
            self._run("client", self._lab.pid, trust, COMMON, CLIENT)
            service = f"HiddenServiceDir {self._data('onion')}/service"
            self._run("onion", self._lab.world.pid, trust, COMMON, service, ONION)
            self._logged("client", r"Bootstrapped 100%")
            self._logged("client", "consensus contains exit nodes")
        except (OSError, RuntimeError, subprocess.SubprocessError) as failure:
            self._failure = failure

    def _place(self, address):
        resolver = self.directory / "resolv.conf"
        resolver.write_text("nameserver {}:{}\n".format(*world_map.EXIT_DNS))
        return f"Address {address}\nORPort {address}:{OR_PORT} IPv4Only\nOutboundBindAddress {address}\n" \
               f"ServerDNSResolvConfFile {resolver}"

    def _make_authority(self, address):
        """The authority's keys; returns the line that makes a tor trust them."""
        data = self._data("authority")
        keys = data / "keys"
        keys.mkdir(mode=0o700)
        subprocess.run(["tor-gencert", "--create-identity-key", "--passphrase-fd", "0", "-m", "12", "-a",
                        f"{address}:{DIRECTORY_PORT}"], cwd=keys, input=b"\n", check=True, capture_output=True)
        certificate = (keys / "authority_certificate").read_text()
        identity = re.search(r"^fingerprint (\w+)$", certificate, re.MULTILINE).group(1)
        listed = subprocess.run(
            [*self._tor(data), "--list-fingerprint", "--quiet", "--Address", address, "--ORPort", str(OR_PORT),
             "--DirAuthority", f"a1 orport={OR_PORT} no-v2 v3ident={identity} {address}:{DIRECTORY_PORT} {'0' * 40}"],
            check=True, capture_output=True, text=True).stdout
        fingerprint = listed.split(maxsplit=1)[1].replace(" ", "").strip()
        return f"DirAuthority a1 orport={OR_PORT} no-v2 v3ident={identity} {address}:{DIRECTORY_PORT} {fingerprint}"

    def _data(self, name):
        data = self.directory / name
        data.mkdir(mode=0o700, exist_ok=True)
        return data

    def _tor(self, data, torrc=None):
        """A tor that reads none of the machine's own configuration."""
        nothing = self.directory / "empty"
        nothing.touch()
        return ["tor", "--defaults-torrc", nothing, "-f", torrc or nothing, "--DataDirectory", data]

    def _run(self, name, network_of, *configuration):
        data = self._data(name)
        torrc = self.directory / f"{name}.torrc"
        torrc.write_text("\n".join([*configuration, f"__OwningControllerProcess {self._lab.pid}", ""]))
        self._lab.start_companion(
            ["nsenter", f"--target={network_of}", "--net", *self._tor(data, torrc)], self.directory / f"{name}.log")

    def _logged(self, name, pattern):
        log = self.directory / f"{name}.log"
        wait_until(lambda: re.search(pattern, log.read_text()), LIMIT, f"{pattern!r} in {log}")

"""Where everything in the world is. Exists only inside labs, whatever these addresses are elsewhere."""

LAB_LINK = "lab0"
WORLD_LINK = "world0"

LAB_ADDRESSES = ["203.0.113.2/24", "10.0.0.2/24", "169.254.10.2/16", "2001:db8::2/64", "fe80::2/64"]
GATEWAYS = ["203.0.113.1", "2001:db8::1"]

ORIGIN, ORIGIN6 = "203.0.113.10", "2001:db8::10"
UPSTREAM = "203.0.113.20"
DNS, DNS6 = "203.0.113.53", "2001:db8::53"
TOR_RELAYS = ["203.0.113.31", "203.0.113.32", "203.0.113.33", "203.0.113.34"]

ON_LINK = [f"{address}/24" for address in ["203.0.113.1", ORIGIN, UPSTREAM, DNS, *TOR_RELAYS]]
ON_LINK += ["10.0.0.7/24", "10.0.0.9/24", "169.254.10.10/16"]
ON_LINK += [f"{address}/64" for address in ["2001:db8::1", ORIGIN6, "2001:db8::20", DNS6, "fe80::10"]]
# Reached through the gateway.
ROUTED = ["8.8.8.8/32", "1.1.1.1/32", "9.9.9.9/32", "10.1.2.3/32"]
ROUTED += ["2001:db8:8::8/128", "2001:db8:1::1/128", "2001:db8:9::9/128", "fd00::7/128"]
# Resolvers as the examples of units/ name them.
ROUTED += ["2001:4860:4860::8888/128", "2606:4700:4700::1111/128", "2620:fe::fe/128"]
MULTICAST, MULTICAST6 = "239.1.2.3", "ff05::1:3"

SETTLE = ("203.0.113.1", 4)  # where World.settle() sends its markers
EXIT_DNS = (DNS, 5353)  # the resolver of the Tor exits
PASSWORD = ("lab", "secret")

NAMES = {
    "web.test": [ORIGIN, ORIGIN6],
    "tls.test": [ORIGIN, ORIGIN6],
    "v4.test": [ORIGIN],
    "upstream.test": [UPSTREAM],
    "ten.test": ["10.0.0.7"],
    "localhost": ["127.0.0.1"],
    "loopback.test": ["127.0.0.1", "::1"],  # a name that tries to lead a proxy to itself
    "mixed.test": [ORIGIN, "10.0.0.7", "127.0.0.1", "::1"],
    # For rules: two names that share an address, and others.
    "a.test": [ORIGIN],
    "d.test": [ORIGIN],
    "b.test": [ORIGIN],
    "x.b.test": [ORIGIN],
    "c.test": ["8.8.8.8"],
}
# Names that lead elsewhere later: once the web server has been asked for them, and from one query to the next.
REBOUND = {"rebound.test": ([ORIGIN], ["127.0.0.1", "10.0.0.7", "203.0.113.2"])}
FLIPPING = {"flipping.test": ([ORIGIN], ["127.0.0.1"])}
# What no resolver answers a question about.
UNANSWERED = ".unanswered.test"
# Known to EXIT_DNS alone: who has fetched from it has come through Tor. Exits keep answers, so that a test which waits
# for the question has a name of its own.
EXIT_NAMES = {**NAMES, "exit-only.test": [ORIGIN], "fetched-once.test": [ORIGIN], "looked-up-once.test": [ORIGIN]}


def plain(addresses):
    """Without their prefix lengths."""
    return [address.partition("/")[0] for address in addresses]

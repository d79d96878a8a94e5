"""world_daemon.py LAB-PID LOG: is the world. Starts in a network namespace of its own, joins it to the lab's by a
veth pair, serves on all the world's addresses, records all packets, and ends when the lab's PID 1 ends."""

import asyncio
import json
import os
import pathlib
import subprocess
import sys
import threading
import time

import world_capture
import world_map
import world_proxies
import world_servers
import world_ssh


class Log:
    """JSON lines, from any thread, each written at once and whole."""

    def __init__(self, path):
        self._file = path.open("ab", buffering=0)
        self._lock = threading.Lock()

    def __call__(self, kind, **fields):
        line = json.dumps({"time": time.time(), "kind": kind, **fields}).encode() + b"\n"
        with self._lock:
            self._file.write(line)


def ip(*commands, pid=None):
    """Runs ip commands, one process for all, here or in PID's network namespace."""
    enter = ["nsenter", f"--target={pid}", "--net"] if pid else []
    subprocess.run([*enter, "ip", "-batch", "-"], input="\n".join(commands), text=True, check=True)


def quiet_ipv6():
    """Addresses work at once, and nobody asks for routers."""
    for name, value in {"accept_dad": 0, "accept_ra": 0, "router_solicitations": 0}.items():
        for scope in "default", "all":
            pathlib.Path(f"/proc/sys/net/ipv6/conf/{scope}/{name}").write_text(str(value))


def lay_wire(lab_pid):
    def addresses(link, wanted):
        return [f"address add {address} dev {link}{' nodad' if ':' in address else ''}" for address in wanted]

    quiet_ipv6()
    ip(
        "link set lo up",
        f"link add {world_map.WORLD_LINK} type veth peer name {world_map.LAB_LINK} netns {lab_pid}",
        f"link set {world_map.WORLD_LINK} up",
        *addresses(world_map.WORLD_LINK, world_map.ON_LINK),
        *addresses("lo", world_map.ROUTED),
    )
    ip(
        *addresses(world_map.LAB_LINK, world_map.LAB_ADDRESSES),
        f"link set {world_map.LAB_LINK} up",
        *(f"route add default via {gateway}" for gateway in world_map.GATEWAYS),
        pid=lab_pid,
    )


async def serve(lab_pid, log, directory):
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    loop.add_reader(os.pidfd_open(lab_pid), ended.set_result, None)
    threading.Thread(target=world_capture.record, args=(world_capture.tap(), log), daemon=True).start()
    await world_servers.start(log)
    await world_proxies.start(log)
    world_ssh.start(directory)
    log("ready", pid=os.getpid())
    await ended


def main():
    lab_pid, path = int(sys.argv[1]), pathlib.Path(sys.argv[2])
    lay_wire(lab_pid)
    asyncio.run(serve(lab_pid, Log(path), path.parent))


if __name__ == "__main__":
    main()

"""What flows through the forwarder as systemd runs it: its filter of system calls leaves it splice(2)."""

import subprocess

ECHO = """
import hashlib, socket, struct, sys, threading
host, port = sys.argv[1], 7
link = socket.create_connection(("127.100.90.50", 1080))
link.sendall(b"\\5\\1\\0")
link.recv(2)
link.sendall(b"\\5\\1\\0\\3" + bytes([len(host)]) + host.encode() + struct.pack(">H", port))
assert link.recv(10)[1] == 0
piece = bytes(range(256)) * 4096
sent, came = hashlib.sha256(), hashlib.sha256()
def send():
    for number in range(40):
        link.sendall(piece[number:])
        sent.update(piece[number:])
    link.shutdown(socket.SHUT_WR)
thread = threading.Thread(target=send)
thread.start()
while block := link.recv(1 << 20):
    came.update(block)
thread.join()
print(sent.hexdigest() == came.hexdigest(), flush=True)
sys.stdin.read()
"""


def test_megabytes_come_back_as_they_went(lab):
    forwarder = "appfw-megabytes-forward.service"
    command = ["appfw-run", "--via=direct", "--unit=megabytes", "/usr/bin/python3", "-c", ECHO, "web.test"]
    with lab.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as launch:
        assert launch.stdout.readline() == b"True\n"
        pid = lab.run(["systemctl", "show", "-P", "MainPID", forwarder], check=True).stdout.decode().strip()
        opened = lab.run(["ls", "-l", f"/proc/{pid}/fd"], check=True).stdout.decode()
        launch.communicate(timeout=20)
    # By splice(2): a pipe stays for the next stream that flows.
    assert "pipe:" in opened, opened
    record, = [line for line in lab.journal(forwarder).splitlines() if "web.test:7" in line]
    assert "sent=41942260 received=41942260" in record, record

"""The world's sshd: a real one on ORIGIN, for the key that setup.sh has made. It runs nothing that it is asked for but
sends the repository, or says who has come."""

import pathlib
import subprocess

import world_map

STORE = pathlib.Path(__file__).resolve().parents[2] / "target/lab"
COMMAND = (f"case $SSH_ORIGINAL_COMMAND in git-upload-pack*) exec git-upload-pack {STORE}/web/repository.git ;; "
           "*) echo world sees $SSH_CLIENT ;; esac")
CONFIGURATION = f"""ListenAddress {world_map.ORIGIN}:22
HostKey {STORE}/ssh/host
AuthorizedKeysFile {STORE}/ssh/key.pub
# The repository may be anybody's who builds it.
StrictModes no
UsePAM no
PermitRootLogin yes
PidFile none
ForceCommand {COMMAND}
"""


def start(directory):
    """It ends with the world's cgroup. Its own directory is the one that its package has by tmpfiles.d."""
    pathlib.Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    configuration = directory / "sshd_config"
    configuration.write_text(CONFIGURATION)
    subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", configuration])

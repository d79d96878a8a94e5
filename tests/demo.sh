#!/bin/bash
# Shows what appfw-run does, on a fresh Debian 12 or 13: installs what is missing, builds, boots a systemd of its own
# in namespaces (tests/lab; nothing of this machine's systemd or network is used), and tries to get out.
# Exits with 1 if anything was not as it should be.
set -euo pipefail
# shellcheck source=tests/start.sh
. "$(dirname "$0")/start.sh"

become_root "$@"
need_cargo
install gcc libc6-dev
own_target
echo "building appfw-run, and setting up the lab (some minutes the first time)"
tests/lab/setup.sh &
cargo build --release --locked --quiet
wait $!
exec /usr/bin/python3 tests/demo.py

# shellcheck shell=bash
# How tests/demo.sh and tests/run.sh begin; sourced by both. They become root, install what is missing, and find cargo.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

# Root, for apt, for the lab's namespaces, and because only root can ask systemd for the walls.
become_root() {
    [ "$(id -u)" != 0 ] || return 0
    command -v sudo >/dev/null || { echo "$0 must be root: it boots a systemd of its own in namespaces" >&2; exit 1; }
    exec sudo APPFW_PATH="$PATH" bash "tests/$(basename "$0")" "$@"
}

# Cargo of whoever called sudo: the toolchain is theirs, and so are the files it makes.
cargo() {
    local home
    if [ -n "${SUDO_USER:-}" ] && [ -n "${APPFW_PATH:-}" ]; then
        home=$(getent passwd "$SUDO_USER" | cut -d: -f6)
        runuser -u "$SUDO_USER" -- env HOME="$home" PATH="$APPFW_PATH:$home/.cargo/bin" cargo "$@"
    else
        PATH=$PATH:$HOME/.cargo/bin command cargo "$@"
    fi
}

need_cargo() {
    local need have
    need=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
    have=$(cargo --version 2>/dev/null | cut -d' ' -f2)
    if [ -z "$have" ] || [ "$(printf '%s\n' "$need" "$have" | sort -V | head -n 1)" != "$need" ]; then
        cat >&2 <<TEXT
$0 needs Rust $need or later and found ${have:-none}. The packages of Debian 12 and 13 are older.
Install rustup (Debian 13: apt install rustup; Debian 12: see https://rustup.rs), then
    rustup default stable
and run this again. This script downloads no toolchain.
TEXT
        exit 1
    fi
}

# install PACKAGE…: those that are missing.
install() {
    local package missing=()
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed$' || missing+=("$package")
    done
    [ ${#missing[@]} = 0 ] && return
    echo "installing ${missing[*]}"
    apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends "${missing[@]}" >/dev/null
}

# target/ belongs to whoever called sudo, so that cargo can write there.
own_target() {
    mkdir -p target
    [ -z "${SUDO_UID:-}" ] || chown "$SUDO_UID" target
}

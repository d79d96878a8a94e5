#!/bin/bash
# Installs the client programs of test_clients.py: Debian's on this machine, those of other registries under
# target/clients. What cannot be had is left out, and said; the test tells which of them it had. Run as root; what is
# there is kept.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
target=$(cd "$here/../../.." && pwd)/target
clients=$target/clients
log=$clients/setup.log
# Whose cargo it is.
# shellcheck source=tests/start.sh
. "$here/../../start.sh"

packages="aria2 chromium curl default-jdk-headless dnf elinks ffmpeg firefox-esr gh git glib-networking golang-go gvfs
gvfs-backends libglib2.0-bin liblwp-protocol-https-perl libnss3-tools libwww-perl links2 lynx mpv netcat-openbsd nodejs
openssh-client php-cli php-curl python3-venv rclone ruby w3m wget wget2"

# And in the tree of the other lab.
browsers=(ca-certificates chromium firefox-esr libnss3-tools)
tree=$target/lab/trixie

say() { echo "clients: $*"; }

# once NAME COMMAND…: unless it has succeeded before.
once() {
    local name=$1
    shift
    [ ! -e "$clients/$name.done" ] || return 0
    if "$@" >>"$log" 2>&1; then
        touch "$clients/$name.done"
    else
        say "$name could not be made, see $log"
    fi
}

install() { DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends "$@" >>"$log" 2>&1; }

install_packages() {
    local package missing=()
    for package in $packages; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed$' || missing+=("$package")
    done
    [ ${#missing[@]} != 0 ] || return 0
    say "installing ${missing[*]}"
    apt-get -qq update
    # All at once; if one of them is not to be had, one by one.
    install "${missing[@]}" && return
    for package in "${missing[@]}"; do
        install "$package" || say "Debian has no $package for this machine"
    done
}

# Where /etc/resolv.conf is a link to resolved's, that one is this machine's; nothing is started.
install_browsers() {
    # shellcheck disable=SC2016  # the inner shell's
    unshare --mount sh -ec '
        mount -t tmpfs tmpfs "$0/run" && mkdir -p "$0/run/systemd/resolve"
        cp /etc/resolv.conf "$0/run/systemd/resolve/stub-resolv.conf"
        printf "#!/bin/sh\nexit 101\n" >"$0/run/nothing" && chmod +x "$0/run/nothing"
        touch "$0/usr/sbin/policy-rc.d" && mount --bind "$0/run/nothing" "$0/usr/sbin/policy-rc.d"
        chroot "$0" apt-get -qq update
        DEBIAN_FRONTEND=noninteractive chroot "$0" apt-get -qq -y install --no-install-recommends "$@"' \
        "$tree" "${browsers[@]}" && rm -f "$tree/usr/sbin/policy-rc.d" && touch "$tree/etc/appfw-lab-browsers"
}

# Two, as what a library does depends on whether it finds a SOCKS one beside it.
make_python() {
    local name=$1
    shift
    /usr/bin/python3 -m venv --clear "$clients/$name" && "$clients/$name/bin/pip" install -q "$@"
}

make_node() { npm install --no-audit --no-fund --prefix "$clients/node" axios@1 got@14 undici@7 proxy-agent@6; }

# Twice: with SOCKS and without.
make_rust() {
    local features
    command install -d -o "${SUDO_UID:-0}" "$clients/rust-build"
    for features in '' socks; do
        cargo build --release --locked --manifest-path "$here/rust/Cargo.toml" --features "$features" \
            --target-dir "$clients/rust-build" || return
        mkdir -p "$clients/rust/$features"
        cp "$clients"/rust-build/release/{reqwest,ureq} "$clients/rust/$features"
    done
    rm -r "$clients/rust-build"
}

make_go() { CGO_ENABLED=0 GOFLAGS=-mod=mod GOCACHE=$clients/go-build go build -o "$clients/go" "$here/fetch.go"; }

mkdir -p "$clients"
: >"$log"
install_packages
once plain make_python plain requests httpx aiohttp urllib3 yt-dlp
once socks make_python socks 'requests[socks]' 'httpx[socks]'
once node make_node
once go make_go
once rust make_rust
[ -e "$tree/etc/appfw-lab-browsers" ] || install_browsers >>"$log" 2>&1 || say "the other lab has no browsers, see $log"

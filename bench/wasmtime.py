"""`wasmtime serve` of the version that the host links, built from Cargo's registry and kept.

Knows: the version that Cargo.lock pins. Law: the same engine, so that a ratio
compares servers and not engines.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.guests.product import cache_root, locked

LOCK = Path(__file__).parents[1] / "Cargo.lock"
# `serve` does not build without `run`.
FEATURES = "run,serve,cranelift,component-model,component-model-async,pooling-allocator,parallel-compilation"


def pinned_version() -> str:
    """The version of wasmtime in Cargo.lock."""
    packages = tomllib.loads(LOCK.read_text())["package"]
    return next(str(package["version"]) for package in packages if package["name"] == "wasmtime")


def wasmtime_program() -> Path:
    """The program, built first if need be: ten minutes on two cores, told on stderr."""
    version = pinned_version()
    root = cache_root() / "tools" / f"wasmtime-{version}"
    program = root / "bin" / "wasmtime"
    with locked("tools", "wasmtime"):
        if not program.exists():
            print(f"building wasmtime {version}: about ten minutes, once", file=sys.stderr)
            words = ["--locked", "--version", version, "--root", str(root), "--no-default-features"]
            target = str(cache_root() / "cargo" / f"wasmtime-cli-{version}")
            subprocess.run(
                ["cargo", "install", *words, "--features", FEATURES, "wasmtime-cli"],
                env={**os.environ, "CARGO_TARGET_DIR": target},
                stdout=sys.stderr,
                check=True,
            )
    return program


if __name__ == "__main__":
    wasmtime_program()

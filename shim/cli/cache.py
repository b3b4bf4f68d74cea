"""`spinwheel cache`: what is compiled on this node, and what to do about it.

Laws: looking never needs containerd; what lies in containerd goes by removing the labels that keep it, so
that containerd's own garbage collection takes it; progress goes to stderr, and only to a terminal.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cache import parcel
from cache.aot import KIND
from cache.catalog import BAD, Row, is_dead, quarantined, rows, verdict
from cache.entries import AotDirectory, label_of
from cache.key import Key
from cache.store import StoreUnusable
from shim.cli.tables import human_size, progress, table
from shim.errors import InvalidArgument, NotFound, Unavailable
from shim.guest.code import MACHINES, code_of, domain_of
from shim.guest.compiler import NATIVE, fingerprint
from shim.image.artifact import resolve
from shim.image.containerd import Containerd
from shim.image.content import LocalContent
from shim.node.layouts import SYSTEM_SOCKET
from shim.settings import Settings

TARGETS = (NATIVE, *MACHINES)


def add(verbs: argparse._SubParsersAction[Any]) -> None:
    """Adds the verb and its own verbs."""
    parser = verbs.add_parser("cache", help="show, check, fill and clear the cache of compiled code")
    parser.set_defaults(run=lambda _arguments: parser.print_help() or 2)
    parser.add_argument("--cache-dir", type=Path, help="SPINWHEEL_CACHE_DIR of the node")
    parser.add_argument("--address", default=SYSTEM_SOCKET, help="containerd's socket (%(default)s)")
    parser.add_argument("-n", "--namespace", default="default", help="containerd's namespace (%(default)s)")
    inner = parser.add_subparsers(metavar="WHAT")
    for name, run, words in (
        ("ls", ls, "one line for each entry"),
        ("info", info, "all about one entry"),
        ("verify", verify, "read and hash everything; exit code 1 if anything is bad"),
        ("warm", warm, "compile an image's components before its first pod"),
        ("gc", gc, "remove what no engine of this release can use"),
        ("rm", rm, "remove entries"),
        ("export", export, "write entries to a signed file"),
        ("import", import_, "take entries from a signed file"),
    ):
        one = inner.add_parser(name, help=words)
        one.set_defaults(run=run)
        _arguments(one, name)


def _arguments(parser: argparse.ArgumentParser, name: str) -> None:
    if name in ("ls", "info", "verify", "gc", "warm"):
        parser.add_argument("--json", action="store_true", help="for programs")
    if name in ("export", "import"):
        parser.add_argument("file", type=Path)
    if name == "warm":
        parser.add_argument("image", help="its name in containerd")
        parser.add_argument("--target", action="append", choices=TARGETS, help="default: this machine")
    if name in ("info", "rm", "export"):
        parser.add_argument("name", nargs="*", help="an entry's name as `ls` shows it, or its beginning")
    if name == "rm":
        parser.add_argument("--all", action="store_true")
    if name == "export":
        parser.add_argument("--key", type=Path, required=True, help="Ed25519 private key, PEM")
    if name == "import":
        parser.add_argument("--trust", type=Path, required=True, help="Ed25519 public key, PEM")


def _settings(arguments: argparse.Namespace) -> Settings:
    env = dict(os.environ)
    if arguments.cache_dir:
        env["SPINWHEEL_CACHE_DIR"] = str(arguments.cache_dir)
    return Settings.from_env(env)


def _store(arguments: argparse.Namespace) -> AotDirectory:
    return AotDirectory(_settings(arguments).cache_dir)


def _chosen(store: AotDirectory, names: Iterable[str]) -> list[Row]:
    """The rows that `names` begin the name of; raises NotFound, InvalidArgument for an ambiguous one."""
    found, known = [], list(rows(store))
    for name in names:
        matching = [row for row in known if row.name.startswith(name)]
        if not matching:
            message = f"wanted an entry {name}, found none; `spinwheel cache ls` lists them"
            raise NotFound(message)
        if len(matching) > 1:
            message = f"{name} is the beginning of {len(matching)} entries; give more of it"
            raise InvalidArgument(message)
        found += matching
    return found


def ls(arguments: argparse.Namespace) -> None:
    """A row per entry, the sum at the end."""
    store = _store(arguments)
    known = list(rows(store))
    if arguments.json:
        print(json.dumps([asdict(row) for row in known]))
        return
    print(table(("NAME", "COMPONENT", "TARGET", "SHARED BY", "SIZE", "USES", "LAST USE", "IN", "STATE"),
                [_cells(row) for row in known]))  # fmt: skip
    total = human_size(sum(row.size for row in known))
    print(f"{len(known)} entries, {total}; {quarantined(store)} in quarantine")


def _cells(row: Row) -> tuple[str, ...]:
    last = time.strftime("%Y-%m-%d %H:%M", time.localtime(row.last_use)) if row.last_use else "never"
    key = row.key or Key("?", "?", "?", "?")
    place = "containerd" if row.in_containerd else "directory"
    component = key.component.removeprefix("sha256:")[:12]
    size, uses = human_size(row.size), str(row.uses)
    return (row.name[:12], component, key.target, key.domain, size, uses, last, place, row.state)


def info(arguments: argparse.Namespace) -> None:
    """Every field of each entry."""
    chosen = _chosen(_store(arguments), arguments.name)
    if arguments.json:
        print(json.dumps([asdict(row) for row in chosen]))
        return
    for row in chosen:
        fields = asdict(row)
        fields |= fields.pop("key") or {}
        for name, value in fields.items():
            print(f"{name + ':':15}{value}")


def verify(arguments: argparse.Namespace) -> int:
    """Hashes every entry; 1 if one is bad."""
    store = _store(arguments)
    known = list(rows(store))
    checked = [verdict(store, row) for row in progress("verifying", known, lambda row: row.size)]
    bad = [row for row in checked if row.state == BAD]
    if arguments.json:
        print(json.dumps([asdict(row) for row in checked]))
    else:
        for row in bad:
            print(f"bad: {row.name[:12]}: {row.reason}")
        print(f"{len(checked) - len(bad)} good, {len(bad)} bad; a bad one is set aside at its next use")
    return 1 if bad else 0


def warm(arguments: argparse.Namespace) -> None:
    """Compiles what is missing, for each target."""
    settings = _settings(arguments)
    containerd = Containerd(arguments.address, arguments.namespace)
    artifact = resolve(containerd, containerd.target_of(arguments.image))
    report = []
    targets = arguments.target or [NATIVE]
    for target in progress("compiling", targets, lambda _target: 1):
        started = time.monotonic()
        for filled in code_of(artifact, containerd, arguments.namespace, settings, target):
            os.close(filled.opened.descriptor)
            took = round(time.monotonic() - started, 3)
            report.append(
                {"target": target, "compiled": filled.compiled, "size": filled.opened.size, "seconds": took}
            )
    if arguments.json:
        print(json.dumps(report))
        return
    for row in report:
        verb = f"compiled in {row['seconds']:.2f} s" if row["compiled"] else "was there"
        print(f"{row['target']}: {human_size(int(row['size']))} {verb}")


def gc(arguments: argparse.Namespace) -> None:
    """Removes dead entries and the labels that keep their code."""
    settings, store = _settings(arguments), _store(arguments)
    alive = {fingerprint(settings.host, target) for target in TARGETS}
    dead = [row for row in rows(store) if is_dead(row, alive)]
    _remove(arguments, store, dead)
    if arguments.json:
        print(json.dumps([asdict(row) for row in dead]))
    else:
        print(f"removed {len(dead)} entries, {human_size(sum(row.size for row in dead))}")


def rm(arguments: argparse.Namespace) -> None:
    """Removes the named entries, or all."""
    if not arguments.all and not arguments.name:
        raise InvalidArgument("wanted names of entries or --all, found neither")
    store = _store(arguments)
    chosen = list(rows(store)) if arguments.all else _chosen(store, arguments.name)
    _remove(arguments, store, chosen)
    print(f"removed {len(chosen)} entries, {human_size(sum(row.size for row in chosen))}")


def _remove(arguments: argparse.Namespace, store: AotDirectory, chosen: list[Row]) -> None:
    kept_by_containerd = [row for row in chosen if row.in_containerd and row.key]
    if kept_by_containerd:
        for content in _contents(arguments.address):
            for row in kept_by_containerd:
                _untie(content, row)
    for row in chosen:
        store.folders.discard(KIND, row.name)


def _contents(address: str) -> Iterator[LocalContent]:
    for namespace in Containerd(address, "default").namespaces():
        yield LocalContent(Containerd(address, namespace))


def _untie(content: LocalContent, row: Row) -> None:
    """A namespace that does not have the layer has no label to remove."""
    if row.key:
        with contextlib.suppress(StoreUnusable):
            content.label(row.key.component, label_of(row.name), "")


def export(arguments: argparse.Namespace) -> None:
    """Writes a parcel; no names: all good entries."""
    store = _store(arguments)
    chosen = _chosen(store, arguments.name) if arguments.name else list(rows(store))
    checked = [verdict(store, row) for row in chosen]
    good = [row for row in checked if row.state not in (BAD, "collected")]
    with _parcel_errors():
        count = parcel.write(good, arguments.file, arguments.key.read_bytes())
    print(f"{count} entries in {arguments.file}, {human_size(arguments.file.stat().st_size)}")


def import_(arguments: argparse.Namespace) -> None:
    """Takes a parcel that the trusted key signed."""
    with _parcel_errors():
        taken = parcel.read(_store(arguments), arguments.file, arguments.trust.read_bytes())
    settings = _settings(arguments)
    usable = sum(key.fingerprint == fingerprint(settings.host, key.target) for key in taken)
    print(f"took {len(taken)} entries; {usable} are for this release of the engine")
    if any(key.domain != domain_of(settings, arguments.namespace) for key in taken):
        print("some are of another trust domain than this node's setting", file=sys.stderr)


@contextlib.contextmanager
def _parcel_errors() -> Iterator[None]:
    try:
        yield
    except parcel.BadParcel as error:
        raise InvalidArgument(str(error)) from error
    except (OSError, StoreUnusable) as error:
        raise Unavailable(str(error)) from error

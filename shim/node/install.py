"""Installing, upgrading and uninstalling: in which order, and what happens when a step fails.

Knows: the order, and the journal. Must not know: how a step is done. Laws: nothing is changed before all that
is needed was found; a failure after that puts everything back, and restarts containerd if it had been
restarted; pods go on through all of it, on the version they were started with; a second run changes nothing.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from shim.errors import FailedPrecondition, ShimError, Unavailable
from shim.node import probe, service
from shim.node.facts import Node
from shim.node.files import Change, Journal, Root, link, missing_folders, remove
from shim.node.service import BOOTED, UNIT, Containerd

UNITS = "/etc/systemd/system"
WANTS = f"{UNITS}/multi-user.target.wants"
STOP_SECONDS = 5.0

Say = Callable[[str], None]


def journal_of(root: Root, prefix: str) -> Journal:
    """The journal of the installation in `prefix`, empty where there is none."""
    return Journal.load(root, f"{prefix}/install.json")


def pending(node: Node, journal: Journal) -> list[Change]:
    """What is still to be made on the node, in order."""
    noted = {change.path for change in journal.changes}
    wanted = {each.path: each for each in _wanted(node)}
    return [each for each in wanted.values() if each.path not in noted or not _is_so(node.root, each)]


def _wanted(node: Node) -> Iterator[Change]:
    """All that belongs to an installation, but for the versions themselves."""
    root, prefix = node.root, node.prefix
    yield from missing_folders(root, prefix)
    for name in ("versions", "backup", "current"):
        yield Change(kind="state", path=f"{prefix}/{name}")
    for path in (node.settings.run_dir, node.settings.cache_dir):
        if not root.exists(str(path)):
            yield from missing_folders(root, str(path.parent))
            yield Change(kind="state", path=str(path))
    if node.layout.by_hand:
        return
    if node.links:
        yield from missing_folders(root, node.layout.bin_dir)
        yield from (Change(kind="link", path=path, text=text) for path, text in node.links.items())
    if root.exists(BOOTED):
        yield from _unit(node)
    yield from missing_folders(root, str(PurePosixPath(node.edit.path).parent))
    backup = f"{prefix}/backup{node.edit.path}" if node.edit.before is not None else ""
    yield Change(kind="file", path=node.edit.path, text=node.edit.after, backup=backup)


def _unit(node: Node) -> Iterator[Change]:
    yield from missing_folders(node.root, WANTS)
    text = service.unit_text(node.prefix, node.layout.address)
    yield Change(kind="file", path=f"{UNITS}/{UNIT}", text=text)
    yield Change(kind="link", path=f"{WANTS}/{UNIT}", text=f"../{UNIT}")


def _is_so(root: Root, change: Change) -> bool:
    match change.kind:
        case "link":
            there = root.at(change.path, follow=False)
            return there.is_symlink() and os.readlink(there) == change.text
        case "file":
            return root.read(change.path) == change.text
    return True


def install(node: Node, say: Say, *, upgrade: bool = False) -> None:
    """Installs the running version; raises ShimError after everything was put back."""
    journal = journal_of(node.root, node.prefix)
    new, old = node.environment.version, journal.facts.get("version", "")
    _check_version(node.prefix, old, new, upgrade=upgrade)
    changes = pending(node, journal)
    if not changes and old == new:
        say(f"{new} is installed in {node.prefix}: nothing to do")
        return
    with _put_back_on_failure(node, journal, say) as restarted:
        journal.facts.update(_facts(node))
        journal.make(changes[: _end_of_prefix(changes)])
        _place_version(node, say)
        journal.make(changes[_end_of_prefix(changes) :])
        journal.save()
        for change in changes:
            if change.kind in ("file", "link"):
                say(f"made {change.describe()}")
        _apply(node, changes, restarted, say)
    prune(node.root, node.prefix, new, say)
    for note in node.edit.notes:
        say(f"note: {note}")


def _end_of_prefix(changes: list[Change]) -> int:
    """The version must be in place before anything leads to it."""
    return next((at for at, each in enumerate(changes) if each.kind in ("link", "file")), len(changes))


def _check_version(prefix: str, old: str, new: str, *, upgrade: bool) -> None:
    if upgrade and not old:
        message = f"wanted an installation in {prefix}, found none. Run `install`, or name its --prefix"
        raise FailedPrecondition(message)
    if not upgrade and old not in ("", new):
        message = f"{prefix} has version {old}, this is {new}; nothing is changed. Run `upgrade`"
        raise FailedPrecondition(message)


def _facts(node: Node) -> dict[str, str]:
    """What an uninstallation needs to know."""
    return {
        "version": node.environment.version,
        "handler": node.handler.name,
        "address": node.layout.address,
        "ctr": node.containerd.ctr_path if node.containerd else "",
        "restart": "\n".join(node.containerd.restart_words) if node.containerd else "",
    }


def _place_version(node: Node, say: Say) -> None:
    name = node.environment.version
    folder = node.root.at(f"{node.prefix}/versions/{name}")
    if not folder.exists():
        node.environment.copy_to(folder, f"{node.prefix}/versions/{name}")
        say(f"made {node.prefix}/versions/{name}")
    link(node.root.at(f"{node.prefix}/current", follow=False), f"versions/{name}")


def _apply(node: Node, changes: list[Change], restarted: list[bool], say: Say) -> None:
    """Makes containerd see the handler, and proves it; raises ShimError."""
    if node.containerd is None:
        say("not applied: this containerd is restarted by others, and then knows the handler")
        return
    if any(change.path in (node.edit.path, *node.links) for change in changes):
        restarted.append(True)
        node.containerd.restart()
        say(f"restarted containerd: {' '.join(node.containerd.restart_words)}")
    if node.root.exists(BOOTED):
        service.reload_units("restart")
    seconds = probe.run(node.containerd, node.runtime)
    say(f"proved: an app started through {node.layout.address} and answered after {seconds:.2f} s")


@contextmanager
def _put_back_on_failure(node: Node, journal: Journal, say: Say) -> Iterator[list[bool]]:
    """Whatever ends the block early leaves the node as it was before it."""
    count, facts = len(journal.changes), dict(journal.facts)
    current = node.root.at(f"{node.prefix}/current", follow=False)
    before = os.readlink(current) if current.is_symlink() else ""
    restarted: list[bool] = []
    try:
        yield restarted
    except BaseException as error:
        say(f"failed: {error or type(error).__name__}; putting everything back")
        journal.facts = facts
        left = _put_back(node, journal, count, before)
        if restarted and node.containerd:
            left += _restarted(node.containerd)
        if isinstance(error, ShimError | OSError):
            outcome = "; ".join(left) or "everything is as it was before"
            message = f"{error}\n{outcome}"
            raise Unavailable(message) from error
        raise


def _put_back(node: Node, journal: Journal, count: int, before: str) -> list[str]:
    new = node.root.at(f"{node.prefix}/versions/{node.environment.version}")
    is_first = not count
    if node.root.is_here:
        if is_first and any(change.path == f"{UNITS}/{UNIT}" for change in journal.changes):
            with suppress(ShimError):
                service.call(["systemctl", "stop", UNIT], check=False)
        stop_zygotes(new)
    if before:
        link(node.root.at(f"{node.prefix}/current", follow=False), before)
    left = journal.take_back(count)
    if before != f"versions/{node.environment.version}":
        remove(new)
    if node.root.is_here and node.root.exists(BOOTED):
        with suppress(ShimError):
            service.reload_units("stop" if is_first else "restart")
    return left


def _restarted(containerd: Containerd) -> list[str]:
    try:
        containerd.restart()
    except ShimError as error:
        return [f"containerd did not come back, look at it now: {error}"]
    return []


def uninstall(root: Root, prefix: str, say: Say) -> None:
    """Takes every change back; raises FailedPrecondition while pods still run on it."""
    journal = journal_of(root, prefix)
    if not journal.changes:
        message = f"wanted an installation in {prefix}, found none. Name its folder: --prefix DIR"
        raise FailedPrecondition(message)
    versions = root.at(f"{prefix}/versions")
    if root.is_here:
        _check_unused(versions)
        if root.exists(f"{UNITS}/{UNIT}"):
            service.call(["systemctl", "stop", UNIT], check=False)
        stop_zygotes(versions)
    facts = journal.facts
    touched = [change for change in journal.changes if change.kind in ("file", "link")]
    for line in journal.take_back():
        say(f"left: {line}")
    say(f"took back {len(touched)} files and links, and {prefix}")
    if root.is_here and touched and facts.get("restart"):
        if root.exists(BOOTED):
            service.reload_units("stop")
        for line in _restarted(
            Containerd(facts["address"], facts["ctr"], tuple(facts["restart"].split("\n")))
        ):
            raise Unavailable(line)
        say("restarted containerd, which has forgotten the handler")


def _check_unused(versions: Path) -> None:
    pods = [pid for pid in service.using(versions) if not service.is_zygote(pid)]
    if pods:
        message = (
            f"{len(pods)} processes still run from {versions} (pids {', '.join(map(str, pods[:5]))}); "
            "nothing is changed. End their pods first: `kubectl drain` the node, or `ctr tasks ls`"
        )
        raise FailedPrecondition(message)


def stop_zygotes(folder: Path) -> None:
    """Ends the zygotes that were started from below `folder`; pods are not theirs to end."""
    zygotes = [pid for pid in service.using(folder) if service.is_zygote(pid)]
    for pid in zygotes:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while any(service.is_zygote(pid) for pid in zygotes) and time.monotonic() < deadline:
        time.sleep(0.02)


def prune(root: Root, prefix: str, keep: str, say: Say) -> None:
    """Removes versions that nothing runs from any more."""
    folder = root.at(f"{prefix}/versions")
    for old in sorted(folder.iterdir()) if folder.is_dir() else ():
        if old.name == keep:
            continue
        if root.is_here:
            stop_zygotes(old)
            if service.using(old):
                say(f"kept {old.name}: pods run on it; the next upgrade looks again")
                continue
        remove(old)
        say(f"removed {old.name}")

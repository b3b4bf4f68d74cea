"""The books of faults.md 6.1: what is there before a test and after it must be the same.

Knows: how two snapshots differ, and how long a system may take to settle. Must not know: where
entries come from (`ledger_sources`), nor what an event is (`events`, ledger L8). Laws:

* an entry is a line of text that a person can act on; a snapshot counts entries, so that two
  equal mounts are two;
* what is *lost* is reported too: a test that unmounts somebody else's folder has failed;
* waiting never hides a difference, it only lets the last exits and unmounts happen.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

SETTLE_SECONDS = 10.0
SETTLE_AFTER_DAEMON_KILL_SECONDS = 30.0
POLL_SECONDS = 0.1

Source = Callable[[], Counter[str]]
Snapshot = Mapping[str, Counter[str]]


@dataclass(frozen=True)
class Difference:
    """What one ledger gained and lost, each entry as often as it did."""

    gained: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line per entry, with its sign."""
        signed = [f"+ {entry}" for entry in self.gained] + [f"- {entry}" for entry in self.lost]
        return "\n".join(signed)


def diff(before: Snapshot, after: Snapshot) -> dict[str, Difference]:
    """Return the ledgers that are not as they were; empty means that nothing was lost."""
    if before.keys() != after.keys():
        message = (
            "wanted two snapshots of the same ledgers, "
            f"found {sorted(before)} and {sorted(after)}. Take both from one Ledger"
        )
        raise ValueError(message)
    compared = {name: _difference(before[name], after[name]) for name in before}
    return {name: found for name, found in compared.items() if found != Difference()}


def _difference(before: Counter[str], after: Counter[str]) -> Difference:
    gained, lost = after - before, before - after
    return Difference(tuple(sorted(gained.elements())), tuple(sorted(lost.elements())))


def describe(differences: Mapping[str, Difference]) -> str:
    """Return a report for an assertion: the ledger's name, then its lines."""
    return "\n".join(f"{name}:\n{found}" for name, found in sorted(differences.items()))


@dataclass(frozen=True)
class Ledger:
    """Named sources of entries.

    `ignore` lists the beginnings of entries that are no leak in this test, each by agreement: for
    instance the zygote, which lives on between pods. `may_shrink` lists ledgers in which only gains
    count: a daemon that holds fewer descriptors than when we looked has lost nothing of ours.
    """

    sources: Mapping[str, Source]
    ignore: Sequence[str] = field(default=())
    may_shrink: Sequence[str] = field(default=())

    def snapshot(self) -> Snapshot:
        """Return what is there now."""
        return {name: self._kept(read()) for name, read in self.sources.items()}

    def settled(self, before: Snapshot, seconds: float = SETTLE_SECONDS) -> dict[str, Difference]:
        """Return what still differs from *before* after at most *seconds*."""
        deadline = time.monotonic() + seconds
        while (found := self._counted(diff(before, self.snapshot()))) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        return found

    def _counted(self, differences: dict[str, Difference]) -> dict[str, Difference]:
        shrunk = {name for name in self.may_shrink if name in differences and not differences[name].gained}
        return {name: found for name, found in differences.items() if name not in shrunk}

    def _kept(self, entries: Counter[str]) -> Counter[str]:
        ignored = tuple(self.ignore)
        kept = {entry: n for entry, n in entries.items() if not entry.startswith(ignored)}
        return Counter(kept)

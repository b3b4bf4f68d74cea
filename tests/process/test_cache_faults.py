"""The cache under faults (faults.md 6.3): damage, racing swappers, stampedes, killed leaders, failing disks.

Short forms run in CI; SPINWHEEL_SOAK=1 (`just soak-cache`) runs the numbers that faults.md names.
"""

import contextlib
import multiprocessing
import os
import random
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cache.aot import CODE, KIND, META, BadEntry
from cache.entries import AotDirectory
from cache.fill import get_or_fill
from cache.key import Key

SOAK = bool(os.environ.get("SPINWHEEL_SOAK"))
FLIPS, RACES, ROUNDS, KILLS = (1000, 10_000, 20, 20) if SOAK else (200, 1000, 1, 1)
KEY = Key("sha256:" + "a" * 64, "f" * 64, "native")
DATA = random.Random(5).randbytes(40_000)
ROOT = Path(__file__).parents[2]
ERRORS = ("ENOSPC", "EDQUOT", "EIO", "EROFS") if SOAK else ("ENOSPC", "EROFS")
CALLS = ("mkdir", "rename", "link", "fsync", "fchmod", "chmod", "write", "openat", "flock")


def compute(key: Key, output: Path) -> None:
    """The compiler's part."""
    output.write_bytes(DATA)


def content(descriptor: int) -> bytes:
    """All bytes of a descriptor, which is closed."""
    with os.fdopen(descriptor, "rb") as file:
        file.seek(0)
        return file.read()


def spoil(path: Path, data: bytes) -> None:
    """Other bytes under the same name, with the mode of a good entry."""
    path.unlink()
    path.write_bytes(data)
    path.chmod(0o444)


def test_every_damage_is_seen_before_use(tmp_path: Path) -> None:
    """Random bit flips over code and record, cuts at every 4 KiB, zeros, noise, foreign entries (K3)."""
    store, chance = AotDirectory(tmp_path / "cache"), random.Random(7)
    entry = store.folders.path(KIND, KEY.name)
    get_or_fill(store, KEY, compute)
    record = (entry / META).read_bytes()
    damages = [(CODE, DATA[:cut]) for cut in (0, 1, *range(4096, len(DATA), 4096))]
    damages += [(CODE, bytes(len(DATA))), (CODE, random.Random(8).randbytes(len(DATA)))]
    for _ in range(FLIPS):
        name, whole = chance.choice([(CODE, DATA), (META, record)])
        flipped = bytearray(whole)
        flipped[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        damages.append((name, bytes(flipped)))
    for name, data in damages:
        spoil(entry / name, data)
        filled = get_or_fill(store, KEY, compute)
        assert filled.compiled, f"{name} with {len(data)} bytes was used"
        assert content(filled.opened.descriptor) == DATA
        spoil(entry / META, record)  # the next damage starts from the same record


def test_a_racing_swapper_never_wins(tmp_path: Path) -> None:
    """Whatever is swapped in while entries are opened, what is handed out is the code (K4)."""
    store = AotDirectory(tmp_path / "cache")
    get_or_fill(store, KEY, compute)
    entry, stop = store.folders.path(KIND, KEY.name), threading.Event()
    evil = tmp_path / "evil"
    evil.write_bytes(bytes(len(DATA)))
    evil.chmod(0o444)
    good = (entry / CODE).read_bytes()

    def swap() -> None:
        at = 0
        while not stop.is_set():
            at += 1
            scratch = entry / f".{at}"
            with contextlib.suppress(OSError):
                if at % 4 == 0:
                    scratch.symlink_to(evil)
                elif at % 4 == 1:
                    os.link(evil, scratch)
                else:
                    scratch.write_bytes(good if at % 4 == 2 else evil.read_bytes())
                    scratch.chmod(0o444)
                scratch.rename(entry / CODE)

    swapper = threading.Thread(target=swap)
    swapper.start()
    used = refused = 0
    try:
        for _ in range(RACES):
            try:
                opened = store.open(KEY)
            except BadEntry:
                refused += 1
                continue
            assert opened
            used += 1
            assert content(opened.descriptor) == DATA
    finally:
        stop.set()
        swapper.join()
    assert used + refused == RACES
    assert refused


def fill_one(root: str, log: str, letter: int, seconds: float) -> None:
    """One of many: fills its key and leaves a line when it compiled; runs in a process of its own."""

    def slowly(key: Key, output: Path) -> None:
        with open(log, "a") as out:
            out.write(f"{letter}\n")
        time.sleep(seconds)
        compute(key, output)

    key = Key(f"sha256:{letter:064x}", "f" * 64, "native")
    filled = get_or_fill(AotDirectory(Path(root)), key, slowly)
    assert content(filled.opened.descriptor) == DATA


@pytest.mark.parametrize(("tasks", "digests"), [(50, 1), (200, 20)])
def test_compiles_are_as_many_as_keys(tmp_path: Path, tasks: int, digests: int) -> None:
    """All at once, in processes of their own: exactly one compilation for each digest (K6)."""
    context = multiprocessing.get_context("fork")
    for at in range(ROUNDS):
        log = tmp_path / f"log-{at}"
        arguments = [(str(tmp_path / f"c{at}"), str(log), task % digests, 0.1) for task in range(tasks)]
        workers = [context.Process(target=fill_one, args=words) for words in arguments]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert {worker.exitcode for worker in workers} == {0}
        assert sorted(map(int, log.read_text().split())) == list(range(digests))
        assert not list((tmp_path / f"c{at}" / "locks").iterdir())


@pytest.mark.parametrize("point", range(10))
def test_a_killed_leader_costs_one_more_compile(tmp_path: Path, point: int) -> None:
    """Killed at any moment of its compilation, a waiter takes over within 2 s, and nobody fails (K6b)."""
    context = multiprocessing.get_context("fork")
    for at in range(KILLS):
        root, log = tmp_path / f"c{at}", tmp_path / f"log{at}"
        words = (str(root), str(log), 1, 0.2)
        leader, *waiters = [context.Process(target=fill_one, args=words) for _ in range(4)]
        leader.start()
        while not log.exists():
            time.sleep(0.001)
        for waiter in waiters:
            waiter.start()
        time.sleep(0.024 * point)
        leader.kill()
        killed = time.monotonic()
        leader.join()
        for waiter in waiters:
            waiter.join()
        assert time.monotonic() - killed < 2 + 0.2
        assert [waiter.exitcode for waiter in waiters] == [0, 0, 0]
        assert len(log.read_text().split()) <= 2
        assert not list((root / "locks").iterdir())


DRIVER = """
import os, sys
from pathlib import Path
from cache.entries import AotDirectory
from cache.fill import get_or_fill
from tests.process import test_cache_faults as faults
store = AotDirectory(Path(sys.argv[1]), Path(sys.argv[1]) / "stamps")
os.getpgid(0)  # where the sweep begins
filled = get_or_fill(store, faults.KEY, faults.compute)
assert faults.content(filled.opened.descriptor) == faults.DATA
os.getpgid(0)
os._exit(0)
"""


def traced(root: Path, trace: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A whole fill under strace, in a process of its own."""
    command = ["strace", "-qq", "-o", str(trace), "-e", f"trace=getpgid,{','.join(CALLS)}", *words]
    return subprocess.run(
        [*command, sys.executable, "-c", DRIVER, str(root)], cwd=ROOT, capture_output=True, text=True
    )


def call_sites(tmp_path: Path) -> list[tuple[str, int]]:
    """Every system call of the fill: its name, and which of that name in the process's life it is."""
    done = traced(tmp_path / "plain", tmp_path / "trace")
    assert done.returncode == 0, done.stderr
    seen, sites, inside = dict.fromkeys(CALLS, 0), [], False
    for line in (tmp_path / "trace").read_text().splitlines():
        name = re.split(r"\W", line, maxsplit=1)[0]
        if name == "getpgid":
            inside = not inside
        elif name in seen:
            seen[name] += 1
            if inside and (name != "openat" or str(tmp_path) in line):
                sites.append((name, seen[name]))
    return sites


def test_no_failing_call_stops_a_start(tmp_path: Path) -> None:
    """Each write, fsync, rename, link, mkdir, open and lock fails in turn; the start gets its code (K7)."""
    sites = call_sites(tmp_path)
    assert {name for name, _ in sites} >= {"mkdir", "rename", "link", "fsync", "openat", "flock"}
    for at, (name, count) in enumerate(sites):
        for error in ERRORS if SOAK else ERRORS[at % 2 :][:1]:
            root = tmp_path / f"{at}-{error}"
            done = traced(root, tmp_path / "trace", "-e", f"inject={name}:error={error}:when={count}")
            assert done.returncode == 0, f"{name} {count} {error}: {done.stderr}"
            again = get_or_fill(AotDirectory(root), KEY, compute)
            assert content(again.opened.descriptor) == DATA, "it recovers once the disk does"
            assert get_or_fill(AotDirectory(root), KEY, compute).compiled is False
            assert not list((root / KIND).glob(".new-*"))


@pytest.mark.parametrize("options", ["size=16k", "nr_inodes=3", "ro"])
def test_a_disk_without_room_costs_the_sharing_only(tmp_path: Path, options: str) -> None:
    """Full, out of inodes, read-only: the code is made in memory, and no part of an entry stays (K7)."""
    root = tmp_path / "cache"
    root.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"mode=700,{options}", "tmpfs", root], check=True)
    try:
        filled = get_or_fill(AotDirectory(root), KEY, compute)
        assert filled.compiled
        assert content(filled.opened.descriptor) == DATA
        assert not [path for path in root.glob(f"{KIND}/*/*") if path.name == CODE]
    finally:
        subprocess.run(["umount", root], check=True)

"""The cache: keys, the commit protocol, verification, and one compilation across processes."""

import dataclasses
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from cache.aot import CODE, KIND, BadEntry, open_entry
from cache.entries import AotDirectory
from cache.fill import get_or_fill
from cache.key import Key
from cache.store import DirectoryStore, StoreUnusable

KEY = Key("sha256:" + "a" * 64, "f" * 64, "native")


@pytest.fixture
def store(tmp_path: Path) -> AotDirectory:
    """An empty store."""
    return AotDirectory(tmp_path / "cache")


def writes(data: bytes) -> "Compiler":
    """A compiler whose output is *data*."""
    return Compiler(data)


class Compiler:
    """Stands in for `spinwheel-host compile`; counts its runs."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.runs = 0

    def __call__(self, key: Key, output: Path) -> None:
        """Writes the output."""
        self.runs += 1
        output.write_bytes(self.data)


def content(descriptor: int) -> bytes:
    """All bytes behind a descriptor."""
    return os.pread(descriptor, 1 << 20, 0)


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Key)])
def test_each_field_separates_keys(field: str) -> None:
    """Two keys that differ anywhere have two names (faults.md K2)."""
    other = dataclasses.replace(KEY, **{field: getattr(KEY, field) + "x"})
    assert other.name != KEY.name


def test_fields_do_not_run_together() -> None:
    """Moving a character from one field to the next makes another key."""
    assert Key("ab", "c", "d").name != Key("a", "bc", "d").name


def test_the_second_time_nothing_is_compiled(store: AotDirectory) -> None:
    """A hit runs no compiler and gives the same bytes."""
    compiler = writes(b"code")
    first, second = get_or_fill(store, KEY, compiler), get_or_fill(store, KEY, compiler)
    assert (first.compiled, second.compiled, compiler.runs) == (True, False, 1)
    assert content(second.opened.descriptor) == b"code"


def test_entries_are_read_only_and_closed_to_others(store: AotDirectory) -> None:
    """Root-owned 0700 folders, 0444 files, no lock or scratch left (faults.md K1)."""
    get_or_fill(store, KEY, writes(b"code"))
    entry = store.folders.path(KIND, KEY.name)
    assert (entry / CODE).stat().st_mode & 0o777 == 0o444
    assert (store.folders.root / KIND).stat().st_mode & 0o077 == 0
    assert list((store.folders.root / "locks").iterdir()) == []
    assert not list((store.folders.root / KIND).glob(".*"))


def test_a_failed_compile_leaves_nothing(store: AotDirectory) -> None:
    """The compiler's error passes through and no entry appears."""

    def fail(key: Key, output: Path) -> None:
        output.write_bytes(b"half")
        message = "bad wasm"
        raise ValueError(message)

    with pytest.raises(ValueError, match="bad wasm"):
        get_or_fill(store, KEY, fail)
    assert list((store.folders.root / KIND).iterdir()) == []


def flip(path: Path) -> None:
    """One bit of the file changes."""
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    path.chmod(0o444)


def truncate(path: Path) -> None:
    """The file loses its end."""
    path.chmod(0o600)
    os.truncate(path, 1)
    path.chmod(0o444)


def swap_for_link(path: Path) -> None:
    """The file becomes a symbolic link."""
    path.rename(path.with_name("other"))
    path.symlink_to("other")


def open_to_all(path: Path) -> None:
    """Others may write."""
    path.chmod(0o666)


def lose_record(path: Path) -> None:
    """The entry's own record is gone."""
    (path.parent / "meta.json").unlink()


def hard_link(path: Path) -> None:
    """The file has a second name."""
    os.link(path, path.parent.parent.parent / "second")


@pytest.mark.parametrize("damage", [flip, truncate, swap_for_link, open_to_all, lose_record, hard_link])
def test_a_damaged_entry_is_replaced(store: AotDirectory, damage: object) -> None:
    """Found before use, removed, compiled again, and the start goes on (faults.md K3, K4)."""
    compiler = writes(b"code")
    get_or_fill(store, KEY, compiler)
    damage(store.folders.path(KIND, KEY.name) / CODE)  # type: ignore[operator]  # one of the functions above
    with pytest.raises(BadEntry):
        open_entry(store.folders, KEY, None)
    again = get_or_fill(store, KEY, compiler)
    assert (again.compiled, content(again.opened.descriptor), compiler.runs) == (True, b"code", 2)
    assert not get_or_fill(store, KEY, compiler).compiled


def test_hashing_once_per_boot(store: AotDirectory, tmp_path: Path) -> None:
    """A stamp saves the second hash, and is worth nothing for a changed file."""
    stamps = tmp_path / "stamps"
    store.stamps = stamps
    get_or_fill(store, KEY, writes(b"code"))
    opened = open_entry(store.folders, KEY, stamps)
    assert opened is not None
    assert not opened.hashed
    flip(store.folders.path(KIND, KEY.name) / CODE)
    with pytest.raises(BadEntry, match="wanted content"):
        open_entry(store.folders, KEY, stamps)


@pytest.mark.parametrize("how", ["a file", "foreign"])
def test_an_unusable_store_costs_the_sharing_not_the_start(tmp_path: Path, how: str) -> None:
    """The code is made into sealed memory instead (design.md section 5)."""
    root = tmp_path / "cache"
    if how == "a file":
        root.write_text("in the way")
    else:
        root.mkdir()
        root.chmod(0o777)
    compiler = writes(b"code")
    filled = get_or_fill(AotDirectory(root), KEY, compiler)
    assert (filled.compiled, content(filled.opened.descriptor), compiler.runs) == (True, b"code", 1)
    with pytest.raises(PermissionError):
        os.pwrite(filled.opened.descriptor, b"x", 0)


def test_scratch_of_a_dead_builder_is_swept(store: AotDirectory) -> None:
    """What a killed process left is removed by the next one that builds."""
    (store.folders.root / KIND).mkdir(parents=True)
    dead = store.folders.root / KIND / ".new-999999999-x"
    dead.mkdir()
    store.folders.root.chmod(0o700)
    get_or_fill(store, KEY, writes(b"code"))
    assert not dead.exists()


def fill_slowly(root: str, log: str) -> None:
    """Runs in a process of its own: a slow compile that leaves a line when it happened."""

    def compute(key: Key, output: Path) -> None:
        with open(log, "a") as out:
            out.write("compiled\n")
        time.sleep(0.3)
        output.write_bytes(b"code")

    get_or_fill(AotDirectory(Path(root)), KEY, compute)


def test_many_processes_one_compile(tmp_path: Path) -> None:
    """Ten at once: exactly one compiles, the others wait for it (faults.md K6)."""
    log = tmp_path / "log"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=fill_slowly, args=(str(tmp_path / "c"), str(log))) for _ in range(10)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 10
    assert log.read_text() == "compiled\n"


def test_a_killed_leader_is_replaced(tmp_path: Path) -> None:
    """The kernel frees the lock of a process that dies; a waiter compiles (faults.md K6b)."""
    log = tmp_path / "log"
    context = multiprocessing.get_context("spawn")
    first, second = (
        context.Process(target=fill_slowly, args=(str(tmp_path / "c"), str(log))) for _ in range(2)
    )
    first.start()
    while not log.exists():
        time.sleep(0.01)
    second.start()
    first.kill()
    first.join()
    second.join()
    assert second.exitcode == 0
    assert log.read_text() == "compiled\ncompiled\n"
    assert [p.name for p in (tmp_path / "c" / KIND).iterdir()] == [KEY.name]


def test_discard_forgets_and_tolerates_absence(store: AotDirectory) -> None:
    """Removing twice is fine; whoever has it open keeps it."""
    filled = get_or_fill(store, KEY, writes(b"code"))
    store.folders.discard(KIND, KEY.name)
    store.folders.discard(KIND, KEY.name)
    assert open_entry(store.folders, KEY, None) is None
    assert content(filled.opened.descriptor) == b"code"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """The error says which folder and why."""
    (tmp_path / "cache").write_text("")
    with pytest.raises(StoreUnusable, match="cache/aot cannot be made: Not a directory"):
        DirectoryStore(tmp_path / "cache").private("aot")

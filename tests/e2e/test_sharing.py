"""What a warm start of a large artefact costs in disk reads and memory (issue 5): counted by the kernel."""

import ctypes
import mmap
import os
from pathlib import Path

from tests.e2e.test_cache import delete, record_of
from tests.guests.build import guest_path
from tests.harness.node import Node

PAGE = mmap.PAGESIZE
LIMIT = 2 << 20


def resident(path: Path) -> int:
    """Bytes of a file that are in the page cache: what was read of it since it was dropped from there."""
    libc = ctypes.CDLL(None, use_errno=True)
    size = path.stat().st_size
    pages = (size + PAGE - 1) // PAGE
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, mmap.MAP_PRIVATE) as view:
        seen = (ctypes.c_ubyte * pages)()
        start = ctypes.addressof(ctypes.c_char.from_buffer(view))
        assert libc.mincore(ctypes.c_void_p(start), ctypes.c_size_t(size), seen) == 0
    return sum(page & 1 for page in seen) * PAGE


def drop(path: Path) -> None:
    """The file's pages leave memory."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def mapped(pid: int, path: Path) -> dict[str, int]:
    """Rss, Pss and shared pages (dirty: not written back yet) of a process's mappings of a file, in bytes."""
    sums = dict.fromkeys(("Rss", "Pss", "Shared_Clean", "Shared_Dirty"), 0)
    inside = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            inside = words[4] == str(path.stat().st_ino)
        elif inside and words[0][:-1] in sums:
            sums[words[0][:-1]] += int(words[1]) << 10
    return sums


def read_from_disk(pid: int) -> int:
    """Bytes that a process caused to be fetched from storage."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["read_bytes"])


def test_a_warm_start_reads_little_and_shares_its_pages(node: Node) -> None:
    """Of 40 MB, less than 2 MB from disk before the first request; two pods map the same pages (issue 5).

    With a page cache that was dropped, the kernel reads ahead, but not the whole file: nothing is hashed.
    """
    image = node.add_guest("hello-python")
    node.run("one", image)
    node.remove("one")
    code = Path(record_of(node, guest_path("hello-python").read_bytes())["path"])
    node.run("one", image)
    assert read_from_disk(node.pid("one")) + read_from_disk(node.server_pid("one")) < LIMIT
    node.run("two", image)
    for task in ("one", "two"):
        assert node.get(task, "/").status == 200
    for found in [mapped(node.pid(task), code) for task in ("one", "two")]:
        assert found["Shared_Clean"] + found["Shared_Dirty"] > 0.8 * found["Rss"] > 0
        assert found["Pss"] < 0.65 * found["Rss"]
    for task in ("one", "two"):
        node.remove(task)
    drop(code)
    assert resident(code) == 0
    node.run("one", image)
    assert resident(code) < code.stat().st_size / 2
    node.remove("one")
    delete(node, image)

"""Archives as they must not be (faults.md A8, A9): passed over or refused, and never out of their folder."""

import gzip
import io
import resource
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from shim.guest import files
from shim.image.artifact import read_verified
from shim.image.manifest import ARCHIVE_LAYER, BadArtifact, Descriptor
from tests.apps import digest_of
from tests.doubles.blobs import MemoryBlobs

GOOD = b"what the app names\n" * 20
WANTED = {digest_of(GOOD)}
EVIL_NAMES = (
    *("../x", "../../../../../../etc/cron.d/x", "/etc/passwd", "a/../../x", "./../x", "..", ".", "/", "a//b"),
    *("x" * 99, "y/" * 60 + "z", "x" * 5000, "\u2024\u2024/x", "a\\..\\x", "C:\\x", "~/x", "a\nb", "-rf"),
)
KINDS = {
    "symlink": tarfile.SYMTYPE,
    "hardlink": tarfile.LNKTYPE,
    "character device": tarfile.CHRTYPE,
    "block device": tarfile.BLKTYPE,
    "fifo": tarfile.FIFOTYPE,
    "folder": tarfile.DIRTYPE,
    "contiguous": tarfile.CONTTYPE,
    "unknown": b"Z",
}
Pack = Callable[[tarfile.TarFile], None]


def add(
    tar: tarfile.TarFile, name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> None:
    """One entry, with every bit of its mode."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.size, entry.linkname, entry.mode = kind, len(data), link, 0o7777
    tar.addfile(entry, io.BytesIO(data))


def archive(pack: Pack, form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar+gzip."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", format=form) as tar:
        pack(tar)
    return out.getvalue()


def unpacked(data: bytes, folder: Path) -> list[bytes]:
    """What of an archive is kept, in a folder beside which nothing may appear."""
    inner = folder / "inner"
    inner.mkdir()
    before = set(folder.rglob("*"))
    blobs = MemoryBlobs({digest_of(data): data})
    try:
        files.unpack(blobs, Descriptor(ARCHIVE_LAYER, digest_of(data), len(data)), inner, WANTED)
    finally:
        outside = [path for path in folder.rglob("*") if path not in before and path.parent != inner]
        assert outside == []
    assert all(path.is_file() and not path.is_symlink() for path in inner.iterdir())
    return [path.read_bytes() for path in inner.iterdir()]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("name", EVIL_NAMES)
def test_names_lead_nowhere(tmp_path: Path, name: str, form: int) -> None:
    """An entry is known by its content, so its name is no path of ours (faults.md A8)."""
    assert unpacked(archive(lambda tar: add(tar, name, GOOD), form), tmp_path) == [GOOD]


@pytest.mark.parametrize("target", ["/etc/passwd", "..", "../../x", "good", "."])
@pytest.mark.parametrize("kind", KINDS)
def test_only_regular_files_count(tmp_path: Path, kind: str, target: str) -> None:
    """Links, devices, FIFOs and folders are passed over, and files behind their names too (A8)."""

    def pack(tar: tarfile.TarFile) -> None:
        add(tar, "link", kind=KINDS[kind], link=target)
        add(tar, "link/x", b"through the link")
        add(tar, "link", b"in place of the link")
        add(tar, "good", GOOD)
        add(tar, "good", b"again")

    assert unpacked(archive(pack), tmp_path) == [GOOD]


def test_nothing_of_a_mode_is_taken_over(tmp_path: Path) -> None:
    """Neither setuid nor write for all (faults.md A8)."""
    data = archive(lambda tar: add(tar, "x", GOOD))
    unpacked(data, tmp_path)
    (kept,) = (tmp_path / "inner").iterdir()
    assert kept.stat().st_mode & 0o7077 == 0


@pytest.mark.parametrize("cut", range(5, 400, 20))
def test_truncated_anywhere(tmp_path: Path, cut: int) -> None:
    """An archive that ends early is refused, or had all that was wanted before its end (faults.md A9)."""
    noise = bytes(range(256)) * 4

    def pack(tar: tarfile.TarFile) -> None:
        add(tar, "noise", noise)
        add(tar, "x", GOOD)

    data = archive(pack)
    part = data[: cut * len(data) // 400]
    with pytest.raises(BadArtifact, match="not a readable tar"):
        unpacked(part, tmp_path)


@pytest.mark.parametrize("at", range(0, 200, 10))
def test_flipped_anywhere(tmp_path: Path, at: int) -> None:
    """A flipped bit is found by gzip, tar or digest; no other content is kept (faults.md A8, A12)."""
    data = bytearray(archive(lambda tar: add(tar, "x", GOOD)))
    data[at * len(data) // 200] ^= 0x10
    try:
        kept = unpacked(bytes(data), tmp_path)
    except BadArtifact:
        return
    assert kept in ([GOOD], [])


def zeros() -> bytes:
    """What gzip makes least of."""
    return gzip.compress(bytes(32 << 20), 1)


def many(tar: tarfile.TarFile) -> None:
    """One entry more than there may be."""
    for number in range(files.MAX_ENTRIES + 2):
        add(tar, f"{number}")


REFUSED: dict[str, Callable[[], bytes]] = {
    "zeros in an entry": lambda: archive(lambda tar: add(tar, "x", bytes(32 << 20))),
    "entries": lambda: archive(many),
    "nested": lambda: gzip.compress(zeros()),
    "empty": lambda: b"",
    "no gzip": lambda: b"PK\3\4" + bytes(100),
    "a head only": lambda: b"\x1f\x8b\x08\0" + bytes(6),
}
IGNORED: dict[str, Callable[[], bytes]] = {
    "zeros": zeros,
    "members": lambda: zeros() * 4,
    "garbage behind": lambda: archive(lambda tar: add(tar, "y", b"y")) + b"garbage" * 100,
}


@pytest.mark.parametrize("name", [*REFUSED, *IGNORED])
def test_bombs_are_bounded(tmp_path: Path, name: str) -> None:
    """Output, entries and memory have limits, however little was sent (faults.md A9)."""
    data = {**REFUSED, **IGNORED}[name]()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if name in REFUSED:
        with pytest.raises(BadArtifact, match="archive"):
            unpacked(data, tmp_path)
    else:
        assert unpacked(data, tmp_path) == [], "behind the end of an archive nothing is read"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10
    assert sum(path.stat().st_size for path in (tmp_path / "inner").iterdir()) <= len(data) * files.MAX_RATIO


@pytest.mark.parametrize("claimed", [0, 1, 511, 513, 1 << 33, (1 << 63) - 1])
def test_sizes_of_entries_that_lie(tmp_path: Path, claimed: int) -> None:
    """PAX may claim another size than the header has; what is read is what is hashed (faults.md A8, A11)."""

    def pack(tar: tarfile.TarFile) -> None:
        entry = tarfile.TarInfo("x")
        entry.size = len(GOOD)
        entry.pax_headers = {"size": str(claimed)}
        tar.addfile(entry, io.BytesIO(GOOD))

    try:
        kept = unpacked(archive(pack), tmp_path)
    except BadArtifact:
        return
    assert kept in ([GOOD], [])


def test_the_archive_itself_is_verified(tmp_path: Path) -> None:
    """Before an entry is looked at, the archive is what its digest says (faults.md A12)."""
    data = archive(lambda tar: add(tar, "x", GOOD))
    blob = Descriptor(ARCHIVE_LAYER, digest_of(data), len(data))
    blobs = MemoryBlobs({blob.digest: data[:-1] + bytes([data[-1] ^ 1])})
    (tmp_path / "inner").mkdir()
    with pytest.raises(BadArtifact, match=blob.digest):
        files.unpack(blobs, blob, tmp_path / "inner", WANTED)
    with pytest.raises(BadArtifact, match=blob.digest):
        read_verified(blobs, blob, 1 << 20)
    assert list((tmp_path / "inner").iterdir()) == []

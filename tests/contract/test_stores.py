"""The contract of a store of compiled code, over every implementation: both real ones and the doubles.

The containerd store runs here over a double of the content store; over the real one in
tests/e2e/test_cache.py.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cache.entries import AotContent, AotDirectory, Store, label_of
from cache.fill import get_or_fill
from cache.key import Key
from cache.refused import Refused
from tests.doubles.content import MemoryContent
from tests.doubles.entries import MemoryEntries

LAYER = "sha256:" + "a" * 64
KEY = Key(LAYER, "f" * 64, "native")
OTHER = Key("sha256:" + "b" * 64, "f" * 64, "native")


def over_content(tmp_path: Path, folder: Path | None) -> AotContent:
    """The containerd store over a double that has both layers."""
    content = MemoryContent(folder)
    content.add_layer(KEY.component)
    content.add_layer(OTHER.component)
    return AotContent(tmp_path / "cache", content, tmp_path / "stamps")


def local_content(tmp_path: Path) -> AotContent:
    """Blobs are files of this machine."""
    (tmp_path / "blobs").mkdir()
    return over_content(tmp_path, tmp_path / "blobs")


STORES: dict[str, Callable[[Path], Store]] = {
    "directory": lambda path: AotDirectory(path / "cache", path / "stamps"),
    "containerd": local_content,
    "containerd, remote": lambda path: over_content(path, None),
    "memory": MemoryEntries,
}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Each store, empty."""
    return STORES[request.param](tmp_path)


def writing(data: bytes) -> Callable[[Path], None]:
    """A build whose file is *data*."""

    def write(output: Path) -> None:
        output.write_bytes(data)

    return write


def content_of(store: Store, key: Key) -> bytes | None:
    """What the store has for *key*."""
    opened = store.open(key)
    if opened is None:
        return None
    with os.fdopen(opened.descriptor, "rb") as file:
        file.seek(0)
        return file.read()


def test_an_empty_store_has_nothing(store: Store) -> None:
    """None, and no error."""
    assert store.open(KEY) is None


def test_what_was_put_is_found_under_its_key_only(store: Store) -> None:
    """The same bytes and size; another key finds nothing (faults.md K2)."""
    store.put(KEY, writing(b"code"))
    assert (content_of(store, KEY), content_of(store, OTHER)) == (b"code", None)


def test_the_first_put_wins(store: Store) -> None:
    """Whoever loses the race uses the winner's entry."""
    store.put(KEY, writing(b"code"))
    store.put(KEY, writing(b"late"))
    assert content_of(store, KEY) == b"code"


def test_a_failed_build_leaves_nothing(store: Store) -> None:
    """The builder's error passes through, the key stays free."""

    def fail(output: Path) -> None:
        output.write_bytes(b"half")
        raise Refused("no")

    with pytest.raises(Refused):
        store.put(KEY, fail)
    assert content_of(store, KEY) is None
    store.put(KEY, writing(b"code"))
    assert content_of(store, KEY) == b"code"


def test_what_is_set_aside_can_be_made_again(store: Store) -> None:
    """Gone for every reader; whoever has it open keeps it."""
    store.put(KEY, writing(b"code"))
    opened = store.open(KEY)
    store.set_aside(KEY)
    store.set_aside(KEY)
    assert store.open(KEY) is None
    assert opened
    assert os.pread(opened.descriptor, 10, 0) == b"code"
    store.put(KEY, writing(b"new!"))
    assert content_of(store, KEY) == b"new!"


def test_a_refusal_is_remembered_with_its_words(store: Store) -> None:
    """The compiler runs once; the second start gets the same message (faults.md A13)."""
    runs = []

    def refuse(key: Key, output: Path) -> None:
        runs.append(key)
        raise Refused("too many locals")

    for _ in range(2):
        with pytest.raises(Refused, match="too many locals"):
            get_or_fill(store, KEY, refuse)
    assert runs == [KEY]


def test_the_code_goes_with_its_layer(tmp_path: Path) -> None:
    """Kept while the layer is, collected with it, made again afterwards; a lease per key while writing."""
    store = local_content(tmp_path)
    content = store._content
    assert isinstance(content, MemoryContent)
    store.put(KEY, writing(b"code"))
    store.put(OTHER, writing(b"more"))
    content.collect()
    assert (content_of(store, KEY), content_of(store, OTHER)) == (b"code", b"more")
    assert label_of(KEY.name) in content.labels[LAYER]
    content.roots.discard(LAYER)
    content.collect()
    assert (content_of(store, KEY), content_of(store, OTHER)) == (None, b"more")
    content.add_layer(LAYER)
    store.put(KEY, writing(b"again"))
    assert content_of(store, KEY) == b"again"
    assert len(set(content.leases_seen)) == 2
    assert content.leases == {}


@pytest.mark.parametrize("step", ["folder", "leased", "write", "label", "all"])
def test_a_content_store_that_fails_costs_nothing(tmp_path: Path, step: str) -> None:
    """Wherever it fails, the code lies in the directory instead, and is found there."""
    store = local_content(tmp_path)
    content = store._content
    assert isinstance(content, MemoryContent)
    content.broken = step
    store.put(KEY, writing(b"code"))
    assert content_of(store, KEY) == b"code"
    assert content.leases == {}


def test_a_blob_that_is_not_what_it_names_is_not_used(tmp_path: Path) -> None:
    """A bad copy that containerd already has under the digest does not become an entry."""
    store = local_content(tmp_path)
    store.put(KEY, writing(b"code"))
    (blob,) = (tmp_path / "blobs").iterdir()
    blob.chmod(0o600)
    blob.write_bytes(b"edoc")
    blob.chmod(0o444)
    filled = get_or_fill(store, KEY, lambda _key, output: writing(b"code")(output))
    assert filled.compiled
    assert content_of(store, KEY) == b"code"


def test_another_namespace_ties_the_code_to_its_own_layer(tmp_path: Path) -> None:
    """The second namespace compiles nothing, and its image keeps the code when the first one's is gone."""
    first = local_content(tmp_path)
    first.put(KEY, writing(b"code"))
    second = MemoryContent(tmp_path / "blobs")
    second.name = "double other"
    second.add_layer(LAYER)
    store = AotContent(tmp_path / "cache", second, tmp_path / "stamps")
    assert content_of(store, KEY) == b"code"
    assert label_of(KEY.name) in second.labels[LAYER]
    leases = len(second.leases_seen)
    assert content_of(store, KEY) == b"code"
    assert len(second.leases_seen) == leases, "tied once"

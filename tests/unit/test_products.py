"""The build cache of the guests, without any compiler."""

import threading
from pathlib import Path

import pytest

from tests.guests.build import guest_path
from tests.guests.product import BuildError, cache_root, key_of, produce


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test an empty cache."""
    monkeypatch.setenv("SPINWHEEL_CACHE", str(tmp_path / "cache"))
    return cache_root()


def test_a_product_is_made_once() -> None:
    """The second request for the same key does not build."""
    made = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "out").touch()

    first = produce("guests", "a", "key", make)
    assert first == produce("guests", "a", "key", make)
    assert (first / "out").exists()
    assert len(made) == 1


def test_a_failed_build_leaves_nothing(own_cache: Path) -> None:
    """Half a product is never seen, and the next try starts afresh."""

    def fail(folder: Path) -> None:
        (folder / "half").touch()
        message = "no compiler"
        raise BuildError(message)

    with pytest.raises(BuildError, match="no compiler"):
        produce("guests", "a", "key", fail)
    assert [path.name for path in (own_cache / "guests").iterdir()] == ["a.lock"]


def test_two_at_once_build_once() -> None:
    """Whoever comes second waits for the first."""
    made = []
    both_asked = threading.Barrier(2)

    def make(folder: Path) -> None:
        made.append(folder)

    def ask() -> None:
        both_asked.wait()
        produce("guests", "a", "key", make)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_the_key_follows_content_and_facts(tmp_path: Path) -> None:
    """Any changed byte, and any changed tool, is another product."""
    source = tmp_path / "source"
    source.write_text("one")
    first = key_of([source], "rustc 1")
    assert first == key_of([source], "rustc 1")
    assert first != key_of([source], "rustc 2")
    source.write_text("two")
    assert first != key_of([source], "rustc 1")


def test_an_unknown_guest_is_one_clear_error() -> None:
    """The message lists the guests that exist."""
    with pytest.raises(BuildError, match=r"wanted one of hello-p2, .* found 'hello'"):
        guest_path("hello")

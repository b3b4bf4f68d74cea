"""The cache on a real containerd: code tied to its image, collected with it, never trusted blindly."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from cache.aot import KIND
from cache.entries import GC_REF, QUARANTINE
from tests.apps import App, Component, digest_of
from tests.guests.build import guest_path
from tests.harness.node import Node

WORDS = b"capacity overflow"


def guest(mark: str) -> bytes:
    """The WASI 0.2 guest with other words in a message it never prints: new wasm, new code, same answers."""
    wasm = guest_path("hello-p2").read_bytes()
    assert WORDS in wasm
    return wasm.replace(WORDS, hashlib.sha256(mark.encode()).hexdigest()[: len(WORDS)].encode())


def cache_of(node: Node) -> Path:
    """The node's cache folder."""
    return node.containerd.base_dir / "cache"


def record_of(node: Node, wasm: bytes) -> dict[str, Any]:
    """The one record of a component's code."""
    records = [json.loads(path.read_bytes()) for path in (cache_of(node) / KIND).glob("*/meta.json")]
    (mine,) = (record for record in records if record["component"] == digest_of(wasm))
    return dict(mine)


def content(node: Node) -> set[str]:
    """Every digest in the node's namespace."""
    return set(node.ctr("content", "ls", "-q").stdout.split())


def start(node: Node, image: str, task: str = "cached") -> None:
    """One whole life of a task."""
    node.run(task, image)
    assert node.get(task, "/").status == 200
    node.remove(task)


def delete(node: Node, *images: str) -> None:
    """The images go, and the garbage collection has run when this returns."""
    node.ctr("images", "rm", "--sync", *images)


def test_code_lies_in_containerd_and_goes_with_its_image(node: Node) -> None:
    """`ctr images rm` and the garbage collection remove the code and nothing of another image (issue 5)."""
    mine, others = guest("mine"), guest("others")
    first = node.add(App([Component(mine)]), "test.local/cache/mine:1")
    second = node.add(App([Component(others)]), "test.local/cache/others:1")
    start(node, first)
    start(node, second)
    code, kept = record_of(node, mine), record_of(node, others)
    assert {code["digest"], kept["digest"]} <= content(node)
    assert Path(code["path"]).stat().st_size == code["size"]
    labels = node.ctr("content", "ls").stdout
    assert GC_REF in next(line for line in labels.splitlines() if line.startswith(digest_of(mine)))
    before = content(node)
    delete(node, first)
    gone = before - content(node)
    assert code["digest"] in gone
    assert kept["digest"] not in gone
    assert digest_of(others) not in gone
    assert not Path(code["path"]).exists()
    start(node, second)
    delete(node, second)
    assert kept["digest"] not in content(node)


def test_two_images_that_share_a_layer_keep_it_until_both_are_gone(node: Node) -> None:
    """The code is compiled once for both, and outlives the first (issue 5)."""
    wasm = guest("shared")
    first = node.add(App([Component(wasm, route="/...")]), "test.local/cache/share-a:1")
    second = node.add(App([Component(wasm, id="other", route="/...")]), "test.local/cache/share-b:1")
    already = node.compilations()
    start(node, first)
    start(node, second)
    assert node.compilations() == already + 1
    code = record_of(node, wasm)
    delete(node, first)
    assert code["digest"] in content(node)
    start(node, second)
    assert node.compilations() == already + 1
    delete(node, second)
    assert code["digest"] not in content(node)
    again = node.add(App([Component(wasm)]), "test.local/cache/share-a:1")
    start(node, again)
    assert node.compilations() == already + 2, "what was collected is compiled again"
    delete(node, again)


@pytest.mark.parametrize("how", ["flip", "truncate", "zero"])
def test_a_damaged_entry_is_set_aside_and_the_app_starts(node: Node, how: str) -> None:
    """A bad blob in containerd's own store is seen before it is mapped (faults.md K3)."""
    wasm = guest(f"bad-{how}")
    image = node.add(App([Component(wasm)]), f"test.local/cache/bad-{how}:1")
    start(node, image)
    code, already = record_of(node, wasm), node.compilations()
    path = Path(code["path"])
    data = bytearray(path.read_bytes())
    path.chmod(0o600)
    if how == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    else:
        os.truncate(path, 4096 if how == "truncate" else 0)
    path.chmod(0o444)
    start(node, image)
    assert node.compilations() == already + 1
    set_aside = (json.loads(p.read_bytes()) for p in (cache_of(node) / QUARANTINE).glob("*/meta.json"))
    assert code["digest"] in {record["digest"] for record in set_aside}
    start(node, image)
    assert node.compilations() == already + 1, "the new entry is good"
    delete(node, image)

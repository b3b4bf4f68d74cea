"""`spinwheel cache` without containerd: looking, verifying, removing, and carrying entries between nodes."""

import json
import subprocess
from pathlib import Path

import pytest

from cache.aot import CODE, KIND
from cache.catalog import BAD, GOOD, is_dead, rows, verdict
from cache.entries import AotDirectory
from cache.fill import get_or_fill
from cache.key import Key
from shim.cli import main

KEYS = [Key("sha256:" + letter * 64, "f" * 64, "aarch64-linux") for letter in "ab"]


def compute(key: Key, output: Path) -> None:
    """Code that tells whose it is."""
    output.write_bytes(key.component.encode())


def filled(root: Path) -> AotDirectory:
    """A store with two entries."""
    store = AotDirectory(root)
    for key in KEYS:
        get_or_fill(store, key, compute)
    return store


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """A private and a public key, as the documentation makes them."""
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    return private, public


def flip(store: AotDirectory, key: Key) -> None:
    """One bit of an entry's code changes."""
    code = store.folders.path(KIND, key.name) / CODE
    data = bytearray(code.read_bytes())
    data[7] ^= 1
    code.chmod(0o600)
    code.write_bytes(data)
    code.chmod(0o444)


def test_a_flipped_bit_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`verify` names the entry and ends with 1; `ls` goes on (issue 5)."""
    store = filled(tmp_path / "cache")
    words = ["cache", "--cache-dir", str(tmp_path / "cache")]
    assert main([*words, "verify"]) == 0
    flip(store, KEYS[0])
    assert main([*words, "verify"]) == 1
    assert f"bad: {KEYS[0].name[:12]}: " in capsys.readouterr().out
    assert main([*words, "ls"]) == 0
    assert "2 entries" in capsys.readouterr().out


def test_uses_are_counted_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As JSON for programs; looking is no use."""
    store = filled(tmp_path / "cache")
    for _ in range(3):
        get_or_fill(store, KEYS[0], compute)
    assert main(["cache", "--cache-dir", str(tmp_path / "cache"), "ls", "--json"]) == 0
    shown = {row["name"]: row["uses"] for row in json.loads(capsys.readouterr().out)}
    assert shown == {KEYS[0].name: 4, KEYS[1].name: 1}


def test_an_entry_under_another_name_is_bad(tmp_path: Path) -> None:
    """A valid entry of another key, renamed, is not taken for it (faults.md K3)."""
    store = filled(tmp_path / "cache")
    names = [store.folders.path(KIND, key.name) for key in KEYS]
    store.folders.discard(KIND, KEYS[0].name)
    names[1].rename(names[0])
    (row,) = rows(store)
    assert row.state == BAD
    assert get_or_fill(store, KEYS[0], compute).compiled


def test_what_no_engine_can_use_is_dead(tmp_path: Path) -> None:
    """After an upgrade every entry of the old engine may go."""
    store = filled(tmp_path / "cache")
    assert [is_dead(row, {"f" * 64}) for row in rows(store)] == [False, False]
    assert [is_dead(row, {"e" * 64}) for row in rows(store)] == [True, True]


def test_names_must_be_found_and_clear(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Unknown, ambiguous and missing names are told apart; nothing is removed."""
    store = filled(tmp_path / "cache")
    words = ["cache", "--cache-dir", str(tmp_path / "cache"), "rm"]
    for name, said in (("zz", "found none"), ("", "beginning of 2"), (None, "found neither")):
        assert main([*words, *([] if name is None else [name])]) == 1
        assert said in capsys.readouterr().err
    assert main([*words, KEYS[0].name[:12]]) == 0
    assert [row.name for row in rows(store)] == [KEYS[1].name]


def test_entries_travel_signed(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    """Another node takes them, marks them as its own, and compiles nothing."""
    filled(tmp_path / "one")
    file = tmp_path / "parcel"
    private, public = map(str, keys)
    assert main(["cache", "--cache-dir", str(tmp_path / "one"), "export", str(file), "--key", private]) == 0
    there = AotDirectory(tmp_path / "two")
    assert main(["cache", "--cache-dir", str(tmp_path / "two"), "import", str(file), "--trust", public]) == 0
    assert [verdict(there, row).state for row in rows(there)] == [GOOD, GOOD]
    assert not get_or_fill(there, KEYS[0], compute).compiled
    marks = [
        json.loads((tmp_path / node / KIND / KEYS[0].name / "meta.json").read_bytes())["mac"]
        for node in ("one", "two")
    ]
    assert marks[0] != marks[1]


@pytest.mark.parametrize("how", ["another key", "changed code", "changed list", "cut", "not a parcel"])
def test_an_untrusted_parcel_is_refused(
    tmp_path: Path, keys: tuple[Path, Path], how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One error, exit code 1, and no entry of it."""
    filled(tmp_path / "one")
    file, (private, public) = tmp_path / "parcel", keys
    assert (
        main(["cache", "--cache-dir", str(tmp_path / "one"), "export", str(file), "--key", str(private)]) == 0
    )
    data = file.read_bytes()
    if how == "another key":
        other = tmp_path / "other.pem"
        subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", other], check=True)
        subprocess.run(["openssl", "pkey", "-in", other, "-pubout", "-out", public], check=True)
    elif how == "changed code":
        first = next(row for row in rows(AotDirectory(tmp_path / "one")) if row.key)
        assert first.key
        code = first.key.component.encode()
        at = data.rindex(code, data.index(first.name.encode()) + 64)
        file.write_bytes(data[:at] + b"S" + data[at + 1 :])
    elif how == "changed list":
        file.write_bytes(data.replace(b'"domain": "node"', b'"domain": "evil"', 1))
    else:
        file.write_bytes(data[:1000] if how == "cut" else b"hello")
    words = ["cache", "--cache-dir", str(tmp_path / "two"), "import", str(file), "--trust", str(public)]
    assert main(words) == 1
    assert capsys.readouterr().err.startswith("spinwheel: ")
    assert list(rows(AotDirectory(tmp_path / "two"))) == []

"""tests.proofs: which ids a sentence cites, and what the documents make of them."""

import dataclasses
import json
from pathlib import Path

import pytest

from tests.proofs import compatibility, reliability
from tests.proofs.citations import citations, ids
from tests.proofs.record import Record

RECORD = Record("tests/a.py::test_a", ("F1",), 20, 0, 1.0, "2026-01-01", "2 cores")


@pytest.mark.parametrize(
    ("sentence", "features", "faults"),
    [
        ("Nothing to see.", set(), set()),
        ("It holds (O1-O4, H27).", {"O1", "O2", "O3", "O4", "H27"}, set()),
        ("It holds (faults H5, H8 and S1; H5).", {"H5"}, {"H5", "H8", "S1"}),
        ("S85 is a row, S3 alone is not; K6b, RG1 and LG1 are faults.", {"S85"}, {"K6b", "RG1", "LG1"}),
        ("Within H11. No version: H1.2, sha256.", {"H11"}, set()),
    ],
)
def test_what_a_sentence_cites(sentence: str, features: set[str], faults: set[str]) -> None:
    """H and S are rows of the feature table unless the word faults stands before them."""
    assert tuple(map(set, ids(sentence))) == (features, faults)


def test_tests_of_both_languages_are_read(tmp_path: Path) -> None:
    """A docstring and a `///` comment count alike; what is no test does not count."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "host").mkdir()
    (tmp_path / "tests" / "test_a.py").write_text(
        'def test_a():\n    """One (H1)."""\ndef b():\n    """H9"""\n'
    )
    rust = '/// Two (H2).\n#[tokio::test(flavor = "x")]\nasync fn two() {}\n/// H9.\nfn helper() {}\n'
    (tmp_path / "host" / "a.rs").write_text(rust)
    assert [(c.test, set(c.features)) for c in citations(tmp_path)] == [("test_a", {"H1"}), ("two", {"H2"})]


def test_a_row_is_proven_left_out_or_missing() -> None:
    """The document says which, and counts; a row in two states is a fault."""
    rows = {"H1": "HTTP: listen", "H2": "ports", "O1": "type"}
    text = compatibility.render(rows, {"H1": ["`t.py::a`"]}, {"H2": "nobody asked"})
    assert "| H1 | listen | `t.py::a` |" in text
    assert "| H2 | ports | left out: nobody asked |" in text
    assert "3 rows: 1 proven, 1 left out, 1 missing." in text
    with pytest.raises(ValueError, match="Take them out"):
        compatibility.render(rows, {"H1": ["a"]}, {"H1": "b"})


def test_outcomes_of_one_test_are_added_up(tmp_path: Path) -> None:
    """Parameters are trials of one test."""
    lines = [dataclasses.replace(RECORD, test=f"{RECORD.test}[{n}]", failures=n) for n in (0, 1)]
    file = tmp_path / "results.jsonl"
    file.write_text("".join(json.dumps(dataclasses.asdict(line)) + "\n" for line in lines))
    (found,) = reliability.read(file)
    assert (found.test, found.trials, found.failures) == (RECORD.test, 40, 1)


def test_the_better_known_result_is_kept() -> None:
    """More trials win over fewer, a newer failure over all; a test that is gone takes its result along."""
    short = dataclasses.replace(RECORD, trials=1)
    failed = dataclasses.replace(short, failures=1)
    assert reliability.merge([RECORD], [short], {"test_a"}) == [RECORD]
    assert reliability.merge([short], [RECORD], {"test_a"}) == [RECORD]
    assert reliability.merge([RECORD], [failed], {"test_a"}) == [failed]
    assert reliability.merge([failed], [short], {"test_a"}) == [short]
    assert reliability.merge([RECORD], [], {"test_b"}) == []


def test_no_failure_in_n_bounds_the_rate() -> None:
    """The rule of three; a failure makes the bound worse; no trial bounds nothing."""
    assert reliability.bound(1000, 0) == "0.30%"
    assert reliability.bound(1000, 1) == "0.50%"
    assert reliability.bound(0, 0) == ""

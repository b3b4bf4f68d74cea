"""The arithmetic of the ledgers, and the grammar of a task's events, without any daemon."""

from collections import Counter

import pytest

from tests.harness.events import Event, parse, violations
from tests.harness.ledger import Difference, Ledger, describe, diff

LINE = '2026-11-23 20:30:00.123456789 +0000 UTC default /tasks/start {"container_id":"one","pid":42}'


def event(topic: str, **body: object) -> Event:
    """Return an event of the task `one`."""
    return Event("default", f"/tasks/{topic}", {"container_id": "one", "pid": 42, **body})


CREATE, START = event("create"), event("start")
EXIT = event("exit", id="one", exit_status=137)
DELETE = event("delete", exit_status=137)
EXEC_EXIT = event("exit", id="exec-1", pid=43)


class TestDiff:
    """What counts as a difference."""

    def test_equal_snapshots_have_none(self) -> None:
        """Nothing gained and nothing lost is an empty answer."""
        snapshot = {"L2": Counter({"/a ext4": 2})}
        assert diff(snapshot, snapshot) == {}

    def test_a_second_equal_mount_is_a_gain(self) -> None:
        """Entries are counted, not only listed."""
        found = diff({"L2": Counter({"/a": 1})}, {"L2": Counter({"/a": 3})})
        assert found == {"L2": Difference(gained=("/a", "/a"))}

    def test_a_missing_entry_is_reported_too(self) -> None:
        """What vanished belonged to somebody."""
        found = diff({"L2": Counter({"/a": 1})}, {"L2": Counter({"/b": 1})})
        assert found == {"L2": Difference(gained=("/b",), lost=("/a",))}

    def test_the_report_has_one_signed_line_per_entry(self) -> None:
        """A failed assertion shows what to look for."""
        found = {"L2": Difference(gained=("/b",), lost=("/a",))}
        assert describe(found) == "L2:\n+ /b\n- /a"

    def test_snapshots_of_different_ledgers_are_refused(self) -> None:
        """A ledger that was not read must not pass for an empty one."""
        with pytest.raises(ValueError, match="same ledgers"):
            diff({"L1": Counter()}, {"L2": Counter()})


class TestLedger:
    """Reading, ignoring and waiting."""

    def test_ignored_entries_are_left_out(self) -> None:
        """Only what a test agreed to ignore is ignored."""
        ledger = Ledger({"L1": lambda: Counter(["zygote 1", "shim 2"])}, ignore=["zygote "])
        assert ledger.snapshot() == {"L1": Counter(["shim 2"])}

    def test_it_waits_for_what_is_on_its_way_out(self) -> None:
        """A difference that goes away in time is none."""
        readings = iter([Counter(["dying"]), Counter[str]()])
        ledger = Ledger({"L1": lambda: next(readings)})
        assert ledger.settled({"L1": Counter()}, seconds=5) == {}

    def test_a_lasting_difference_is_returned(self) -> None:
        """Waiting ends, and says what is left."""
        ledger = Ledger({"L1": lambda: Counter(["leak"])})
        found = ledger.settled({"L1": Counter()}, seconds=0)
        assert found == {"L1": Difference(gained=("leak",))}


class TestEvents:
    """The word of a task."""

    def test_a_line_of_ctr_is_read(self) -> None:
        """Namespace, topic and body come out of one line."""
        assert parse(LINE) == Event("default", "/tasks/start", {"container_id": "one", "pid": 42})

    def test_other_lines_are_not_events(self) -> None:
        """Warnings of `ctr` are passed over."""
        assert parse('time="..." level=warning msg="DEPRECATION"') is None

    @pytest.mark.parametrize(
        "events", [[CREATE, START, EXIT, DELETE], [CREATE, DELETE]], ids=["ran", "never started"]
    )
    def test_whole_lives_are_right(self, events: list[Event]) -> None:
        """Both words of the grammar pass."""
        assert violations(events) == []

    def test_the_exit_of_an_exec_is_no_letter(self) -> None:
        """An exec may exit at any time without changing the task's word."""
        assert violations([CREATE, START, EXEC_EXIT, EXIT, DELETE]) == []

    @pytest.mark.parametrize(
        "events",
        [
            [CREATE, START, EXIT],
            [CREATE, EXIT, START, DELETE],
            [CREATE, START, EXIT, EXIT, DELETE],
            [CREATE, START, DELETE],
            [START, EXIT, DELETE],
        ],
        ids=["no delete", "exit first", "two exits", "no exit", "no create"],
    )
    def test_anything_else_is_a_violation(self, events: list[Event]) -> None:
        """A lost, doubled or misplaced event is one line."""
        assert len(violations(events)) == 1

    def test_a_living_task_may_have_spelled_a_beginning(self) -> None:
        """What still runs has no exit to show."""
        assert violations([CREATE, START], alive=["default/one"]) == []
        assert violations([CREATE, START]) != []

    def test_the_exit_status_must_agree(self) -> None:
        """Exit and Delete tell one story."""
        wrong = event("delete", exit_status=255)
        assert "exit_status" in violations([CREATE, START, EXIT, wrong])[0]


def test_a_ledger_that_may_shrink_still_must_not_grow() -> None:
    """Losses are let pass where that was said, gains never."""
    entries = Counter(["file", "file"])
    ledger = Ledger({"L5": lambda: Counter(entries)}, may_shrink=("L5",))
    before = ledger.snapshot()
    entries.subtract(["file"])
    assert ledger.settled(before, seconds=0) == {}
    entries.update(["file", "socket"])
    assert ledger.settled(before, seconds=0)["L5"].gained == ("socket",)

"""What may happen to a process next: two tables over (state, verb), with no I/O.

`TABLE` is a task's, which is its init's; `EXEC_TABLE` is that of a process added to it. Laws: every pair has
exactly one row; a verb of containerd is either a step or a refusal with a code that containerd relies on
(wire.md 3.4); the states that end in -ING take the place of locks: whoever put the process there is the only
one who may take it further, and Kill never waits for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from shim.errors import AlreadyExists, FailedPrecondition, NotFound, ShimError


class State(Enum):
    """Where a process stands. ABSENT covers never made and gone."""

    ABSENT = "absent"
    CREATING = "being created"
    CREATED = "created"
    STARTING = "being started"
    RUNNING = "running"
    PAUSING = "being paused"
    PAUSED = "paused"
    RESUMING = "being resumed"
    STOPPED = "stopped"
    DELETING = "being deleted"


class Verb(Enum):
    """What containerd asks (first block) and what the world reports (second block)."""

    CREATE = "create"
    START = "start"
    STATE = "state"
    WAIT = "wait"
    KILL = "kill"
    DELETE = "delete"
    PIDS = "pids"
    STATS = "stats"
    EXEC = "exec in"
    RESIZE = "resize"
    CLOSE_IO = "close the stdin of"
    PAUSE = "pause"
    RESUME = "resume"
    UPDATE = "update"
    CHECKPOINT = "checkpoint"

    CREATE_DONE = "created"
    CREATE_FAILED = "failed to create"
    START_DONE = "started"
    START_FAILED = "failed to start"
    EXITED = "exited"
    PAUSE_DONE = "paused"
    PAUSE_FAILED = "failed to pause"
    RESUME_DONE = "resumed"
    RESUME_FAILED = "failed to resume"
    DELETE_DONE = "deleted"
    DELETE_FAILED = "failed to delete"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a verb is not allowed; `text` is completed with the name and the state."""

    error: type[ShimError]
    text: str


Outcome = State | Refusal
Table = Mapping[tuple[State, Verb], Outcome]

NO_TASK = Refusal(NotFound, "{name}: not found")
TAKEN = Refusal(AlreadyExists, "{name}: already exists")
ALREADY_FINISHED = "process already finished: not found"  # clients match this text
FINISHED = Refusal(NotFound, ALREADY_FINISHED)
TOO_EARLY = Refusal(FailedPrecondition, "cannot {verb} {name}, which is {state}")
BUSY = TOO_EARLY
STILL_RUNS = Refusal(FailedPrecondition, "cannot delete {name}, which is {state}: kill it first")
OUR_BUG = Refusal(ShimError, "{name} was reported {verb} while {state}")

_QUERIES = (Verb.STATE, Verb.WAIT, Verb.PIDS, Verb.STATS)
_STREAMS = (Verb.RESIZE, Verb.CLOSE_IO)
_REPORTS = tuple(list(Verb)[list(Verb).index(Verb.CREATE_DONE) :])


def _row(
    state: State, steps: Mapping[Verb, Outcome], otherwise: Outcome, stay: Iterable[Verb] = ()
) -> dict[tuple[State, Verb], Outcome]:
    """All verbs of one state: `steps`; queries and `stay` stay; reports are bugs; the rest is `otherwise`."""
    row: dict[Verb, Outcome] = dict.fromkeys(Verb, otherwise)
    row |= dict.fromkeys((*_QUERIES, *stay), state)
    row |= dict.fromkeys(_REPORTS, OUR_BUG)
    row[Verb.CREATE] = TAKEN
    return {(state, verb): outcome for verb, outcome in (row | dict(steps)).items()}


def _gone(state: State) -> dict[tuple[State, Verb], Outcome]:
    """A state in which nobody has heard of the process, but for a step that makes it."""
    return _row(state, dict.fromkeys(_QUERIES, NO_TASK), NO_TASK)


TABLE: Table = {
    **_gone(State.ABSENT),
    (State.ABSENT, Verb.CREATE): State.CREATING,
    # Nothing answers NotFound later than this: containerd 2.3+ asks Stats before Create has ended.
    **_row(
        State.CREATING,
        {
            **dict.fromkeys(_QUERIES, NO_TASK),
            Verb.CREATE_DONE: State.CREATED,
            Verb.CREATE_FAILED: State.ABSENT,
        },
        BUSY,
    ),
    **_row(
        State.CREATED,
        {Verb.START: State.STARTING, Verb.DELETE: State.DELETING, Verb.EXITED: State.STOPPED},
        TOO_EARLY,
        stay=(Verb.KILL, Verb.EXEC, Verb.UPDATE, *_STREAMS),
    ),
    # An exit that races Start is held back until Start has ended, so that start is told before exit.
    **_row(
        State.STARTING,
        {Verb.EXITED: State.STARTING, Verb.START_DONE: State.RUNNING, Verb.START_FAILED: State.STOPPED},
        BUSY,
        stay=(Verb.KILL, *_STREAMS),
    ),
    **_row(
        State.RUNNING,
        {Verb.EXITED: State.STOPPED, Verb.PAUSE: State.PAUSING, Verb.DELETE: STILL_RUNS},
        TOO_EARLY,
        stay=(Verb.KILL, Verb.EXEC, Verb.UPDATE, Verb.CHECKPOINT, *_STREAMS),
    ),
    # Whoever paused looks whether the task is still being paused before it reports: it may have died.
    **_row(
        State.PAUSING,
        {
            Verb.EXITED: State.STOPPED,
            Verb.PAUSE_DONE: State.PAUSED,
            Verb.PAUSE_FAILED: State.RUNNING,
            Verb.DELETE: STILL_RUNS,
        },
        BUSY,
        stay=(Verb.KILL, *_STREAMS),
    ),
    **_row(
        State.PAUSED,
        {Verb.EXITED: State.STOPPED, Verb.RESUME: State.RESUMING, Verb.DELETE: STILL_RUNS},
        TOO_EARLY,
        stay=(Verb.KILL, Verb.UPDATE, Verb.CHECKPOINT, *_STREAMS),
    ),
    **_row(
        State.RESUMING,
        {
            Verb.EXITED: State.STOPPED,
            Verb.RESUME_DONE: State.RUNNING,
            Verb.RESUME_FAILED: State.PAUSED,
            Verb.DELETE: STILL_RUNS,
        },
        BUSY,
        stay=(Verb.KILL, *_STREAMS),
    ),
    **_row(
        State.STOPPED,
        # A process that outlived the failed start it belonged to is reported here.
        {Verb.KILL: FINISHED, Verb.DELETE: State.DELETING, Verb.EXITED: State.STOPPED},
        TOO_EARLY,
        stay=_STREAMS,
    ),
    # A created task that is deleted is killed on the way, so its exit may be reported here.
    **_row(
        State.DELETING,
        {
            Verb.KILL: FINISHED,
            Verb.EXITED: State.DELETING,
            Verb.DELETE_DONE: State.ABSENT,
            Verb.DELETE_FAILED: State.STOPPED,
        },
        BUSY,
        stay=_STREAMS,
    ),
}

# An exec is made at once, and forgotten at once; a failed start leaves it as it was (wire.md 3.3).
EXEC_TABLE: Table = {
    **_gone(State.ABSENT),
    (State.ABSENT, Verb.CREATE): State.CREATED,
    **_row(State.CREATED, {Verb.START: State.STARTING, Verb.DELETE: State.ABSENT}, TOO_EARLY, stay=_STREAMS),
    **_row(
        State.STARTING,
        {Verb.EXITED: State.STARTING, Verb.START_DONE: State.RUNNING, Verb.START_FAILED: State.CREATED},
        BUSY,
        stay=_STREAMS,
    ),
    **_row(
        State.RUNNING,
        {Verb.EXITED: State.STOPPED, Verb.DELETE: STILL_RUNS},
        TOO_EARLY,
        stay=(Verb.KILL, *_STREAMS),
    ),
    **_row(State.STOPPED, {Verb.KILL: FINISHED, Verb.DELETE: State.ABSENT}, TOO_EARLY, stay=_STREAMS),
}


def step(name: str, state: State, verb: Verb, table: Table = TABLE) -> State:
    """The state after `verb`; raises the refusal's error, with a message that has `name` and state."""
    outcome = table[state, verb]
    if isinstance(outcome, Refusal):
        raise outcome.error(outcome.text.format(name=name, state=state.value, verb=verb.value))
    return outcome

"""What may happen to a task next: one table over (state, verb), with no I/O.

Laws: every pair has exactly one row; a verb of containerd is either a step or a refusal with a code that
containerd relies on (wire.md 3.4); the states that end in -ING take the place of locks: whoever put the
task there is the only one who may take it further, and Kill never waits for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from shim.errors import AlreadyExists, FailedPrecondition, NotFound, ShimError


class State(Enum):
    """Where a task stands. ABSENT covers never made and gone."""

    ABSENT = "absent"
    CREATING = "being created"
    CREATED = "created"
    STARTING = "being started"
    RUNNING = "running"
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

    CREATE_DONE = "created"
    CREATE_FAILED = "failed to create"
    START_DONE = "started"
    START_FAILED = "failed to start"
    EXITED = "exited"
    DELETE_DONE = "deleted"
    DELETE_FAILED = "failed to delete"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a verb is not allowed; `text` is completed with the id and the state."""

    error: type[ShimError]
    text: str


Outcome = State | Refusal

NO_TASK = Refusal(NotFound, "task {id}: not found")
TAKEN = Refusal(AlreadyExists, "task {id}: already exists")
ALREADY_FINISHED = "process already finished: not found"  # clients match this text
FINISHED = Refusal(NotFound, ALREADY_FINISHED)
TOO_EARLY = Refusal(FailedPrecondition, "cannot {verb} task {id}, which is {state}")
BUSY = TOO_EARLY
STILL_RUNS = Refusal(FailedPrecondition, "cannot delete task {id}, which is {state}: kill it first")
OUR_BUG = Refusal(ShimError, "task {id} was reported {verb} while {state}")

_QUERIES = (Verb.STATE, Verb.WAIT, Verb.PIDS, Verb.STATS)
_REPORTS = tuple(list(Verb)[list(Verb).index(Verb.CREATE_DONE) :])


def _row(state: State, steps: dict[Verb, Outcome], otherwise: Outcome) -> dict[tuple[State, Verb], Outcome]:
    """All verbs of one state: `steps`, queries stay, reports are bugs, the rest is `otherwise`."""
    row: dict[Verb, Outcome] = dict.fromkeys(Verb, otherwise)
    row |= dict.fromkeys(_QUERIES, state)
    row |= dict.fromkeys(_REPORTS, OUR_BUG)
    row[Verb.CREATE] = TAKEN
    return {(state, verb): outcome for verb, outcome in (row | steps).items()}


TABLE: dict[tuple[State, Verb], Outcome] = {
    **_row(State.ABSENT, {Verb.CREATE: State.CREATING, **dict.fromkeys(_QUERIES, NO_TASK)}, NO_TASK),
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
        {
            Verb.START: State.STARTING,
            Verb.KILL: State.CREATED,
            Verb.DELETE: State.DELETING,
            Verb.EXITED: State.STOPPED,
        },
        TOO_EARLY,
    ),
    # An exit that races Start is held back until Start has ended, so that start is told before exit.
    **_row(
        State.STARTING,
        {
            Verb.KILL: State.STARTING,
            Verb.EXITED: State.STARTING,
            Verb.START_DONE: State.RUNNING,
            Verb.START_FAILED: State.STOPPED,
        },
        BUSY,
    ),
    **_row(
        State.RUNNING,
        {Verb.KILL: State.RUNNING, Verb.EXITED: State.STOPPED, Verb.DELETE: STILL_RUNS},
        TOO_EARLY,
    ),
    **_row(
        State.STOPPED,
        # A process that outlived the failed start it belonged to is reported here.
        {Verb.KILL: FINISHED, Verb.DELETE: State.DELETING, Verb.EXITED: State.STOPPED},
        TOO_EARLY,
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
    ),
}


def step(task_id: str, state: State, verb: Verb) -> State:
    """The state after `verb`; raises the refusal's error, with a message that names id and state."""
    outcome = TABLE[state, verb]
    if isinstance(outcome, Refusal):
        raise outcome.error(outcome.text.format(id=task_id, state=state.value, verb=verb.value))
    return outcome

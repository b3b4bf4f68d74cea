"""The lifecycle table over its whole product of states and verbs."""

import itertools

import pytest

from shim.errors import AlreadyExists, FailedPrecondition, NotFound, ShimError
from shim.task.state import EXEC_TABLE, TABLE, Refusal, State, Verb, step

S, V = State, Verb
QUERIES = (V.STATE, V.WAIT, V.PIDS, V.STATS)
STREAMS = (V.RESIZE, V.CLOSE_IO)
REPORTS = tuple(list(V)[list(V).index(V.CREATE_DONE) :])
LIVE = tuple(state for state in S if state not in (S.ABSENT, S.CREATING))
PAUSES = (S.PAUSING, S.PAUSED, S.RESUMING)

# Every pair that moves or stays; whatever is not here is refused as `refused` says.
ALLOWED = {
    (S.ABSENT, V.CREATE): S.CREATING,
    (S.CREATING, V.CREATE_DONE): S.CREATED,
    (S.CREATING, V.CREATE_FAILED): S.ABSENT,
    (S.CREATED, V.START): S.STARTING,
    (S.CREATED, V.DELETE): S.DELETING,
    (S.CREATED, V.EXITED): S.STOPPED,
    (S.STARTING, V.EXITED): S.STARTING,
    (S.STARTING, V.START_DONE): S.RUNNING,
    (S.STARTING, V.START_FAILED): S.STOPPED,
    (S.RUNNING, V.EXITED): S.STOPPED,
    (S.RUNNING, V.PAUSE): S.PAUSING,
    (S.PAUSING, V.PAUSE_DONE): S.PAUSED,
    (S.PAUSING, V.PAUSE_FAILED): S.RUNNING,
    (S.PAUSED, V.RESUME): S.RESUMING,
    (S.RESUMING, V.RESUME_DONE): S.RUNNING,
    (S.RESUMING, V.RESUME_FAILED): S.PAUSED,
    (S.STOPPED, V.DELETE): S.DELETING,
    (S.STOPPED, V.EXITED): S.STOPPED,
    (S.DELETING, V.EXITED): S.DELETING,
    (S.DELETING, V.DELETE_DONE): S.ABSENT,
    (S.DELETING, V.DELETE_FAILED): S.STOPPED,
    **{(state, V.EXITED): S.STOPPED for state in PAUSES},
    **{(state, V.KILL): state for state in (S.CREATED, S.STARTING, S.RUNNING, *PAUSES)},
    **{(state, verb): state for state in (S.CREATED, S.RUNNING) for verb in (V.EXEC, V.UPDATE)},
    (S.PAUSED, V.UPDATE): S.PAUSED,
    (S.RUNNING, V.CHECKPOINT): S.RUNNING,
    (S.PAUSED, V.CHECKPOINT): S.PAUSED,
    **{(state, verb): state for state in LIVE for verb in (*QUERIES, *STREAMS)},
}

EXEC_ALLOWED = {
    (S.ABSENT, V.CREATE): S.CREATED,
    (S.CREATED, V.START): S.STARTING,
    (S.CREATED, V.DELETE): S.ABSENT,
    (S.STARTING, V.EXITED): S.STARTING,
    (S.STARTING, V.START_DONE): S.RUNNING,
    (S.STARTING, V.START_FAILED): S.CREATED,
    (S.RUNNING, V.EXITED): S.STOPPED,
    (S.RUNNING, V.KILL): S.RUNNING,
    (S.STOPPED, V.DELETE): S.ABSENT,
    **{
        (state, verb): state
        for state in (S.CREATED, S.STARTING, S.RUNNING, S.STOPPED)
        for verb in (*QUERIES, *STREAMS)
    },
}


def refused(state: State, verb: Verb) -> type[ShimError]:
    """The error that containerd relies on for a pair that is not allowed (wire.md 3.4)."""
    if verb in REPORTS:
        return ShimError
    if verb is V.CREATE:
        return AlreadyExists
    if state is S.ABSENT or (state is S.CREATING and verb in QUERIES):
        return NotFound
    if verb is V.KILL and state in (S.STOPPED, S.DELETING):
        return NotFound
    return FailedPrecondition


EXEC_STATES = (S.ABSENT, S.CREATED, S.STARTING, S.RUNNING, S.STOPPED)


@pytest.mark.parametrize(("state", "verb"), list(itertools.product(EXEC_STATES, Verb)))
def test_every_pair_of_an_exec(state: State, verb: Verb) -> None:
    """An exec has fewer states, and a failed start leaves it as it was (wire.md 3.3)."""
    if (state, verb) in EXEC_ALLOWED:
        assert step("e1", state, verb, EXEC_TABLE) is EXEC_ALLOWED[state, verb]
        return
    with pytest.raises(refused(state, verb)) as caught:
        step("e1", state, verb, EXEC_TABLE)
    assert type(caught.value) is refused(state, verb)


@pytest.mark.parametrize(("state", "verb"), list(itertools.product(State, Verb)))
def test_every_pair(state: State, verb: Verb) -> None:
    """Each of the states answers each of the verbs as containerd expects."""
    if (state, verb) in ALLOWED:
        assert step("t1", state, verb) is ALLOWED[state, verb]
        return
    with pytest.raises(refused(state, verb)) as caught:
        step("t1", state, verb)
    assert type(caught.value) is refused(state, verb)


def test_the_table_is_total() -> None:
    """No pair is missing and none is extra."""
    assert set(TABLE) == set(itertools.product(State, Verb))
    assert set(EXEC_TABLE) == set(itertools.product(EXEC_STATES, Verb))


def test_a_dead_process_is_named_as_clients_expect() -> None:
    """Docker and CRI match this text."""
    with pytest.raises(NotFound, match="^process already finished: not found$"):
        step("t1", State.STOPPED, Verb.KILL)


def test_refusals_name_task_state_and_verb() -> None:
    """A refusal can be understood without the log."""
    with pytest.raises(FailedPrecondition, match="cannot start task web, which is running"):
        step("task web", State.RUNNING, Verb.START)


def test_every_state_can_end() -> None:
    """From each state there is a way to ABSENT, so nothing is stuck for ever."""
    reach = {State.ABSENT}
    while True:
        more = {s for (s, _), out in TABLE.items() if not isinstance(out, Refusal) and out in reach} - reach
        if not more:
            break
        reach |= more
    assert reach == set(State)

"""What several replicas of a shard do with one lane job: commit, open their logs, close them.

A part that fails, whatever the reason, leaves the others alone: its fault is returned as a value,
for the shard to judge.

Whoever waits for a job that runs cannot be cancelled. So where a stop must not wait for a job of
many calls, the job is given an `IsOver`, which it asks before each of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import outcome

from trio_broker.broker.supervise import contained
from trio_broker.errors import StorageError, StuckIO
from trio_broker.storage.disk_state import FULL

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio_broker.broker.append_slot import AppendSlot
    from trio_broker.broker.replica import Replica
    from trio_broker.errors import AppendFailed
    from trio_broker.host.interface import Job, Space
    from trio_broker.storage.log import AppendPlan, Log

    #: Tells a job, on whatever thread it runs, whether nobody wants it to go on any more.
    IsOver: TypeAlias = Callable[[], bool]

T = TypeVar("T")


class PlannedCommit:
    """One replica's part of a group commit.

    Attributes:
        log: the replica's when this was planned. By the time the job has ended it may have been
            closed, with the task of its replica.
        sync: whether it is made durable with the write.
    """

    __slots__ = ("log", "plan", "replica", "size_bytes", "slots", "sync")

    def __init__(self, replica: Replica, slots: list[AppendSlot], plan: AppendPlan) -> None:
        self.replica = replica
        self.log = replica.log
        self.slots = slots
        self.plan = plan
        self.sync = False
        self.size_bytes = sum(slot.size_bytes for slot in slots)


class GivenUp(StorageError):
    """Nobody waits any more for a job that was under way; the disk is none the worse."""

    def __init__(self) -> None:
        super().__init__("given up, since the broker is stopping")


def never_over() -> bool:
    """Be the `IsOver` of jobs that are always wanted."""
    return False


def stoppable(job: Job[T], is_over: IsOver) -> Job[T]:
    """Run a job as long as it is wanted: afterwards its next call is not made, and fails.

    Not what it does right after a failure: it cleans up then, or leaves a note of that.

    Raises:
        GivenUp: that is why it ended.
    """
    result: outcome.Outcome[Any] = outcome.Value(None)
    try:
        while True:
            try:
                call = result.send(job)
            except StopIteration as stop:
                value: T = stop.value
                return value
            if is_over() and isinstance(result, outcome.Value):
                result = outcome.Error(GivenUp())
                continue
            try:
                result = outcome.Value((yield call))
            except (OSError, StorageError) as error:
                result = outcome.Error(error)
    finally:
        job.close()


def named(job: Job[None], name: str) -> Job[None]:
    """Run a job for a replica, and say which one it is if it fails.

    Raises:
        StuckIO: as it is.
        StorageError: anything else that the disk has refused.
    """
    try:
        yield from job
    except StuckIO:
        raise
    except (OSError, StorageError) as error:
        raise StorageError(f"{name}: {error}") from error


def concerns_one_log(failure: Exception) -> bool:
    """Tell whether what has failed in a `named` job says nothing of other logs, or of the disk.

    So it is where somebody has taken the rights to a directory away. An fsync that has failed, or
    an error of the disk, leaves nobody free of doubt.
    """
    return isinstance(failure.__cause__, PermissionError)


def commit_job(
    commits: Sequence[PlannedCommit], is_over: IsOver = never_over
) -> Job[list[Exception | None]]:
    """Write every part; a part that fails does not keep the next one from being written.

    Unless it failed because a call came back after its deadline: by then nobody waits for the rest,
    and its plans have been given up. Results are missing for parts that were not begun because all
    was over.
    """
    results: list[Exception | None] = []
    for commit in commits:
        if is_over():
            break
        part = commit.log.append_job(commit.plan, sync=commit.sync)
        results.append((yield from contained(part)))
    return results


def open_job(
    jobs: Sequence[Job[Log]], results: list[Log | Exception], is_over: IsOver
) -> Job[None]:
    """Open logs one after the other.

    Args:
        jobs: what opens them.
        is_over: those that are not open by then are given up.
        results: grows with what each has come to. If a call hangs for too long, those before it are
            there, and nothing is added any more.
    """
    for job in jobs:
        results.append((yield from contained(stoppable(job, is_over))))


def in_turn(jobs: Sequence[Job[None]], failures: list[Exception], is_over: IsOver) -> Job[None]:
    """Run several jobs in one go, all of them even if one fails; collect the failures.

    Raises:
        StuckIO: see `contained`.
        StorageError: all was over before they had ended.
    """
    for number, job in enumerate(jobs):
        if is_over():
            raise StorageError(f"{len(jobs) - number} of {len(jobs)} logs were not reached in time")
        if (failure := (yield from contained(stoppable(job, is_over)))) is not None:
            failures.append(failure)


def why_refused(error: AppendFailed, size_bytes: int, space: Space | None) -> str:
    """Say why a write was refused; on a full disk also how much was to be written, and is free."""
    if error.errno not in FULL:
        return str(error)
    text = f"{error}: {size_bytes} bytes were to be written"
    return text if space is None else f"{text}, {space.free_bytes} were free a moment ago"

"""What several replicas of a shard do with one lane job: commit, open their logs, close them.

A part that fails, whatever the reason, leaves the others alone: its fault is returned as a value,
for the shard to judge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.broker.supervise import contained
from trio_broker.storage.disk_state import FULL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_broker.broker.append_slot import AppendSlot
    from trio_broker.broker.replica import Replica
    from trio_broker.errors import AppendFailed
    from trio_broker.host.interface import Job, Space
    from trio_broker.storage.log import AppendPlan, Log


class PlannedCommit:
    """One replica's part of a group commit.

    Attributes:
        log: the replica's when this was planned. By the time the job has ended it may have been
            closed, with the task of its replica.
    """

    __slots__ = ("log", "plan", "replica", "size_bytes", "slots", "sync")

    def __init__(
        self, replica: Replica, slots: list[AppendSlot], plan: AppendPlan, *, sync: bool
    ) -> None:
        self.replica = replica
        self.log = replica.log
        self.slots = slots
        self.plan = plan
        self.sync = sync
        self.size_bytes = sum(slot.size_bytes for slot in slots)


def commit_job(commits: Sequence[PlannedCommit]) -> Job[list[Exception | None]]:
    """Write every part; a part that fails does not keep the next one from being written.

    Unless it failed because a call came back after its deadline: by then nobody waits for the rest,
    and its plans have been given up.
    """
    results: list[Exception | None] = []
    for commit in commits:
        part = commit.log.append_job(commit.plan, sync=commit.sync)
        results.append((yield from contained(part)))
    return results


def open_job(jobs: Sequence[Job[Log]], results: list[Log | Exception]) -> Job[None]:
    """Open logs one after the other.

    Args:
        jobs: what opens them.
        results: grows with what each has come to. If a call hangs for too long, those before it are
            there, and nothing is added any more.
    """
    for job in jobs:
        results.append((yield from contained(job)))


def in_turn(jobs: Sequence[Job[None]], failures: list[Exception]) -> Job[None]:
    """Run several jobs in one go, all of them even if one fails; collect the failures.

    Raises:
        StuckIO: see `contained`.
    """
    for job in jobs:
        if (failure := (yield from contained(job))) is not None:
            failures.append(failure)


def why_refused(error: AppendFailed, size_bytes: int, space: Space | None) -> str:
    """Say why a write was refused; on a full disk also how much was to be written, and is free."""
    if error.errno not in FULL:
        return str(error)
    text = f"{error}: {size_bytes} bytes were to be written"
    return text if space is None else f"{text}, {space.free_bytes} were free a moment ago"

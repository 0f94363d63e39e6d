"""Mistakes that a broker could make, each planted by replacing one function.

A workload that does not notice them proves nothing about the broker that passes it. The mistakes of
a log alone are those of `log_mutants`, planted here into a whole broker; `sweep` looks for them at
every operation, this looks whether clients of a broker would have noticed.

``python -m tests.simulation.broker.mutants`` looks for each with up to 300 seeds and prints which
number caught it, and by what.
"""

from __future__ import annotations

import argparse
import gc
import logging
import random
import sys
from collections import deque
from contextlib import ExitStack, contextmanager, suppress
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest.mock import patch

from tests.simulation import log_mutants
from tests.simulation.broker import fuzz, race
from trio_broker.broker.groups_partition import GroupsPartition
from trio_broker.broker.housekeeping import Housekeeper
from trio_broker.broker.log_dir import LogDir
from trio_broker.broker.reconciler import Reconciler
from trio_broker.broker.replica import Replica
from trio_broker.broker.shard import Shard
from trio_broker.broker.shard_upkeep import ShardUpkeep
from trio_broker.errors import AppendFailed, ErrorCode
from trio_broker.group.commits import Commits
from trio_broker.group.membership import Membership
from trio_broker.storage import upkeep
from trio_broker.storage.log_dir import LogDirectory
from trio_broker.testing import invariants
from trio_broker.testing.model import Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from trio_broker.broker.append_slot import AppendSlot
    from trio_broker.broker.shard_jobs import PlannedCommit
    from trio_broker.group.commands import GroupDecision
    from trio_broker.host.interface import Job
    from trio_broker.storage.upkeep import LogSummary, LogUpkeep
    from trio_broker.testing.sim.run import Result

#: A mistake that is not noticed by then has survived.
TRIES_MAX = 300
#: Strikes are drawn among so many steps; the moment has a few more.
_RACE_STEPS = 200


def _poison(self: Shard, commit: PlannedCommit, error: Exception) -> None:
    """Take a partition offline for good because its disk was full once."""
    if not isinstance(error, AppendFailed):
        _REAL_REFUSE_COMMIT(self, commit, error)
        return
    commit.replica.go_offline(str(error))
    for slot in commit.slots:
        slot.refuse(ErrorCode.KAFKA_STORAGE_ERROR, str(error))


_REAL_REFUSE_COMMIT = Shard._refuse_commit


def _close_without_flush(
    self: LogUpkeep,
    _checkpoint: object,
    _flush: object,
    _doomed: object,
    summary: LogSummary,
    *,
    must_sync_names: bool,
) -> Job[None]:
    """Say that a log is clean without writing it to the disk first."""
    yield from ()
    self.clean_summary = summary


def _release_all_but_one(self: Replica) -> None:
    """Leave the newest file of a deleted log open."""
    is_deleted = self.closed_code is ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    if is_deleted and self.has_log:
        cache = self.log._cache
        for segment in self.log.segments:
            if segment.file is not None:
                del cache._files[segment]
                segment.file = None
                break
    _REAL_RELEASE_LOG(self)


_REAL_RELEASE_LOG = Replica.release_log


def _drop_queued(self: Shard, replica: Replica, code: ErrorCode, message: str | None) -> None:
    """Forget the queued batches of a replica that goes, and those who wait for them."""
    mine = [slot for slot in self._queue if slot.replica is replica]
    self._queue = deque(slot for slot in self._queue if slot.replica is not replica)
    for slot in mine:
        self._forget_queued(slot.size_bytes)


def _answer_before_stored(self: GroupsPartition, decision: GroupDecision) -> None:
    """Tell clients that offsets are committed while their records are still on the way."""
    _REAL_CARRY_OUT(self, decision)
    if decision.records:
        following = self.machine.stored(decision, self.now())
        self._answer(following)


_REAL_CARRY_OUT = GroupsPartition.carry_out


async def _delete_later(self: Shard, replicas: Sequence[Replica]) -> None:
    """Answer a deletion while the tasks and files of the topic are still there."""
    assert self._nursery is not None
    self._nursery.start_soon(_REAL_DELETE, self, replicas)


_REAL_DELETE = Shard.delete_replicas


def _answer_retry_of_queued(self: Replica, slot: AppendSlot) -> bool:
    """Answer a retry though its first copy only waits in the queue."""
    header = slot.header
    if header is None or header.producer_id < 0 or _REAL_ANSWER_DUPLICATE(self, slot):
        return slot.resolved
    offset = self.log.log_end_offset if self.has_log else 0
    for queued in self.shard._queue:
        first = queued.header
        if queued.replica is not self or first is None or queued is slot:
            continue
        if (first.producer_id, first.base_sequence) == (header.producer_id, header.base_sequence):
            slot.accept(offset, -1, 0)
            return True
        offset += first.last_offset_delta + 1
    return False


_REAL_ANSWER_DUPLICATE = Replica.answer_duplicate


def _fail_everywhere(self: LogDir, error: BaseException) -> None:
    """Take a disk that fails for all disks."""
    for log_dir in self._state.log_dirs:
        _REAL_FAIL(log_dir, error)


_REAL_FAIL = LogDir.fail


async def _read_or_fail(self: ShardUpkeep, job: Job[Any]) -> Any:
    """Take a log that cannot be read for a disk that does not work."""
    try:
        return await _REAL_READ(self, job)
    except OSError as error:
        self.log_dir.fail(error)
        raise


_REAL_READ = ShardUpkeep.read


async def _follow_without_flush(self: ShardUpkeep, replica: Replica) -> None:
    """Promise that acknowledgements are on the disk, and forget those given before."""
    if replica.has_log:
        replica.follow_topic()
        self.housekeeper.look_at(replica)


def _find_no_fault(*_: object) -> ErrorCode:
    """Let whoever asks commit offsets."""
    return ErrorCode.NONE


def _keep_alive_if_known(self: Membership, group: Any, member_id: str, now: Any) -> None:
    """Go on without those that are no members any more."""
    with suppress(KeyError):
        _REAL_KEEP_ALIVE(self, group, member_id, now)


_REAL_KEEP_ALIVE = Membership.keep_alive


def _ignore(*_: object, **__: object) -> None:
    """Do nothing."""


async def _look_away(*_: object, **__: object) -> None:
    """Do nothing, when asked to wait for it."""


def _always_fail(*_: object, **__: object) -> None:
    raise Violation("the canary has been heard")


class Mutant(NamedTuple):
    """One mistake.

    Attributes:
        patches: make what is to be replaced while it is in place.
        kinds: strikes of `race` that bring it to light; empty: the seeds of `fuzz` do.
        troubles: the only ones in these seeds; empty: those that each seed draws.
        hint: a number (see `try_number`) that notices it, tried before the others.
    """

    patches: tuple[Callable[[], Any], ...]
    kinds: tuple[str, ...] = ()
    troubles: tuple[str, ...] = ()
    hint: int = 1


def _replacing(owner: Any, name: str, by: Any) -> tuple[Callable[[], Any], ...]:
    return (lambda: patch.object(owner, name, by),)


def _of_the_log(name: str, *troubles: str, hint: int = 1) -> Mutant:
    return Mutant(log_mutants.MUTANTS[name].patches, troubles=troubles, hint=hint)


MUTANTS = {
    "canary": Mutant(_replacing(invariants, "check_quiet", _always_fail)),
    "full disk poisons a partition": Mutant(
        _replacing(Shard, "_refuse_commit", _poison), ("full disk",)
    ),
    "stop without flush": Mutant(
        _replacing(upkeep.LogUpkeep, "_close", _close_without_flush), troubles=("stop",)
    ),
    "descriptor leak on delete": Mutant(_replacing(Replica, "release_log", _release_all_but_one)),
    "deletion answered too early": Mutant(
        _replacing(Shard, "delete_replicas", _delete_later),
        troubles=("delete", "frozen disk"),
        hint=10,
    ),
    "state cleared before queued work is failed": Mutant(
        _replacing(Shard, "refuse_queued", _drop_queued), ("delete", "leave", "stop")
    ),
    "no retention": Mutant(_replacing(Housekeeper, "_look_after", _look_away)),
    "lost wake-up of a parked fetch": Mutant(_replacing(Replica, "published", _ignore), hint=6),
    "parked fetch not told of a deletion": Mutant(
        _replacing(Replica, "wake_waiters", _ignore), ("delete",)
    ),
    "offsets answered before they are stored": Mutant(
        _replacing(GroupsPartition, "carry_out", _answer_before_stored),
        troubles=("kill", "power cut"),
    ),
    "retry answered before its first copy is stored": Mutant(
        _replacing(Replica, "answer_duplicate", _answer_retry_of_queued),
        troubles=("frozen disk", "power cut"),
        hint=104,
    ),
    "altered topic goes on as before": Mutant(
        _replacing(Reconciler, "configure_topics", _look_away), hint=20
    ),
    "promise raised without a flush": Mutant(
        _replacing(ShardUpkeep, "follow_topic", _follow_without_flush), hint=54
    ),
    "commits of older generations are taken": Mutant(
        (
            *_replacing(Commits, "_commit_fault", _find_no_fault),
            *_replacing(Membership, "keep_alive", _keep_alive_if_known),
        ),
        hint=20,
    ),
    "failing log dir takes the others": Mutant(
        _replacing(LogDir, "fail", _fail_everywhere), troubles=("failing log dir",)
    ),
    "unreadable partition takes its log dir": Mutant(
        _replacing(ShardUpkeep, "read", _read_or_fail), troubles=("failing partition",), hint=9
    ),
    "no fsync before the acknowledgement": _of_the_log("no fsync before the acknowledgement"),
    "no directory fsync on roll": _of_the_log("no directory fsync on roll"),
    "fsync retried after EIO": _of_the_log(
        "fsync retried after EIO", "failed fsync", "power cut", hint=6
    ),
    "short write not looped": _of_the_log("short write not looped", "short writes", "kill"),
    "no CRC on recovery": _of_the_log(
        "no CRC on recovery", "power cut", "power cut at an operation"
    ),
    "clean marker left in place": _of_the_log("clean marker left in place", "stop", "power cut"),
    "clean marker not believed": Mutant(
        _replacing(LogDirectory, "take_summary", _ignore), troubles=("stop",)
    ),
}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """Make a mistake for a while."""
    with ExitStack() as stack:
        for make in MUTANTS[name].patches:
            stack.enter_context(make())
        yield


def try_number(mutant: Mutant, number: int) -> Result[Any]:
    """Look for a mistake once: with a seed of `fuzz`, or with one strike of `race`."""
    if not mutant.kinds:
        return fuzz.run_seed(number, troubles=mutant.troubles)
    kind = mutant.kinds[number % len(mutant.kinds)]
    step = random.Random(number).randint(1, _RACE_STEPS)
    return race.run(race.Case(number, kind, step))


class Catch(NamedTuple):
    """How a mistake was noticed.

    Attributes:
        number: that `try_number` took.
        tries: how many it took before, and this one.
        steps: of all of them.
        seconds: likewise.
        by: what was said.
    """

    number: int
    tries: int
    steps: int
    seconds: float
    by: str

    def __str__(self) -> str:
        rates = f"{self.tries / self.seconds * 60:.0f} runs/min, {self.steps / self.seconds:.0f}"
        return (
            f"number {self.number}, after {self.tries} runs and {self.seconds:.1f} s ({rates}"
            f" steps/s): {self.by[:160]}"
        )


def catch(name: str, *, tries_max: int = TRIES_MAX) -> Catch | None:
    """Look for a mistake until it is noticed; None: it was not."""
    mutant = MUTANTS[name]
    began, steps = perf_counter(), 0
    numbers = dict.fromkeys([mutant.hint, *range(1, tries_max + 1)])
    with planted(name):
        for tries, number in enumerate(numbers, 1):
            result = try_number(mutant, number)
            steps += result.steps
            if result.error is not None:
                seconds = perf_counter() - began
                return Catch(number, tries, steps, seconds, fuzz.describe(result.error))
            if tries % 20 == 0:
                gc.collect()
    return None


def main(arguments: list[str]) -> int:
    """Look for the mistakes that the command line names; return 1 if one is not noticed."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.broker.mutants")
    parser.add_argument("names", nargs="*", choices=[*MUTANTS, []], metavar="NAME")
    parser.add_argument("--tries", type=int, default=TRIES_MAX)
    options = parser.parse_args(arguments)
    logging.getLogger("trio_broker").setLevel(logging.CRITICAL)
    survivors = 0
    for name in options.names or MUTANTS:
        found = catch(name, tries_max=options.tries)
        if found is None:
            survivors += 1
            print(f"{name}: SURVIVED {options.tries} tries", flush=True)
        else:
            print(f"{name}: {found}", flush=True)
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Lets the machine die at every disk operation of ``__consumer_offsets`` while groups are at work.

``python -m tests.simulation.group_sweep --seeds 1-3`` goes through all of them, by a power cut, by
a kill of the process (with logs that are synced, and with such that are not), and by two power cuts
in a row; the tests do the same for some of them. A failure prints the line that repeats it:
``python -m tests.simulation.group_sweep --case '<case>'``.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from tests.simulation.group_world import Case, parse_case, run_case
from tests.simulation.sweeping import run_sweep, sweep_parser
from trio_broker.broker.groups_partition import GroupsPartition
from trio_broker.group.registry import Groups
from trio_broker.group.schemas import GroupMetadataKey, decode_key
from trio_broker.group.turn import Turn
from trio_broker.testing.sim.faults import NodeDead

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_broker.records.build import Record

KINDS = ("power", "kill", "power twice", "kill unsynced")
#: What a sweep takes for a failure: a broken promise, or anything it did not expect.
BUGS = (Exception, NodeDead)


@cache
def operations_of(seed: int, kind: str = "none") -> tuple[int, ...]:
    """Return the operations on ``__consumer_offsets`` of a story without crashes."""
    return tuple(run_case(Case(seed, kind)).operations)


def cases(seeds: range, *, every: int = 1, first: int = 0) -> Iterator[Case]:
    """Return the cases of some seeds: each kind at every `every`-th operation."""
    for seed in seeds:
        for number, kind in enumerate(KINDS):
            # Another phase per kind, so that sparse sweeps do not all hit the same operations.
            whole = "none unsynced" if kind.endswith("unsynced") else "none"
            for operation in operations_of(seed, whole)[(first + number * 5) % every :: every]:
                yield Case(seed, kind, operation)


def error_of(case: Case) -> BaseException | None:
    """Run one case and return what it failed with."""
    try:
        run_case(case)
    except BUGS as error:
        return error
    return None


# ------------------------------------------------------------------------------------- mutants
_replay = GroupsPartition._replay_record


def _replay_no_tombstones(partition: GroupsPartition, record: Record) -> None:
    if record.value is not None:
        _replay(partition, record)


def _replay_first_generation(partition: GroupsPartition, record: Record) -> None:
    key = decode_key(record.key or b"")
    if isinstance(key, GroupMetadataKey):
        group = partition.machine._groups.get(key.group_id)
        if group is not None and group.stored is not None:
            return
    _replay(partition, record)


def _answer_at_once(turn: Turn, token: object, response: Any, otherwise: object) -> None:
    del otherwise
    turn.answer(token, response)


#: Mistakes that a coordinator could make, each with a case that finds it.
MUTANTS: dict[str, tuple[object, str, object, str]] = {
    "answers before it is stored": (Turn, "answer_when_stored", _answer_at_once, "1 power 140"),
    "copies offsets and no groups when it shortens its log": (
        Groups,
        "live_records",
        lambda groups: groups.offsets.live_records(),
        "1 power 351",
    ),
    "forgets what was deleted": (
        GroupsPartition,
        "_replay_record",
        _replay_no_tombstones,
        "1 power 91",
    ),
    "takes the first generation for the last": (
        GroupsPartition,
        "_replay_record",
        _replay_first_generation,
        "1 power 91",
    ),
}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """Let the coordinator make a mistake for the length of a block."""
    owner, attribute, replacement, _ = MUTANTS[name]
    with patch.object(owner, attribute, replacement):
        yield


def hint_of(name: str) -> Case:
    """Return a case that found a mistake once."""
    return parse_case(MUTANTS[name][3])


def mutant_error(name: str, case: Case) -> BaseException | None:
    """Run one case with a mistake in place and return what it failed with."""
    operations_of(case.seed)  # as it is without the mistake
    with planted(name):
        return error_of(case)


def main(arguments: list[str]) -> int:
    """Run a sweep and report; return 1 if a promise was broken."""
    parser = sweep_parser("python -m tests.simulation.group_sweep", seeds="1")
    options = parser.parse_args(arguments)
    return run_sweep(
        options,
        run_text=lambda text: run_case(parse_case(text)),
        cases=lambda: cases(options.seeds, every=options.every),
        error_of=error_of,
        mutants=MUTANTS,
        mutant_error=mutant_error,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Seeds for as long as there is time, in several processes at once.

Each process runs every n-th seed (`worker.fuzz`) and tells of failures; here they are put together
by kind, so that one mistake is reported once however many seeds find it.
"""

from __future__ import annotations

import json
import random
import subprocess
from typing import TYPE_CHECKING, Any

import trio
from attrs import define, field

from trio_broker.testing.sim.exploration import SHRINK_SECONDS
from trio_broker.testing.sim.targets import worker_command

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

#: Bytes of one line that a worker writes, at most.
_LINE_BYTES_MAX = 4 << 20


@define
class Found:
    """One kind of failure.

    Attributes:
        seed: the first that failed so.
        report: what to show of it.
        token: replays it; None if its seed has to do.
        count: how many seeds failed so.
    """

    seed: int
    report: str
    token: str | None
    count: int = 1


@define
class Fuzzed:
    """What came of it, so far.

    Attributes:
        runs, steps: of all processes.
        found: failures by kind.
    """

    runs: int = 0
    steps: int = 0
    found: dict[str, Found] = field(factory=dict)


class WorkerFailed(RuntimeError):
    """A process that runs seeds has ended by itself; stderr says why."""


def fresh_seed() -> int:
    """Return a seed that nobody has tried."""
    return random.SystemRandom().randrange(1 << 40)


async def fuzz(
    target: str,
    *,
    seconds: float,
    jobs: int,
    first_seed: int = 0,
    double_every: int = 20,
    shrink_seconds: float = SHRINK_SECONDS,
    kinds_max: int | None = None,
    on_found: Callable[[Found], object] = lambda _: None,
    on_progress: Callable[[Fuzzed], object] = lambda _: None,
    **options: Any,
) -> Fuzzed:
    """Run seeds of a program until the time is over.

    Args:
        target: the program, ``module:function``.
        seconds: real time.
        jobs: processes.
        first_seed: seeds go on from there.
        double_every: run each so-manieth seed twice, 0 for none.
        shrink_seconds: real time for making each new kind of failure small.
        kinds_max: end when so many kinds of failure are found.
        on_found: told each new kind of failure.
        on_progress: told about once a second.
        options: of `run.simulate`, as far as they can be written as JSON.

    Raises:
        WorkerFailed: a process could not run the program.
    """
    fuzzed = Fuzzed()
    scope = trio.CancelScope()

    def add(found: Found) -> None:
        on_found(found)
        if len(fuzzed.found) == kinds_max:
            scope.cancel(reason="enough kinds of failure were found")

    async def work(number: int) -> None:
        command = worker_command(
            "fuzz",
            target,
            first=first_seed + number,
            stride=jobs,
            double_every=double_every,
            shrink_seconds=shrink_seconds,
            options=options,
        )
        await run_worker(command, lambda message: _take(fuzzed, message, add, on_progress))

    await for_some_time(scope, seconds, jobs, work)
    return fuzzed


async def for_some_time(
    scope: trio.CancelScope, seconds: float, jobs: int, work: Callable[[int], Awaitable[None]]
) -> None:
    """Run ``work(number)`` for each of `jobs` numbers within `scope`, which the time ends.

    Raises:
        WorkerFailed: one of them did.
    """
    try:
        scope.deadline = trio.current_time() + seconds
        with scope:
            async with trio.open_nursery() as nursery:
                for number in range(jobs):
                    nursery.start_soon(work, number)
    except BaseExceptionGroup as group:
        failed, rest = group.split(WorkerFailed)
        if failed is None or rest is not None:
            raise
        first: BaseException = failed
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise WorkerFailed(str(first)) from group


def _take(
    fuzzed: Fuzzed,
    message: dict[str, Any],
    on_found: Callable[[Found], object],
    on_progress: Callable[[Fuzzed], object],
) -> None:
    """Add what a process told."""
    fuzzed.runs += message.get("runs", 0)
    fuzzed.steps += message.get("steps", 0)
    if "kind" in message:
        known = fuzzed.found.get(message["kind"])
        if known is not None:
            known.count += 1
        elif "report" in message:
            found = Found(message["seed"], message["report"], message["token"])
            fuzzed.found[message["kind"]] = found
            on_found(found)
    on_progress(fuzzed)


async def run_worker(command: Sequence[str], take: Callable[[dict[str, Any]], None]) -> None:
    """Run a process and hand on each line it writes. Cancelled, the process is ended."""
    async with trio.open_nursery() as nursery:

        async def run(task_status: trio.TaskStatus[trio.Process]) -> None:
            code = (
                await trio.run_process(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    check=False,
                    task_status=task_status,
                )
            ).returncode
            raise WorkerFailed(f"a process that runs seeds has ended with {code}")

        process = await nursery.start(run)
        assert process.stdout is not None
        pending = b""
        async for data in process.stdout:
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                take(json.loads(line))
            if len(pending) > _LINE_BYTES_MAX:
                raise WorkerFailed("a process that runs seeds writes what is no line")

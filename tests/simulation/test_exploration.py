"""Many seeds: what is found is made small, reported, and repeated from one word."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import trio

from trio_broker.testing.sim import (
    Deadlock,
    NotRepeatable,
    OtherLoops,
    RealClockInSimulation,
    RealRandomInSimulation,
    Simulation,
    explore,
    repeat,
    simulate,
)


async def lost_update(sim: Simulation) -> None:
    """Lose an update if two of many tasks are between reading and writing at once."""
    balance = 0

    async def add(number: int) -> None:
        nonlocal balance
        await trio.sleep(sim.random("start").uniform(0, 10))
        seen = balance
        if sim.random("slow").random() < 0.2:
            await trio.sleep(0.5)
        balance = seen + 1

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(add, number, name=f"add {number}")
    assert balance == 20


async def bad_order(sim: Simulation) -> None:
    """Fail if one of ten tasks is ahead of another, on one of fifty occasions."""
    for turn in range(50):
        log: list[int] = []

        async def step(number: int, log: list[int] = log) -> None:
            await trio.lowlevel.checkpoint()
            log.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(step, number, name=f"step {number}")
        assert turn < 30 or log[0] != 4, "4 came first"


def test_a_failure_ends_as_a_handful_of_decisions() -> None:
    explored = explore(lost_update, 50)
    failure = explored.failure
    assert failure is not None
    assert failure.shrunk is not None
    assert failure.shrunk.is_minimal
    assert len(failure.smallest.decisions) <= 3
    assert failure.token is not None
    again = repeat(lost_update, failure.token)
    assert again.trace_hash == failure.smallest.trace_hash
    assert isinstance(again.error, AssertionError)
    report = failure.report(["say it again"])
    assert f"seed {failure.result.seed} fails: AssertionError" in report
    assert "slow: random gives" in report
    assert report.endswith("repeat it:\n  say it again")
    with pytest.raises(AssertionError) as caught:
        explored.unwrap()
    assert "shrunk to" in caught.value.__notes__[0]


def test_of_hundreds_of_schedules_one_order_remains() -> None:
    explored = explore(bad_order, 20, policy="random", double_run=0)
    assert explored.failure is not None
    (decision,) = explored.failure.smallest.decisions
    assert decision.stream == "schedule"
    assert decision.text.endswith("schedule: step 4 goes before step 0, step 1, step 2, step 3")


def test_shrinking_keeps_to_the_kind_of_failure() -> None:
    async def two_mistakes(sim: Simulation) -> None:
        number = sim.random("number").randrange(100)
        if number > 50:
            raise ValueError("large")
        if number > 0:
            raise KeyError("small")

    for seed in range(10):
        failure = explore(two_mistakes, [seed]).failure
        assert failure is not None
        assert type(failure.error) is type(failure.result.error)


def test_a_run_that_does_more_without_its_pauses_is_not_smaller() -> None:
    longest = 0

    async def busy(sim: Simulation) -> None:
        nonlocal longest
        mood = sim.random("mood").random()
        until, turns = trio.current_time() + 10, 0
        while trio.current_time() < until and turns < 100_000:
            await trio.sleep(sim.random("pause").expovariate(1))
            turns += 1
            longest = max(longest, turns)
        assert mood > 0.5

    failure = explore(busy, 20, double_run=0, max_steps=1_000_000).failure
    assert failure is not None
    assert "mood" in {decision.stream for decision in failure.smallest.decisions}
    assert longest < 5_000


def test_a_shrunk_deadlock_still_says_who_waits_for_whom() -> None:
    async def locks(sim: Simulation) -> None:
        first, second = trio.Lock(), trio.Lock()

        async def take(one: trio.Lock, other: trio.Lock) -> None:
            async with one:
                await trio.sleep(sim.random("hold").expovariate(1))
                async with other:
                    pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take, first, second, name="anna")
            await trio.sleep(sim.random("between").uniform(0, 3))
            nursery.start_soon(take, second, first, name="ben")

    failure = explore(locks, 20).failure
    assert failure is not None
    assert isinstance(failure.error, Deadlock)
    assert "waits for Lock held by ben" in str(failure.error)
    assert len(failure.smallest.decisions) <= 2


def test_drawn_options_are_shown() -> None:
    async def program(sim: Simulation) -> None:
        size = sim.choose("size", [1, 10, 100])
        sim.show("square", size**2)
        assert size < 10

    failure = explore(program, 50).failure
    assert failure is not None
    assert failure.smallest.drawn == {"size": 10, "square": 100}
    assert "\n  size = 10\n  square = 100\n" in failure.report()


def test_a_program_that_is_not_repeatable_is_told_so_first() -> None:
    calls = 0

    async def program(sim: Simulation) -> None:
        nonlocal calls
        calls += 1
        await trio.sleep(1)
        sim.note("call", calls)

    failure = explore(program, 50).failure
    assert failure is not None
    assert isinstance(failure.error, NotRepeatable)
    assert failure.error.difference is not None
    assert failure.error.difference.first.what == "call"
    assert "first:  1001.000000 event call 1" in str(failure.error)
    assert "second: 1001.000000 event call 2" in str(failure.error)


def test_a_failure_that_does_not_come_again_is_told_so() -> None:
    calls = 0

    async def program(sim: Simulation) -> None:
        nonlocal calls
        calls += 1
        await trio.sleep(calls % 5)
        assert calls < 3

    failure = explore(program, 50, double_run=0).failure
    assert failure is not None
    assert isinstance(failure.error, NotRepeatable)
    assert isinstance(failure.error.__cause__, AssertionError)


def test_seeds_are_chosen_and_counted() -> None:
    seeds: list[int] = []

    async def program(sim: Simulation) -> None:
        seeds.append(sim.seed)

    results: list[Any] = []
    explored = explore(program, [7, 5], double_run=0, on_run=results.append)
    assert seeds == [7, 5]
    assert explored.runs == len(results) == 2
    assert explored.steps == sum(result.steps for result in results)
    explored.unwrap()
    seeds.clear()
    explore(program, 40, double_run=0.05)
    assert seeds == [0, *range(21), *range(20, 40)]
    with pytest.raises(ValueError, match="no seeds"):
        explore(program, [])
    with pytest.raises(ValueError, match="share"):
        explore(program, 3, double_run=5)


def test_beside_another_trio_loop_it_does_not_start() -> None:
    running, stop = threading.Event(), threading.Event()

    async def other() -> None:
        running.set()
        while not stop.is_set():  # noqa: ASYNC110
            await trio.sleep(0.001)

    thread = threading.Thread(target=trio.run, args=(other,), name="the other")
    thread.start()
    try:
        running.wait()
        with pytest.raises(OtherLoops, match=r"another thread \(the other\)"):
            explore(lost_update, 1)
    finally:
        stop.set()
        thread.join()
    assert explore(lost_update, 1).runs == 1


def test_time_for_shrinking_is_bounded() -> None:
    failure = explore(lost_update, 50, shrink_seconds=0).failure
    assert failure is not None
    assert failure.shrunk is None
    assert failure.token is None
    hurried = explore(lost_update, 50, shrink_seconds=1e-9).failure
    assert hurried is not None
    assert hurried.shrunk is not None
    assert not hurried.shrunk.is_minimal
    assert hurried.smallest.error is not None


def test_a_violation_is_the_result_even_if_it_is_swallowed() -> None:
    async def clock(_: Simulation) -> None:
        try:
            time.monotonic()  # noqa: TID251
        except AssertionError:
            pass

    result = simulate(clock, 1)
    assert isinstance(result.error, RealClockInSimulation)
    assert "by clock (test_exploration.py:" in str(result.error)


@pytest.mark.parametrize(
    "code",
    [
        "import random; random.choice([1, 2])",
        "from random import choice; choice([1, 2])",
        "import random; random.Random()",
        "import random; random.SystemRandom().random()",
        "import uuid; uuid.uuid4()",
        "import secrets; secrets.token_bytes(3)",
        "import os; os.urandom(3)",
    ],
)
def test_randomness_from_elsewhere_is_forbidden(code: str) -> None:
    compiled = compile(code, "program.py", "exec")

    async def program(_: Simulation) -> None:
        exec(compiled, {"__name__": "program"})

    error = simulate(program, 1).error
    assert isinstance(error, RealRandomInSimulation)
    assert "program.py:1" in str(error)
    assert simulate(program, 1, allow=["program"]).error is None


def test_a_seeded_generator_is_fine() -> None:
    async def program(_: Simulation) -> float:
        import random

        return random.Random(5).uniform(0, 1)

    assert simulate(program, 1, strict=True).unwrap() == simulate(program, 2).unwrap()


def test_logging_and_imports_may_do_what_they_do(caplog: pytest.LogCaptureFixture) -> None:
    async def program(_: Simulation) -> None:
        import logging
        import sys
        import traceback

        logging.getLogger("program").warning("noted")
        sys.modules.pop("this", None)
        sys.modules.pop("colorsys", None)
        import colorsys  # noqa: F401

        try:
            raise ValueError("wrong")
        except ValueError:
            traceback.format_exc()

    assert simulate(program, 1, strict=True).error is None
    assert caplog.messages == ["noted"]

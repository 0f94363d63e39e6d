"""One seed, one run: repeated, in other processes, and with what would spoil it found."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from tests.simulation import repeat
from tests.simulation.chaos import chaos
from trio_broker.testing.sim import private
from trio_broker.testing.sim.clock import START_SECONDS
from trio_broker.testing.sim.guards import (
    RealIOInSimulation,
    RealRandomInSimulation,
    RealThreadInSimulation,
)
from trio_broker.testing.sim.run import (
    Deadlock,
    OutOfSteps,
    OutOfTime,
    Simulation,
    find_difference,
    simulate,
)
from trio_broker.testing.sim.scheduler import POLICY_NAMES, make_policy
from trio_broker.testing.sim.streams import RandomStreams

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SEEDS = (1, 2, 3, 4)


def test_a_seed_repeats_everything() -> None:
    for seed in SEEDS:
        first, second = simulate(chaos, seed), simulate(chaos, seed)
        assert first.unwrap() == second.unwrap()
        assert first.trace_hash == second.trace_hash
        assert (first.steps, first.virtual_seconds) == (second.steps, second.virtual_seconds)


def test_seeds_differ() -> None:
    assert len({simulate(chaos, seed).trace_hash for seed in SEEDS}) == len(SEEDS)


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_every_policy_repeats(policy: str) -> None:
    assert find_difference(chaos, 5, policy=policy) is None


def test_other_processes_agree() -> None:
    expected = [simulate(chaos, seed).trace_hash for seed in SEEDS]
    for hash_seed in ("0", "12345"):
        run = subprocess.run(
            [sys.executable, "-m", "tests.simulation.chaos", *map(str, SEEDS)],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.stdout.split() == expected, run.stderr


def test_the_command_that_shows_all_this(capsys: pytest.CaptureFixture[str]) -> None:
    assert repeat.main(["--runs", "10", "--seeds", "3", "--processes", "1"]) == 0
    assert capsys.readouterr().out.count("ok  ") == 7


def test_another_trio_thread_does_not_disturb() -> None:
    expected = simulate(chaos, 1).trace_hash
    stop = threading.Event()

    async def noise() -> None:
        async def spin() -> None:
            while not stop.is_set():
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(spin)

    thread = threading.Thread(target=trio.run, args=(noise,))
    thread.start()
    try:
        assert simulate(chaos, 1).trace_hash == expected
    finally:
        stop.set()
        thread.join()


def test_order_by_address_is_found() -> None:
    async def planted(_: Simulation) -> None:
        async with trio.open_nursery() as nursery:
            for thing in {object() for _ in range(50)}:
                nursery.start_soon(trio.sleep, id(thing) % 977)

    difference = find_difference(planted, 1)
    assert difference is not None
    assert difference.first != difference.second


def test_randomness_from_elsewhere_is_found() -> None:
    async def planted(simulation: Simulation) -> None:
        simulation.note("token", os.urandom(8))
        await trio.sleep(1)

    assert isinstance(simulate(planted, 1).error, RealRandomInSimulation)
    difference = find_difference(planted, 1, allow=(__name__,))
    assert difference is not None
    assert difference.first is not None
    assert (difference.first.kind, difference.first.what) == ("event", "token")


def test_streams_do_not_disturb_each_other() -> None:
    alone, other = RandomStreams(7), RandomStreams(7)
    other.stream("extra").random()
    assert alone.stream("a").random() == other.stream("a").random()
    assert alone.stream("a") is alone.stream("a")
    assert RandomStreams(8).stream("a").random() != RandomStreams(7).stream("a").random()


# ------------------------------------------------------------------------------------------- time


def test_time_jumps_exactly() -> None:
    async def main(_: Simulation) -> list[float]:
        times = []
        for _turn in range(3):
            await trio.sleep(0.1)
            times.append(trio.current_time())
        await trio.sleep(86_400)
        return times

    result = simulate(main, 1)
    first = START_SECONDS + 0.1
    assert result.unwrap() == [first, first + 0.1, first + 0.1 + 0.1]
    assert result.virtual_seconds > 86_400


def test_waiting_for_idle_works() -> None:
    async def main(_: Simulation) -> float:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 5)
            await trio.testing.wait_all_tasks_blocked()
            idle_at = trio.current_time()
            nursery.cancel_scope.cancel()
        return idle_at

    assert simulate(main, 1).unwrap() == START_SECONDS


def test_cancellations_come_in_order_of_arrival() -> None:
    async def main(_: Simulation) -> list[int]:
        aborted: list[int] = []

        async def wait(number: int) -> None:
            def abort(_: object) -> trio.lowlevel.Abort:
                aborted.append(number)
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)

        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(wait, number)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        return aborted

    assert simulate(main, 1, policy="fifo").unwrap() == list(range(30))


# ------------------------------------------------------------------------- runs that do not end


def test_a_deadlock_is_reported_with_who_waits_for_whom() -> None:
    async def main(_: Simulation) -> None:
        first, second = trio.Lock(), trio.Lock()

        async def take(one: trio.Lock, other: trio.Lock) -> None:
            async with one:
                await trio.sleep(1)
                async with other:
                    pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take, first, second, name="anna")
            nursery.start_soon(take, second, first, name="ben")

    result = simulate(main, 1)
    assert isinstance(result.error, Deadlock)
    assert result.stopped == "deadlock"
    report = "\n".join(result.blocked)
    assert "anna: take" in report
    assert "waits for Lock held by ben" in report
    assert "waits for Lock held by anna" in report
    assert "waits for Nursery of anna, ben" in report
    with pytest.raises(Deadlock) as caught:
        result.unwrap()
    assert "seed 1" in caught.value.__notes__[0]


def test_a_shielded_task_cannot_hang_the_run() -> None:
    async def main(_: Simulation) -> None:
        with trio.CancelScope(shield=True):
            await trio.Event().wait()

    result = simulate(main, 1)
    assert isinstance(result.error, Deadlock)
    assert "still there after cancellation:" in result.blocked


def test_a_task_that_cannot_be_cancelled_is_torn_down_without_a_trace() -> None:
    @asynccontextmanager
    async def surrounded() -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(uncancellable)
            with trio.CancelScope():
                yield

    async def uncancellable() -> None:
        await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)

    async def main(_: Simulation) -> None:
        async with surrounded(), trio.open_nursery() as nursery:
            nursery.start_soon(uncancellable)
            await trio.sleep_forever()

    result = simulate(main, 1)
    assert isinstance(result.error, Deadlock)
    assert "uncancellable" in result.blocked[-1]
    gc.collect()


def test_a_loop_without_progress_is_stopped() -> None:
    async def main(_: Simulation) -> None:
        while True:
            await trio.lowlevel.checkpoint()

    assert isinstance(simulate(main, 1, max_steps=2_000).error, OutOfSteps)


def test_a_loop_that_ignores_cancellation_is_torn_down() -> None:
    async def main(_: Simulation) -> None:
        while True:
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled:
                pass

    assert isinstance(simulate(main, 1, max_steps=2_000).error, OutOfSteps)


def test_virtual_time_is_bounded() -> None:
    async def main(_: Simulation) -> None:
        while True:  # noqa: ASYNC110
            await trio.sleep(10)

    result = simulate(main, 1, max_seconds=95)
    assert isinstance(result.error, OutOfTime)
    assert result.virtual_seconds == 90


def test_an_error_of_the_program_is_the_result() -> None:
    async def main(_: Simulation) -> None:
        raise ValueError("wrong")

    result = simulate(main, 1)
    assert isinstance(result.error, ValueError)
    assert result.stopped is None


def test_what_cannot_be_repeated_is_forbidden(tmp_path: object) -> None:
    async def thread(_: Simulation) -> None:
        threading.Thread(target=print).start()

    async def worker(_: Simulation) -> None:
        await trio.to_thread.run_sync(print)  # noqa: TID251

    async def file(_: Simulation) -> None:
        open(f"{tmp_path}/file", "w").close()  # noqa: ASYNC230

    async def resolve(_: Simulation) -> None:
        await trio.open_tcp_stream("localhost", 9)

    assert isinstance(simulate(thread, 1).error, RealThreadInSimulation)
    assert isinstance(simulate(worker, 1).error, RealThreadInSimulation)
    assert isinstance(simulate(file, 1).error, RealIOInSimulation)
    assert isinstance(simulate(resolve, 1).error, RealIOInSimulation)


def test_a_missing_private_name_is_an_unsupported_version(monkeypatch: pytest.MonkeyPatch) -> None:
    private.check_names()
    monkeypatch.delattr("trio._core._run._r")
    with pytest.raises(private.UnsupportedTrio, match=r"unsupported trio version .* _r"):
        private.check_names()


def test_trio_is_as_before_after_a_run() -> None:
    before = {name: vars(private._run).get(name) for name in ("_r", "id", "CancelStatus")}
    simulate(chaos, 1)
    assert {name: vars(private._run).get(name) for name in before} == before


def test_unknown_policies_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown policy 'best'"):
        make_policy("best", RandomStreams(1).stream("x"))

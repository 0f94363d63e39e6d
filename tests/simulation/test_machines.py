"""Machines that stand still, clocks that are wrong, and connections as Trio's own kinds."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import check_half_closeable_stream

from trio_broker.testing.sim import (
    EPOCH_MS,
    Deadlock,
    NetworkFaults,
    SimMachine,
    Simulation,
    simulate,
)
from trio_broker.testing.sim.trio_network import SimTrioStream

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "simulation.md"


async def nap(_: object) -> None:
    await trio.sleep(50)


def beating(machine: SimMachine, log: list[tuple[str, float]]) -> partial[None]:
    async def beat(_: object) -> None:
        while True:
            await trio.sleep(1)
            log.append((machine.name, trio.current_time() - 1000))

    return partial(machine.run, beat)  # type: ignore[return-value]


def test_a_machine_stands_still_and_the_others_go_on() -> None:
    async def main(sim: Simulation) -> list[tuple[str, float]]:
        log: list[tuple[str, float]] = []
        still, other = sim.machine("still"), sim.machine("other")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(beating(still, log))
            nursery.start_soon(beating(other, log))
            await trio.sleep(2.5)
            still.pause(seconds=3)
            await trio.sleep(3.9)
            nursery.cancel_scope.cancel()
        return log

    log = simulate(main, 1).unwrap()
    assert [at for name, at in log if name == "other"] == [1, 2, 3, 4, 5, 6]
    assert [at for name, at in log if name == "still"] == [1, 2, 5.5]


def test_deadlines_pass_and_data_arrives_while_a_machine_stands_still() -> None:
    async def main(sim: Simulation) -> list[object]:
        seen: list[object] = []
        still, other = sim.machine("still"), sim.machine("other")

        async def program(_: object) -> None:
            stream = await still.open_tcp_stream("other", 7)
            with trio.move_on_after(5) as scope:
                await trio.sleep(10)
            seen.append((scope.cancelled_caught, trio.current_time() - 1000 > 20))
            seen.append(await stream.receive_some())
            await stream.aclose()

        async def greet(stream: SimTrioStream) -> None:
            await stream.send_all(b"hello")
            still.pause()
            await trio.sleep(20)
            seen.append("resumes")
            still.resume()
            still.resume()

        async with trio.open_nursery() as nursery:
            await nursery.start(other.serve_tcp, greet, 7)
            await still.run(program)
            nursery.cancel_scope.cancel()
        return seen

    assert simulate(main, 1).unwrap() == ["resumes", (True, True), b"hello"]


def test_a_later_pause_counts() -> None:
    async def main(sim: Simulation) -> float:
        machine = sim.machine("still")
        machine.pause(seconds=1)
        machine.pause(seconds=5)

        async def program(_: object) -> None:
            await trio.lowlevel.checkpoint()

        await machine.run(program)
        await machine.run(program)
        return sim.clock.now - 1000

    assert simulate(main, 1).unwrap() == 5


def test_a_pause_without_end_is_a_deadlock_that_names_the_machine() -> None:
    async def main(sim: Simulation) -> None:
        machine = sim.machine("still")
        machine.pause()
        await machine.run(nap)

    result = simulate(main, 1)
    assert isinstance(result.error, Deadlock)
    assert "still pauses" in result.blocked


def test_power_can_fail_while_a_machine_stands_still() -> None:
    async def main(sim: Simulation) -> float:
        machine = sim.machine("still")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(machine.run, nap)
            await trio.sleep(1)
            machine.pause()
            await trio.sleep(1)
            machine.power_off()
        return sim.clock.now - 1000

    assert simulate(main, 1).unwrap() == 2


def test_only_machines_of_a_simulation_pause() -> None:
    with pytest.raises(RuntimeError, match="of a simulation"):
        SimMachine(7).pause()


def test_a_pause_repeats_and_shrinks_away() -> None:
    async def main(sim: Simulation) -> list[tuple[str, float]]:
        log: list[tuple[str, float]] = []
        machines = [sim.machine(f"m{number}") for number in range(3)]
        async with trio.open_nursery() as nursery:
            for machine in machines:
                nursery.start_soon(beating(machine, log))
            for _ in range(5):
                await trio.sleep(sim.random("nemesis").uniform(0, 3))
                sim.random("nemesis").choice(machines).pause(seconds=1.5)
            nursery.cancel_scope.cancel()
        return log

    first, second = simulate(main, 3, record=True), simulate(main, 3)
    assert first.unwrap() == second.unwrap()
    assert first.trace_hash == second.trace_hash


def test_the_page_on_saving() -> None:
    page = PAGE.read_text("utf-8")
    (save,) = re.findall(r"^async def save.*?(?=^\n\n)", page, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"trio": trio, "partial": partial, "Host": object}
    exec(save, names)

    async def main(sim: Simulation) -> dict[str, bytes | None]:
        machine = sim.machine("laptop")
        await machine.run(names["save"])
        machine.power_off()
        return machine.power_on().fs.tree()

    for seed in range(5):
        assert simulate(main, seed).unwrap() == {"/notes": b"milk, eggs"}


# ----------------------------------------------------------------------------------------- clocks


def test_civil_time_jumps_and_drifts() -> None:
    async def main(sim: Simulation) -> list[int]:
        wall = sim.machine("a").wall
        seen = [wall.now_ms()]
        await trio.sleep(10)
        seen.append(wall.now_ms())
        wall.jump(-3600)
        seen.append(wall.now_ms())
        wall.drift(0.1)
        await trio.sleep(10)
        seen.append(wall.now_ms())
        wall.drift(0)
        await trio.sleep(10)
        seen.append(wall.now_ms())
        return [at - EPOCH_MS for at in seen]

    hour = 3_600_000
    expected = [0, 10_000, 10_000 - hour, 21_000 - hour, 31_000 - hour]
    assert simulate(main, 1).unwrap() == expected


def test_a_clock_stays_wrong_through_a_power_cut() -> None:
    async def main(sim: Simulation) -> int:
        machine = sim.machine("a")
        machine.wall.jump(60)
        machine.wall.drift(1.0)
        await trio.sleep(5)
        machine.power_off()
        await trio.sleep(5)
        return machine.power_on().wall.now_ms() - EPOCH_MS

    assert simulate(main, 1).unwrap() == 60_000 + 20_000


# ---------------------------------------------------------------------------------------- streams


def test_streams_are_as_trio_wants_them() -> None:
    async def main(sim: Simulation) -> None:
        internet = sim.internet
        internet.faults = NetworkFaults(window_bytes=10_000)
        one, other = sim.machine("one"), sim.machine("other")
        port = 0

        async def pair() -> tuple[SimTrioStream, SimTrioStream]:
            nonlocal port
            port += 1
            (listener,) = await other.open_tcp_listeners(port)
            near = await one.open_tcp_stream("other", port)
            far = await listener.accept()
            await listener.aclose()
            return near, far

        await check_half_closeable_stream(pair, None)

    simulate(main, 1, max_steps=100_000).unwrap()


def test_servers_serve_and_refuse() -> None:
    async def main(sim: Simulation) -> bytes:
        server, client = sim.machine("server"), sim.machine("client")

        async def shout(stream: SimTrioStream) -> None:
            async for data in stream:
                await stream.send_all(data.upper())

        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(server.serve_tcp, shout, 0)
            with pytest.raises(OSError, match="refuses"):
                await client.open_tcp_stream("server", 1)
            with pytest.raises(OSError, match="no machine"):
                await client.open_tcp_stream("nobody", 1)
            answer = b""
            async with await client.open_tcp_stream("server", listeners[0].port) as stream:
                await stream.send_all(b"hello")
                await stream.send_eof()
                async for data in stream:
                    answer += data
            nursery.cancel_scope.cancel()
        return answer

    assert simulate(main, 1).unwrap() == b"HELLO"

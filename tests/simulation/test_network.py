"""What the simulated network does to connections."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import pytest
import trio
from attrs import evolve

from trio_broker.testing.sim.faults import NodeDead
from trio_broker.testing.sim.host import SimMachine
from trio_broker.testing.sim.network import NetworkFaults, SimInternet
from trio_broker.testing.sim.run import Deadlock, Simulation, simulate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_broker.testing.sim.network import SimStream


class Pair:
    """Two machines and a connection between them."""

    def __init__(self, simulation: Simulation, **faults: Any) -> None:
        self.internet = SimInternet(
            simulation.streams, faults=NetworkFaults(**faults), note=simulation.note
        )
        self.client_machine = SimMachine(simulation, "client", internet=self.internet)
        self.server_machine = SimMachine(simulation, "server", internet=self.internet)

    async def connect(self) -> Pair:
        (self.listener,) = await self.server_machine.network.listen("", 9092)
        self.client = await self.client_machine.network.connect("server", 9092)
        self.server = await self.listener.accept()
        return self


def run(program: Callable[[Pair], Awaitable[Any]], seed: int = 1, **faults: Any) -> Any:
    async def main(simulation: Simulation) -> Any:
        return await program(await Pair(simulation, **faults).connect())

    return simulate(main, seed).unwrap()


async def receive(stream: SimStream, length: int) -> list[bytes]:
    """Receive that many bytes, or up to the end; return the pieces they came in."""
    pieces = []
    while length:
        buffer = bytearray(length)
        count = await stream.receive_into(memoryview(buffer))
        if count == 0:
            break
        pieces.append(bytes(buffer[:count]))
        length -= count
    return pieces


def test_data_takes_time_and_keeps_its_order() -> None:
    async def program(pair: Pair) -> float:
        began_at = trio.current_time()
        for number in range(50):
            await pair.client.send_vectored([bytes([number])])
        assert b"".join(await receive(pair.server, 50)) == bytes(range(50))
        return trio.current_time() - began_at

    assert run(program, latency_seconds=(0.5, 0.6)) > 0.5


def test_data_comes_in_pieces() -> None:
    async def program(pair: Pair) -> list[bytes]:
        await pair.client.send_vectored([bytes(range(100))])
        await trio.sleep(1)
        return await receive(pair.server, 100)

    assert len(run(program, fragment_rate=0.0)) == 1
    pieces = run(program, fragment_rate=0.9)
    assert len(pieces) > 3
    assert b"".join(pieces) == bytes(range(100))


def test_a_fast_sender_waits_for_a_slow_receiver() -> None:
    async def program(pair: Pair) -> None:
        assert pair.client.send_nowait(bytes(3000)) == 1000
        assert pair.client.send_nowait(b"x") == 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair.client.send_vectored, [bytes(5000)])
            await trio.sleep(100)
            assert len(b"".join(await receive(pair.server, 6000))) == 6000

    run(program, window_bytes=1000)


def test_a_cut_holds_everything_back() -> None:
    async def program(pair: Pair) -> None:
        pair.internet.cut("client", "server")
        await pair.client.send_vectored([b"held back"])
        pair.client.send_eof()
        with trio.move_on_after(1000) as scope:
            await receive(pair.server, 9)
        assert scope.cancelled_caught
        with trio.move_on_after(1000) as scope:
            await pair.client_machine.network.connect("server", 9092)
        assert scope.cancelled_caught
        pair.internet.heal()
        assert b"".join(await receive(pair.server, 100)) == b"held back"
        (await pair.client_machine.network.connect("server", 9092)).close()

    run(program)


def test_a_cut_may_be_one_way() -> None:
    async def program(pair: Pair) -> None:
        pair.internet.cut("client", "server", both_ways=False)
        await pair.server.send_vectored([b"through"])
        assert b"".join(await receive(pair.client, 7)) == b"through"
        await pair.client.send_vectored([b"x"])
        with trio.move_on_after(1000) as scope:
            await receive(pair.server, 1)
        assert scope.cancelled_caught

    run(program)


def test_a_reset_breaks_both_ends() -> None:
    async def program(pair: Pair) -> None:
        await pair.client.send_vectored([b"lost"])
        pair.client.reset()
        with pytest.raises(trio.BrokenResourceError):
            pair.client.send_nowait(b"x")
        with pytest.raises(trio.BrokenResourceError):
            await receive(pair.server, 100)
            await receive(pair.server, 100)
        with pytest.raises(trio.BrokenResourceError):
            await pair.server.send_vectored([b"x"])
        pair.client.close()
        pair.server.close()
        assert pair.client_machine.network.streams == ()

    run(program)


def test_sends_reset_at_their_rate() -> None:
    async def program(pair: Pair) -> None:
        with pytest.raises(trio.BrokenResourceError):
            await pair.client.send_vectored([b"x"])

    run(program, reset_rate=1.0)


def test_an_end_in_one_direction_leaves_the_other() -> None:
    async def program(pair: Pair) -> None:
        await pair.client.send_vectored([b"question"])
        pair.client.send_eof()
        assert b"".join(await receive(pair.server, 100)) == b"question"
        assert await pair.server.receive_into(memoryview(bytearray(1))) == 0
        await pair.server.send_vectored([b"answer"])
        assert b"".join(await receive(pair.client, 6)) == b"answer"
        with pytest.raises(trio.BrokenResourceError):
            pair.client.send_nowait(b"x")

    run(program)


def test_a_machine_without_power_is_silent_until_it_is_back() -> None:
    async def program(pair: Pair) -> None:
        await pair.server.send_vectored([b"under way"])
        pair.server_machine.power_off()
        with pytest.raises(NodeDead):
            pair.server.send_nowait(b"x")
        with pytest.raises(NodeDead):
            await pair.listener.accept()
        await pair.client.send_vectored([b"into the void"])
        with trio.move_on_after(1000) as scope:
            await receive(pair.client, 100)
        assert scope.cancelled_caught
        pair.server_machine.power_on()
        with pytest.raises(trio.BrokenResourceError):
            await receive(pair.client, 100)
        with pytest.raises(OSError, match="refuses") as caught:
            await pair.client_machine.network.connect("server", 9092)
        assert caught.value.errno == errno.ECONNREFUSED

    run(program)


def test_a_connect_waits_for_a_machine_that_is_off() -> None:
    async def program(pair: Pair) -> None:
        pair.server_machine.power_off()
        connected: list[SimStream] = []

        async def connect() -> None:
            try:
                await pair.client_machine.network.connect("server", 9092)
            except ConnectionRefusedError:
                connected.append(await pair.client_machine.network.connect("server", 9093))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(connect)
            await trio.sleep(60)
            machine = pair.server_machine.power_on()
            (listener,) = await machine.network.listen("server", 9093)
            (await listener.accept()).close()
        assert connected[0].peer == "server:9093"

    run(program)


def test_the_backlog_is_bounded() -> None:
    async def program(pair: Pair) -> None:
        connected = 0

        async def connect() -> None:
            nonlocal connected
            await pair.client_machine.network.connect("server", 9092)
            connected += 1

        async with trio.open_nursery() as nursery:
            for _ in range(130):
                nursery.start_soon(connect)
            await trio.sleep(10)
            assert connected == 128
            for _ in range(2):
                await pair.listener.accept()
        assert connected == 130
        pair.listener.close()
        with pytest.raises(trio.BrokenResourceError):
            await receive(pair.client_machine.network.streams[-1], 1)

    run(program)


def test_errors_of_listeners_on_request() -> None:
    async def program(pair: Pair) -> None:
        pair.listener.fail_accept(errno.EMFILE)
        with pytest.raises(OSError, match="Too many open files"):
            await pair.listener.accept()
        network = pair.client_machine.network
        pair.internet.faults = evolve(pair.internet.faults, refuse_rate=1.0)
        with pytest.raises(ConnectionRefusedError):
            await network.connect("server", 9092)
        with pytest.raises(OSError, match="no machine is called"):
            await network.connect("nobody", 9092)
        with pytest.raises(OSError, match="no address of client"):
            await network.listen("server", 9092)

    run(program)


def test_waiting_for_nothing_is_a_deadlock() -> None:
    async def main(simulation: Simulation) -> None:
        pair = await Pair(simulation).connect()
        await pair.server.receive_into(memoryview(bytearray(1)))

    result = simulate(main, 1)
    assert isinstance(result.error, Deadlock)
    assert "receive_into" in result.blocked[0]

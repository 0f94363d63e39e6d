"""A program that uses everything the simulator has, for comparing runs.

``python -m tests.simulation.chaos SEED...`` prints one trace hash per seed.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

import trio

from trio_broker.errors import StorageError
from trio_broker.host import jobs
from trio_broker.testing.sim.faults import DiskFaults, NodeDead
from trio_broker.testing.sim.host import SimMachine
from trio_broker.testing.sim.network import NetworkFaults, SimInternet
from trio_broker.testing.sim.run import Simulation, simulate

if TYPE_CHECKING:
    from trio_broker.host.interface import Host, Job, Lane, Stream

FAULTS = DiskFaults(
    read_error_rate=0.02,
    write_error_rate=0.02,
    sync_error_rate=0.02,
    short_write_rate=0.1,
    hang_rate=0.01,
    hang_seconds=0.3,
    capacity_bytes=200_000,
)


def append(host: Host, path: str, data: bytes) -> Job[int]:
    file = yield from jobs.open_file(host.fs, path, "chaos", create=True)
    try:
        yield from jobs.append_all(file, file.size, [data])
        yield from jobs.sync(file)
        content: bytes = yield file.read_at, (0, file.size)
    finally:
        file.close()
    return len(content)


async def echo(stream: Stream) -> None:
    buffer = bytearray(1000)
    try:
        while count := await stream.receive_into(memoryview(buffer)):
            await stream.send_vectored([buffer[:count]])
    except trio.BrokenResourceError:
        pass
    finally:
        stream.close()


async def work(host: Host, lane: Lane, number: int, log: list[object]) -> None:
    draws = host.entropy.random(f"worker {number}")
    for turn in range(8):
        with trio.move_on_after(draws.choice((0.01, 0.05, 5.0))):
            try:
                size = await lane.run(append(host, f"/data/{number % 3}", b"x" * 700))
                log.append((number, turn, size))
            except (OSError, StorageError) as error:
                log.append((number, turn, type(error).__name__))
        await trio.sleep(draws.choice((0, 0.01, 0.01)))


async def server(host: Host, log: list[object]) -> None:
    lane = host.open_lane("lane", 0.2)
    listeners = await host.network.listen("", 9092)
    async with trio.open_nursery() as nursery:
        await nursery.start(lane.serve)
        for number in range(6):
            nursery.start_soon(work, host, lane, number, log)
        while True:
            nursery.start_soon(echo, await listeners[0].accept())


async def client(host: Host, log: list[object]) -> None:
    draws = host.entropy.random("client")
    while True:
        try:
            stream = await host.network.connect("server", 9092)
        except OSError:
            await trio.sleep(0.05)
            continue
        try:
            for _ in range(draws.randrange(5)):
                await stream.send_vectored([bytes(draws.randrange(1, 3000))])
                log.append(await stream.receive_into(memoryview(bytearray(500))))
        except trio.BrokenResourceError as error:
            log.append(str(error))
        finally:
            stream.close()
        await trio.sleep(draws.choice((0, 0.05)))


async def chaos(simulation: Simulation) -> list[object]:
    """Let clients talk to a server that loses its power once."""
    log: list[object] = []
    internet = SimInternet(
        simulation.streams, faults=NetworkFaults(reset_rate=0.02), note=simulation.note
    )
    machine = SimMachine(simulation, "server", faults=FAULTS, internet=internet)
    machine.fs.prepare_directory("/data")
    clients = [SimMachine(simulation, f"client-{i}", internet=internet) for i in range(3)]
    async with trio.open_nursery() as nursery:
        for each in clients:
            nursery.start_soon(client, each.host, log)

        async def life(machine: SimMachine) -> None:
            await machine.run(lambda host: server(host, log))

        nursery.start_soon(life, machine)
        await trio.sleep(0.2)
        internet.cut("server", "client-0")
        await trio.sleep(0.2)
        internet.heal()
        machine.power_off()
        await trio.sleep(0.1)
        machine = machine.power_on()
        log.append(sorted(machine.fs.tree()))
        nursery.start_soon(life, machine)
        await trio.sleep(0.3)
        log.append((str(machine.host.entropy.uuid()), machine.wall.now_ms()))
        nursery.cancel_scope.cancel()
    try:
        machine.fs.crash().check_alive()
        machine.fs.check_alive()
    except NodeDead:
        log.append("dead")
    return log


def main(arguments: list[str]) -> None:
    """Print one trace hash per seed."""
    for argument in arguments:
        result = simulate(chaos, int(argument))
        result.unwrap()
        sys.stdout.write(f"{result.trace_hash}\n")


if __name__ == "__main__":
    # Imported by its name: task names, and so the hashes, contain the name of the module.
    importlib.import_module("tests.simulation.chaos").main(sys.argv[1:])

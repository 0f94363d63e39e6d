"""What the tests of the running broker have in common.

A broker looked at from inside, a client that says whatever it is told to, batches, and a simulated
machine to run all of it on. Every wait for the broker has an end: what hangs fails. Whatever a test
did, nothing may be left when the broker has stopped: no memory counted, no client, no open file, no
fault taken by a boundary that the test does not expect.
"""

from __future__ import annotations

import errno
import functools
import inspect
import os
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import trio

from trio_broker.broker.broker import BrokerTree
from trio_broker.broker.embed import Broker
from trio_broker.config import BrokerConfig, TopicConfig
from trio_broker.host.real import real_host
from trio_broker.records.build import Record, build_batch
from trio_broker.testing.sim.disk import SimFileSystem
from trio_broker.testing.sim.handles import SimFile
from trio_broker.testing.sim.host import SimMachine
from trio_broker.testing.sim.network import NetworkFaults, SimInternet
from trio_broker.testing.sim.run import Simulation, simulate
from trio_broker.wire.api import APIS
from trio_broker.wire.frames import FrameSplitter
from trio_broker.wire.message import decode_response, encode_request
from trio_broker.wire.messages.fetch import FetchPartition, FetchRequest, FetchTopic
from trio_broker.wire.messages.produce import (
    PartitionProduceData,
    ProduceRequest,
    TopicProduceData,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    from trio_broker.broker.replica import Replica
    from trio_broker.host.interface import Host, Stream

#: Longest wait for anything, in seconds of the machine, which may be simulated.
PATIENCE_SECONDS = 25.0
NEWEST = -1
#: A simulation that goes on for longer hangs.
SIMULATED_SECONDS_MAX = 5_000.0
STEPS_MAX = 300_000


class Running:
    """A broker that runs, with its insides.

    Attributes:
        broker: what an embedding program sees.
        tree: its root.
        state: what handlers see.
        faults_expected: boundaries that may have taken a fault.
        files_stay: a system call hangs, and what it works on cannot be closed.
    """

    def __init__(self, tree: BrokerTree, host: Host) -> None:
        self.broker = Broker(tree)
        self.tree = tree
        self.state = tree.state
        self.host = host
        self.faults_expected: set[str] = set()
        self.files_stay = False

    @property
    def address(self) -> tuple[str, int]:
        return self.state.bound[0]

    def connect(self, *, network: Any = None) -> Any:
        """Open a connection for the length of a block; gives a `Client`."""
        return open_client(network or self.host.network, self.address)

    def replica(self, topic: str, partition: int = 0) -> Replica:
        found = self.state.router.by_name[topic].replica(partition)
        assert found is not None
        return found

    def topic_id(self, topic: str) -> Any:
        return self.state.router.by_name[topic].topic_id

    def check_idle(self) -> None:
        """Nobody is connected, so nothing may be held for anybody."""
        state = self.state
        assert state.request_memory.used_bytes == 0, state.request_memory
        assert state.response_memory.used_bytes == 0, state.response_memory
        for log_dir in state.log_dirs:
            for shard in log_dir.shards:
                assert shard.queued_bytes == 0, shard
                for replica in shard.replicas.values():
                    assert not replica.waiters, replica

    async def wait_idle(self) -> None:
        """Wait until the broker has noticed that its clients are gone."""
        with trio.fail_after(PATIENCE_SECONDS):
            while self.state.clients:
                await self.state.client_left.park()
        self.check_idle()


@asynccontextmanager
async def running(
    config: BrokerConfig, *, host: Host | None = None, reraise: bool = True
) -> AsyncIterator[Running]:
    """Run a broker for the length of a block, and look for what it leaves behind.

    With `reraise` an exception that no boundary is there for ends the test.
    """
    host = host or real_host()
    tree = BrokerTree(config, host, reraise=reraise)
    run = Running(tree, host)
    async with trio.open_nursery() as nursery:
        await nursery.start(tree.run)
        try:
            yield run
        except BaseException:
            tree.hurry("the test has failed")
            raise
        tree.request_stop()
        with trio.fail_after(PATIENCE_SECONDS):
            await tree.ended.wait()
    check_left_behind(run)


def check_left_behind(run: Running) -> None:
    """Look at what must be gone after an orderly stop."""
    assert not run.state.clients
    run.check_idle()
    assert run.files_stay or list(run.host.fs.open_files()) == []
    unexpected = set(run.state.supervisor.faults) - run.faults_expected
    assert not unexpected, {name: run.state.supervisor.faults[name] for name in unexpected}


class Client:
    """One connection, on which a test says what it likes."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._splitter = FrameSplitter(2**31 - 1, 2**31 - 1)
        self._correlation_id = 100

    async def send(self, body: Any, version: int = NEWEST) -> int:
        """Send a request; return its correlation id."""
        self._correlation_id += 1
        await self.send_bytes(self.encode(body, version, self._correlation_id))
        return self._correlation_id

    def encode(self, body: Any, version: int = NEWEST, correlation_id: int = 7) -> bytes:
        key = type(body).api_key
        return encode_request(key, _version(body, version), correlation_id, "test", body)

    async def send_bytes(self, data: bytes) -> None:
        with trio.fail_after(PATIENCE_SECONDS):
            await self.stream.send_vectored([data])

    async def receive_frame(self) -> bytes | None:
        """Return the next response without its size, None if the broker has closed."""
        with trio.fail_after(PATIENCE_SECONDS):
            while (frame := self._splitter.next_frame()) is None:
                try:
                    count = await self.stream.receive_into(self._splitter.writable())
                except trio.BrokenResourceError:
                    return None
                if not count:
                    return None
                self._splitter.received(count)
        return bytes(frame)

    async def receive(self, request: Any, version: int = NEWEST) -> Any:
        """Return the response to `request`, or None if the broker has closed the connection."""
        return (await self.receive_with_id(request, version))[1]

    async def receive_with_id(self, request: Any, version: int = NEWEST) -> tuple[int, Any]:
        frame = await self.receive_frame()
        if frame is None:
            return -1, None
        response_type: Any = APIS[type(request).api_key].response_type
        return decode_response(response_type, _version(request, version), frame)

    async def call(self, body: Any, version: int = NEWEST) -> Any:
        """Send a request and return its response; None if the broker closes the connection."""
        correlation_id = await self.send(body, version)
        answered, response = await self.receive_with_id(body, version)
        assert response is None or answered == correlation_id
        return response

    async def wait_closed(self) -> None:
        """Wait for the broker to close the connection, without another byte."""
        assert await self.receive_frame() is None

    async def produce(self, batch: bytes | None, **arguments: Any) -> Any:
        """Produce one batch; return the response of its partition."""
        version = arguments.pop("version", 11)
        response = await self.call(produce_request(batch, **arguments), version)
        return response.responses[0].partition_responses[0]

    async def fetch(self, offset: int = 0, **arguments: Any) -> Any:
        """Fetch one partition; return its part of the response."""
        version = arguments.pop("version", 12)
        response = await self.call(fetch_request(offset, **arguments), version)
        assert response.error_code == 0
        return response.responses[0].partitions[0]


def _version(body: Any, version: int) -> int:
    return APIS[type(body).api_key].max_version if version == NEWEST else version


async def closed_after(client: Client) -> float:
    """Wait for the broker to close; return how long that took."""
    began = trio.current_time()
    with trio.fail_after(1000):
        while await client.stream.receive_into(memoryview(bytearray(1000))):
            pass
    return trio.current_time() - began


@asynccontextmanager
async def open_client(network: Any, address: tuple[str, int]) -> AsyncIterator[Client]:
    stream = await network.connect(*address)
    try:
        yield Client(stream)
    finally:
        stream.close()


def make_batch(*values: bytes, timestamp_ms: int = 1_700_000_000_000, **arguments: Any) -> bytes:
    """Return a batch with these values; `first_timestamp_ms` and so on go to `build_batch`."""
    records = [
        Record(key=None, value=value, timestamp_ms=timestamp_ms + number)
        for number, value in enumerate(values or (b"value",))
    ]
    return bytes(build_batch(records, **arguments))


def produce_request(
    batch: bytes | None,
    *,
    topic: Any = "orders",
    partition: int = 0,
    acks: int = -1,
    timeout_ms: int = 30_000,
    transactional_id: str | None = None,
) -> ProduceRequest:
    """Return a request for one partition; a topic that is no name is an id."""
    named = {"name": topic} if isinstance(topic, str) else {"topic_id": topic}
    data = PartitionProduceData(index=partition, records=batch)
    return ProduceRequest(
        transactional_id=transactional_id,
        acks=acks,
        timeout_ms=timeout_ms,
        topic_data=[TopicProduceData(**named, partition_data=[data])],
    )


def fetch_request(
    offset: int = 0,
    *,
    topic: Any = "orders",
    partition: int = 0,
    partition_max_bytes: int = 1_000_000,
    max_wait_ms: int = 0,
    min_bytes: int = 1,
    partition_arguments: dict[str, Any] | None = None,
    **arguments: Any,
) -> FetchRequest:
    """Return a request for one partition; a topic that is no name is an id."""
    named = {"topic": topic} if isinstance(topic, str) else {"topic_id": topic}
    wanted = FetchPartition(
        partition=partition,
        fetch_offset=offset,
        partition_max_bytes=partition_max_bytes,
        **(partition_arguments or {}),
    )
    return FetchRequest(
        max_wait_ms=max_wait_ms,
        min_bytes=min_bytes,
        topics=[FetchTopic(**named, partitions=[wanted])],
        **arguments,
    )


# ------------------------------------------------------------------------------------- simulation
async def _run_on(machine: SimMachine, program: Any, *, task_status: Any) -> None:
    await machine.run(lambda host: program(host, task_status))


class World:
    """A simulated machine with a disk and a network of its own, for one or several brokers.

    Attributes:
        sim: the run.
        machine: replaced by `power_cut`.
    """

    def __init__(self, sim: Simulation) -> None:
        self.sim = sim
        self.internet = SimInternet(sim.streams, note=sim.note)
        self.machine = SimMachine(sim, "server", internet=self.internet)
        self.clients = SimMachine(sim, "clients", internet=self.internet)

    @property
    def host(self) -> Host:
        return self.machine.host

    @property
    def fs(self) -> Any:
        return self.machine.fs

    @property
    def network_faults(self) -> NetworkFaults:
        return self.internet.faults

    def config(self, **changes: Any) -> BrokerConfig:
        values: dict[str, Any] = {
            "data_dir": "/data",
            "listeners": ("server:9092",),
            "topic": TopicConfig(retention_ms=-1),  # timestamps of test data may be old
        }
        return BrokerConfig(**(values | changes))

    def running(self, *, reraise: bool = True, **changes: Any) -> Any:
        return running(self.config(**changes), host=self.host, reraise=reraise)

    @asynccontextmanager
    async def running_until_power_cut(self, **changes: Any) -> AsyncIterator[Running]:
        """Run a broker for the length of a block; where that ends, the machine loses its power."""
        run = Running(BrokerTree(self.config(**changes), self.host), self.host)
        machine = self.machine
        async with trio.open_nursery() as nursery:

            async def serve(host: Host, task_status: Any) -> None:
                async with trio.open_nursery() as inner:
                    await inner.start(run.tree.run)
                    task_status.started()

            await nursery.start(_run_on, machine, serve)
            try:
                yield run
            finally:
                machine.power_off()
        self.machine = machine.power_on()

    def connect(self) -> Any:
        """Open a connection from another machine."""
        return open_client(self.clients.network, ("server", 9092))


def simulated(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make an async test of a `World` one that pytest can run, with a seed of every run's own."""

    def wrapper(seed: int, **arguments: Any) -> None:
        async def main(sim: Simulation) -> None:
            await test(World(sim), **arguments)

        simulate(main, seed, max_seconds=SIMULATED_SECONDS_MAX, max_steps=STEPS_MAX).unwrap()

    functools.update_wrapper(wrapper, test)
    del wrapper.__wrapped__  # type: ignore[attr-defined] # pytest would take its parameters
    others = list(inspect.signature(test).parameters.values())[1:]
    wrapper.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter("seed", inspect.Parameter.KEYWORD_ONLY)]
        + [other.replace(kind=inspect.Parameter.KEYWORD_ONLY) for other in others]
    )
    return wrapper


async def code_of(client: Any, replica: Replica, **arguments: Any) -> int:
    """Produce a batch to a replica's partition; return the error code of the answer."""
    batch = make_batch(b"x" * 100)
    return (await client.produce(batch, partition=replica.partition, **arguments)).error_code


@contextmanager
def failing(
    call: str, part: str, error: int = errno.EIO, *, on: Any = SimFile
) -> Iterator[list[str]]:
    """Let a call of simulated files fail where `part` is in the path; gives the paths it met.

    With `on=SimFileSystem` it is a call of the filesystem, and its first argument is looked at.
    """
    original = getattr(on, call)
    met: list[str] = []

    @functools.wraps(original)
    def fail(target: Any, *arguments: Any, **options: Any) -> Any:
        path = target.path if on is SimFile else str(arguments[0])
        if part in path:
            met.append(path)
            raise OSError(error, os.strerror(error), path)
        return original(target, *arguments, **options)

    setattr(on, call, fail)
    try:
        yield met
    finally:
        setattr(on, call, original)


@contextmanager
def slow(part: str, seconds: float) -> Iterator[None]:
    """Let every disk operation in a lane on a path that contains `part` take so long."""
    delay_seconds = SimFileSystem.delay_seconds

    def delay(fs: SimFileSystem, call: str, path: str) -> float:
        return seconds if part in path else delay_seconds(fs, call, path)

    with patch.object(SimFileSystem, "delay_seconds", delay):
        yield


def codes(results: Sequence[Any]) -> list[int]:
    return [result.error_code for result in results]

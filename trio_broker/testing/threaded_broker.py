"""A real broker in a thread, for clients of any kind: `broker_thread`.

The broker listens on a real port of this machine and speaks the real protocol; only its disk is
memory (`testing.memory`), so that it starts at once, leaves nothing behind and can be made full,
slow or broken. It has a Trio run of its own in a thread of its own. Every method here may be
called from any other thread, and blocks it until it is done; from a coroutine use
``await asyncio.to_thread(...)`` or ``await trio.to_thread.run_sync(...)`` for those that wait.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import trio
from attrs import evolve

from trio_broker.broker.embed import open_broker
from trio_broker.errors import BrokerClosed, BrokerCrashed, ErrorCode, RequestError
from trio_broker.host import facts
from trio_broker.host.entropy import RealEntropy
from trio_broker.host.real import LEASES
from trio_broker.host.sockets import RealNetwork
from trio_broker.testing import inspection
from trio_broker.testing.kafka_faults import KafkaFaults
from trio_broker.testing.memory import (
    DISK_BYTES,
    MemoryDisk,
    TravellingWallClock,
    config_for_tests,
    memory_host,
)
from trio_broker.testing.request_faults import RequestFaults
from trio_broker.testing.trio_thread import TrioThread

if TYPE_CHECKING:
    from trio_broker.broker.embed import Broker
    from trio_broker.config import BrokerConfig
    from trio_broker.host.sockets import RealListener
    from trio_broker.testing.inspection import StoredRecord

P = ParamSpec("P")
T = TypeVar("T")

_numbers = count(1)
#: How much longer than its own deadline a stop may take before the thread counts as hung.
STOP_GRACE_SECONDS = 10.0


class _HeldNetwork(RealNetwork):
    """The machine's network; a port that was bound once is kept while nobody has it."""

    def __init__(self) -> None:
        super().__init__()
        self._held = ExitStack()

    async def bind(self, host: str, port: int) -> Sequence[RealListener]:
        """Give the ports back that were held, and bind."""
        self._held.close()
        return await super().bind(host, port)

    def hold(self, addresses: Sequence[tuple[str, int]]) -> None:
        """Keep these ports; `bind` and `release` give them back."""
        for host, port in addresses:
            self._held.callback(self.hold_port(host, port))

    def release(self) -> None:
        """Give all ports back."""
        self._held.close()


class BrokerThread:
    """A broker that runs in a thread; `broker_thread` makes it.

    Attributes:
        faults: what can be made to go wrong.
        wall: the broker's civil time.
        disk: what it stores its data on; survives stops.
        requests: faults of requests; only to be changed in the broker's thread.
        thread: where it runs.
    """

    def __init__(self, config: BrokerConfig, disk_bytes: int) -> None:
        self._config = config
        self.thread = TrioThread(f"trio-broker {next(_numbers)}")
        self._network = _HeldNetwork()
        self._entropy = RealEntropy()
        self._broker: Broker | None = None
        self._bound: list[tuple[str, int]] = []
        self._leave = trio.Event()
        self._ended = trio.Event()
        self._is_being_killed = False
        self.wall = TravellingWallClock()
        self.disk = MemoryDisk(self.wall, disk_bytes)
        self.requests = RequestFaults()
        self.faults = KafkaFaults(self)

    def __repr__(self) -> str:
        state = "running" if self._broker is not None else "stopped"
        return f"<BrokerThread {self.bootstrap} {state}>"

    # What clients need.

    @property
    def bootstrap(self) -> str:
        """What to give clients as bootstrap.servers; the same for the broker's whole life."""
        return ",".join(f"{host}:{port}" for host, port in self._bound)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the first listener."""
        return self._bound[0]

    @property
    def is_running(self) -> bool:
        """Whether it serves: False after `stop`, and after it has crashed."""
        return self._broker is not None and self.thread.is_running

    # Calls into the thread.

    def call(
        self,
        function: Callable[Concatenate[Broker, P], Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run ``await function(broker, ...)`` in the broker's thread, and return its result::

            offset = kafka_broker.call(Broker.produce, "orders", b"1 pizza")

        Raises:
            BrokerClosed: the broker is stopped.
            BrokerCrashed: it has failed, or does so meanwhile.
            BaseException: what the function raises.
        """

        async def with_broker() -> T:
            return await function(self.broker, *args, **kwargs)

        return self.thread.call(with_broker)

    @property
    def running_broker(self) -> Broker | None:
        """As `broker`; None while it is stopped, or starts."""
        return self._broker

    @property
    def broker(self) -> Broker:
        """The running broker; only to be used in its own thread, that is by `call`."""
        if self._broker is None:
            raise BrokerClosed("the broker is stopped")
        return self._broker

    # Life.

    def stop(self) -> None:
        """Stop the broker in order: clients find nobody listening. Idempotent."""
        self.thread.call(self.stop_in_thread)

    def start(self) -> None:
        """Start it again, with the same data at the same address. Idempotent."""
        self.thread.call(self.start_in_thread)

    def restart(self) -> None:
        """Stop it in order and start it again."""
        self.stop()
        self.start()

    def kill(self) -> None:
        """End it as kill -9 would, without a stop; `start` finds what the kernel had. Idempotent.

        Nothing acknowledged is lost: the machine itself goes on.
        """
        self.thread.call(self._kill)

    def begin(self) -> None:
        """Start the thread and the broker; `broker_thread` calls it, once.

        Raises:
            StorageError, OSError: the broker could not start.
        """
        self.thread.start()
        try:
            self.start()
        except BaseException:
            self.thread.finish(STOP_GRACE_SECONDS)
            raise

    def end(self) -> None:
        """Undo all faults, stop the broker in order, and end the thread.

        Raises:
            BrokerCrashed: it has failed some time before.
            RuntimeError: the thread did not end in time.
        """
        try:
            if self.thread.is_running:
                self.thread.call_sync(self._prepare_end)
                self.stop()
        finally:
            self.thread.finish(self._config.shutdown.deadline_seconds + STOP_GRACE_SECONDS)
            self._network.release()

    def _prepare_end(self) -> None:
        """Let nothing that a test has left behind hold up the stop."""
        self.requests.clear()
        self.disk.heal()

    async def start_in_thread(self) -> None:
        """See `start`; only in the broker's thread."""
        if self._broker is None:
            self._leave, self._ended = trio.Event(), trio.Event()
            await self.thread.nursery.start(self._serve)

    async def _serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Be one life of the broker. A crash ends the thread's run, and so reaches the test."""
        config = self._config
        if self._bound:
            config = evolve(
                config, listeners=tuple(f"{_bracketed(host)}:{port}" for host, port in self._bound)
            )
        host = evolve(
            memory_host(self.wall, fs=self.disk.fs, network=self._network, entropy=self._entropy),
            descriptors_max=facts.descriptors_max(),
            open_descriptors=facts.open_descriptors,
            descriptor_leases=LEASES,
        )
        try:
            async with open_broker(config, host=host, interceptor=self.requests) as self._broker:
                self._bound = self._broker.listeners
                task_status.started()
                await self._leave.wait()
        except BrokerCrashed:
            if not self._is_being_killed:
                raise
        finally:
            self._broker = None
            self._ended.set()
        self._network.hold(self._bound)

    async def stop_in_thread(self) -> None:
        """See `stop`; only in the broker's thread."""
        if self._broker is not None:
            self._leave.set()
            await self._ended.wait()

    async def _kill(self) -> None:
        if self._broker is not None:
            self._is_being_killed = True
            self.disk.fs.power_off()
            self._leave.set()
            await self._ended.wait()
            self._is_being_killed = False
            self.disk.fs = self.disk.fs.restart()

    # Topics.

    def create_topic(
        self, name: str, *, partitions: int = 1, configs: Mapping[str, str] | None = None
    ) -> None:
        """Create a topic; when this returns it can be used.

        Args:
            name: 1 to 249 of ``[a-zA-Z0-9._-]``.
            partitions: how many.
            configs: Kafka's topic configs, such as ``{"retention.ms": "3600000"}``.

        Raises:
            RequestError: TOPIC_ALREADY_EXISTS, and so on.
        """

        async def create(broker: Broker) -> None:
            await broker.create_topic(name, partitions=partitions, configs=configs)

        self.call(create)

    def delete_topic(self, name: str) -> None:
        """Delete a topic, with its records and the offsets committed for it.

        Raises:
            RequestError: UNKNOWN_TOPIC_OR_PARTITION if there is none.
        """

        async def delete(broker: Broker) -> None:
            await broker.delete_topic(name)

        self.call(delete)

    @contextmanager
    def topic(
        self, prefix: str = "test", *, partitions: int = 1, configs: Mapping[str, str] | None = None
    ) -> Iterator[str]:
        """Have a topic of a unique name, until the block ends; gives its name."""
        name = f"{prefix}-{self._entropy.uuid().hex[:12]}"
        self.create_topic(name, partitions=partitions, configs=configs)
        try:
            yield name
        finally:
            self.start()  # a test may have stopped it
            self._delete_if_there(name)

    def _delete_if_there(self, name: str) -> None:
        try:
            self.delete_topic(name)
        except RequestError as error:
            if error.code is not ErrorCode.UNKNOWN_TOPIC_OR_PARTITION:
                raise

    # Records.

    def produce(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes | None]] = (),
        timestamp_ms: int | None = None,
        partition: int | None = None,
    ) -> tuple[int, int]:
        """Store one record, without a client; return (partition, offset).

        Args:
            topic: name.
            value: None is a tombstone.
            key: chooses the partition, as with Kafka's own clients.
            headers: names with their values.
            timestamp_ms: since the Unix epoch; None: now, as the broker sees it.
            partition: None: by key, or in turn.

        Raises:
            RequestError: with the code that a producer would have received.
        """

        async def store(broker: Broker) -> tuple[int, int]:
            return await broker.produce(
                topic,
                value,
                key=key,
                headers=headers,
                timestamp_ms=timestamp_ms,
                partition=partition,
            )

        return self.call(store)

    def records(self, topic: str, *, partition: int | None = None) -> list[StoredRecord]:
        """Return the records of a topic, by partition and offset; see `inspection.records`."""

        async def read(broker: Broker) -> list[StoredRecord]:
            return await inspection.records(broker, topic, partition=partition)

        return self.call(read)

    def committed(self, group: str) -> dict[tuple[str, int], int]:
        """Return what a group has committed, by (topic, partition): offsets of the next records."""
        return self.thread.call_sync(lambda: inspection.committed(self.broker, group))

    def lag(self, group: str, *, topics: Sequence[str] = ()) -> int | None:
        """Return how many records a group has not committed yet; see `inspection.lag`."""
        return self.thread.call_sync(lambda: inspection.lag(self.broker, group, topics))

    def wait_for_lag(
        self,
        group: str,
        most: int = 0,
        *,
        topics: Sequence[str] = (),
        timeout_seconds: float = 10.0,
    ) -> None:
        """Wait until a group has at most so many records left to commit.

        Args:
            group: its id.
            most: the lag to wait for.
            topics: count these; none: those of which the group has committed something.
            timeout_seconds: how long to wait.

        Raises:
            NotReached: an AssertionError; it takes longer.
        """

        async def wait(broker: Broker) -> None:
            await inspection.wait_for_lag(
                broker, group, most, topics=topics, timeout_seconds=timeout_seconds
            )

        self._wait(wait)

    def wait_for_records(
        self, topic: str, number: int, *, timeout_seconds: float = 10.0
    ) -> list[StoredRecord]:
        """Wait until a topic holds at least so many records; return all of them.

        Raises:
            NotReached: an AssertionError; it takes longer.
        """

        async def wait(broker: Broker) -> list[StoredRecord]:
            return await inspection.wait_for_records(
                broker, topic, number, timeout_seconds=timeout_seconds
            )

        return self._wait(wait)

    def _wait(self, function: Callable[[Broker], Awaitable[T]]) -> T:
        """Call what waits; if in vain, tell whether it has kept the waited-for from happening."""
        try:
            return self.call(function)
        except inspection.NotReached as error:
            hint = inspection.hint_for_event_loops()
            if not hint:
                raise
            raise inspection.NotReached(f"{error}{hint}") from None


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@contextmanager
def broker_thread(
    config: BrokerConfig | None = None, *, disk_bytes: int = DISK_BYTES
) -> Iterator[BrokerThread]:
    """Run a broker in a thread for the length of a block::

        with broker_thread() as broker:
            producer = confluent_kafka.Producer({"bootstrap.servers": broker.bootstrap})

    It listens at 127.0.0.1, at a port that is free. Leaving the block stops it in order and ends
    its threads. Several may run at once.

    Args:
        config: None: `config_for_tests`. One without listeners gets that one; its log dirs are on
            the disk in memory.
        disk_bytes: size of that disk; the machine's memory is taken as it fills.

    Raises:
        StorageError, OSError: the broker could not start.
        BrokerCrashed: it failed while it ran; any call raises it, and so does leaving the block.
    """
    config = config or config_for_tests()
    if not config.listeners:
        config = evolve(config, listeners=("127.0.0.1:0",))
    thread = BrokerThread(config, disk_bytes)
    thread.begin()
    try:
        yield thread
    finally:
        thread.end()

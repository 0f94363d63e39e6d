"""A broker in memory, without faults: `memory_broker`, and the machine it runs on.

The disk is `sim.disk`'s with every delay and fault set to nothing; jobs of the disk run on the
event loop, so there is no thread, no file and no socket. Nothing here waits for the outside world,
which is why the broker may run under any clock: Trio's own, or a virtual one that jumps.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio
from attrs import evolve

from trio_broker.broker.embed import open_broker
from trio_broker.config import (
    BrokerConfig,
    GroupConfig,
    LimitsConfig,
    ShutdownConfig,
    StorageConfig,
    TopicConfig,
)
from trio_broker.host.clock import RealWallClock, require_trio
from trio_broker.host.entropy import RealEntropy
from trio_broker.host.interface import Host
from trio_broker.testing.sim.clock import SimClock
from trio_broker.testing.sim.disk import SimFileSystem
from trio_broker.testing.sim.faults import DiskFaults
from trio_broker.testing.sim.host import SimEntropy, SimWallClock
from trio_broker.testing.sim.lane import SimLane
from trio_broker.testing.sim.network import SimInternet
from trio_broker.testing.sim.streams import RandomStreams

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio_broker.broker.embed import Broker
    from trio_broker.broker.interception import Interceptor
    from trio_broker.host.interface import Entropy, Network, WallClock

#: Where the broker keeps its data on the disk in memory.
DATA_DIR = "/data"
#: Size of the disk in memory. A suite that fills it meets a full disk, not the end of the machine.
DISK_BYTES = 1024 * 1024 * 1024
#: A disk on which nothing takes any time or goes wrong.
FAULTLESS = DiskFaults(
    cached_read_rate=1.0,
    latency_seconds=(0.0, 0.0),
    sync_latency_seconds=(0.0, 0.0),
    open_files_max=100_000,
)


class TravellingWallClock:
    """Civil time that follows Trio's clock from the moment of its first use, and can be moved.

    Under a virtual clock a sleep of seven days is seven days here too, so retention does what it
    would do in production.

    Attributes:
        offset_ms: how far it has been moved.
    """

    def __init__(self, real: WallClock | None = None) -> None:
        """Make a clock that begins with what `real` shows then; None: the system's."""
        self.offset_ms = 0
        self._real = real or RealWallClock()
        self._began: tuple[int, float] | None = None

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch."""
        if not trio.lowlevel.in_trio_run():
            return self._real.now_ms() + self.offset_ms
        if self._began is None:
            self._began = self._real.now_ms(), trio.current_time()
        began_ms, began = self._began
        return began_ms + round((trio.current_time() - began) * 1000) + self.offset_ms


class MemoryDisk:
    """A disk in memory that outlives the brokers that use it, one after the other.

    Attributes:
        fs: the disk as the present broker sees it.
    """

    def __init__(self, wall: WallClock, size_bytes: int = DISK_BYTES) -> None:
        """Make an empty disk.

        Args:
            wall: for the times of files.
            size_bytes: its size; the machine's memory is taken as it fills.
        """
        self._faultless = evolve(FAULTLESS, capacity_bytes=size_bytes)
        self._troubles: dict[object, dict[str, Any]] = {}
        self.fs = SimFileSystem(
            0,
            name="memory",
            faults=self._faultless,
            now_ms=wall.now_ms,
            power_may_fail=False,
        )

    def trouble(self, key: object, **faults: Any) -> None:
        """Let something go wrong until `heal` of the same key.

        Args:
            key: whose trouble it is.
            faults: fields of `DiskFaults`; of two troubles about one field the later counts.
                Without any, every operation hangs.
        """
        self._troubles[key] = faults
        self._apply()

    def heal(self, *keys: object) -> None:
        """End some troubles, or all of them. Idempotent."""
        for key in keys or list(self._troubles):
            self._troubles.pop(key, None)
        self._apply()

    @property
    def is_troubled(self) -> bool:
        """Whether something goes wrong now."""
        return bool(self._troubles)

    def _apply(self) -> None:
        changes: dict[str, Any] = {}
        for faults in self._troubles.values():
            changes |= faults
        self.fs.faults = evolve(self._faultless, **changes)
        if any(not faults for faults in self._troubles.values()):
            self.fs.freeze()
        else:
            self.fs.thaw()


def memory_host(
    wall: WallClock,
    *,
    name: str = "memory",
    fs: SimFileSystem | None = None,
    network: Network | None = None,
    entropy: Entropy | None = None,
) -> Host:
    """Return a machine whose disk is memory.

    Args:
        wall: its civil time.
        name: for logs.
        fs: its disk; None: a new one.
        network: its sockets; None: a simulated network of its own, without delays or faults.
        entropy: its randomness; None: the system's.
    """
    return Host(
        name=name,
        fs=fs or MemoryDisk(wall).fs,
        network=network or SimInternet(RandomStreams(0)).attach(name),
        wall=wall,
        entropy=entropy or RealEntropy(),
        open_lane=SimLane,
        simulated=True,
    )


def config_for_tests(**changes: Any) -> BrokerConfig:
    """Return a configuration for brokers in tests: no limit of it slows a test down.

    It differs from a broker's defaults in this: no listeners, one shard, records are kept for
    ever (those of tests often have old timestamps), session timeouts may be as short as 10 ms, and
    topics may be created and deleted as fast as one likes, and a stop takes at most 10 s.

    Args:
        changes: fields of `BrokerConfig` with other values.

    Raises:
        ConfigError: a value is out of its limits.
    """
    values: dict[str, Any] = {
        "data_dir": DATA_DIR,
        "listeners": (),
        "topic": TopicConfig(retention_ms=-1),
        "storage": StorageConfig(shards_per_log_dir=1),
        "limits": LimitsConfig(topic_mutations_per_second=-1),
        "group": GroupConfig(session_timeout_min_ms=10),
        "shutdown": ShutdownConfig(deadline_seconds=10),
    }
    return BrokerConfig(**(values | changes))


def _machine() -> Host:
    """Return a machine for the clock that is in use."""
    clock = trio.lowlevel.current_clock()
    if isinstance(clock, SimClock):
        return memory_host(SimWallClock(), entropy=SimEntropy(clock.streams, "memory"))
    return memory_host(TravellingWallClock())


async def travel(broker: Broker, seconds: float) -> None:
    """Move a broker's civil time, and let it delete at once what is too old then.

    Trio's clock is not touched: timeouts and sessions go on as they were.

    Args:
        broker: one whose machine is `memory_host`'s or simulated.
        seconds: how far; negative: back.
    """
    state = broker._state
    wall = state.host.wall
    assert isinstance(wall, TravellingWallClock | SimWallClock), "the real clock cannot be moved"
    wall.offset_ms += round(seconds * 1000)
    for replica in list(state.router.replicas()):
        await replica.shard.apply_retention(replica)


@asynccontextmanager
async def memory_broker(
    config: BrokerConfig | None = None,
    *,
    host: Host | None = None,
    interceptor: Interceptor | None = None,
) -> AsyncIterator[Broker]:
    """Run a broker in memory for the length of a block::

        async with memory_broker() as broker, open_client(broker=broker) as client:
            await broker.create_topic("orders")

    It takes some milliseconds to start and to stop, so every test can have its own. There are no
    files, threads or sockets, and no faults. It runs under any clock, `trio.testing.MockClock` and
    that of the simulator included; its civil time moves with that clock.

    Args:
        config: None: `config_for_tests`. Its log dirs are on the disk in memory; listeners would
            be on a network that only this broker is on.
        host: a machine from `memory_host`; None: a new one.
        interceptor: stands between connections and handlers: a `RequestFaults`, for example.

    Raises:
        RuntimeError: outside of Trio.
        BrokerCrashed: the broker failed while it ran; the block has been cancelled.
        BaseException: whatever the block raises, as it is.

    Cancellation: as with `open_broker`.
    """
    require_trio("memory_broker()", "tests on asyncio take kafka_broker, or broker_thread()")
    async with open_broker(
        config or config_for_tests(), host=host or _machine(), interceptor=interceptor
    ) as broker:
        yield broker

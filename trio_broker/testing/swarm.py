"""What a seed draws: the broker's configuration, and what happens to it.

Every seed gets another broker ("swarm testing": Groce et al., ISSTA 2012): segments of a kilobyte
or a megabyte, one shard or three, queues that hold two batches, and only some of the faults. What
is rare with one configuration is common with another.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import evolve, frozen

from trio_broker.config import (
    KIB,
    MIB,
    BrokerConfig,
    Durability,
    GroupConfig,
    LimitsConfig,
    NetworkConfig,
    ShutdownConfig,
    StorageConfig,
    TopicConfig,
)
from trio_broker.testing.brokers import DATA_DIRECTORY
from trio_broker.testing.sim.network import NetworkFaults

if TYPE_CHECKING:
    import random

C = TypeVar("C")

TWO_LOG_DIRS = (f"{DATA_DIRECTORY}/a", f"{DATA_DIRECTORY}/b")

#: Kinds of trouble, and how many of ten seeds with trouble have each.
TROUBLES = {
    "stop": 6,
    "cancel": 4,
    "kill": 5,
    "power cut": 5,
    "power cut at an operation": 4,
    "failed fsync": 3,
    "write errors": 4,
    "read errors": 2,
    "short writes": 3,
    "slow disk": 3,
    "full disk": 4,
    "frozen disk": 6,
    "failing log dir": 5,
    "failing partition": 3,
    "no descriptors": 2,
    "reset": 4,
    "cut network": 3,
    "clock jump": 3,
    "delete": 5,
}


@frozen(kw_only=True)
class Swarm:
    """Everything a seed draws before anything happens.

    Attributes:
        config: of the broker.
        seconds: how long clients and trouble go on.
        topics: how many there are at first; others come and go.
        producers: idempotent ones; `plain_producers` others, `embedded_producers` in the process.
        consumers: over the network; `embedded_consumers` in the process.
        committers: clients that commit offsets.
        members: of one group, that come and go.
        trimmers: clients that delete records.
        alterers: operators who alter topics.
        troubles: what happens, of `TROUBLES`.
        trouble_seconds: mean time between two troubles.
        values_bytes_max: of one record.
        pause_seconds: mean pause of a client between two requests.
        topic_configs: for topics, one of them drawn for each.
        network: latency, fragments, and how much a connection holds.
    """

    config: BrokerConfig
    seconds: float
    topics: int
    producers: int
    plain_producers: int
    embedded_producers: int
    consumers: int
    embedded_consumers: int
    committers: int
    members: int
    trimmers: int
    alterers: int
    troubles: tuple[str, ...]
    trouble_seconds: float
    values_bytes_max: int
    pause_seconds: float
    topic_configs: tuple[dict[str, str], ...]
    network: NetworkFaults

    def __str__(self) -> str:
        storage = self.config.storage
        return (
            f"{storage.durability}, {storage.shards_per_log_dir} shards,"
            f" {self.producers}+{self.plain_producers}+{self.embedded_producers} producers,"
            f" {self.consumers}+{self.embedded_consumers} consumers, {self.committers} committers,"
            f" {self.members} members, {self.trimmers} trimmers, {self.alterers} alterers,"
            f" {self.seconds:.1f} s of {', '.join(self.troubles) or 'no trouble'}"
        )


def squeeze(config: C, **values: Any) -> C:
    """Return a configuration with values below what one may ask for, so that bounds are reached."""
    squeezed = copy.copy(config)
    for name, value in values.items():
        assert hasattr(config, name), name
        object.__setattr__(squeezed, name, value)
    return squeezed


def draw_config(draws: random.Random, *, name: str = "server") -> BrokerConfig:
    """Draw the configuration of a broker on the machine of that name."""
    storage = StorageConfig(
        durability=draws.choice((Durability.FSYNC, *Durability)),
        shards_per_log_dir=draws.choice((1, 2, 3)),
        flush_interval_ms=draws.choice((1, 20, 100)),
        flush_interval_bytes=draws.choice((4 * KIB, MIB)),
        operation_seconds_max=draws.choice((0.2, 0.5, 2.0, 30.0)),
        ballast_bytes=draws.choice((0, 0, 64 * KIB)),
        open_files_max=draws.choice((-1, 1, 2, 16)),
    )
    network = NetworkConfig(
        produce_requests_in_flight_max=draws.choice((1, 2, 5)),
        produce_bytes_in_flight_max=draws.choice((KIB, 8 * MIB)),
        connection_idle_seconds=draws.choice((5.0, 600.0)),
        fetch_bytes_max=draws.choice((KIB, 50 * MIB)),
    )
    config = BrokerConfig(
        data_dir=DATA_DIRECTORY,
        log_dirs=draws.choice(((), (), TWO_LOG_DIRS)),
        listeners=(f"{name}:9092",),
        auto_create_topics=False,
        shutdown=ShutdownConfig(deadline_seconds=draws.choice((2.0, 10.0, 30.0))),
        topic=TopicConfig(
            retention_ms=-1,
            index_interval_bytes=draws.choice((0, 64, 4096)),
            file_delete_delay_ms=500,  # of the internal topics too
        ),
        network=network,
        storage=storage,
        limits=LimitsConfig(producer_ids_per_partition_max=draws.choice((100, 10_000))),
        group=GroupConfig(
            offsets_topic_partitions=draws.choice((1, 2)),
            offsets_topic_segment_bytes=draws.choice((KIB, 4 * KIB, 100 * MIB)),
        ),
    )
    return squeeze(
        config,
        network=squeeze(
            network,
            request_memory_bytes=draws.choice((4 * KIB, 256 * MIB)),
            response_memory_bytes=draws.choice((4 * KIB, 128 * MIB)),
        ),
        storage=squeeze(
            storage,
            commit_bytes_max=draws.choice((KIB, 8 * MIB)),
            write_queue_bytes_max=draws.choice((KIB, 4 * KIB, 64 * MIB)),
            recovery_point_bytes=draws.choice((2 * KIB, 64 * MIB)),
        ),
    )


def draw_topic_config(draws: random.Random) -> dict[str, str]:
    """Draw the configs that a topic is created with."""
    configs = {"segment.bytes": str(draws.choice((KIB, 2 * KIB, 64 * KIB)))}
    if draws.random() < 0.3:
        configs["retention.bytes"] = str(draws.choice((KIB, 4 * KIB)))
    if draws.random() < 0.2:
        configs["retention.ms"] = str(draws.choice((1, 2_000)))
    if draws.random() < 0.2:
        configs["segment.ms"] = str(draws.choice((1, 1_000)))
    if draws.random() < 0.3:
        configs["durability"] = draws.choice(tuple(map(str, Durability)))
    configs["file.delete.delay.ms"] = str(draws.choice((0, 500)))
    return configs


def draw_swarm(draws: random.Random) -> Swarm:
    """Draw everything."""
    troubles: tuple[str, ...] = ()
    if draws.random() < 0.85:
        troubles = tuple(kind for kind, tenths in TROUBLES.items() if draws.random() < tenths / 15)
    swarm = Swarm(
        config=draw_config(draws),
        seconds=draws.choice((0.5, 2.0, 6.0)),
        topics=draws.choice((1, 2, 3)),
        producers=draws.choice((0, 1, 1, 2, 3)),
        plain_producers=draws.choice((0, 1, 2)),
        embedded_producers=draws.choice((0, 1, 1)),
        consumers=draws.choice((0, 1, 1, 2)),
        embedded_consumers=draws.choice((0, 0, 1)),
        committers=draws.choice((0, 0, 1)),
        members=draws.choice((0, 0, 2, 3)),
        trimmers=draws.choice((0, 0, 0, 1)),
        alterers=draws.choice((0, 0, 1)),
        troubles=troubles,
        trouble_seconds=draws.choice((0.1, 0.5, 2.0)),
        values_bytes_max=draws.choice((50, 300, 900)),
        pause_seconds=draws.choice((0.0, 0.01, 0.1)),
        topic_configs=tuple(draw_topic_config(draws) for _ in range(3)),
        network=NetworkFaults(
            latency_seconds=draws.choice(((0.0002, 0.001), (0.0001, 0.0001), (0.001, 0.05))),
            fragment_rate=draws.choice((0.0, 0.1, 0.8)),
            window_bytes=draws.choice((KIB, 262_144, 262_144)),
        ),
    )
    # Drawn last, so that what older seeds draw stays as it was.
    for configs in swarm.topic_configs:
        if draws.random() < 0.15:
            configs["max.message.bytes"] = draws.choice(("300", "800"))
    return with_troubles(swarm, troubles)


def with_troubles(swarm: Swarm, troubles: tuple[str, ...]) -> Swarm:
    """Return the same with certain troubles, and what these need to mean anything.

    A log dir fails beside another one; and the memory for requests is such that those which wait
    for the failing one do not take all of it, since then others have to wait too.
    """
    config = swarm.config
    if "failing log dir" in troubles:
        config = squeeze(
            config,
            log_dirs=TWO_LOG_DIRS,
            network=squeeze(
                config.network, request_memory_bytes=256 * MIB, response_memory_bytes=128 * MIB
            ),
        )
    return evolve(swarm, config=config, troubles=troubles)


def calm(swarm: Swarm) -> Swarm:
    """Return the same without any trouble."""
    return evolve(swarm, troubles=())

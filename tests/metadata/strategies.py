"""Hypothesis strategies and a small world to make decisions in."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from uuid import UUID

from hypothesis import strategies as st

from trio_broker.cluster.table import KeyValueTable
from trio_broker.config import TopicConfig
from trio_broker.metadata.decisions import (
    NewTopic,
    StartedDirectory,
    Step,
    create_cluster,
    start_broker,
)
from trio_broker.metadata.image import MetadataImage, image_from_snapshot
from trio_broker.metadata.transaction import Transaction
from trio_broker.names import BrokerId

DEFAULTS = TopicConfig()
BROKER = BrokerId(0)
DIRECTORY_A = UUID(int=0xA)
DIRECTORY_B = UUID(int=0xB)


def sequential_ids() -> Callable[[], UUID]:
    numbers = itertools.count(1)
    return lambda: UUID(int=next(numbers) << 64)


class World:
    """A table as the store's model, and the image that follows it revision by revision."""

    def __init__(self) -> None:
        self.table = KeyValueTable()
        self.image = MetadataImage(DEFAULTS)
        self.new_topic_id = sequential_ids()

    def commit(self, transaction: Transaction) -> None:
        assert self.table.conflict(transaction.guards) is None
        operations = self.table.effective(transaction.operations)
        if operations:
            self.image = self.image.apply(self.table.apply(operations))

    def commit_steps(self, steps: Sequence[Step]) -> None:
        for step in steps:
            self.commit(step.transaction)

    def rebuilt_image(self) -> MetadataImage:
        snapshot = self.table.snapshot()
        return image_from_snapshot(snapshot.entries, snapshot.revision, DEFAULTS)


def world_with_brokers(brokers: int = 1, shard_count: int = 2) -> World:
    """Return a cluster whose brokers have two log dirs each."""
    world = World()
    world.commit(create_cluster("AAAAAAAAAAAAAAAAAAAAAA"))
    for broker in range(brokers):
        directories = [
            StartedDirectory(
                directory_id=UUID(int=directory.int + (broker << 8)),
                shard_count=shard_count,
                clean=True,
            )
            for directory in (DIRECTORY_A, DIRECTORY_B)
        ]
        world.commit_steps(start_broker(world.image, BrokerId(broker), directories))
    return world


#: Few names, so that they repeat and collide; some are illegal.
topic_names = st.sampled_from(["orders", "a.b", "a_b", "x", "y.z", ".", "", "z" * 250, "ä"])

new_topics = st.builds(
    NewTopic,
    name=topic_names,
    partitions=st.integers(-2, 5),
    replication_factor=st.integers(-2, 3),
    configs=st.lists(
        st.tuples(
            st.sampled_from(["retention.ms", "segment.bytes", "no.such.key"]),
            st.sampled_from(["100000", "-1", "junk", None]),
        ),
        max_size=2,
    ),
)

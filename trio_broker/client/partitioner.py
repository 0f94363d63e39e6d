"""Which partition a record goes to when the caller does not say: as Kafka's clients choose it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.client.metadata import NOBODY

if TYPE_CHECKING:
    from random import Random

    from trio_broker.client.metadata import TopicView

_SEED = 0x9747B28C
_MULTIPLIER = 0x5BD1E995
_MASK = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """Hash as org.apache.kafka.common.utils.Utils.murmur2 does; an unsigned 32-bit number."""
    size = len(data)
    result = (_SEED ^ size) & _MASK
    whole = size & ~3
    for position in range(0, whole, 4):
        word = int.from_bytes(data[position : position + 4], "little")
        word = (word * _MULTIPLIER) & _MASK
        word ^= word >> 24
        word = (word * _MULTIPLIER) & _MASK
        result = ((result * _MULTIPLIER) & _MASK) ^ word
    tail = data[whole:]
    if tail:
        result ^= int.from_bytes(tail, "little")
        result = (result * _MULTIPLIER) & _MASK
    result ^= result >> 13
    result = (result * _MULTIPLIER) & _MASK
    return result ^ (result >> 15)


def choose_partition(key: bytes | None, partition_count: int, turn: int) -> int:
    """Return a partition: the same for the same key, in turn for records without one.

    The choice for a key is that of Kafka's Java producer (and of librdkafka's murmur2
    partitioners), so that records of a key stay together whoever writes them.
    """
    if key is None:
        return turn % partition_count
    return (murmur2(key) & 0x7FFFFFFF) % partition_count


class StickyPartitioner:
    """Partitions for the records of one topic that have no key (KIP-794).

    Stays with a partition for about a batch, so that batches are full, and then draws another.
    """

    __slots__ = ("_bytes_left", "_current", "_random")

    def __init__(self, random: Random) -> None:
        self._random = random
        self._current = -1
        self._bytes_left = 0

    def choose(self, topic: TopicView, size_bytes: int, batch_bytes: int) -> int:
        """Return the partition for a record.

        Args:
            topic: with its partitions as they are now.
            size_bytes: of the record.
            batch_bytes: how much one partition gets in a row.
        """
        if self._bytes_left < size_bytes or self._current not in topic.partitions:
            led = [index for index, view in topic.partitions.items() if view.leader != NOBODY]
            self._current = self._random.choice(led or list(topic.partitions))
            self._bytes_left = max(batch_bytes, size_bytes)
        self._bytes_left -= size_bytes
        return self._current

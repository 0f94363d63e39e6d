"""Which partition a record goes to when the caller does not say: as Kafka's clients choose it."""

from __future__ import annotations

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

"""Which partition of ``__consumer_offsets`` keeps a group, and so which broker coordinates it."""

from __future__ import annotations

_INT32_MIN = -(1 << 31)


def java_string_hash(text: str) -> int:
    """Return Java's ``String.hashCode`` of `text`: over UTF-16 code units, signed 32 bits."""
    encoded = text.encode("utf-16-be", "surrogatepass")
    result = 0
    for position in range(0, len(encoded), 2):
        unit = encoded[position] << 8 | encoded[position + 1]
        result = (31 * result + unit) & 0xFFFF_FFFF
    return result - (1 << 32) if result >> 31 else result


def offsets_partition(group_id: str, partition_count: int) -> int:
    """Return the partition for a group, the same as Apache Kafka's (Utils.abs of the hash)."""
    group_hash = java_string_hash(group_id)
    return (0 if group_hash == _INT32_MIN else abs(group_hash)) % partition_count

"""Record batches, sound ones and ones with something wrong in any place."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import crc32c

from tests.support.kafka_bytes import Batch
from trio_broker.records.build import Record, build_batch
from trio_broker.records.compression import Compression

if TYPE_CHECKING:
    import random

#: Offset in the batch, format: every field of the header that is not the CRC.
HEADER_FIELDS = {
    "base_offset": (0, ">q"),
    "length": (8, ">i"),
    "leader_epoch": (12, ">i"),
    "magic": (16, ">b"),
    "attributes": (21, ">h"),
    "last_offset_delta": (23, ">i"),
    "base_timestamp": (27, ">q"),
    "max_timestamp": (35, ">q"),
    "producer_id": (43, ">q"),
    "producer_epoch": (51, ">h"),
    "base_sequence": (53, ">i"),
    "record_count": (57, ">i"),
}
_CRC_START, _CRC_END = 17, 21


def sound_batch(
    chance: random.Random, now_ms: int, producer: tuple[int, int, int] | None = None
) -> bytes:
    """Return a batch as a producer sends it."""
    count = chance.choice((1, 1, 1, 2, 3, 10, 100))
    size = chance.choice((0, 1, 10, 100))
    records = [
        Record(
            key=chance.choice((None, b"", b"key")),
            value=chance.choice((None, b"v" * size)),
            headers=chance.choice(((), (("h", b"1"), ("h", None)))),
            timestamp_ms=now_ms + chance.choice((0, 0, number, -number)),
        )
        for number in range(count)
    ]
    producer_id, epoch, sequence = producer or (-1, -1, -1)
    return build_batch(
        records,
        producer_id=producer_id,
        producer_epoch=epoch,
        base_sequence=sequence,
        compression=chance.choice(tuple(Compression)),
    )


def with_crc(batch: bytes | bytearray) -> bytes:
    """Return the batch with the CRC that its bytes have."""
    made = bytearray(batch)
    if len(made) >= _CRC_END:
        made[_CRC_START:_CRC_END] = struct.pack(">I", crc32c.crc32c(bytes(made[_CRC_END:])))
    return bytes(made)


def with_field(batch: bytes, name: str, value: int) -> bytes:
    """Return the batch with another value in its header; the CRC is as it was."""
    position, width = HEADER_FIELDS[name]
    made = bytearray(batch)
    struct.pack_into(width, made, position, value)
    return bytes(made)


def _edge(chance: random.Random, width: str) -> int:
    bits = 8 * struct.calcsize(width)
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    near = chance.choice((-2, -1, 0, 1, 2, 3, 7, 64, 255))
    value = chance.choice((low, low + 1, high, high - 1, near, near, 1 << chance.randrange(bits)))
    return min(max(value, low), high)


def broken_batch(chance: random.Random, batch: bytes, now_ms: int) -> bytes:
    """Return the batch with something wrong; mostly the CRC fits, so that the rest is looked at."""
    kind = chance.randrange(10)
    if kind <= 4:
        for _ in range(chance.choice((1, 1, 2, 3))):
            name = chance.choice(tuple(HEADER_FIELDS))
            batch = with_field(batch, name, _edge(chance, HEADER_FIELDS[name][1]))
    elif kind == 5:  # bytes of the records
        made = bytearray(batch)
        for _ in range(chance.choice((1, 2, 8))):
            if len(made) > 61:
                made[chance.randrange(61, len(made))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
        batch = bytes(made)
    elif kind == 6:
        batch = batch[: chance.randrange(len(batch))]
    elif kind == 7:
        batch = chance.choice((batch + batch, batch + b"\0", batch + batch[:40], b"\0" + batch))
    elif kind == 8:
        batch = liar(chance, now_ms)
    else:
        return chance.choice((b"", b"\0", bytes(60), bytes(61), bytes(200), b"\xff" * 61))
    return with_crc(batch) if chance.random() < 0.85 else batch


def liar(chance: random.Random, now_ms: int) -> bytes:
    """Return a batch whose header is in order, and whose records are something else."""
    payload = chance.choice(
        (
            bytes(7),
            b"\xff" * 14,
            b"\x80" * 30,
            b"\x0e\x00" + b"\xfe" + b"\xff" * 8 + b"\x01" + bytes(5),  # a delta of 2^63 - 1
            b"\x1e\x00" + b"\xff" * 9 + b"\x01" + b"\xfe\xff\xff\xff\x0f\x00\x00\x00",
            chance.randbytes(chance.choice((7, 20, 200))),
        )
    )
    count = chance.choice((1, 1, 2, len(payload) // 7))
    return Batch(
        payload=payload,
        count=count,
        last_offset_delta=count - 1,
        attributes=chance.choice((0, 0, 0, 1, 2, 3, 4, 5, 6, 7)),
        base_timestamp=now_ms - chance.choice((0, 5, 1000)),
        max_timestamp=now_ms,
    ).encode()

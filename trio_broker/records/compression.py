"""Codecs of the records inside a batch; placeholder of the enumeration until the codecs land."""

from __future__ import annotations

from enum import IntEnum


class Compression(IntEnum):
    """How the records of a batch are compressed; the values are those of the attributes."""

    NONE = 0
    GZIP = 1
    SNAPPY = 2
    LZ4 = 3
    ZSTD = 4

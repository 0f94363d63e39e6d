"""Records as text: kcat's format strings, and one JSON object a line. Pure.

JSON has no bytes. Keys, values and header values that are UTF-8 are written as text, others as
``{"base64": "..."}``, so that what `consume --json` writes is what `produce --json` reads, byte for
byte.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import struct
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_broker.records.build import Record

Headers: TypeAlias = "tuple[tuple[str, bytes | None], ...]"
#: Writes one record: (topic, partition, record) to bytes.
Writer: TypeAlias = "Callable[[str, int, Record], bytes]"

_BASE64 = "base64"
_LENGTH = struct.Struct(">i")
_NO_TIME = -1
_INT32_MAX = 2**31 - 1
_INT64_MAX = 2**63 - 1
#: Fields of what `consume` writes that say where a record was, not what it is.
_PLACE_FIELDS = frozenset({"topic", "offset"})
_RECORD_FIELDS = frozenset({"key", "value", "headers", "timestamp_ms", "partition"})
_TOKEN = re.compile(r"%(.)|\\(x[0-9a-fA-F]{2}|.)|([^%\\]+)", re.DOTALL)
_ESCAPES = {"n": b"\n", "r": b"\r", "t": b"\t", "0": b"\0", "\\": b"\\", "e": b"\x1b"}


class BadRecord(ValueError):
    """A line of JSON is no record; the text says why."""


class ReadRecord(NamedTuple):
    """A record as `produce --json` reads it; None: not given."""

    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int | None
    partition: int | None


# ------------------------------------------------------------------------------------------- JSON
def json_of_bytes(data: bytes | None) -> str | dict[str, str] | None:
    """Return what stands for some bytes in JSON."""
    if data is None:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {_BASE64: base64.b64encode(data).decode("ascii")}


def record_json(topic: str, partition: int, record: Record) -> bytes:
    """Write a record as one line."""
    row = {
        "topic": topic,
        "partition": partition,
        "offset": record.offset,
        "timestamp_ms": None if record.timestamp_ms == _NO_TIME else record.timestamp_ms,
        "key": json_of_bytes(record.key),
        "value": json_of_bytes(record.value),
        "headers": [[name, json_of_bytes(value)] for name, value in record.headers],
    }
    # Keys that are no UTF-8 went another way, but escapes such as \ud800 are legal in JSON.
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def parse_record(line: bytes) -> ReadRecord:
    """Read a line of JSON.

    Raises:
        BadRecord: it is none.
    """
    try:
        row = json.loads(line)
    except ValueError as error:
        raise BadRecord(f"not JSON: {error}") from None
    if not isinstance(row, dict):
        raise BadRecord("not a JSON object")
    unknown = sorted(row.keys() - _RECORD_FIELDS - _PLACE_FIELDS)
    if unknown:
        known = ", ".join(sorted(_RECORD_FIELDS))
        raise BadRecord(f"unknown field {unknown[0]!r}; a record has {known}")
    if "value" not in row:
        raise BadRecord("there is no 'value'; null is a tombstone")
    return ReadRecord(
        key=_bytes_of(row.get("key"), "key"),
        value=_bytes_of(row["value"], "value"),
        headers=_headers_of(row.get("headers")),
        timestamp_ms=_number_of(row, "timestamp_ms", _INT64_MAX),
        partition=_number_of(row, "partition", _INT32_MAX),
    )


def _bytes_of(value: Any, where: str) -> bytes | None:
    if value is None:
        return None
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise BadRecord(f"{where} has half of a surrogate pair, which is no text") from None
    if isinstance(value, dict) and value.keys() == {_BASE64} and isinstance(value[_BASE64], str):
        try:
            return base64.b64decode(value[_BASE64], validate=True)
        except (binascii.Error, ValueError):
            raise BadRecord(f"{where} is not base64") from None
    raise BadRecord(f'{where} must be text, null or {{"base64": "..."}}')


def _headers_of(value: Any) -> Headers:
    if value is None:
        return ()
    pairs: list[Any] = list(value.items()) if isinstance(value, dict) else value
    if not isinstance(pairs, list):
        raise BadRecord("headers must be a list of [name, value], or an object")
    headers = []
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not isinstance(pair[0], str):
            raise BadRecord("a header must be [name, value]")
        headers.append((pair[0], _bytes_of(pair[1], f"header {pair[0]!r}")))
    return tuple(headers)


def _number_of(row: dict[str, Any], field: str, most: int) -> int | None:
    value = row.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise BadRecord(f"{field} must be a whole number from 0 to {most}")
    return value


# ---------------------------------------------------------------------------------------- formats
def unescape(text: str) -> bytes:
    r"""Turn ``\n``, ``\t``, ``\r``, ``\0``, ``\\`` and ``\xNN`` into bytes.

    Raises:
        ValueError: there is another escape.
    """
    text = text.replace("%", "%%")
    _check_whole(text)
    return b"".join(_literal(match) for match in _TOKEN.finditer(text))


def _literal(match: re.Match[str]) -> bytes:
    percent, escape, plain = match.groups()
    if plain is not None:
        return plain.encode()
    if percent == "%":
        return b"%"
    if percent is not None:
        raise ValueError(f"%{percent} is no part of a record")
    if len(escape) == 3:
        return bytes([int(escape[1:], 16)])
    if escape not in _ESCAPES:
        raise ValueError(f"\\{escape} is no escape; there are \\n \\t \\r \\0 \\e \\\\ and \\xNN")
    return _ESCAPES[escape]


def _check_whole(text: str) -> None:
    """Refuse a lone % or backslash at the end, which no token matches."""
    rest = _TOKEN.sub("", text)
    if rest:
        raise ValueError(f"{rest!r} at the end stands for nothing")


def _number(value: int) -> bytes:
    return b"%d" % value


def _length(data: bytes | None) -> int:
    return -1 if data is None else len(data)


def _headers_text(record: Record) -> bytes:
    return b",".join(
        name.encode() + b"=" + (b"NULL" if value is None else value)
        for name, value in record.headers
    )


#: What stands behind the percent sign: kcat's letters.
FIELDS: dict[str, tuple[str, Writer]] = {
    "s": ("the value, nothing for null", lambda _t, _p, record: record.value or b""),
    "S": ("bytes of the value, -1 for null", lambda _t, _p, record: _number(_length(record.value))),
    "R": (
        "the same as a big-endian int32",
        lambda _t, _p, record: _LENGTH.pack(_length(record.value)),
    ),
    "k": ("the key, nothing for null", lambda _t, _p, record: record.key or b""),
    "K": ("bytes of the key, -1 for null", lambda _t, _p, record: _number(_length(record.key))),
    "t": ("the topic", lambda topic, _p, _r: topic.encode()),
    "p": ("the partition", lambda _t, partition, _r: _number(partition)),
    "o": ("the offset", lambda _t, _p, record: _number(record.offset)),
    "T": ("the timestamp in milliseconds", lambda _t, _p, record: _number(record.timestamp_ms)),
    "h": ("headers, name=value,name=value", lambda _t, _p, record: _headers_text(record)),
}


def format_writer(text: str) -> Writer:
    r"""Compile a format string such as ``%t [%p] %o: %k %s\n``.

    Raises:
        ValueError: it has a letter or an escape that there is not.
    """
    _check_whole(text)
    parts: list[Writer | bytes] = []
    for match in _TOKEN.finditer(text):
        letter = match[1]
        if letter in FIELDS:
            parts.append(FIELDS[letter][1])
            continue
        literal = _literal(match)
        if parts and isinstance(parts[-1], bytes):
            parts[-1] += literal
        else:
            parts.append(literal)
    compiled = tuple(parts)

    def write(topic: str, partition: int, record: Record) -> bytes:
        return b"".join(
            part if isinstance(part, bytes) else part(topic, partition, record) for part in compiled
        )

    return write


def line_writer(delimiter: bytes, key_delimiter: bytes | None) -> Writer:
    """Write values, or keys and values, each followed by a delimiter."""

    def write_value(_topic: str, _partition: int, record: Record) -> bytes:
        return (record.value or b"") + delimiter

    def write_both(_topic: str, _partition: int, record: Record) -> bytes:
        assert key_delimiter is not None
        return (record.key or b"") + key_delimiter + (record.value or b"") + delimiter

    return write_value if key_delimiter is None else write_both

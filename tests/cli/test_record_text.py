"""Records as text: what is written is read again, and mistakes are explained. Pure."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_broker.cli.consume import Place, PlaceType
from trio_broker.cli.options import Assignment, TopicPartitions, parse_moment
from trio_broker.cli.record_text import (
    FIELDS,
    BadRecord,
    format_writer,
    line_writer,
    parse_record,
    record_json,
    unescape,
)
from trio_broker.records.build import Record

BYTES = st.none() | st.binary(max_size=20) | st.text(max_size=20).map(str.encode)
NAMES = st.text(st.characters(codec="utf-8"), max_size=5)
RECORD = Record(b"k", b"v\xff", (("h", b"1"), ("n", None)), 1_700_000_000_000, 17)


@given(
    key=BYTES,
    value=BYTES,
    headers=st.lists(st.tuples(NAMES, BYTES), max_size=3),
    timestamp_ms=st.integers(0, 2**63 - 1),
)
def test_json_comes_back_byte_for_byte(
    key: bytes | None,
    value: bytes | None,
    headers: list[tuple[str, bytes | None]],
    timestamp_ms: int,
) -> None:
    record = Record(key, value, tuple(headers), timestamp_ms, 5)
    line = record_json("orders", 3, record)
    assert line.count(b"\n") == 1
    read = parse_record(line)
    assert read == (key, value, tuple(headers), timestamp_ms, 3)


def test_json_is_readable_where_it_can_be() -> None:
    row = json.loads(record_json("orders", 3, RECORD))
    assert row["key"] == "k"
    assert row["value"] == {"base64": "dv8="}
    assert row["headers"] == [["h", "1"], ["n", None]]


@pytest.mark.parametrize(
    "line, reason",
    [
        ("nonsense", "not JSON"),
        ("[1]", "not a JSON object"),
        ("{}", "there is no 'value'"),
        ('{"value": 1}', "value must be text"),
        ('{"value": {"id": 1}}', "value must be text"),
        ('{"value": {"base64": "%"}}', "value is not base64"),
        ('{"value": "\\ud800"}', "surrogate"),
        ('{"value": "a", "payload": "b"}', "unknown field 'payload'"),
        ('{"value": "a", "partition": -1}', "partition must be"),
        ('{"value": "a", "timestamp_ms": true}', "timestamp_ms must be"),
        ('{"value": "a", "headers": "x"}', "headers must be"),
        ('{"value": "a", "headers": [["x"]]}', "a header must be"),
        ('{"value": "a", "headers": [["x", 1]]}', "header 'x' must be"),
    ],
)
def test_a_line_that_is_no_record_is_explained(line: str, reason: str) -> None:
    with pytest.raises(BadRecord, match=reason.replace("[", r"\[")):
        parse_record(line.encode())


def test_headers_may_be_written_as_an_object() -> None:
    assert parse_record(b'{"value": "", "headers": {"a": "b"}}').headers == (("a", b"b"),)


def test_formats_are_kcat_s() -> None:
    write = format_writer(r"%t [%p] %o %T %k/%K %S %h 100%%\t\x41\n")
    assert write("orders", 3, RECORD) == (b"orders [3] 17 1700000000000 k/1 2 h=1,n=NULL 100%\tA\n")
    assert format_writer("%R%s")("t", 0, RECORD) == b"\0\0\0\2v\xff"
    nothing = Record(None, None)
    assert format_writer("%k|%K|%s|%S|%h")("t", 0, nothing) == b"|-1||-1|"
    for letter in FIELDS:
        assert isinstance(format_writer(f"%{letter}")("t", 0, RECORD), bytes)


@pytest.mark.parametrize("wrong", ["%q", "%", "a\\", "\\q", "%b"])
def test_a_format_that_makes_no_sense_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"stands for nothing|no escape|no part of a record"):
        format_writer(wrong)


def test_lines_and_delimiters() -> None:
    assert line_writer(b"\n", None)("t", 0, RECORD) == b"v\xff\n"
    assert line_writer(unescape(r"\0"), unescape(": "))("t", 0, RECORD) == b"k: v\xff\0"
    assert unescape(r"100%\x00") == b"100%\0"


def test_moments() -> None:
    assert parse_moment("1700000000000").at_ms(5) == 1_700_000_000_000
    assert parse_moment("2023-11-14T22:13:20Z").at_ms(0) == 1_700_000_000_000
    assert parse_moment("2023-11-14T23:13:20+01:00").at_ms(0) == 1_700_000_000_000
    assert parse_moment("2023-11-14").at_ms(0) == 1_699_920_000_000
    assert parse_moment("90m").at_ms(6_000_000) == 600_000
    assert parse_moment("-1.5h").at_ms(6_000_000) == 600_000
    assert parse_moment("7d").at_ms(5) == 0
    assert parse_moment("1h30m").at_ms(6_000_000) == 600_000
    for wrong in ("yesterday", "", "5 parsecs", "1969-12-31"):
        with pytest.raises(ValueError, match=r"is no time|before 1970"):
            parse_moment(wrong)


def test_places_assignments_and_partitions() -> None:
    def place(text: str) -> Place:
        return PlaceType().convert(text, None, None)

    assert place("beginning") == place("earliest") == Place(0)
    assert place("end") == Place()
    assert place("-10") == Place(-10)
    assert place("s@5") == Place(None, parse_moment("5"))
    assert place("e@5").is_stop
    assert Assignment().convert("a=b=c", None, None) == ("a", "b=c")
    assert TopicPartitions().convert("orders:0,3", None, None) == ("orders", (0, 3))
    assert TopicPartitions().convert("orders", None, None) == ("orders", ())

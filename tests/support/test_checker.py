"""Hand-made histories: each anomaly is found under its name, and legal histories pass."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.checker import (
    Anomaly,
    History,
    RecordId,
    Report,
    Row,
    check,
    decode_value,
    encode_value,
)

PARTITION = ("orders", 0)


def record(sequence: int, producer: str = "p") -> RecordId:
    return RecordId(producer, sequence)


def history_of(acknowledged: dict[int, int], *, sent: int = 0) -> History:
    """Return a history of one producer: its records 0..n, some of them promised offsets."""
    history = History()
    for sequence in range(max([sent - 1, *acknowledged]) + 1):
        history.sent(PARTITION, record(sequence))
    for sequence, offset in acknowledged.items():
        history.acknowledged(PARTITION, record(sequence), offset)
    return history


def log_of(*sequences: int) -> dict[tuple[str, int], list[Row]]:
    """Return a log that holds these records from offset 0."""
    return {PARTITION: [Row(offset, record(s)) for offset, s in enumerate(sequences)]}


def anomalies(report: Report) -> dict[str, int]:
    return {str(name): count for name, count in report.found.items()}


def test_a_log_that_holds_what_was_promised_is_clean() -> None:
    report = check(history_of({0: 0, 1: 1, 2: 2}), log_of(0, 1, 2))
    assert report.is_clean
    report.require_clean()
    report.require_load(3)
    assert str(report) == "3 acknowledged, 3 read, 0 lost; no anomaly"


def test_an_unacknowledged_record_may_be_there_or_not() -> None:
    history = history_of({0: 0, 1: 1}, sent=3)
    assert check(history, log_of(0, 1, 2)).is_clean
    assert check(history, log_of(0, 1)).is_clean


def test_lost_write_at_the_end() -> None:
    report = check(history_of({0: 0, 1: 1, 2: 2}), log_of(0))
    assert anomalies(report) == {"lost-write": 2}
    assert report.lost == [(PARTITION, record(1)), (PARTITION, record(2))]
    assert report.lost_are_suffixes
    with pytest.raises(AssertionError, match="lost-write: 2"):
        report.require_clean()


def test_everything_lost_is_a_suffix_too() -> None:
    report = check(history_of({0: 0, 1: 1}), {})
    assert (len(report.lost), report.lost_are_suffixes) == (2, True)


def test_lost_write_below_a_survivor_is_not_a_suffix() -> None:
    log = {PARTITION: [Row(0, record(0)), Row(2, record(2))]}
    report = check(history_of({0: 0, 1: 1, 2: 2}), log)
    assert anomalies(report) == {"lost-write": 1, "offset-hole": 1}
    assert not report.lost_are_suffixes


def test_duplicate() -> None:
    report = check(history_of({0: 0, 1: 1}), log_of(0, 1, 1))
    assert anomalies(report) == {"duplicate": 1}


def test_without_idempotence_duplicates_and_reordering_are_legal() -> None:
    history = history_of({0: 1, 1: 0})
    assert check(history, log_of(1, 0, 1), ordered=False).is_clean
    assert anomalies(check(history, log_of(1, 0, 1))) == {"duplicate": 1, "nonmonotonic-send": 2}


def test_inconsistent_offsets_between_promise_and_log() -> None:
    report = check(history_of({0: 0, 1: 5}), log_of(0, 1))
    assert anomalies(report) == {"inconsistent-offsets": 1}


def test_inconsistent_offsets_one_offset_promised_twice() -> None:
    report = check(history_of({0: 0, 1: 0}), log_of(0, 1))
    assert report.found[Anomaly.INCONSISTENT_OFFSETS] == 2


def test_inconsistent_offsets_between_two_reads() -> None:
    history = history_of({}, sent=3)
    history.polled("early", PARTITION, Row(0, record(0)))
    history.polled("early", PARTITION, Row(1, record(2)))
    report = check(history, log_of(0, 1, 2))
    assert anomalies(report) == {"inconsistent-offsets": 1}


def test_a_record_that_was_read_and_is_gone_is_lost() -> None:
    history = history_of({}, sent=2)
    history.polled("early", PARTITION, Row(0, record(0)))
    history.polled("early", PARTITION, Row(1, record(1)))
    assert anomalies(check(history, log_of(0))) == {"lost-write": 1}


def test_aborted_read() -> None:
    history = history_of({0: 0}, sent=2)
    history.failed(PARTITION, record(1))
    assert anomalies(check(history, log_of(0, 1))) == {"aborted-read": 1}


def test_nonmonotonic_send_in_the_log() -> None:
    history = history_of({}, sent=3)
    assert anomalies(check(history, log_of(1, 0, 2))) == {"nonmonotonic-send": 1}


def test_nonmonotonic_poll_and_poll_skip() -> None:
    history = history_of({}, sent=4)
    for offset in (0, 2, 1):
        history.polled("r", PARTITION, Row(offset, record(offset)))
    report = check(history, log_of(0, 1, 2, 3))
    assert anomalies(report) == {"poll-skip": 1, "nonmonotonic-poll": 1}


def test_phantom_read() -> None:
    log = {PARTITION: [Row(0, record(0)), Row(1, record(0, "stranger")), Row(2, None)]}
    assert anomalies(check(history_of({0: 0}), log)) == {"phantom-read": 2}


def test_offset_hole_and_offsets_that_go_back() -> None:
    history = history_of({}, sent=3)
    rows = [Row(0, record(0)), Row(2, record(1)), Row(2, record(2))]
    report = check(history, {PARTITION: rows})
    assert anomalies(report) == {"offset-hole": 1, "inconsistent-offsets": 1}


def test_producers_are_judged_apart() -> None:
    history = History()
    for producer in ("a", "b"):
        for sequence in range(2):
            history.sent(PARTITION, record(sequence, producer))
    rows = [record(0, "a"), record(0, "b"), record(1, "b"), record(1, "a")]
    assert check(history, {PARTITION: [Row(o, r) for o, r in enumerate(rows)]}).is_clean


def test_a_run_with_little_load_is_void() -> None:
    with pytest.raises(AssertionError, match="void run: 1 records acknowledged, 100 needed"):
        check(history_of({0: 0}), log_of(0)).require_load(100)


@given(
    producer=st.text("abcdefgh-123", min_size=1),
    sequence=st.integers(0, 10**12),
    size_bytes=st.integers(0, 500),
)
def test_values_say_which_record_they_are(producer: str, sequence: int, size_bytes: int) -> None:
    value = encode_value(RecordId(producer, sequence), size_bytes)
    assert len(value) >= size_bytes
    assert decode_value(value) == RecordId(producer, sequence)


@given(sequence=st.integers(0, 10**6), position=st.integers(0, 99), damage=st.integers(1, 255))
def test_a_damaged_value_is_not_taken_for_its_record(
    sequence: int, position: int, damage: int
) -> None:
    value = bytearray(encode_value(RecordId("p", sequence), 100))
    value[position] ^= damage
    assert decode_value(bytes(value)) != RecordId("p", sequence)


def test_values_of_others_are_not_records() -> None:
    assert decode_value(None) is None
    assert decode_value(b"") is None
    assert decode_value(b"p:x:") is None

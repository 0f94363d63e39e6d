"""The table against a model that remembers everything and forgets what Kafka forgets."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from trio_broker.errors import ErrorCode
from trio_broker.records.batch import SEQUENCE_MASK, BatchHeader
from trio_broker.replication.producer_state import (
    Accept,
    Duplicate,
    DuplicateInFlight,
    PendingProducers,
    ProducerStateTable,
    Reject,
    Verdict,
)

LAST_SEQUENCE = 2**31 - 1
FOREVER_MS = 10**15


def batch(
    producer_id: int = 1, epoch: int = 0, sequence: int = 0, count: int = 1, attributes: int = 0
) -> BatchHeader:
    return BatchHeader(
        base_offset=0,
        length=49,
        leader_epoch=-1,
        magic=2,
        crc=0,
        attributes=attributes,
        last_offset_delta=count - 1,
        base_timestamp=0,
        max_timestamp=0,
        producer_id=producer_id,
        producer_epoch=epoch,
        base_sequence=sequence,
        record_count=count,
    )


def new_table(producer_ids_max: int = 100, expiration_ms: int = FOREVER_MS) -> ProducerStateTable:
    return ProducerStateTable(producer_ids_max, expiration_ms)


def check(table: ProducerStateTable, header: BatchHeader) -> Verdict:
    return table.check(header, PendingProducers(table))


def restart(table: ProducerStateTable, producer_ids_max: int = 100) -> ProducerStateTable:
    return ProducerStateTable.from_bytes(
        table.to_bytes(), producer_ids_max=producer_ids_max, expiration_ms=FOREVER_MS
    )


def rejected(verdict: Verdict) -> ErrorCode:
    assert isinstance(verdict, Reject)
    return verdict.code


# Rules, one by one -------------------------------------------------------------------------------


def test_without_idempotence_nothing_is_checked_or_kept() -> None:
    table = new_table()
    plain = batch(producer_id=-1, epoch=-1, sequence=-1)
    pending = PendingProducers(table)
    pending.add(plain, 0)
    assert table.check(plain, pending) == Accept()
    table.apply(plain, 0, 0)
    table.refuse(plain, 0)
    assert len(table) == 0


def test_a_duplicate_of_the_last_five_gets_its_original_offset() -> None:
    table = new_table()
    for i in range(7):
        table.apply(batch(sequence=10 * i, count=10), 100 + 10 * i, 0, log_append_time_ms=i)
    for i in (2, 3, 4, 5, 6):
        assert check(table, batch(sequence=10 * i, count=10)) == Duplicate(100 + 10 * i, i)
    for i in (0, 1):
        verdict = check(table, batch(sequence=10 * i, count=10))
        assert rejected(verdict) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    # The same start with another length is no duplicate.
    verdict = check(table, batch(sequence=60, count=9))
    assert rejected(verdict) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER


def test_a_gap_is_refused_and_says_what_was_expected() -> None:
    table = new_table()
    table.apply(batch(count=3), 0, 0)
    verdict = check(table, batch(sequence=4))
    assert isinstance(verdict, Reject)
    assert verdict.code is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert "expected 3" in verdict.message
    assert check(table, batch(sequence=3)) == Accept()


def test_epochs_only_rise_and_begin_at_zero() -> None:
    table = new_table()
    table.apply(batch(epoch=3, sequence=0, count=5), 0, 0)
    verdict = check(table, batch(epoch=2, sequence=5))
    assert rejected(verdict) is ErrorCode.INVALID_PRODUCER_EPOCH
    verdict = check(table, batch(epoch=4, sequence=5))
    assert rejected(verdict) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert check(table, batch(epoch=4, sequence=0)) == Accept()
    table.apply(batch(epoch=4, sequence=0, count=2), 5, 0)
    # What the old epoch sent is neither a duplicate nor welcome.
    verdict = check(table, batch(epoch=3, sequence=0, count=5))
    assert rejected(verdict) is ErrorCode.INVALID_PRODUCER_EPOCH
    assert check(table, batch(epoch=4, sequence=2)) == Accept()


def test_a_duplicate_is_one_of_its_own_epoch() -> None:
    table = new_table()
    table.apply(batch(epoch=0, count=5), 0, 0)
    assert check(table, batch(epoch=1, count=5)) == Accept()
    table.apply(batch(epoch=1, count=5), 5, 0)
    assert check(table, batch(epoch=1, count=5)) == Duplicate(5, -1)


def test_sequences_wrap_between_and_inside_batches() -> None:
    table = new_table()
    table.apply(batch(sequence=LAST_SEQUENCE - 1, count=2), 0, 0)
    assert check(table, batch(sequence=0)) == Accept()
    table = new_table()
    table.apply(batch(sequence=LAST_SEQUENCE - 1, count=5), 0, 0)
    assert check(table, batch(sequence=3)) == Accept()
    assert check(table, batch(sequence=LAST_SEQUENCE - 1, count=5)) == Duplicate(0, -1)


def test_an_unknown_producer_may_start_anywhere() -> None:
    assert check(new_table(), batch(epoch=7, sequence=1234)) == Accept()


def test_a_batch_waiting_for_the_same_commit_counts() -> None:
    table = new_table()
    table.apply(batch(count=2), 0, 0)
    pending = PendingProducers(table)
    pending.add(batch(sequence=2, count=2), 2)
    assert table.check(batch(count=2), pending) == Duplicate(0, -1)
    assert table.check(batch(sequence=2, count=2), pending) == DuplicateInFlight(2)
    assert table.check(batch(sequence=4), pending) == Accept()
    assert rejected(table.check(batch(sequence=5), pending)) is (
        ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    )
    # The commit fails: nothing of it is left.
    assert check(table, batch(sequence=2, count=2)) == Accept()


def test_the_first_batch_of_a_producer_cannot_be_overtaken() -> None:
    table = new_table()
    first, second = batch(sequence=0, count=5), batch(sequence=5)
    pending = PendingProducers(table)
    pending.add(first, 0)
    pending.add(second, 5)
    for header in (first, second):
        table.refuse(header, 0)
    for known in (table, restart(table)):
        assert rejected(check(known, second)) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
        assert check(known, first) == Accept()
        assert check(known, batch(epoch=1, sequence=0)) == Accept()
    # The same for one that comes back after it was forgotten.
    table.refuse(batch(producer_id=2, sequence=70), 0)
    assert rejected(check(table, batch(producer_id=2, sequence=0))) is (
        ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    )
    assert check(table, batch(producer_id=2, sequence=70)) == Accept()


def test_of_several_refused_batches_the_first_one_counts_whatever_their_order() -> None:
    for start in (0, 7, SEQUENCE_MASK):
        table = new_table()
        first = batch(sequence=start, count=3)
        second = batch(sequence=(start + 3) % (SEQUENCE_MASK + 1))
        for header in (second, first, second):
            table.refuse(header, 0)
        assert rejected(check(table, second)) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
        assert check(table, first) == Accept()


def test_a_log_that_is_opened_again_expects_what_was_refused_before() -> None:
    old, new = new_table(), new_table()
    old.apply(batch(producer_id=1), 0, 0)
    old.refuse(batch(producer_id=2, sequence=4), 0)
    old.refuse(batch(producer_id=3, sequence=4), 0)
    new.apply(batch(producer_id=3, sequence=4), 1, 0)  # it had been stored after all
    new.adopt_refusals(old)
    assert new.get(1) is None
    assert check(new, batch(producer_id=2, sequence=4)) == Accept()
    assert rejected(check(new, batch(producer_id=2, sequence=5))) is (
        ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    )
    assert check(new, batch(producer_id=3, sequence=5)) == Accept()


def test_refusing_a_known_producer_changes_nothing() -> None:
    table = new_table()
    table.apply(batch(count=2), 0, 0)
    before = table.to_bytes()
    table.refuse(batch(sequence=2), 5)
    table.refuse(batch(epoch=1, sequence=0), 5)
    assert table.to_bytes() == before


def test_append_time_is_taken_from_a_stored_header() -> None:
    table = new_table()
    stored = batch(attributes=0x08)._replace(max_timestamp=77)
    table.apply(stored, 4, 0)
    assert check(table, batch()) == Duplicate(4, 77)


def test_markers_keep_sequences_and_raise_epochs() -> None:
    table = new_table()
    table.apply(batch(count=4, attributes=0x10), 0, 0)
    marker = batch(sequence=-1, attributes=0x30)
    assert check(table, marker) == Accept()
    table.apply(marker, 4, 0)
    assert check(table, batch(sequence=4)) == Accept()
    assert check(table, batch(count=4)) == Duplicate(0, -1)
    table.apply(marker._replace(producer_epoch=1), 5, 0)
    assert rejected(check(table, batch(sequence=4))) is ErrorCode.INVALID_PRODUCER_EPOCH
    assert check(table, batch(epoch=1, sequence=0)) == Accept()
    table.apply(marker._replace(producer_id=9), 6, 0)
    assert check(table, batch(producer_id=9, sequence=0)) == Accept()
    assert restart(table).to_bytes() == table.to_bytes()


def test_the_producer_that_wrote_longest_ago_is_forgotten_first() -> None:
    table = new_table(producer_ids_max=2)
    table.apply(batch(1, count=2), 0, 0)
    table.apply(batch(2, count=2), 2, 0)
    table.apply(batch(1, sequence=2), 4, 0)
    table.apply(batch(3, count=2), 5, 0)
    assert len(table) == 2
    assert table.get(2) is None
    assert check(table, batch(2, sequence=50)) == Accept()
    assert check(table, batch(1, sequence=2)) == Duplicate(4, -1)
    smaller = restart(table, producer_ids_max=1)
    assert smaller.get(1) is None
    assert smaller.get(3) is not None


def test_silence_is_forgotten_after_its_time() -> None:
    table = new_table(expiration_ms=100)
    table.apply(batch(1), 0, 1000)
    table.refuse(batch(2), 1001)
    assert table.expire(1099) == 0
    assert table.expire(1100) == 1
    assert (table.get(1), len(table)) == (None, 1)
    assert table.expire(5000) == 1
    table.apply(batch(1), 0, 1000)
    table.apply(batch(1, sequence=1), 1, 2000)
    assert table.expire(2099) == 0


def test_truncation_expects_again_what_was_cut_off() -> None:
    table = new_table()
    for i in range(3):
        table.apply(batch(sequence=10 * i, count=10), 100 + 10 * i, 0)
    table.truncate_to(130)
    assert check(table, batch(sequence=30)) == Accept()
    table.truncate_to(129)  # the last offset of the third batch
    assert check(table, batch(sequence=20, count=10)) == Accept()
    table.truncate_to(110)
    assert check(table, batch(sequence=0, count=10)) == Duplicate(100, -1)
    assert check(table, batch(sequence=10, count=10)) == Accept()
    assert rejected(check(table, batch(sequence=20, count=10))) is (
        ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    )
    table.truncate_to(0)
    assert check(table, batch(sequence=0, count=10)) == Accept()
    assert rejected(check(table, batch(sequence=10, count=10))) is (
        ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    )


@given(cut=st.integers(0, 200), tail=st.binary(max_size=40))
def test_a_damaged_snapshot_is_an_error_and_never_a_table(cut: int, tail: bytes) -> None:
    table = new_table()
    for i in range(3):
        table.apply(batch(sequence=i), i, i)
    whole = table.to_bytes()
    damaged = whole[:cut] + tail
    try:
        restored = ProducerStateTable.from_bytes(
            damaged, producer_ids_max=100, expiration_ms=FOREVER_MS
        )
    except ValueError:
        assert damaged != whole
    else:
        assert restored.to_bytes() == damaged


def test_a_snapshot_of_another_version_is_refused() -> None:
    newer = b"\x00\x02" + new_table().to_bytes()[2:]
    with pytest.raises(ValueError, match="version 2"):
        ProducerStateTable.from_bytes(newer, producer_ids_max=1, expiration_ms=1)


# Against a model ---------------------------------------------------------------------------------

PRODUCERS = st.integers(1, 2)
COUNTS = st.integers(1, 3)
STARTS = st.sampled_from([0, 0, 0, 7, LAST_SEQUENCE - 2])


class Model:
    """Kafka's rules over complete histories: a list of (epoch, sequence, count, offset) each."""

    def __init__(self) -> None:
        self.history: dict[int, list[tuple[int, int, int, int]]] = {}
        self.expected: dict[int, tuple[int, int]] = {}  # of producers without a batch

    def verdict(self, header: BatchHeader) -> tuple[str, int]:
        batches = self.history.get(header.producer_id, [])
        if batches:
            epoch, sequence, count, _ = batches[-1]
            following = (sequence + count) % 2**31
        elif header.producer_id in self.expected:
            epoch, following = self.expected[header.producer_id]
        else:
            return ("accept", 0)
        if header.producer_epoch < epoch:
            return ("fenced", 0)
        if header.producer_epoch > epoch:
            return ("accept", 0) if header.base_sequence == 0 else ("order", 0)
        for known in [known for known in batches if known[0] == epoch][-5:]:
            if known[1:3] == (header.base_sequence, header.record_count):
                return ("duplicate", known[3])
        return ("accept", 0) if header.base_sequence == following else ("order", 0)

    def append(self, header: BatchHeader, offset: int) -> None:
        self.history.setdefault(header.producer_id, []).append(
            (header.producer_epoch, header.base_sequence, header.record_count, offset)
        )

    def copy(self) -> Model:
        result = Model()
        result.history = {key: batches.copy() for key, batches in self.history.items()}
        result.expected = self.expected.copy()
        return result


class TableAgainstModel(RuleBasedStateMachine):
    """Any batches, good and bad, in commits that succeed or fail, with restarts in between."""

    @initialize()
    def start(self) -> None:
        self.table = new_table()
        self.model = Model()
        self.log: list[BatchHeader] = []
        self.end_offset = 0
        self.snapshot = (0, self.table.to_bytes())
        self.begin_commit()

    def begin_commit(self) -> None:
        self.pending = PendingProducers(self.table)
        self.planned: list[tuple[BatchHeader, int]] = []
        self.planned_model = self.model.copy()

    @property
    def planned_end(self) -> int:
        return self.end_offset + sum(header.record_count for header, _ in self.planned)

    def send(self, header: BatchHeader) -> None:
        kind, offset = self.planned_model.verdict(header)
        verdict = self.table.check(header, self.pending)
        match verdict:
            case Accept():
                assert kind == "accept"
                self.pending.add(header, self.planned_end)
                self.planned_model.append(header, self.planned_end)
                self.planned.append((header, self.planned_end))
            case Duplicate(base_offset, -1):
                assert (kind, base_offset) == ("duplicate", offset)
                assert offset < self.end_offset
            case DuplicateInFlight(base_offset):
                assert (kind, base_offset) == ("duplicate", offset)
                assert offset >= self.end_offset
            case Reject(ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, _):
                assert kind == "order"
            case Reject(ErrorCode.INVALID_PRODUCER_EPOCH, _):
                assert kind == "fenced"
            case _:
                raise AssertionError(verdict)

    def newest(self, producer_id: int) -> tuple[int, int]:
        """Return the epoch and the next sequence of a producer."""
        batches = self.planned_model.history.get(producer_id)
        if not batches:
            return (1, 0)
        epoch, sequence, count, _ = batches[-1]
        return (epoch, (sequence + count) % 2**31)

    @rule(
        producer_id=PRODUCERS,
        rise=st.sampled_from([-1, 0, 1, 1]),
        sequence=STARTS,
        count=COUNTS,
    )
    def send_in_some_epoch(self, producer_id: int, rise: int, sequence: int, count: int) -> None:
        epoch, _ = self.newest(producer_id)
        self.send(batch(producer_id, epoch + rise, sequence, count))

    @rule(producer_id=PRODUCERS, skip=st.sampled_from([0, 1, -1]), count=COUNTS)
    def send_beside(self, producer_id: int, skip: int, count: int) -> None:
        epoch, sequence = self.newest(producer_id)
        self.send(batch(producer_id, epoch, (sequence + skip) % 2**31, count))

    @rule(producer_id=PRODUCERS, counts=st.lists(COUNTS, min_size=1, max_size=4))
    def send_next(self, producer_id: int, counts: list[int]) -> None:
        for count in counts:
            epoch, sequence = self.newest(producer_id)
            self.send(batch(producer_id, epoch, sequence, count))

    @rule(producer_id=PRODUCERS, age=st.integers(1, 8), count=st.none() | COUNTS)
    def send_again(self, producer_id: int, age: int, count: int | None) -> None:
        batches = self.planned_model.history.get(producer_id, [])
        if len(batches) >= age:
            epoch, sequence, length, _ = batches[-age]
            self.send(batch(producer_id, epoch, sequence, count or length))

    @rule()
    def commit(self) -> None:
        for header, offset in self.planned:
            self.table.apply(header, offset, 0)
            self.log.append(header._replace(base_offset=offset))
        self.end_offset = self.planned_end
        self.model = self.planned_model
        self.begin_commit()

    @precondition(lambda self: self.planned)
    @rule()
    def fail_commit(self) -> None:
        for header, _ in self.planned:
            self.table.refuse(header, 0)
            if header.producer_id not in self.model.history:
                self.model.expected.setdefault(
                    header.producer_id, (header.producer_epoch, header.base_sequence)
                )
        self.begin_commit()

    @rule()
    def take_snapshot(self) -> None:
        self.snapshot = (len(self.log), self.table.to_bytes())

    @rule()
    def restart_cleanly(self) -> None:
        self.table = restart(self.table)
        self.begin_commit()

    @rule()
    def crash(self) -> None:
        """Recovery: the newest snapshot, and the log behind it."""
        position, data = self.snapshot
        self.table = ProducerStateTable.from_bytes(
            data, producer_ids_max=100, expiration_ms=FOREVER_MS
        )
        for header in self.log[position:]:
            self.table.apply(header, header.base_offset, 0)
        for producer_id in list(self.model.expected):
            if self.table.get(producer_id) is None:
                del self.model.expected[producer_id]
        self.begin_commit()

    @invariant()
    def both_know_the_same_producers(self) -> None:
        known = self.model.history.keys() | self.model.expected.keys()
        assert len(self.table) == len(known)


def test_random_batches_against_the_model() -> None:
    run_state_machine_as_test(
        TableAgainstModel, settings=settings(max_examples=120, stateful_step_count=40)
    )


# From the outside: what idempotence is for --------------------------------------------------------


@settings(max_examples=150)
@given(data=st.data(), start=st.sampled_from([0, LAST_SEQUENCE - 6]))
def test_a_client_that_retries_in_order_is_stored_once_and_in_order(
    data: st.DataObject, start: int
) -> None:
    """Five requests in flight, answers and commits that get lost, restarts: exactly once.

    The client is a plain one: it sends what is not acknowledged again, oldest first, and never
    waits for the first answer before it sends the next batch.
    """
    table = new_table()
    counts = data.draw(st.lists(COUNTS, min_size=1, max_size=12))
    batches, sequence = [], start
    for count in counts:
        batches.append(batch(sequence=sequence, count=count))
        sequence = (sequence + count) % 2**31
    stored: list[BatchHeader] = []
    offsets: dict[int, int] = {}
    acknowledged: dict[int, int] = {}
    while len(acknowledged) < len(batches):
        waiting = [i for i in range(len(batches)) if i not in acknowledged][:5]
        fate = data.draw(st.sampled_from(["ok", "ok", "fail", "restart"]))
        arriving = waiting[: data.draw(st.integers(1, 5))]
        pending = PendingProducers(table)
        planned: list[int] = []
        answers: dict[int, int] = {}
        end = sum(header.record_count for header in stored)
        for i in arriving:
            match table.check(batches[i], pending):
                case Accept():
                    pending.add(batches[i], end)
                    answers[i] = offsets[i] = end
                    end += batches[i].record_count
                    planned.append(i)
                case Duplicate(base_offset, _):
                    assert base_offset == offsets[i]
                    answers[i] = base_offset
                case _:
                    pass
        if fate == "fail":
            for i in planned:
                table.refuse(batches[i], 0)
            continue
        for i in planned:
            table.apply(batches[i], offsets[i], 0)
            stored.append(batches[i])
        if fate == "restart":
            table = restart(table)
        lost = data.draw(st.sets(st.sampled_from(arriving)))
        # A client takes answers in order: behind a lost one it hears nothing of this round.
        for i in arriving:
            if i in lost or i not in answers:
                break
            acknowledged[i] = answers[i]
    assert stored == batches
    assert [acknowledged[i] for i in range(len(batches))] == [
        sum(counts[:i]) for i in range(len(batches))
    ]

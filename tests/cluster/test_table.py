"""The store's state: against a dictionary, and what it refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_broker.cluster import table as table_module
from trio_broker.cluster.table import KeyValueTable, check_limits
from trio_broker.metadata.transaction import (
    Delete,
    Guard,
    KeyValue,
    Put,
    Revision,
    Snapshot,
    Transaction,
)

keys = st.sampled_from(["a/1", "a/2", "b/1", "c"])
operations = st.one_of(st.builds(Put, keys, st.binary(max_size=3)), st.builds(Delete, keys))
operation_lists = st.lists(operations, max_size=3, unique_by=lambda operation: operation.key)


@given(st.lists(st.tuples(st.lists(st.builds(Guard, keys, st.integers(0, 5))), operation_lists)))
def test_a_table_does_what_a_dictionary_does(transactions):
    table = KeyValueTable()
    model: dict[str, KeyValue] = {}
    number = 0
    for guards, changes in transactions:
        holds = all(
            guard.mod_revision == (model[guard.key].mod_revision if guard.key in model else 0)
            for guard in guards
        )
        conflict = table.conflict(guards)
        assert (conflict is None) == holds
        if conflict is not None:
            assert conflict.current == tuple(model.get(guard.key) for guard in guards)
            continue
        effective = table.effective(changes)
        assert effective == tuple(c for c in changes if isinstance(c, Put) or c.key in model)
        if not effective:
            continue
        number += 1
        assert table.apply(effective) == Revision(number, effective)
        for change in effective:
            if isinstance(change, Delete):
                del model[change.key]
            else:
                created = model[change.key].create_revision if change.key in model else number
                model[change.key] = KeyValue(change.key, change.value, created, number)
        assert table.revision == number
        assert table.size_bytes == sum(len(e.key) + len(e.value) for e in model.values())
    assert table.snapshot() == Snapshot(number, tuple(sorted(model.values())))
    assert table.snapshot("a/").entries == tuple(
        sorted(entry for entry in model.values() if entry.key.startswith("a/"))
    )
    copy = KeyValueTable()
    copy.load(number, model.values())
    assert copy.snapshot() == table.snapshot()
    assert copy.size_bytes == table.size_bytes


def test_history_is_dropped_whole_revisions_at_a_time(monkeypatch):
    monkeypatch.setattr(table_module, "HISTORY_OPERATIONS_MAX", 3)
    table = KeyValueTable()
    for _ in range(2):
        table.apply([Put("a", b""), Put("b", b"")])
    assert table.revision_after(1).number == 2
    assert table.revision_after(2) is None
    with pytest.raises(LookupError):
        table.revision_after(0)
    # One revision larger than the limit is kept all the same: a watcher must see the newest.
    table.apply([Put(str(n), b"") for n in range(9)])
    assert table.revision_after(2).number == 3


def test_a_loaded_table_has_no_history():
    table = KeyValueTable()
    table.load(7, [])
    assert table.revision_after(7) is None
    with pytest.raises(LookupError):
        table.revision_after(6)
    table.apply([Put("a", b"")])
    assert table.revision_after(7).number == 8
    with pytest.raises(LookupError):
        table.revision_after(6)


@pytest.mark.parametrize(
    "changes",
    [
        [Put("a", b""), Delete("a")],
        [Put("", b"")],
        [Put("k" * 1025, b"")],
        [Put("ä", b"")],
        [Put("a", bytes(16 * 1024 * 1024 + 1))],
        [Put(str(n), bytes(16 * 1024 * 1024)) for n in range(4)],
    ],
)
def test_limits(changes):
    with pytest.raises(ValueError, match=r"key|value|transaction"):
        check_limits(Transaction((), tuple(changes)))
    check_limits(Transaction((), (Put("k" * 1024, bytes(16 * 1024 * 1024)),)))

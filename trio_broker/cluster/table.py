"""The state of a key-value store without the store: guards, changes, revisions, recent history.

Pure. `embedded` feeds it what its journal holds; tests use it as a model of any store.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from trio_broker.metadata.transaction import (
    Conflict,
    Delete,
    Guard,
    KeyValue,
    Operation,
    Put,
    Revision,
    Snapshot,
    Transaction,
)

#: Most operations kept for watchers that are behind; older revisions are dropped whole. They take
#: some 400 bytes each, and a watcher that needs older ones takes a snapshot instead.
HISTORY_OPERATIONS_MAX = 4_000
KEY_BYTES_MAX = 1024
VALUE_BYTES_MAX = 16 * 1024 * 1024
#: Keys and values of one transaction together.
TRANSACTION_BYTES_MAX = 64 * 1024 * 1024


class KeyValueTable:
    """Keys and values at a revision.

    Attributes:
        revision: of the last change, 0 if there was none.
        size_bytes: keys and values together.
    """

    def __init__(self) -> None:
        self.revision = 0
        self.size_bytes = 0
        self._entries: dict[str, KeyValue] = {}
        self._history: deque[Revision] = deque()
        self._history_operations = 0

    def __repr__(self) -> str:
        return f"<KeyValueTable revision={self.revision} keys={len(self._entries)}>"

    def __len__(self) -> int:
        return len(self._entries)

    def load(self, revision: int, entries: Iterable[KeyValue]) -> None:
        """Replace everything by the content of a snapshot; history before it is unknown."""
        self.revision = revision
        self._entries = {entry.key: entry for entry in entries}
        self.size_bytes = sum(map(_entry_bytes, self._entries.values()))
        self._history.clear()
        self._history_operations = 0

    def entries(self) -> list[KeyValue]:
        """Return every key, unsorted; a list of its own that later changes do not touch."""
        return list(self._entries.values())

    def get(self, key: str) -> KeyValue | None:
        """Return a key as it is now, or None."""
        return self._entries.get(key)

    def snapshot(self, prefix: str = "") -> Snapshot:
        """Return the keys that start with `prefix`, sorted."""
        found = [entry for key, entry in self._entries.items() if key.startswith(prefix)]
        return Snapshot(self.revision, tuple(sorted(found)))

    def conflict(self, guards: Sequence[Guard]) -> Conflict | None:
        """Compare guards with what is there; None: all hold."""
        current = tuple(self._entries.get(guard.key) for guard in guards)
        for guard, entry in zip(guards, current, strict=True):
            if guard.mod_revision != (0 if entry is None else entry.mod_revision):
                return Conflict(self.revision, current)
        return None

    def effective(self, operations: Sequence[Operation]) -> tuple[Operation, ...]:
        """Return the operations without deletions of keys that do not exist."""
        return tuple(
            operation
            for operation in operations
            if isinstance(operation, Put) or operation.key in self._entries
        )

    def apply(self, operations: Sequence[Operation]) -> Revision:
        """Make a new revision of these (effective) operations."""
        number = self.revision + 1
        for operation in operations:
            before = self._entries.get(operation.key)
            if before is not None:
                self.size_bytes -= _entry_bytes(before)
            if isinstance(operation, Delete):
                del self._entries[operation.key]
                continue
            created = number if before is None else before.create_revision
            entry = KeyValue(operation.key, operation.value, created, number)
            self._entries[operation.key] = entry
            self.size_bytes += _entry_bytes(entry)
        self.revision = number
        revision = Revision(number, tuple(operations))
        self._remember(revision)
        return revision

    def revision_after(self, number: int) -> Revision | None:
        """Return revision `number` + 1, or None if it is not there yet.

        Raises:
            LookupError: it is no longer kept.
        """
        if number >= self.revision:
            return None
        if not self._history or number + 1 < self._history[0].number:
            raise LookupError(f"revision {number + 1} is no longer kept")
        return self._history[number + 1 - self._history[0].number]

    def _remember(self, revision: Revision) -> None:
        self._history.append(revision)
        self._history_operations += len(revision.operations)
        while len(self._history) > 1 and self._history_operations > HISTORY_OPERATIONS_MAX:
            self._history_operations -= len(self._history.popleft().operations)


def check_limits(transaction: Transaction) -> None:
    """Refuse a transaction that no store should be asked to carry out.

    Raises:
        ValueError: a key is named twice, or something is too long.
    """
    keys = [operation.key for operation in transaction.operations]
    if len(set(keys)) != len(keys):
        raise ValueError("a transaction names a key twice")
    total_bytes = 0
    for operation in transaction.operations:
        if not operation.key.isascii():
            raise ValueError(f"a key must be ASCII, {operation.key!r} is not")
        key_bytes = len(operation.key)
        value_bytes = len(operation.value) if isinstance(operation, Put) else 0
        if not 1 <= key_bytes <= KEY_BYTES_MAX:
            raise ValueError(f"a key of {key_bytes} bytes, allowed are 1 to {KEY_BYTES_MAX}")
        if value_bytes > VALUE_BYTES_MAX:
            raise ValueError(f"{operation.key}: a value of {value_bytes} bytes is too long")
        total_bytes += key_bytes + value_bytes
    if total_bytes > TRANSACTION_BYTES_MAX:
        raise ValueError(f"a transaction of {total_bytes} bytes is too long")


def _entry_bytes(entry: KeyValue) -> int:
    return len(entry.key) + len(entry.value)

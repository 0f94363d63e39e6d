"""The words in which decisions speak to a metadata store: keys, guards, operations, revisions.

Owned by `metadata` so that decisions can be made without a store; every store of
`trio_broker.cluster` takes and returns these types. Nothing here knows what a key means.

The model is etcd's: one counter, the *revision*, rises by one with each committed transaction that
changes something, and each key remembers the revision of its creation and of its last change. A
transaction is applied as a whole, and only if each of its guards holds.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias


class KeyValue(NamedTuple):
    """A key that exists now.

    Attributes:
        key: its name.
        value: its content, opaque to stores.
        create_revision: the revision in which it came into being (again).
        mod_revision: the revision in which it was last put.
    """

    key: str
    value: bytes
    create_revision: int
    mod_revision: int


class Guard(NamedTuple):
    """A condition of a transaction: `key` was last put in `mod_revision`; 0: it does not exist."""

    key: str
    mod_revision: int


class Put(NamedTuple):
    """Create `key` or replace its value."""

    key: str
    value: bytes


class Delete(NamedTuple):
    """Remove `key`; removing a key that does not exist changes nothing."""

    key: str


Operation: TypeAlias = Put | Delete


class Transaction(NamedTuple):
    """Operations that take effect together, in one revision, if every guard holds.

    No key may appear in two operations.
    """

    guards: tuple[Guard, ...]
    operations: tuple[Operation, ...]


class Revision(NamedTuple):
    """What one committed transaction changed.

    Attributes:
        number: revisions are numbered 1, 2, 3, ...; 0 is the empty store.
        operations: the changes, each of another key.
    """

    number: int
    operations: tuple[Operation, ...]


class Snapshot(NamedTuple):
    """Every key under a prefix as it was at one revision, sorted by key."""

    revision: int
    entries: tuple[KeyValue, ...]


class Committed(NamedTuple):
    """A transaction took effect; `revision.operations` is empty if it changed nothing."""

    revision: Revision


class Conflict(NamedTuple):
    """A guard did not hold and nothing was changed.

    Attributes:
        revision: the store's revision when the guards were compared.
        current: for each guard in order the key as it is, or None where there is none.
    """

    revision: int
    current: tuple[KeyValue | None, ...]

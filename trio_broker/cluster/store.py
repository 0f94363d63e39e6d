"""The seam between decisions about metadata and where they are kept.

A store keeps keys and values at a revision that rises by one with each committed transaction. It
knows nothing of what a key means. Called by `trio_broker.broker.controller`; implemented by
`trio_broker.cluster.embedded`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from trio_broker.errors import TrioBrokerError
from trio_broker.metadata.transaction import Committed, Conflict, Revision, Snapshot, Transaction


class StoreUnavailable(TrioBrokerError):
    """The store did not carry out a transaction; it can be sent again, now or later."""


class OutcomeUnknown(TrioBrokerError):
    """The store may or may not have carried out a transaction; only a later look can tell."""


class RevisionsGone(TrioBrokerError):
    """A watch asks for revisions the store no longer has: take a snapshot and watch from there."""


class MetadataStore(Protocol):
    """Keys and values with revisions, guarded transactions, and a way to follow them."""

    async def snapshot(self, prefix: str = "") -> Snapshot:
        """Return every key that starts with `prefix`, all as of one revision.

        Cancellation: nothing happened.

        Raises:
            StoreUnavailable: the store cannot be asked at present.
        """

    async def commit(self, transaction: Transaction) -> Committed | Conflict:
        """Carry out a transaction if its guards hold; when this returns it is durable.

        A transaction without operations (or whose deletions find nothing) makes no revision.
        Cancellation: the transaction was not carried out.

        Raises:
            StoreUnavailable: it was not carried out.
            OutcomeUnknown: it may have been.
            ValueError: it breaks a limit of the store, names a key twice, or one that is not ASCII.
        """

    def watch(
        self, from_revision: int, prefix: str = ""
    ) -> AbstractAsyncContextManager[AsyncIterator[Revision]]:
        """Follow what is committed, each revision once and in order, from `from_revision` on.

        Revisions that changed nothing under `prefix` are left out, others carry only operations
        under it. Cancellation in the iteration loses nothing: the next step continues.

        Raises (from a step of the iteration):
            RevisionsGone: the watcher fell too far behind, or `from_revision` is too old.
            StoreUnavailable: the store was closed.
        """

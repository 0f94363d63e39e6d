"""A metadata store without a disk, whose failures a test asks for.

Fault model: a commit can be refused, can be carried out or not with the outcome unknown, can find
that somebody else wrote first, and can be held up until the test lets it go on.
"""

from __future__ import annotations

from collections import deque
from contextlib import asynccontextmanager
from enum import Enum

import trio

from trio_broker.cluster.store import OutcomeUnknown, StoreUnavailable
from trio_broker.cluster.table import KeyValueTable, check_limits
from trio_broker.metadata.transaction import Committed, Put, Revision


class Fault(Enum):
    NONE = "none"
    UNAVAILABLE = "nothing happens"
    UNKNOWN_DONE = "carried out, outcome unknown"
    UNKNOWN_NOT_DONE = "not carried out, outcome unknown"
    OVERTAKEN = "somebody else writes first"


class MemoryStore:
    def __init__(self) -> None:
        self.table = KeyValueTable()
        #: Faults of the next commits; none left: they succeed.
        self.faults: deque[Fault] = deque()
        self.snapshots_fail = False
        self.commits = 0
        self.gate: trio.Event | None = None
        #: What somebody else writes on `Fault.OVERTAKEN`.
        self.foreign_put = Put("brokers/known/77", b'{"v":1}')

    async def snapshot(self, prefix: str = ""):
        await trio.lowlevel.checkpoint()
        if self.snapshots_fail:
            raise StoreUnavailable("no snapshot now")
        return self.table.snapshot(prefix)

    async def commit(self, transaction):
        check_limits(transaction)
        await trio.lowlevel.checkpoint()
        if self.gate is not None:
            await self.gate.wait()
        self.commits += 1
        fault = self.faults.popleft() if self.faults else Fault.NONE
        if fault is Fault.UNAVAILABLE:
            raise StoreUnavailable("the disk is full")
        if fault is Fault.UNKNOWN_NOT_DONE:
            raise OutcomeUnknown("no answer")
        if fault is Fault.OVERTAKEN:
            self.table.apply([self.foreign_put])
            conflict = self.table.conflict(transaction.guards)
            assert conflict is not None, "the test must write what the guards look at"
            return conflict
        conflict = self.table.conflict(transaction.guards)
        if conflict is not None:
            return conflict
        operations = self.table.effective(transaction.operations)
        if not operations:
            return Committed(Revision(self.table.revision, ()))
        revision = self.table.apply(operations)
        if fault is Fault.UNKNOWN_DONE:
            raise OutcomeUnknown("no answer")
        return Committed(revision)

    @asynccontextmanager
    async def watch(self, from_revision: int, prefix: str = ""):
        raise NotImplementedError
        yield

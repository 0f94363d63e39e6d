"""Commits offsets, makes, alters and deletes topics while servers die, and keeps account."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

import attrs
import trio

from tests.support.checker import Partition
from trio_broker.client import Admin, ClientOptions, TopicPartition, open_client
from trio_broker.errors import TrioBrokerError

_CALL_SECONDS = 3.0
_LAST_LOOK_SECONDS = 60.0
_PAUSE_SECONDS = 0.02
_GROUPS = ("books", "tools", "films")
#: Below it nothing would be kept; each alteration is one more.
_RETENTION_MS = 1_000_000_000
_COMMITS_BETWEEN = 10


@attrs.define
class Counter:
    """A number that is only ever raised: how far that was tried, and how far acknowledged."""

    tried: int = 0
    acknowledged: int = 0

    def fault(self, found: int) -> str:
        """Say what is wrong with the value found in the end; empty if nothing is."""
        if self.acknowledged <= found <= self.tried:
            return ""
        return f"{found} is left, acknowledged was {self.acknowledged}, tried {self.tried}"


@attrs.define
class Ledger:
    """One thread that does all of it, and what it knows.

    Attributes:
        bootstrap: the server, which must come back at the same address.
        partitions: for which offsets are committed.
        commits: by group and partition.
        retention: of the topic that is altered.
        kept: topics whose creation was acknowledged.
        deleted: topics whose deletion was acknowledged.
        acknowledged: changes of all kinds.
    """

    bootstrap: str
    partitions: Sequence[Partition]
    commits: dict[tuple[str, Partition], Counter] = attrs.field(factory=dict)
    retention: Counter = attrs.field(factory=Counter)
    kept: set[str] = attrs.field(factory=set)
    deleted: set[str] = attrs.field(factory=set)
    acknowledged: int = 0
    _number: int = 0
    _stopping: threading.Event = attrs.field(factory=threading.Event)

    def run(self) -> None:
        """Go on until told to stop; what fails is tried again under another name."""
        trio.run(self._run)

    def stop(self) -> None:
        """Begin nothing more."""
        self._stopping.set()

    async def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                async with open_client(self.bootstrap, options=_options(_CALL_SECONDS)) as client:
                    await self._change_things(client.admin)
            except TrioBrokerError:
                await trio.sleep(_PAUSE_SECONDS)

    async def _change_things(self, admin: Admin) -> None:
        steps: list[Callable[[Admin], Awaitable[None]]] = [self._commit] * _COMMITS_BETWEEN
        steps += [self._create, self._alter, self._delete]
        while True:
            for step in steps:
                if self._stopping.is_set():
                    return
                await step(admin)
                self.acknowledged += 1
                await trio.sleep(_PAUSE_SECONDS)

    async def _commit(self, admin: Admin) -> None:
        self._number += 1
        group = _GROUPS[self._number % len(_GROUPS)]
        counters = [self.commits.setdefault((group, place), Counter()) for place in self.partitions]
        for counter in counters:
            counter.tried = self._number
        offsets = {TopicPartition(*place): self._number for place in self.partitions}
        await admin.alter_group_offsets(group, offsets)
        for counter in counters:
            counter.acknowledged = self._number

    async def _create(self, admin: Admin) -> None:
        self._number += 1
        name = f"made{self._number}"
        await admin.create_topic(name, partitions=2)
        self.kept.add(name)

    async def _delete(self, admin: Admin) -> None:
        if len(self.kept) < 3:
            return
        name = min(self.kept, key=lambda each: int(each.removeprefix("made")))
        self.kept.remove(name)  # its fate is unknown from now on
        await admin.delete_topic(name)
        self.deleted.add(name)

    async def _alter(self, admin: Admin) -> None:
        self.retention.tried += 1
        value = str(_RETENTION_MS + self.retention.tried)
        await admin.alter_topic_configs(self.partitions[0][0], {"retention.ms": value})
        self.retention.acknowledged = self.retention.tried

    def faults(self) -> list[str]:
        """Ask the server for all of it, and say what is not as it was acknowledged."""
        return trio.run(self._faults)

    async def _faults(self) -> list[str]:
        found: list[str] = []
        async with open_client(self.bootstrap, options=_options(_LAST_LOOK_SECONDS)) as client:
            admin = client.admin
            for group in _GROUPS:
                left = await admin.group_offsets(group)
                for (owner, place), counter in self.commits.items():
                    committed = left.get(TopicPartition(*place))
                    offset = 0 if committed is None else committed.offset
                    if owner == group and (fault := counter.fault(offset)):
                        found.append(f"offset of {group} in {place}: {fault}")
            topics = {topic.name for topic in await admin.list_topics()}
            found += [f"topic {name} is lost" for name in sorted(self.kept - topics)]
            found += [f"topic {name} is back" for name in sorted(self.deleted & topics)]
            configs = await admin.topic_configs(self.partitions[0][0])
            altered = int(configs["retention.ms"].value or 0) - _RETENTION_MS
            if self.retention.acknowledged and (fault := self.retention.fault(altered)):
                found.append(f"retention.ms: {fault}")
        return found


def _options(seconds: float) -> ClientOptions:
    return ClientOptions(
        request_timeout_seconds=seconds,
        connect_timeout_seconds=seconds,
        start_timeout_seconds=seconds,
        call_timeout_seconds=seconds,
        retry_backoff_seconds=0.02,
        retry_backoff_max_seconds=0.1,
    )


@contextmanager
def running_ledger(ledger: Ledger) -> Iterator[Ledger]:
    """Run it for the length of the block."""
    thread = threading.Thread(target=ledger.run, daemon=True)
    thread.start()
    try:
        yield ledger
    finally:
        ledger.stop()
        thread.join(_LAST_LOOK_SECONDS)

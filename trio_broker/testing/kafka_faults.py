"""Faults of a broker in a thread, as a test asks for them: `KafkaFaults`.

Each method lets something go wrong and returns a `Fault`, which knows how many requests have met it
and can be undone: by `Fault.undo`, at the end of a ``with`` block, or all at once by
`KafkaFaults.undo_all`, which the fixture `kafka_faults` calls at the end of each test.
"""

from __future__ import annotations

import math
import posixpath
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self, TypedDict

import trio

from trio_broker.broker.disk_guard import PROBE_NAME
from trio_broker.broker.replica import ReplicaState
from trio_broker.cluster.embedded import EmbeddedStore
from trio_broker.errors import BrokerClosed
from trio_broker.storage import paths
from trio_broker.testing.inspection import LOOK_SECONDS, NotReached, hint_for_event_loops
from trio_broker.testing.memory import travel
from trio_broker.testing.request_faults import (
    CloseFault,
    DelayFault,
    ErrorFault,
    RequestFault,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Unpack

    from trio_broker.errors import ErrorCode
    from trio_broker.testing.threaded_broker import BrokerThread
    from trio_broker.wire.api import ApiKey

#: A disk that works again is trusted after so long, else the broker is started anew.
DISK_SECONDS_MAX = 5.0


class Which(TypedDict, total=False):
    """Which requests meet a fault.

    Attributes:
        times: so many of them and no more; math.inf: all. One if not given.
        topic: only those that name this topic.
        group: only those that name this group.
        client_id: only those of clients that call themselves so.
    """

    times: float
    topic: str
    group: str
    client_id: str


class Fault:
    """Something that goes wrong until it is undone."""

    def __init__(self, faults: KafkaFaults, undo: Callable[[], Awaitable[None]]) -> None:
        self._faults = faults
        self._undo = undo

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()

    def undo(self) -> None:
        """Let all be well again; returns when it is. Idempotent.

        Raises:
            BrokerCrashed: the broker has failed.
        """
        self._faults.undo(self)

    async def undo_in_thread(self) -> None:
        """Do it, in the broker's thread."""
        await self._undo()


class MetFault(Fault):
    """A fault that single requests meet."""

    def __init__(
        self, faults: KafkaFaults, undo: Callable[[], Awaitable[None]], rule: RequestFault
    ) -> None:
        super().__init__(faults, undo)
        self._rule = rule

    def __repr__(self) -> str:
        return f"<MetFault {self._rule.api.name} met={self.met}>"

    @property
    def met(self) -> int:
        """How many requests have met it so far."""
        return self._rule.met

    def wait_met(self, times: int = 1, *, timeout_seconds: float = 10.0) -> None:
        """Wait until so many requests have met it.

        Raises:
            NotReached: an AssertionError; it takes longer.
        """
        self._faults.wait_met(self._rule, times, timeout_seconds)


class KafkaFaults:
    """What can be made to go wrong with one broker."""

    def __init__(self, broker: BrokerThread) -> None:
        self._broker = broker
        self._active: dict[Fault, None] = {}

    # Requests. All take `Which`: `times`, `topic`, `group` and `client_id`.

    def error(self, api: ApiKey | str, code: ErrorCode | str, **which: Unpack[Which]) -> MetFault:
        """Answer requests with an error, without carrying them out.

        Args:
            api: Kafka's name, such as ``Produce``.
            code: Kafka's name, such as ``NOT_LEADER_OR_FOLLOWER``.
            which: which requests, and how many; see `Which`.

        Raises:
            ValueError: there is no such API or error.
        """
        return self._add(ErrorFault(api=api, code=code, **which))

    def delay(
        self, api: ApiKey | str, seconds: float = math.inf, **which: Unpack[Which]
    ) -> MetFault:
        """Hold requests up before they are carried out, with all that follows on their connections.

        Args:
            api: Kafka's name.
            seconds: for how long; math.inf: until it is undone, so that they never seem to arrive.
            which: which requests, and how many; see `Which`.

        Raises:
            ValueError: there is no such API.
        """
        return self._add(DelayFault(api=api, seconds=seconds, **which))

    def lose_request(self, api: ApiKey | str, **which: Unpack[Which]) -> MetFault:
        """Close the connection on which a request comes; nothing is carried out.

        Raises:
            ValueError: there is no such API.
        """
        return self._add(CloseFault(api=api, **which))

    def lose_reply(self, api: ApiKey | str, **which: Unpack[Which]) -> MetFault:
        """Carry a request out, then close its connection instead of answering.

        What makes a client send a second time what was stored the first time.

        Raises:
            ValueError: there is no such API.
        """
        return self._add(CloseFault(api=api, carry_out=True, **which))

    def close_connections(self) -> int:
        """Close every connection once; return how many there were. Nothing needs undoing."""

        def close() -> int:
            clients = list(self._broker.broker._state.clients)
            for connection in clients:
                connection.close("a fault was injected")
            return len(clients)

        return self._broker.thread.call_sync(close)

    # The disk.

    def disk_full(self) -> Fault:
        """Let the disk have no room for records: Produce is refused, all else goes on.

        The broker notices at the next write. As with a disk that it has filled itself, there is
        room kept for what it needs: groups are joined, offsets committed and topics deleted.
        Undoing it takes about a second, since the broker wants to see the disk work for so long.
        """
        return self._trouble(quota_reached=self._holds_records)

    def _holds_records(self, path: str) -> bool:
        """Tell whether a file is for records, or the broker's way to find out about room."""
        if path.endswith(PROBE_NAME):
            return True
        found = paths.parse_replica_name(posixpath.basename(posixpath.dirname(path)))
        broker = self._broker.running_broker
        if found is None or broker is None:  # metadata, or the broker is just starting
            return False
        topic = broker._state.router.by_id.get(found.topic_id)
        return topic is not None and not topic.is_internal

    def disk_slow(self, seconds: float) -> Fault:
        """Let every operation of the disk take so long; one commit has several."""
        pace = (seconds, seconds)
        return self._trouble(latency_seconds=pace, sync_latency_seconds=pace)

    def disk_broken(self) -> Fault:
        """Let every write fail with EIO: the broker takes all partitions offline.

        Undoing it brings them back, by a restart of the broker if that is quicker, or if the
        metadata has met the fault: that can be changed again only after a restart.
        """
        return self._trouble(write_error_rate=1.0)

    def disk_frozen(self) -> Fault:
        """Let every operation of the disk hang: what has to be stored is not answered."""
        return self._trouble()

    # The broker.

    def stop_broker(self) -> Fault:
        """Stop the broker in order; undoing it starts it at the same address with the same data."""
        self._broker.stop()
        return self._restarted()

    def kill_broker(self) -> Fault:
        """End the broker as kill -9 would; undoing it starts it again, and it recovers."""
        self._broker.kill()
        return self._restarted()

    def _restarted(self) -> Fault:
        async def start() -> None:
            await self._broker.start_in_thread()

        return self._activate(Fault(self, start))

    def travel(self, **duration: float) -> Fault:
        """Move the broker's civil time: ``travel(days=8)``. Retention is applied at once.

        Timeouts and sessions go on as they were: they are not measured in civil time.

        Args:
            duration: as for `datetime.timedelta`; negative: back.
        """
        seconds = timedelta(**duration).total_seconds()

        async def move(seconds: float) -> None:
            await travel(self._broker.broker, seconds)

        async def back() -> None:
            # Only the clock: what is deleted stays so, and the broker may be stopped just now.
            await trio.lowlevel.checkpoint()
            self._broker.wall.offset_ms -= round(seconds * 1000)

        self._broker.thread.call(move, seconds)
        return self._activate(Fault(self, back))

    # Undoing.

    def undo(self, fault: Fault) -> None:
        """Undo one fault, if that has not happened. See `Fault.undo`."""
        if fault in self._active:
            del self._active[fault]
            self._broker.thread.call(fault.undo_in_thread)

    def undo_all(self) -> None:
        """Undo all faults, bring civil time back, and start the broker if it is stopped.

        Raises:
            BrokerCrashed: the broker has failed.
        """
        self._active.clear()
        self._broker.thread.call(self._undo_all)

    async def _undo_all(self) -> None:
        """Undo all, in an order in which nothing waits for what goes wrong still."""
        self._broker.requests.clear()
        self._broker.disk.heal()
        self._broker.wall.offset_ms = 0
        await self._broker.start_in_thread()
        await self._wait_for_disk()

    def wait_met(self, rule: RequestFault, times: int, timeout_seconds: float) -> None:
        """See `MetFault.wait_met`."""

        async def wait() -> None:
            with trio.move_on_after(timeout_seconds):
                await rule.wait_met(times)

        self._broker.thread.call(wait)
        if rule.met < times:
            raise NotReached(
                f"{rule.met} requests of {rule.api.name} met the fault within "
                f"{timeout_seconds:g} s, not {times}" + hint_for_event_loops()
            )

    def _add(self, rule: RequestFault) -> MetFault:
        async def remove() -> None:
            await trio.lowlevel.checkpoint()
            self._broker.requests.remove(rule)

        self._broker.thread.call_sync(self._broker.requests.add, rule)
        fault = MetFault(self, remove, rule)
        self._active[fault] = None
        return fault

    def _activate(self, fault: Fault) -> Fault:
        self._active[fault] = None
        return fault

    def _trouble(self, **faults: Any) -> Fault:
        key = object()
        disk = self._broker.disk

        async def heal() -> None:
            disk.heal(key)
            await self._wait_for_disk()

        self._broker.thread.call_sync(lambda: disk.trouble(key, **faults))
        return self._activate(Fault(self, heal))

    async def _wait_for_disk(self) -> None:
        """Wait until the broker trusts its disk again; give it a new start if that takes long."""
        with suppress(BrokerClosed):  # stopped: it looks at the disk when it starts
            with trio.move_on_after(DISK_SECONDS_MAX):
                while (  # noqa: ASYNC110 - it tells nobody
                    self._is_disk_doubted() and not self._has_metadata_failed()
                ):
                    await trio.sleep(LOOK_SECONDS)
            if self._is_disk_doubted() or self._has_metadata_failed():
                await self._broker.stop_in_thread()
                await self._broker.start_in_thread()

    def _is_disk_doubted(self) -> bool:
        if self._broker.disk.is_troubled:
            return False  # for a reason, that is
        state = self._broker.broker._state
        return any(log_dir.health.refuses_produce for log_dir in state.log_dirs) or any(
            replica.state is not ReplicaState.ONLINE for replica in state.router.replicas()
        )

    def _has_metadata_failed(self) -> bool:
        """Whether it has met the fault, after which it takes nothing until the next start."""
        if self._broker.disk.is_troubled:
            return False  # a start would meet it again
        store = self._broker.broker._state.controller._store
        return isinstance(store, EmbeddedStore) and bool(store.statistics().failure)

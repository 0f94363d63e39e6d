"""Fetches ahead for a consumer: one task for each broker that leads a partition it reads.

A task looks up positions that are not known yet, then fetches, one request after another, as long
as less is buffered than `ConsumerOptions` allows. A request that waits at the broker for new
records is given up when another partition of that broker could be fetched meanwhile.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import trio

from trio_broker.client.connection import VersionMismatch
from trio_broker.client.errors import request_error
from trio_broker.client.fetched import FetchedRecords
from trio_broker.client.metadata import NOBODY
from trio_broker.client.offsets import ask_leader
from trio_broker.client.remedies import CONNECTION_FAILURES, Remedy, remedy_for
from trio_broker.client.types import TopicPartition
from trio_broker.errors import CorruptRecords, ErrorCode, ProtocolError
from trio_broker.wire.messages.fetch import (
    FetchPartition,
    FetchRequest,
    FetchResponse,
    FetchTopic,
    PartitionData,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_broker.client.cluster import Cluster
    from trio_broker.client.consumer_state import ConsumerState, PartitionState
    from trio_broker.client.options import ConsumerOptions
    from trio_broker.client.scope import TaskScope

logger = logging.getLogger("trio_broker.client")

#: How long a broker holds back a fetch without partitions that are full here: they may be wanted
#: again at any moment.
_CROWDED_WAIT_SECONDS = 0.05
_NO_EPOCH = -1


class _Wanted(NamedTuple):
    """One partition of a request."""

    state: PartitionState
    epoch: int
    offset: int


class _Plan(NamedTuple):
    """What to ask a broker for; nothing: when to look again (Trio time)."""

    wanted: list[_Wanted]
    is_crowded: bool
    wake_at: float


class Fetcher:
    """Fills a `ConsumerState`.

    Attributes:
        arrived: unparked when something was fetched, or has failed.
    """

    def __init__(
        self,
        cluster: Cluster,
        state: ConsumerState,
        options: ConsumerOptions,
        scope: TaskScope,
        purpose: str,
    ) -> None:
        self.arrived = trio.lowlevel.ParkingLot()
        self._cluster = cluster
        self._state = state
        self._options = options
        self._scope = scope
        self._purpose = purpose
        self._changed = trio.lowlevel.ParkingLot()
        self._waits: dict[int, trio.CancelScope] = {}
        self._nodes: set[int] = set()
        self._missing_since: dict[str, float] = {}

    def wake(self) -> None:
        """Look again at what may be fetched, because something was taken."""
        if self._changed:
            self._changed.unpark_all()

    def interrupt(self) -> None:
        """Look again, and do not wait for an answer while something new could be fetched."""
        self.wake()
        now = trio.current_time()
        for node_id, scope in self._waits.items():
            if self._plan(node_id, now).wanted or self._lookups(node_id, now):
                scope.cancel()

    async def supervise(self) -> None:
        """Find leaders, and start a task for each; a task itself."""
        self._cluster.watch(self.wake)
        try:
            while True:
                now = trio.current_time()
                wake_at = float("inf")
                for place, state in self._state.partitions.items():
                    self._cluster.use_topic(place.topic)
                    leader = self._cluster.view.leader(*place)
                    if leader == NOBODY:
                        self._cluster.request_refresh()
                        wake_at = min(wake_at, self._note_missing(state, now))
                    elif leader not in self._nodes:
                        self._nodes.add(leader)
                        task = partial(self._serve_node, leader)
                        self._scope.start(f"consumer/broker {leader}", task)
                with trio.move_on_at(wake_at):
                    await self._changed.park()
        finally:
            self._cluster.unwatch(self.wake)

    def _note_missing(self, state: PartitionState, now: float) -> float:
        """Fail a partition whose topic is gone; return when that is certain (Trio time)."""
        topic = state.place.topic
        code = self._cluster.view.failures.get(topic)
        if code is None or state.error is not None:
            self._missing_since.pop(topic, None)
            return float("inf")
        since = self._missing_since.setdefault(topic, now)
        certain_at = since + self._cluster.options.topic_timeout_seconds
        if Remedy.RETRY not in remedy_for(code) or now >= certain_at:
            state.fail(request_error(code, f"topic {topic!r}"))
            self.arrived.unpark_all()
            return float("inf")
        return certain_at

    # ------------------------------------------------------------------------------ for each broker

    async def _serve_node(self, node_id: int) -> None:
        """Look up and fetch what a broker leads; a task."""
        while True:
            now = trio.current_time()
            lookups = self._lookups(node_id, now)
            if lookups:
                await self._look_up(node_id, lookups)
                continue
            plan = self._plan(node_id, now)
            if not plan.wanted:
                with trio.move_on_at(plan.wake_at):
                    await self._changed.park()
                continue
            await self._fetch(node_id, plan)

    def _led_by(self, node_id: int) -> list[PartitionState]:
        leader = self._cluster.view.leader
        return [
            state for place, state in self._state.partitions.items() if leader(*place) == node_id
        ]

    def _lookups(self, node_id: int, now: float) -> list[PartitionState]:
        return [
            state
            for state in self._led_by(node_id)
            if state.reset_to is not None and state.error is None and state.resume_at <= now
        ]

    def _plan(self, node_id: int, now: float) -> _Plan:
        wanted: list[_Wanted] = []
        is_crowded = self._state.buffered_bytes >= self._options.prefetch_bytes
        wake_at = float("inf")
        for state in self._led_by(node_id):
            if state.error is not None or state.is_paused:
                continue
            if state.resume_at > now:
                wake_at = min(wake_at, state.resume_at)
            elif state.position is None or state.is_fetching:
                continue
            elif state.buffered_bytes >= self._options.partition_prefetch_bytes:
                is_crowded = True
            else:
                wanted.append(_Wanted(state, state.epoch, state.fetch_offset))
        if self._state.buffered_bytes >= self._options.prefetch_bytes:
            # Only who has nothing at all is served then.
            wanted = [one for one in wanted if not one.state.buffered]
        return _Plan(wanted, is_crowded, wake_at)

    async def _look_up(self, node_id: int, states: Sequence[PartitionState]) -> None:
        """Find out where partitions begin, end, or had a time."""
        asked: dict[TopicPartition, tuple[PartitionState, int]] = {}
        wanted: dict[TopicPartition, int] = {}
        for state in states:
            assert state.reset_to is not None
            asked[state.place] = (state, state.epoch)
            wanted[state.place] = state.reset_to
        try:
            answer = await ask_leader(
                self._cluster, node_id, self._purpose, wanted, self._options.isolation
            )
        except (*CONNECTION_FAILURES, ProtocolError, VersionMismatch) as error:
            self._failed_to_reach(node_id, [state for state, _ in asked.values()], error)
            return
        for place, found in answer.found.items():
            state, epoch = asked[place]
            if state.epoch == epoch:
                # -1: no record is as late as the time asked for, so read what is to come.
                if found.offset >= 0:
                    state.seek(found.offset)
                else:
                    state.look_up(-1)
        for place, failure in answer.failures.items():
            state, epoch = asked[place]
            if state.epoch == epoch:
                self._refused(state, failure.code, "looking up the position")
        self.arrived.unpark_all()

    async def _fetch(self, node_id: int, plan: _Plan) -> None:
        """Fetch once."""
        request = self._request(plan)
        names = {topic.topic_id: topic.topic for topic in request.topics}
        wanted = {one.state.place: one for one in plan.wanted}
        wait_seconds = self._options.fetch_wait_seconds
        for one in plan.wanted:
            one.state.fetching_epoch = one.epoch
        try:
            with trio.CancelScope() as scope:
                self._waits[node_id] = scope
                answer = await self._cluster.call(
                    node_id,
                    self._purpose,
                    request,
                    FetchResponse,
                    timeout_seconds=wait_seconds + self._cluster.options.request_timeout_seconds,
                )
        except (*CONNECTION_FAILURES, ProtocolError, VersionMismatch) as error:
            self._failed_to_reach(node_id, [one.state for one in plan.wanted], error)
            return
        finally:
            del self._waits[node_id]
            for one in plan.wanted:
                if one.state.fetching_epoch == one.epoch:
                    one.state.fetching_epoch = None
        if scope.cancelled_caught:
            return
        if answer.error_code:
            for one in plan.wanted:
                self._refused(one.state, answer.error_code, "fetching")
            return
        for topic in answer.responses:
            name = topic.topic or names.get(topic.topic_id, "")
            for data in topic.partitions:
                found = wanted.get(TopicPartition(name, data.partition_index))
                if found is not None and found.state.epoch == found.epoch:
                    self._take(found.state, data)
        self.arrived.unpark_all()

    def _request(self, plan: _Plan) -> FetchRequest:
        options = self._options
        by_topic: dict[str, list[FetchPartition]] = {}
        for state, _, offset in plan.wanted:
            topic, index = state.place
            view = self._cluster.view.partition(topic, index)
            by_topic.setdefault(topic, []).append(
                FetchPartition(
                    partition=index,
                    current_leader_epoch=_NO_EPOCH if view is None else view.leader_epoch,
                    fetch_offset=offset,
                    partition_max_bytes=options.partition_fetch_bytes,
                )
            )
        wait_seconds = options.fetch_wait_seconds
        if plan.is_crowded:
            wait_seconds = min(wait_seconds, _CROWDED_WAIT_SECONDS)
        return FetchRequest(
            max_wait_ms=int(wait_seconds * 1000),
            min_bytes=options.fetch_bytes_min,
            max_bytes=options.fetch_bytes_max,
            isolation_level=options.isolation,
            topics=[
                FetchTopic(
                    topic=topic,
                    topic_id=self._cluster.view.topic_id(topic),
                    partitions=partitions,
                )
                for topic, partitions in by_topic.items()
            ],
        )

    def _take(self, state: PartitionState, data: PartitionData) -> None:
        """Take what an answer has about one partition."""
        if data.error_code:
            self._refused(state, data.error_code, "fetching")
            return
        state.failures = 0
        state.high_watermark = data.high_watermark
        state.log_start_offset = data.log_start_offset
        if not data.records:
            return
        aborted = [
            (each.producer_id, each.first_offset) for each in data.aborted_transactions or ()
        ]
        try:
            state.add(FetchedRecords(data.records, state.fetch_offset, aborted, self._options))
        except CorruptRecords as error:
            state.fail(error)

    # ------------------------------------------------------------------------------------- failures

    def _failed_to_reach(
        self, node_id: int, states: Sequence[PartitionState], error: Exception
    ) -> None:
        logger.warning("cannot fetch from broker %d: %s", node_id, error)
        for state in states:
            if isinstance(error, VersionMismatch):
                state.fail(error)
            else:
                self._postpone(state)
        self._cluster.request_refresh()
        self.arrived.unpark_all()

    def _refused(self, state: PartitionState, code: int, doing: str) -> None:
        """Do what a broker's error code asks for."""
        error = request_error(code, f"{doing} {state.place} at {state.fetch_offset}")
        remedy = remedy_for(code)
        if code == ErrorCode.OFFSET_OUT_OF_RANGE and state.reset_to is None:
            self._out_of_range(state, error)
        elif Remedy.RETRY in remedy and code != ErrorCode.CORRUPT_MESSAGE:
            if Remedy.REFRESH in remedy:
                self._cluster.request_refresh()
            self._postpone(state)
        else:
            state.fail(error)
        self.arrived.unpark_all()

    def _out_of_range(self, state: PartitionState, error: Exception) -> None:
        """The log does not have the offset (any more)."""
        if state.buffered:
            self._postpone(state)  # first what is there
        elif self._options.auto_offset_reset is None:
            state.fail(error)
        else:
            reset = self._options.auto_offset_reset
            logger.warning("%s: going on at the %s offset", error, reset.name.lower())
            state.look_up(reset)

    def _postpone(self, state: PartitionState) -> None:
        pause = self._cluster.pause_seconds(state.failures)
        state.failures += 1
        state.resume_at = trio.current_time() + pause

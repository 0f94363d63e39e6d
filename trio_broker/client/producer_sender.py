"""Sends a producer's batches to one broker, several requests under way at a time.

Two tasks share a connection: one sends, the other takes the answers in the order of the requests.
When it breaks, the second one settles what was under way, and only then the first one connects
again: batches of a partition are never on two connections.
"""

from __future__ import annotations

import logging
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

import trio

from trio_broker.client.connection import Connection, ConnectionLost, VersionMismatch
from trio_broker.client.errors import RequestTimedOut
from trio_broker.client.options import ACKS_NONE
from trio_broker.client.remedies import CONNECTION_FAILURES
from trio_broker.errors import ProtocolError
from trio_broker.wire.messages.produce import ProduceResponse

if TYPE_CHECKING:
    from trio_broker.client.producer_core import ProducerCore, Shipment
    from trio_broker.client.scope import TaskScope

logger = logging.getLogger("trio_broker.client")

_FAILURES = (*CONNECTION_FAILURES, ProtocolError, VersionMismatch)


class NodeSender:
    """Sends to one broker."""

    def __init__(self, core: ProducerCore, node_id: int, scope: TaskScope) -> None:
        self._core = core
        self._node_id = node_id
        self._scope = scope
        self._changed = trio.lowlevel.ParkingLot()
        self._in_flight: deque[Shipment] = deque()
        self._retries = core.cluster.retries(float("inf"))

    def wake(self) -> None:
        """Look again at what can be sent."""
        self._changed.unpark_all()

    async def run(self) -> None:
        """Send until cancelled; a task."""
        while True:
            await self._wait_for_work()
            try:
                connection = await self._core.cluster.connect(self._node_id)
            except _FAILURES as error:
                logger.warning("cannot send to broker %d: %s", self._node_id, error)
                pause = self._retries.pause_seconds()
                self._core.unreachable(self._node_id, error, trio.current_time() + pause)
                continue
            self._retries = self._core.cluster.retries(float("inf"))
            answers = self._scope.start(
                f"producer/answers of {self._node_id}", partial(self._take_answers, connection)
            )
            try:
                await self._send_on(connection)
            finally:
                connection.close()
                self.wake()
            await answers.wait()

    async def _wait_for_work(self) -> None:
        """Wait until a batch is ready, without taking it."""
        while True:
            now = trio.current_time()
            ready_at = self._core.ready_at(self._node_id, now)
            if ready_at <= now:
                return
            with trio.move_on_at(ready_at):
                await self._changed.park()

    async def _send_on(self, connection: Connection) -> None:
        """Send what there is until the connection breaks."""
        options = self._core.options
        while not connection.is_closed:
            if len(self._in_flight) >= options.in_flight_max:
                await self._changed.park()
                continue
            collected = self._core.collect(self._node_id, trio.current_time())
            if collected.shipment is None:
                if collected.wants_identity:
                    await self._core.obtain_identity()
                    continue
                with trio.move_on_at(collected.wake_at):
                    await self._changed.park()
                continue
            shipment = collected.shipment
            is_answered = options.acks != ACKS_NONE
            failure: Exception = RequestTimedOut(f"broker {self._node_id} does not take a request")
            is_sent = False
            if is_answered:
                self._in_flight.append(shipment)
            try:
                with trio.move_on_at(shipment.sent_at + options.request_timeout_seconds):
                    await connection.send(shipment.request, answered=is_answered)
                    is_sent = True
            except _FAILURES as error:
                failure = error
            if not is_sent:
                logger.warning("cannot send to broker %d: %s", self._node_id, failure)
                connection.close()
            if is_answered:
                self.wake()  # the task that takes answers
            elif is_sent:
                self._core.unanswered(shipment)
            else:
                self._core.lost(shipment, failure, self._node_id)

    async def _take_answers(self, connection: Connection) -> None:
        """Settle requests as they are answered; a task, ends with the connection."""
        failure: Exception = ConnectionLost(f"{connection.peer}: closed here")
        try:
            while not connection.is_closed:
                if not self._in_flight or not connection.in_flight:
                    await self._changed.park()
                    continue
                shipment = self._in_flight[0]
                deadline = shipment.sent_at + self._core.options.request_timeout_seconds
                with trio.fail_at(max(deadline, trio.current_time())):
                    answer = await connection.receive(ProduceResponse)
                self._in_flight.popleft()
                self._core.answered(shipment, answer, self._node_id)
        except trio.TooSlowError:
            failure = RequestTimedOut(f"broker {self._node_id} has not answered Produce in time")
        except (ConnectionLost, ProtocolError) as error:
            failure = error
        finally:
            connection.close()
        logger.info("connection of the producer to %s ended: %s", connection.peer, failure)
        while self._in_flight:
            self._core.lost(self._in_flight.popleft(), failure, self._node_id)
        self.wake()

"""One client connection: its stream, and the order of its replies.

Only Produce requests overlap: up to a bound of requests and bytes they wait in the write queues
together, and their replies leave in request order as commits complete. Every other request waits
for those before it and is answered before the next is read (as Kafka does it). There is no task,
cancel scope or channel per request.

The connection task receives, parses and handles. Replies to Produce leave from whichever task
resolves the last slot, with one non-blocking send; only if the socket is full does a second task
take over until it is not.
"""

from __future__ import annotations

import logging
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from trio_broker.broker.handlers.produce import ProduceInFlight, start_produce
from trio_broker.broker.handlers.table import answer, served_api
from trio_broker.errors import BrokerClosed, ForeignProtocol, ProtocolError
from trio_broker.wire.api import ApiKey
from trio_broker.wire.frames import FrameSplitter
from trio_broker.wire.headers import decode_request_header

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trio_broker.broker.interception import Interceptor, Intervention
    from trio_broker.broker.session import Session
    from trio_broker.broker.state import BrokerState
    from trio_broker.host.interface import Buffer, Stream
    from trio_broker.wire.headers import RequestHeader

logger = logging.getLogger("trio_broker.connection")

#: A reply is handed to the socket in pieces of this size, each with a deadline of its own.
SEND_PIECE_BYTES = 1024 * 1024
#: Whether a client is still there is not asked before its request has taken so long.
_PARKED_SECONDS = 1.0
#: One that has left behind more requests is served for so long, for the sake of these.
_LAST_REQUEST_SECONDS = 10.0
#: So many that have come together are handled before others get a turn, where none of them waits.
_REQUESTS_PER_TURN = 10
#: What each connection may hold of the requests that it receives without counting it. Idle ones
#: must not use the pool up: there can be `network.connections_max` of them.
BUFFER_BYTES = 64 * 1024


class Connection:
    """One accepted stream and what is under way on it.

    Attributes:
        session: who the client is.
        scope: covers the connection's whole task; cancelling it closes the connection.
        deadline: Trio time at which the reaper closes the connection for what its task now waits
            for: the next request, the rest of a started one, or room for a reply.
        close_reason: why it closed, for the log.
    """

    __slots__ = (
        "_backlog",
        "_backlog_deadline",
        "_claimed_bytes",
        "_handling_since",
        "_in_flight_bytes",
        "_intake_scope",
        "_pending",
        "_progress",
        "_receiving",
        "_splitter",
        "_state",
        "close_reason",
        "deadline",
        "draining",
        "scope",
        "session",
        "stream",
    )

    def __init__(self, stream: Stream, session: Session, state: BrokerState) -> None:
        network = state.config.network
        self.stream = stream
        self.session = session
        self.scope = trio.CancelScope()
        self.deadline = trio.current_time() + network.connection_idle_seconds
        self.draining = state.draining  # it may have begun since the client was let in
        self.close_reason = ""
        self._state = state
        self._splitter = FrameSplitter(
            frame_bytes_max=network.frame_bytes_max,
            produce_frame_bytes_max=network.produce_frame_bytes_max,
            buffers=state.receive_buffers,
        )
        self._pending: deque[ProduceInFlight] = deque()
        self._in_flight_bytes = 0
        self._progress = trio.lowlevel.ParkingLot()
        self._intake_scope = trio.CancelScope()
        self._receiving = False
        self._backlog: deque[memoryview] = deque()
        self._backlog_deadline = float("inf")
        self._claimed_bytes = 0
        self._handling_since = float("inf")

    def __repr__(self) -> str:
        return f"<Connection {self.stream.peer} pending={len(self._pending)} {self.close_reason}>"

    async def run(self) -> None:
        """Serve the client until it leaves, breaks the protocol, or the broker drains.

        Cancellation: the connection closes; batches already queued are stored, unanswered.
        """
        try:
            with self.scope:
                await self._serve()
                self._state.flusher.flush()
                await self._wait_for_pending(0, 0)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.close_reason = self.close_reason or "the client is gone"
        except BrokerClosed:
            self.close_reason = "the broker is stopping"  # and did not carry the request out
        except ProtocolError as error:
            self.close_reason = f"protocol error: {error}"
            what = f"closing {self.stream.peer}: {error}"
            self._state.paced(logger).log(logging.INFO, "closing", what)
            if isinstance(error, ForeignProtocol):
                self._say_goodbye(error.reply)
        finally:
            self.stream.close()
            memory = self._state.request_memory
            for request in self._pending:
                request.forget()
                memory.give_back(request.size_bytes)
            self._pending.clear()
            self._backlog.clear()
            memory.give_back(self._claimed_bytes)
            memory.finished(self)

    def _say_goodbye(self, reply: bytes) -> None:
        """Tell a client of another protocol that this is not its port, if it listens."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            self.stream.send_nowait(reply)

    def close(self, reason: str) -> None:
        """End the connection's task; called by the reaper and the shutdown."""
        self.close_reason = reason
        self.scope.cancel()

    @property
    def is_idle(self) -> bool:
        """Whether nothing will be due before `deadline`, unless the client sends something."""
        return (
            self._receiving
            and self.deadline < float("inf")
            and self._splitter.partial_since is None
            and not self._pending
            and not self._backlog
        )

    def begin_drain(self) -> None:
        """Take no further request; close once those under way are answered."""
        self.draining = True
        if self._receiving:
            self._intake_scope.cancel()

    def reap(self, now: float) -> None:
        """Do what is due at `now`: close a peer that keeps us waiting, answer late produces."""
        if now >= min(self.deadline, self._backlog_deadline):
            self.close("the client was silent, or took too long to send or to receive")
        elif self._is_left_alone(now - self._handling_since):
            self.close("the client is gone")  # or a parked fetch would keep its socket for days
        for request in self._pending:
            if now >= request.deadline:
                request.time_out()
        self._state.flusher.flush()

    def _is_left_alone(self, parked_seconds: float) -> bool:
        """Whether nobody waits for the request that has been handled for so long."""
        if parked_seconds < _PARKED_SECONDS:
            return False
        if parked_seconds >= _LAST_REQUEST_SECONDS:
            return self.stream.has_peer_left()
        return self.stream.is_abandoned()

    def _is_draining(self) -> bool:
        return self.draining  # may change at every await

    async def _serve(self) -> None:
        splitter = self._splitter
        network = self._state.config.network
        memory = self._state.request_memory
        # By ourselves, while the frame that is arriving waited for memory, or for those before it.
        held_up_seconds = 0.0
        with self._intake_scope:
            while not self._is_draining():
                self._count_claim()
                if not memory.has_room:
                    held_up_seconds += await self._wait_for_memory()
                    if self._is_draining():
                        return
                if splitter.partial_since is None:
                    held_up_seconds = 0.0
                    self.deadline = trio.current_time() + network.connection_idle_seconds
                else:
                    patience = network.frame_seconds_max + held_up_seconds
                    self.deadline = splitter.partial_since + patience
                count = await self._receive()
                if count == 0:
                    return
                handled = 0
                while (frame := splitter.next_frame()) is not None:
                    await self._handle(frame)
                    handled += 1
                    memory.finished(self)
                    if self.session.muted_until:
                        await self._stay_muted()
                    if handled % _REQUESTS_PER_TURN == 0:
                        await trio.lowlevel.checkpoint()
                    if self._is_draining():
                        return
                if handled and splitter.partial_since is not None:
                    held_up_seconds = trio.current_time() - splitter.partial_since
                self._state.flusher.flush()

    async def _wait_for_memory(self) -> float:
        """Stop reading until there is room for more; return the seconds that took."""
        began = trio.current_time()
        self.deadline = float("inf")
        is_partial = self._splitter.partial_since is not None
        await self._state.request_memory.wait_for_room(self if is_partial else None)
        return trio.current_time() - began

    def _count_claim(self) -> None:
        """Count what has arrived of a large request against the pool."""
        claimed_bytes = max(self._splitter.partial_bytes - BUFFER_BYTES, 0)
        growth = claimed_bytes - self._claimed_bytes
        self._claimed_bytes = claimed_bytes
        if growth > 0:
            self._state.request_memory.take(growth)
        elif growth < 0:
            self._state.request_memory.give_back(-growth)

    async def _receive(self) -> int:
        """Wait for bytes; return how many have come, 0 at the end of the stream."""
        splitter = self._splitter
        self._receiving = True
        count = await self.stream.receive_into(splitter.writable(), splitter.expected_bytes)
        self._receiving = False
        self._state.reaper.stir()
        splitter.received(count, trio.current_time())
        return count

    async def _stay_muted(self) -> None:
        """Read nothing for as long as the client was told to wait; a drain ends that."""
        until, self.session.muted_until = self.session.muted_until, 0.0
        self._state.flusher.flush()
        self._receiving = True
        await trio.sleep_until(until)
        self._receiving = False

    async def _handle(self, frame: memoryview) -> None:
        header = decode_request_header(frame)
        self.deadline = float("inf")
        close_reason = ""
        if self._state.interceptor is not None:
            intervention = await self._intercept(self._state.interceptor, header, frame)
            if intervention is not None:
                close_reason = intervention.close_reason
                if not intervention.carry_out:
                    await self._intervene(intervention)
                    return
        if header.api_key == ApiKey.PRODUCE:
            await self._handle_produce(header, frame, close_reason)
            return
        began = self._handling_since = trio.current_time()
        self._state.request_memory.finished(self)  # a fetch may wait for days
        self._state.flusher.flush()
        await self._wait_for_pending(0, 0)
        reply = await answer(self._state, self.session, header, frame)
        self._handling_since = float("inf")
        self._state.requests[header.api_key].observe(trio.current_time() - began)
        if close_reason:
            await self._close_now(close_reason)
        await self._send(reply)

    async def _intercept(
        self, interceptor: Interceptor, header: RequestHeader, frame: memoryview
    ) -> Intervention | None:
        """Ask the interceptor, for as long as neither the client leaves nor the broker drains."""
        self._state.flusher.flush()
        self._handling_since = trio.current_time()
        self._receiving = True
        intervention = await interceptor.intercept(self._state, self.session, header, frame)
        self._receiving = False
        self._handling_since = float("inf")
        return intervention

    async def _intervene(self, intervention: Intervention) -> None:
        """Do what the interceptor wants done instead; replies keep their order."""
        self._state.flusher.flush()
        await self._wait_for_pending(0, 0)
        if intervention.reply is not None:
            await self._send(intervention.reply)
        if intervention.close_reason:
            await self._close_now(intervention.close_reason)

    async def _close_now(self, reason: str) -> None:
        """Close the connection, from its own task; does not return."""
        self.close(reason)
        await trio.lowlevel.checkpoint_if_cancelled()

    async def _send(self, buffers: Sequence[Buffer]) -> None:
        """Send a reply, giving the peer a new deadline for each piece of it."""
        stall_seconds = self._state.config.network.send_stall_seconds_max
        memory = self._state.response_memory
        size_bytes = sum(map(len, buffers))
        memory.take(size_bytes)
        try:
            for piece in pieces(buffers, SEND_PIECE_BYTES):
                self.deadline = trio.current_time() + stall_seconds
                await self.stream.send_vectored(piece)
        finally:
            memory.give_back(size_bytes)
        self.deadline = float("inf")

    # Produce: replies come later, in order.

    async def _handle_produce(
        self, header: RequestHeader, frame: memoryview, close_reason: str
    ) -> None:
        served_api(header)
        network = self._state.config.network
        requests_max = network.produce_requests_in_flight_max
        bytes_max = network.produce_bytes_in_flight_max
        if (
            len(self._pending) >= requests_max
            or self._in_flight_bytes >= bytes_max
            or self._backlog  # of a client that sends but does not read
        ):
            self._state.flusher.flush()
            await self._wait_for_pending(requests_max - 1, bytes_max - 1)
        request = ProduceInFlight(self, header, len(frame))
        request.close_reason = close_reason
        self._pending.append(request)
        self._in_flight_bytes += request.size_bytes
        self._state.request_memory.take(request.size_bytes)
        crowded = start_produce(
            self._state, request, frame, header, keep_spans=self._splitter.frame_is_owned
        )
        for shard in crowded:
            self._state.flusher.flush()
            await shard.wait_for_room()

    async def _wait_for_pending(self, requests_max: int, bytes_max: int) -> None:
        """Wait until at most so much is unanswered, and all earlier replies have left."""
        while (
            len(self._pending) > requests_max or self._in_flight_bytes > bytes_max or self._backlog
        ):
            await self._progress.park()

    def request_completed(self) -> None:
        """Take note that a Produce request has all its outcomes; the flush sends its reply."""
        if self._pending and self._pending[0].is_complete:
            self._state.flusher.add(self)

    def send_ready(self) -> None:
        """Send the replies of all leading requests that are complete; never blocks or raises."""
        pending = self._pending
        replies: list[bytes] = []
        counter, now = self._state.requests[ApiKey.PRODUCE], trio.current_time()
        while pending and pending[0].is_complete:
            request = pending.popleft()
            counter.observe(now - request.began)
            self._in_flight_bytes -= request.size_bytes
            self._state.request_memory.give_back(request.size_bytes)
            reply = request.reply()
            if request.close_reason:
                self.close(request.close_reason)
                break
            if reply is not None:
                replies.append(reply)
            elif request.failed:
                self.close("a Produce request with acks=0 failed, and closing is the only answer")
        if replies:
            self._hand_over(replies[0] if len(replies) == 1 else b"".join(replies))
        if self._progress:
            self._progress.unpark_all()

    def _hand_over(self, data: bytes) -> None:
        if self._backlog:
            self._backlog.append(memoryview(data))
            return
        try:
            sent = self.stream.send_nowait(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.close("the client is gone")
            return
        if sent < len(data):
            self._backlog.append(memoryview(data)[sent:])
            self._state.start_connection_task(self._send_backlog)

    async def _send_backlog(self) -> None:
        """Send replies that did not fit into the socket at once; ends when there are none."""
        stall_seconds = self._state.config.network.send_stall_seconds_max
        try:
            while self._backlog:
                self._backlog_deadline = trio.current_time() + stall_seconds
                await self.stream.send_vectored([self._backlog[0]])
                self._backlog.popleft()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._backlog.clear()
            self.close("the client is gone")
        self._backlog_deadline = float("inf")
        self._progress.unpark_all()


def pieces(buffers: Sequence[Buffer], piece_bytes: int) -> Iterator[list[Buffer]]:
    """Split a list of buffers into lists of about `piece_bytes` each, without copying."""
    piece: list[Buffer] = []
    room = piece_bytes
    for buffer in buffers:
        view = memoryview(buffer)
        while len(view) > room:
            piece.append(view[:room])
            yield piece
            view = view[room:]
            piece, room = [], piece_bytes
        if len(view):
            piece.append(view)
            room -= len(view)
    if piece:
        yield piece

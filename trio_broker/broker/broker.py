"""The root of the task tree: nested blocks whose leaving order is the stop order.

`run` is the broker's one root task. What a program sees of it is `embed.Broker`; `open_broker`
there and `server_main` for processes decide when it starts and stops.
"""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from typing import TYPE_CHECKING

import trio

from trio_broker.broker.controller import open_controller
from trio_broker.broker.group_coordinator import GroupCoordinator
from trio_broker.broker.handlers.table import SERVED
from trio_broker.broker.housekeeping import shorten_offsets_logs
from trio_broker.broker.listeners import ConnectionGate, accept_forever, bind_listeners
from trio_broker.broker.log_dir import open_log_dirs
from trio_broker.broker.reaper import reap_forever
from trio_broker.broker.reconciler import Reconciler
from trio_broker.broker.state import BrokerState
from trio_broker.broker.supervise import Supervisor
from trio_broker.metadata.decisions import StartedDirectory

if TYPE_CHECKING:
    from trio_broker.config import BrokerConfig
    from trio_broker.host.interface import Host

logger = logging.getLogger("trio_broker.broker")

#: Share of the stop deadline that in-flight requests may take before they are cut off.
DRAIN_SHARE = 0.5
#: Deadline of an orderly stop after the host program was cancelled.
HARD_STOP_SECONDS = 5.0


class BrokerTree:
    """The running tree: starts, serves until told to stop, and stops in order.

    Attributes:
        state: what handlers see.
        crash: why the tree ended by itself, None while it runs or after an orderly stop.
        clean: after the end, whether every log dir got its clean marker.
    """

    def __init__(self, config: BrokerConfig, host: Host, *, reraise: bool = False) -> None:
        self.state = BrokerState(
            config=config, host=host, supervisor=Supervisor(reraise=reraise), served=SERVED
        )
        self.clean = False
        self.started = False
        self.ended = trio.Event()
        self._stop_requested = trio.Event()
        self._scope = trio.CancelScope()
        self._stop_deadline = float("inf")

    def request_stop(self, *, within_seconds: float | None = None) -> None:
        """Begin an orderly stop. Idempotent; a shorter deadline than before replaces it."""
        if within_seconds is None:
            within_seconds = self.state.config.shutdown_seconds_max
        deadline = trio.current_time() + within_seconds
        self._stop_deadline = min(self._stop_deadline, deadline)
        self._scope.deadline = self._stop_deadline
        self._stop_requested.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be the tree, from opening the first file to closing the last.

        While starting it can be cancelled like anything else. Once started it is shielded: who
        wants it to end calls `request_stop`, and the deadline given there ends it for certain.
        """
        state = self.state
        try:
            with self._scope:
                async with AsyncExitStack() as stack:
                    await self._start_storage(stack)
                    await self._serve(task_status)
                self.clean = all(log_dir.closed_cleanly for log_dir in state.log_dirs)
        finally:
            self.ended.set()

    async def _start_storage(self, stack: AsyncExitStack) -> None:
        state = self.state
        controller = await stack.enter_async_context(open_controller(state))
        state.controller = controller
        state.log_dirs = await stack.enter_async_context(open_log_dirs(state))
        await controller.broker_started(
            [
                StartedDirectory(
                    directory_id=log_dir.directory_id,
                    shard_count=len(log_dir.shards),
                    clean=log_dir.directory.was_clean,
                )
                for log_dir in state.log_dirs
            ]
        )
        reconciler = Reconciler(state)
        await reconciler.start_all(controller.image)
        controller.reconciler = reconciler
        await reconciler.finish_deletions()
        state.coordinator = GroupCoordinator(state)
        await state.coordinator.load()
        for log_dir in state.log_dirs:
            log_dir.report_start()

    async def _serve(self, task_status: trio.TaskStatus[None]) -> None:
        """Serve until the stop is requested, then stop intake from the outside in."""
        state = self.state
        network = state.config.network
        gate = ConnectionGate(network.connections_max, network.connections_per_address_max)
        async with trio.open_nursery() as background:
            background.start_soon(partial(reap_forever, state))
            background.start_soon(partial(shorten_offsets_logs, state))
            async with trio.open_nursery() as connections:
                state.connections = connections
                with ExitStack() as sockets:
                    listeners = await bind_listeners(state, sockets)
                    state.bound = [(listener.host, listener.port) for listener in listeners]
                    async with trio.open_nursery() as accepting:
                        for listener in listeners:
                            accepting.start_soon(accept_forever, state, listener, gate)
                        # From here on only `request_stop` ends the tree, under its deadline.
                        self._scope.shield = True
                        self.started = True
                        task_status.started()
                        await self._stop_requested.wait()
                        accepting.cancel_scope.cancel()
                await self._drain()
                connections.cancel_scope.cancel()
            background.cancel_scope.cancel()

    async def _drain(self) -> None:
        """Let requests under way finish, answer parked ones, and then close every client."""
        state = self.state
        state.draining = True
        state.controller.close_intake()
        for connection in list(state.clients):
            connection.begin_drain()
        for replica in state.router.replicas():
            replica.wake_waiters()
        remaining = self._stop_deadline - trio.current_time()
        with trio.move_on_after(remaining * DRAIN_SHARE) as patience:
            while state.clients:
                await state.client_left.park()
        if patience.cancelled_caught:
            logger.warning("closing %d clients whose requests did not end", len(state.clients))

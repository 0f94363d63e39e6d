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

from trio_broker.broker.descriptors import leased_budget
from trio_broker.broker.group_coordinator import GroupCoordinator
from trio_broker.broker.handlers.table import SERVED
from trio_broker.broker.housekeeping import shorten_offsets_logs
from trio_broker.broker.http_server import open_http_server
from trio_broker.broker.leak_watch import LeakWatch
from trio_broker.broker.listeners import ConnectionGate, accept_forever, bind_listeners
from trio_broker.broker.log_dir import LogDir, begin_all, open_log_dirs
from trio_broker.broker.metadata_store import open_controller
from trio_broker.broker.phase import Phase
from trio_broker.broker.reconciler import Reconciler
from trio_broker.broker.shutdown import (
    BACKGROUND,
    CLOSE,
    DRAIN,
    FLUSH,
    LISTENERS,
    PhaseRun,
    Shutdown,
    ShutdownReport,
)
from trio_broker.broker.state import BrokerState
from trio_broker.broker.supervise import Supervisor
from trio_broker.errors import BrokerClosed, LogDirFailed, StorageError, StuckIO
from trio_broker.host.clock import has_real_time
from trio_broker.metadata.decisions import StartedDirectory

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from trio_broker.broker.descriptors import DescriptorBudget
    from trio_broker.broker.interception import Interceptor
    from trio_broker.config import BrokerConfig
    from trio_broker.host.interface import Host, Listener

logger = logging.getLogger("trio_broker.broker")

#: With room for fewer connections than this, somebody should know.
CONNECTIONS_FEW = 256
#: Deadline of a stop after the host program was cancelled, or somebody asked twice.
HURRY_SECONDS = 5.0
#: Of a stop that is asked for before the broker has started.
START_GIVEN_UP_SECONDS = 1.0


class BrokerTree:
    """The running tree: starts, serves until told to stop, and stops in order.

    Attributes:
        state: what handlers see.
        started: it has served.
        ended: set at the very end.
        report: how the stop went; None before the end, and after a crash.
    """

    def __init__(
        self,
        config: BrokerConfig,
        host: Host,
        *,
        reraise: bool = False,
        interceptor: Interceptor | None = None,
    ) -> None:
        self.state = BrokerState(
            config=config,
            host=host,
            supervisor=Supervisor(reraise=reraise),
            served=SERVED,
            interceptor=interceptor,
        )
        self.started = False
        self.ended = trio.Event()
        self.report: ShutdownReport | None = None
        self._shutdown = Shutdown(config.shutdown)
        self.state.stop_phases = self._shutdown.phases
        self._scope = trio.CancelScope()
        self._background = trio.CancelScope()
        self._background_ended = trio.Event()

    def request_stop(self, reason: str = "asked to") -> None:
        """Begin an orderly stop. Idempotent. While starting: give up at once."""
        within_seconds = None if self.started else START_GIVEN_UP_SECONDS
        self._shutdown.request(reason, within_seconds=within_seconds)
        self._stop_being_ready()

    def hurry(self, reason: str) -> None:
        """Stop as fast as is possible without losing what was acknowledged."""
        self._shutdown.hurry(reason, within_seconds=HURRY_SECONDS)
        self._stop_being_ready()
        # Who waits for a call cannot be cancelled: one that hangs must not take the time to flush.
        for lane in self.state.disk_lanes:
            lane.limit_calls(self._shutdown.seconds_for_calls())

    @property
    def deadline(self) -> float:
        """Trio time at which everything ends; inf before a stop was asked for."""
        return self._shutdown.deadline

    def _stop_being_ready(self) -> None:
        if self.state.phase is Phase.SERVING:
            self.state.phase = Phase.DRAINING
        self._scope.deadline = self.deadline
        for lane in self.state.disk_lanes:
            lane.limit_stop(self.deadline)
        if not self.started:
            self._scope.cancel()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be the tree, from opening the first file to closing the last.

        While starting it can be cancelled like anything else. Once started it is shielded: who
        wants it to end calls `request_stop`, and the deadline of that ends it for certain: of
        whatever is left of the tree, and soon after of threads that hang.

        Raises:
            BrokerClosed: a stop was asked for before it had started. What the last stop left is
                as it was, but for the clean markers: the next start recovers.
        """
        try:
            with (
                self._scope,
                leased_budget(
                    self.state.config, self.state.host, self._follow_budget
                ) as self.state.descriptors,
                self.state.host.fs.spare_descriptors(self.state.descriptors.spares),
            ):
                self.state.root_task = trio.lowlevel.current_task()
                self._report_descriptors()
                async with open_http_server(self.state):
                    with ExitStack() as sockets:
                        # A port that is taken ends the start before a log is opened: one that is
                        # not closed in order afterwards would have to be recovered.
                        listeners = await bind_listeners(self.state, sockets)
                        async with AsyncExitStack() as stack:
                            await self._start_storage(stack)
                            await self._serve(listeners, sockets, task_status)
                            await self._close_storage()
                    self.state.phase = Phase.STOPPED
            if self.started:
                self._sum_up()
        except* StuckIO:
            if self.started or not self._shutdown.requested.is_set():
                raise  # else a call was given up because of the stop
        finally:
            self.state.phase = Phase.STOPPED
            self.ended.set()
        if not self.started:
            raise BrokerClosed(f"stopped while starting ({self._shutdown.reason})")

    def _sum_up(self) -> None:
        clean = all(log_dir.closed_cleanly for log_dir in self.state.log_dirs)
        self.report = self._shutdown.report(clean=clean)
        logger.log(logging.INFO if clean else logging.ERROR, "%s", self.report)

    def _limit_calls(self, phase: PhaseRun) -> None:
        """Give up system calls that take longer than a phase may.

        Who waits for one cannot be cancelled, and would keep the phases that follow from beginning.
        """
        for lane in self.state.disk_lanes:
            lane.limit_calls(phase.deadline - trio.current_time())

    def _follow_budget(self, budget: DescriptorBudget) -> None:
        """Keep to another share of the process's descriptors; who is connected stays so."""
        before, self.state.descriptors = self.state.descriptors, budget
        if self.state.segment_cache is not None:
            self.state.segment_cache.limit_files(budget.files_max)
        if before != budget:
            self._report_descriptors()

    def _report_descriptors(self) -> None:
        budget = self.state.descriptors
        is_few = budget.connections_max < min(
            CONNECTIONS_FEW, self.state.config.network.connections_max
        )
        level = logging.WARNING if is_few and self.state.config.listeners else logging.INFO
        logger.log(level, "descriptors: %s", budget)

    async def _start_storage(self, stack: AsyncExitStack) -> None:
        state = self.state
        controller = await stack.enter_async_context(open_controller(state))
        state.controller = controller
        state.phase = Phase.RECOVERING
        state.log_dirs = await stack.enter_async_context(open_log_dirs(state))
        for log_dir in state.log_dirs:
            log_dir.find_missing(controller.image)
        await controller.broker_started(
            [
                StartedDirectory(
                    directory_id=log_dir.directory_id,
                    shard_count=len(log_dir.shards),
                    clean=log_dir.directory.was_clean,
                    doubtful=frozenset(log_dir.doubtful),
                )
                for log_dir in state.log_dirs
            ]
        )
        await begin_all(state.log_dirs)
        reconciler = Reconciler(state)
        await reconciler.start_all(controller.image)
        controller.reconciler = reconciler
        await reconciler.finish_deletions()
        state.coordinator = GroupCoordinator(state)
        await state.coordinator.load()
        for log_dir in state.log_dirs:
            log_dir.report_start()

    async def _serve(
        self,
        listeners: Sequence[Listener],
        sockets: ExitStack,
        task_status: trio.TaskStatus[None],
    ) -> None:
        """Serve until the stop is requested, then close the intake from the outside in."""
        state = self.state
        network = state.config.network
        gate = ConnectionGate(
            lambda: state.descriptors.connections_max, network.connections_per_address_max
        )
        async with trio.open_nursery() as background:
            await background.start(self._work_in_background)
            async with trio.open_nursery() as connections:
                state.connections = connections
                with sockets:
                    for listener in listeners:
                        listener.listen()
                    state.bound = [(listener.host, listener.port) for listener in listeners]
                    async with trio.open_nursery() as accepting:
                        for listener in listeners:
                            accepting.start_soon(accept_forever, state, listener, gate)
                        # From here on only `request_stop` ends the tree, under its deadline.
                        self._scope.shield = True
                        self.started = True
                        state.phase = Phase.SERVING
                        task_status.started()
                        await self._shutdown.requested.wait()
                        state.phase = Phase.DRAINING
                        await self._shutdown.grace()
                        with self._shutdown.phase(LISTENERS):
                            sockets.close()
                            accepting.cancel_scope.cancel()
                with self._shutdown.phase(DRAIN) as phase:
                    self._limit_calls(phase)
                    await self._drain(phase)
                connections.cancel_scope.cancel()
            state.phase = Phase.STOPPING
            with self._shutdown.phase(BACKGROUND) as phase:
                self._limit_calls(phase)
                await self._stop_background(phase)

    async def _drain(self, phase: PhaseRun) -> None:
        """Let requests under way finish, answer parked ones, and close every client."""
        state = self.state
        state.draining = True
        state.controller.close_intake()
        state.coordinator.close()
        for connection in list(state.clients):
            connection.begin_drain()
        for replica in state.router.replicas():
            replica.wake_waiters()
        try:
            while state.clients:
                await state.client_left.park()
        finally:
            phase.leftovers += [repr(connection) for connection in state.clients]

    async def _work_in_background(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Do what nobody asks for, until `_stop_background`."""
        state = self.state
        with self._background:
            async with trio.open_nursery() as nursery:
                tasks: list[tuple[str, Callable[[], Awaitable[None]]]] = [
                    ("reaper", state.reaper.run),
                    ("offsets housekeeping", partial(shorten_offsets_logs, state)),
                    ("group coordinator", state.coordinator.run),
                    ("leak watch", LeakWatch(state).run),
                    ("topic news", state.controller.news.run),
                ]
                if has_real_time():
                    tasks.append(("loop lag", state.loop_lag.run))
                for boundary, work in tasks:
                    nursery.start_soon(state.supervisor.keep_running, boundary, work, name=boundary)
                task_status.started()
        self._background_ended.set()

    async def _stop_background(self, phase: PhaseRun) -> None:
        """End work that nobody asked for, and wait for topics being created or deleted."""
        controller = self.state.controller
        self._background.cancel()
        for log_dir in self.state.log_dirs:
            log_dir.stop_housekeeping()
        try:
            await self._background_ended.wait()
            await controller.wait_for_work()
        finally:
            phase.leftovers += controller.work_under_way()
            if not self._background_ended.is_set():
                phase.leftovers.append("background tasks")

    async def _close_storage(self) -> None:
        """Flush every log, then close every file; log dirs do not wait for each other."""
        log_dirs = self.state.log_dirs
        with self._shutdown.phase(FLUSH) as phase:
            self._limit_calls(phase)
            await self._in_every_log_dir(
                phase, "flush", lambda log_dir: log_dir.flush(lambda: phase.is_over)
            )
        with self._shutdown.phase(CLOSE) as phase:
            self._limit_calls(phase)
            await self._in_every_log_dir(phase, "close", LogDir.close)
        for log_dir in log_dirs:
            if log_dir.is_failed:
                self._shutdown.failed(repr(log_dir), [LogDirFailed(log_dir.cause)])

    async def _in_every_log_dir(
        self, phase: PhaseRun, verb: str, step: Callable[[LogDir], Awaitable[list[Exception]]]
    ) -> None:
        unfinished = dict.fromkeys(self.state.log_dirs)

        async def take_step(log_dir: LogDir) -> None:
            failures: list[Exception] = []

            async def attempt() -> None:
                try:
                    failures.extend(await step(log_dir))
                except (StorageError, OSError) as error:
                    failures.append(error)

            bug = await self.state.supervisor.absorb(log_dir.boundary, attempt)
            failures += [bug] if bug is not None else []
            self._shutdown.failed(f"cannot {verb} {log_dir.directory.path}", failures)
            del unfinished[log_dir]

        async def watch_time() -> None:
            """Let go, when the time is up, of what cannot be cancelled."""
            try:
                await trio.sleep_forever()
            finally:
                phase.is_over = True
                for log_dir in unfinished:
                    doing = ", ".join(log_dir.laggards()) or "waiting"
                    phase.leftovers.append(f"{verb} {log_dir.directory.path}: {doing}")
                    log_dir.give_up_calls()

        async with trio.open_nursery() as watching:
            watching.start_soon(watch_time)
            async with trio.open_nursery() as nursery:
                for log_dir in self.state.log_dirs:
                    nursery.start_soon(take_step, log_dir)
            watching.cancel_scope.cancel()

"""What handlers may know of the running broker, in one object.

Put together by `broker.broker` while it starts. Holds no task and opens nothing; everything in it
belongs to a level of the task tree.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio
import trio_util
from attrs import define, field

from trio_broker.broker.large_answers import LargeAnswers
from trio_broker.broker.loop_lag import LoopLag
from trio_broker.broker.memory_pool import MemoryPool
from trio_broker.broker.paced_log import PacedLog
from trio_broker.broker.phase import Phase
from trio_broker.broker.reaper import Reaper
from trio_broker.broker.request_counters import RequestCounters
from trio_broker.broker.response_flusher import ResponseFlusher
from trio_broker.broker.token_bucket import TokenBucket
from trio_broker.broker.topics import TopicRouter
from trio_broker.buffers import BufferPool
from trio_broker.config_checks import split_address

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from trio_broker.broker.connection import Connection
    from trio_broker.broker.controller import Controller
    from trio_broker.broker.descriptors import DescriptorBudget
    from trio_broker.broker.group_coordinator import GroupCoordinator
    from trio_broker.broker.handlers.served import ServedApi
    from trio_broker.broker.interception import Interceptor
    from trio_broker.broker.log_dir import LogDir
    from trio_broker.broker.session import Session
    from trio_broker.broker.shutdown import PhaseReport
    from trio_broker.broker.supervise import Supervisor
    from trio_broker.config import BrokerConfig
    from trio_broker.host.interface import Host, Lane, OpenFile
    from trio_broker.storage.handles import SegmentCache

listeners_logger = logging.getLogger("trio_broker.listeners")


@define(eq=False)
class BrokerState:
    """The running broker, as its handlers see it.

    Attributes:
        served: APIs by number, for ApiVersions.
        interceptor: stands before the handlers, in tests; None: nobody does.
        descriptors: how many of the process's descriptors are for what; while the tree runs.
        segment_cache: keeps to it; there while log dirs are open.
        accept_log: says why clients cannot be accepted, of all listeners together.
        requests: how many of each API were answered, and how quickly.
        phase_changes: the phase, for those who wait for it to change; see `phase`.
        loop_lag: how late the event loop runs.
        reaper: has an eye on the deadlines of clients.
        connections_accepted: clients let in, ever.
        connections_refused: clients turned away because there were too many.
        leaks: a sentence for each owner that holds files for longer than it may.
        root_task: of the broker's task tree, once it runs.
        stop_phases: those phases of the stop that are over.
        receive_buffers: large frames are received into.
        request_memory: frames being received, or waiting for the disk.
        response_memory: fetched bytes being sent.
        large_answers: whose turn it is to make one.
        topic_mutations: what clients pay with for creating, growing and deleting topics.
        draining: no new request is taken; parked ones answer with what they have.
        bound: addresses listened on, with their real ports.
        clients: connections open now.
        client_left: wakes when a connection has ended.
        connections: nursery of the connections' tasks.
        started_at: Trio time at which the broker began to start.
        disk_lanes: those of the log dirs and of the metadata.
        http_bound: addresses at which health and metrics are served, with their real ports.
    """

    config: BrokerConfig
    host: Host
    supervisor: Supervisor
    served: Mapping[int, ServedApi]
    interceptor: Interceptor | None = None
    router: TopicRouter = field(factory=TopicRouter)
    flusher: ResponseFlusher = field(init=False)
    log_dirs: list[LogDir] = field(factory=list)
    draining: bool = False
    descriptors: DescriptorBudget = field(init=False)
    segment_cache: SegmentCache | None = None
    accept_log: PacedLog = field(factory=lambda: PacedLog(listeners_logger))
    receive_buffers: BufferPool = field(factory=BufferPool)
    request_memory: MemoryPool = field(init=False)
    response_memory: MemoryPool = field(init=False)
    large_answers: LargeAnswers = field(factory=LargeAnswers)
    topic_mutations: TokenBucket = field(init=False)
    bound: list[tuple[str, int]] = field(factory=list)
    clients: dict[Connection, None] = field(factory=dict)
    client_left: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot)
    connections: trio.Nursery | None = None
    requests: RequestCounters = field(init=False)
    phase_changes: trio_util.AsyncValue[Phase] = field(
        factory=lambda: trio_util.AsyncValue(Phase.STARTING)
    )
    loop_lag: LoopLag = field(factory=LoopLag)
    reaper: Reaper = field(init=False)
    connections_accepted: int = 0
    connections_refused: int = 0
    leaks: Mapping[str, str] = field(factory=dict)
    root_task: trio.lowlevel.Task | None = None
    stop_phases: Sequence[PhaseReport] = ()
    started_at: float = field(factory=trio.current_time)
    disk_lanes: list[Lane] = field(factory=list)
    http_bound: list[tuple[str, int]] = field(factory=list)
    _paced: dict[str, PacedLog] = field(factory=dict)
    _controller: Controller | None = None
    _coordinator: GroupCoordinator | None = None

    def __attrs_post_init__(self) -> None:
        """Size the pools."""
        self.flusher = ResponseFlusher(self.supervisor)
        self.reaper = Reaper(self.clients, self.supervisor)
        self.request_memory = MemoryPool(self.config.network.request_memory_bytes)
        self.response_memory = MemoryPool(self.config.network.response_memory_bytes)
        self.requests = RequestCounters(self.served)
        limits = self.config.limits
        self.topic_mutations = TokenBucket(
            max(limits.topic_mutations_per_second, 0.0),  # the bucket's own word for no limit
            limits.topic_mutations_burst,
            trio.current_time(),
        )

    @property
    def directories(self) -> tuple[str, ...]:
        """Directories that are this broker's alone."""
        return (self.config.data_dir, *self.config.log_directories)

    def own_files(self, files: Sequence[OpenFile]) -> list[OpenFile]:
        """Return those files that are this broker's: several may share a host and its ledger."""
        own = tuple(f"{directory.rstrip('/')}/" for directory in self.directories)
        return [file for file in files if file.path.startswith(own)]

    @property
    def phase(self) -> Phase:
        """Where the broker is in its life; set by the root of the tree only."""
        return self.phase_changes.value

    @phase.setter
    def phase(self, phase: Phase) -> None:
        self.phase_changes.value = phase

    @property
    def controller(self) -> Controller:
        """Decides about topics; there once the broker has started."""
        assert self._controller is not None
        return self._controller

    @controller.setter
    def controller(self, controller: Controller) -> None:
        self._controller = controller

    @property
    def has_metadata(self) -> bool:
        """Whether there is a controller yet."""
        return self._controller is not None

    @property
    def has_coordinator(self) -> bool:
        """Whether there is a group coordinator yet."""
        return self._coordinator is not None

    @property
    def coordinator(self) -> GroupCoordinator:
        """Keeps committed offsets; there once the broker has started."""
        assert self._coordinator is not None
        return self._coordinator

    @coordinator.setter
    def coordinator(self, coordinator: GroupCoordinator) -> None:
        self._coordinator = coordinator

    def paced(self, logger: logging.Logger) -> PacedLog:
        """Return this broker's paced side of a logger, for lines that clients can cause at will."""
        return self._paced.setdefault(logger.name, PacedLog(logger))

    def start_connection_task(self, function: Callable[[], Awaitable[None]]) -> None:
        """Start a helper task of a connection, which ends with the connections."""
        assert self.connections is not None
        self.connections.start_soon(self.supervisor.absorb, "connection", function)

    def advertised(self, session: Session) -> tuple[str, int]:
        """Return the address that a client is told to use."""
        if self.config.advertised is not None:
            return split_address(self.config.advertised)
        if session.listener is not None:
            return session.listener
        return self.bound[0] if self.bound else ("localhost", 0)

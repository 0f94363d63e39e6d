"""A broker as a process: signals, and what the exit code says.

Called by the command line only; an embedded broker never touches signals. First SIGTERM or
SIGINT: an orderly stop. A second one: the short deadline. A third: the process ends at once.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from trio_broker.broker.broker import BrokerTree
from trio_broker.broker.service_notifier import ServiceNotifier
from trio_broker.broker.supervise import first_cause
from trio_broker.errors import BrokerClosed
from trio_broker.host.facts import raise_descriptors_max
from trio_broker.host.real import real_host

if TYPE_CHECKING:
    from trio_broker.broker.service_notifier import ServiceManager
    from trio_broker.broker.state import BrokerState
    from trio_broker.config import BrokerConfig

logger = logging.getLogger("trio_broker.server")

EXIT_CLEAN = 0
EXIT_CRASH = 1
EXIT_FORCED = 3
#: New objects before the youngest are looked at, some milliseconds; runs of that before those are
#: looked at that have survived one.
COLLECTOR_THRESHOLDS = (5_000, 50)
#: This long after the deadline of a stop the process ends itself, whatever its event loop does.
FORCED_EXIT_GRACE_SECONDS = 5.0


async def run_server(
    config: BrokerConfig,
    *,
    announce: Callable[[str, list[tuple[str, int]]], None],
    service_manager: ServiceManager | None = None,
) -> int:
    """Run a broker until a signal stops it; return the exit code of the process.

    Args:
        config: what to run.
        announce: called when the broker serves, once for each protocol (kafka, http) that is
            listened for, with its name and the addresses.
        service_manager: who started the process and wants to know how it is.

    Raises:
        StorageError, OSError: the broker could not start.
    """
    raise_descriptors_max()
    tree = BrokerTree(config, real_host())
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_obey_signals, tree)
            if service_manager is not None:
                nursery.start_soon(keep_informed, tree.state, service_manager)
            with _nothing_is_garbage():
                await nursery.start(tree.run)
            try:
                announce("kafka", tree.state.bound)
                if tree.state.http_bound:
                    announce("http", tree.state.http_bound)
                await tree.ended.wait()
            except BaseException:
                # A bug beside the tree, which would go on with nobody to obey signals.
                if not tree.ended.is_set():
                    tree.request_stop("of a fault")
                raise
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        cause = first_cause(group)
        if isinstance(cause, BrokerClosed):
            logger.warning("%s", cause)
            return EXIT_FORCED
        if not tree.started:
            raise cause from None
        logger.critical("the broker failed", exc_info=cause)
        return EXIT_CRASH
    return EXIT_CLEAN if tree.report is not None and tree.report.clean else EXIT_FORCED


@contextmanager
def _nothing_is_garbage() -> Iterator[None]:
    """Keep the cyclic collector away from what a start makes, then and later.

    With many partitions it would look through all of it again and again: at the start in vain, and
    later it would stop the event loop for tens of milliseconds each time. What is made later is
    looked at more seldom than usual, so that the parts of a large answer are gone by then and do
    not count as a reason to look through everything.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.set_threshold(*COLLECTOR_THRESHOLDS)
        gc.enable()


async def keep_informed(state: BrokerState, manager: ServiceManager) -> None:
    """Tell who started the process how the broker is, until cancelled; then once more."""
    notifier = ServiceNotifier(state, manager)
    try:
        await state.supervisor.keep_running("service notifier", notifier.run)
    finally:
        notifier.tell()


def _arm_forced_exit(tree: BrokerTree) -> None:
    """End the process some time after the deadline of the stop, from a signal handler.

    By then the event loop has ended, unless something blocks it; what can still hang is the rest of
    the process, such as log lines that nobody reads. Handlers run between two bytecodes, also of a
    system call that was interrupted; code in C that goes on for ever is for SIGKILL.
    """
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, lambda _number, _frame: os._exit(EXIT_FORCED))
        seconds = max(tree.deadline - trio.current_time(), 0.0) + FORCED_EXIT_GRACE_SECONDS
        signal.setitimer(signal.ITIMER_REAL, seconds)


async def _obey_signals(tree: BrokerTree) -> None:
    received = 0
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            received += 1
            name = signal.Signals(number).name
            if received == 1:
                tree.request_stop(name)
            elif received == 2:
                tree.hurry(f"a second {name}")
            else:
                os._exit(EXIT_FORCED)
            _arm_forced_exit(tree)

"""Logging of a server process: human text on a terminal, one JSON object a line elsewhere.

The library itself only calls `logging.getLogger("trio_broker...")` and configures nothing; this is
what `serve` puts behind it. A thread writes the lines, since a reader of stderr that stops reading
would otherwise stop the event loop. Its queue is bounded: lines that find it full are counted, and
the count is logged.
"""

from __future__ import annotations

import logging
import logging.handlers
import queue
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from collections.abc import Iterator

LINES_QUEUED_MAX = 10_000


class _BoundedQueueHandler(logging.handlers.QueueHandler):
    """Queues records without ever waiting; knows how many it had to drop."""

    def __init__(self, lines: queue.Queue[Any]) -> None:
        super().__init__(lines)
        self.dropped_count = 0

    def enqueue(self, record: logging.LogRecord) -> None:
        """Queue a record, or count it as lost."""
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self.dropped_count += 1
            return
        if self.dropped_count:
            dropped, self.dropped_count = self.dropped_count, 0
            logging.getLogger("trio_broker.logs").warning("dropped %d log lines", dropped)


def _without_message(
    _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Drop the text that queueing a record leaves in it, which is the event once more."""
    event.pop("message", None)
    return event


def _formatter(*, colours: bool, as_json: bool) -> logging.Formatter:
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        _without_message,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
        structlog.processors.EventRenamer("msg"),
    ]
    renderer: structlog.typing.Processor
    if as_json:
        renderer = structlog.processors.JSONRenderer(default=str)
    else:
        renderer = structlog.dev.ConsoleRenderer(
            colors=colours, event_key="msg", timestamp_key="ts", sort_keys=False
        )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )


@contextmanager
def logging_to_stderr(level: str, *, as_json: bool) -> Iterator[None]:
    """Send what the package and its libraries log to stderr for the length of a block.

    At the end everything queued is written, which waits for whoever reads stderr.

    Args:
        level: debug, info, warning or error.
        as_json: one JSON object a line, else text for people.
    """
    lines: queue.Queue[Any] = queue.Queue(LINES_QUEUED_MAX)
    writer = logging.StreamHandler(sys.stderr)
    writer.setFormatter(_formatter(colours=sys.stderr.isatty(), as_json=as_json))
    handler = _BoundedQueueHandler(lines)
    listener = logging.handlers.QueueListener(lines, writer)
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(level.upper())
    listener.start()
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
        listener.stop()

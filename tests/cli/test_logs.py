"""What a server process logs, and what happens when nobody reads it."""

from __future__ import annotations

import json
import logging
import queue

import pytest

from trio_broker.cli.logs import _BoundedQueueHandler, logging_to_stderr

logger = logging.getLogger("trio_broker.test")


def test_json_lines_carry_fields(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to_stderr("info", as_json=True):
        logger.debug("not shown")
        logger.info("opened %s", "orders-0", extra={"topic": "orders", "partition": 0})
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    line = json.loads(lines[0])
    assert line["msg"] == "opened orders-0"
    assert line["level"] == "info"
    assert line["logger"] == "trio_broker.test"
    assert (line["topic"], line["partition"]) == ("orders", 0)
    assert "ts" in line


def test_exceptions_are_written_with_their_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to_stderr("info", as_json=True):
        try:
            raise OSError("no space")
        except OSError:
            logger.exception("write failed")
    line = json.loads(capsys.readouterr().err)
    assert "OSError: no space" in line["msg"]
    assert "Traceback" in line["msg"]


def test_text_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to_stderr("warning", as_json=False):
        logger.warning("disk is nearly full", extra={"free_bytes": 7})
    text = capsys.readouterr().err
    assert "disk is nearly full" in text
    assert "free_bytes" in text


def test_logging_is_left_as_it_was() -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    with logging_to_stderr("debug", as_json=True):
        pass
    assert (root.level, list(root.handlers)) == before


def test_a_full_queue_drops_lines_and_says_how_many() -> None:
    lines: queue.Queue[logging.LogRecord] = queue.Queue(2)
    handler = _BoundedQueueHandler(lines)
    log = logging.getLogger("trio_broker.logs")
    log.addHandler(handler)
    log.setLevel("INFO")
    try:
        for number in range(5):
            log.info("line %d", number)
        while not lines.empty():
            lines.get_nowait()
        log.info("after")
    finally:
        log.removeHandler(handler)
        log.setLevel("NOTSET")
    assert [record.getMessage() for record in lines.queue] == ["after", "dropped 3 log lines"]

"""The broker's command line with faults that a test plants while it runs.

``python -m tests.support.planted serve ...`` is the server as it is, but for a few places that look
into the file named by ``TRIO_BROKER_TEST_PLANTED``. Each line of it is one fault:

- ``partition NAME-INDEX``: planning a batch for that partition raises;
- ``shard PATH#INDEX``: the writer of that shard raises when it takes up work;
- ``flush``: the stop hangs where it should flush;
- ``loop``: the event loop is blocked, for good, once the stop begins to drain;
- ``recovery SECONDS``: opening each log takes so long.

As long as the file is empty, or not there, nothing is different.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import trio

VARIABLE = "TRIO_BROKER_TEST_PLANTED"


class PlantedFault(Exception):
    """Nobody expects it."""


def planted() -> list[list[str]]:
    """Return the faults that are planted now, as words."""
    try:
        text = Path(os.environ[VARIABLE]).read_text("utf-8")
    except FileNotFoundError:
        return []
    return [line.split(maxsplit=1) for line in text.splitlines() if line]


def plant() -> None:
    """Put the looks into the broker's classes."""
    from trio_broker.broker.broker import BrokerTree
    from trio_broker.broker.log_dir import LogDir
    from trio_broker.broker.shard import Shard

    plan_part, take, open_job = Shard._plan_part, Shard._take, LogDir._open_job
    drain, close_storage = BrokerTree._drain, BrokerTree._close_storage

    def plan_part_or_raise(shard: Shard, replica: Any, *arguments: Any) -> None:
        if ["partition", f"{replica.topic.name}-{replica.partition}"] in planted():
            raise PlantedFault("a bug in one partition")
        plan_part(shard, replica, *arguments)

    def take_or_raise(shard: Shard) -> Any:
        if ["shard", shard.name] in planted():
            raise PlantedFault("a bug in one shard")
        return take(shard)

    async def drain_or_block(tree: BrokerTree, phase: Any) -> None:
        if ["loop"] in planted():
            threading.Event().wait()
        await drain(tree, phase)

    async def close_storage_or_hang(tree: BrokerTree) -> None:
        if ["flush"] in planted():
            await trio.sleep_forever()
        await close_storage(tree)

    def open_slowly(log_dir: LogDir, *arguments: Any, **options: Any) -> Any:
        for fault in planted():
            if fault[0] == "recovery":
                yield threading.Event().wait, (float(fault[1]),)
        return (yield from open_job(log_dir, *arguments, **options))

    Shard._plan_part = plan_part_or_raise  # type: ignore[method-assign]
    Shard._take = take_or_raise  # type: ignore[method-assign]
    BrokerTree._drain = drain_or_block  # type: ignore[method-assign]
    BrokerTree._close_storage = close_storage_or_hang  # type: ignore[method-assign]
    LogDir._open_job = open_slowly  # type: ignore[method-assign]


def main() -> None:
    """Plant, then run the broker."""
    plant()
    from trio_broker.cli.main import main as broker_main

    sys.argv[0] = "trio-broker"
    broker_main()


if __name__ == "__main__":
    main()

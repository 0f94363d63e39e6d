"""Look at what a server has written: the record batches of a topic's log files."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from trio_broker.records.batch import BatchHeader
from trio_broker.records.iterate import iterate_batches


def partition_directories(data_dir: Path, topic: str) -> dict[int, Path]:
    """Return the directories of a topic's live partitions, wherever they are below `data_dir`.

    They are named ``<topic id>-<partition>``; the file ``partition.json`` in each holds the name. A
    deleted partition's directory, which is renamed before it is emptied, is not among them.
    """
    quoted = json.dumps(topic).encode()
    found = {}
    # os.walk, unlike Path.rglob, does not mind directories that vanish while it is underway.
    for name, _, files in os.walk(data_dir):
        number = name.rpartition("-")[2]
        if "partition.json" not in files or not number.isdigit():
            continue
        with contextlib.suppress(FileNotFoundError):
            if quoted in Path(name, "partition.json").read_bytes():
                found[int(number)] = Path(name)
    return found


def stored_batches(directory: Path) -> Iterator[tuple[BatchHeader, bytes]]:
    """Yield the batches of one partition in order, each with all its bytes."""
    for path in sorted(directory.glob("*.log")):
        for header, batch in iterate_batches(path.read_bytes()):
            yield header, bytes(batch)

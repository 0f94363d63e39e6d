"""Look at what a server has written: the record batches of a topic's log files."""

from __future__ import annotations

import contextlib
import json
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
    for metadata in data_dir.rglob("partition.json"):
        number = metadata.parent.name.rpartition("-")[2]
        with contextlib.suppress(FileNotFoundError):
            if number.isdigit() and quoted in metadata.read_bytes():
                found[int(number)] = metadata.parent
    return found


def stored_batches(directory: Path) -> Iterator[tuple[BatchHeader, bytes]]:
    """Yield the batches of one partition in order, each with all its bytes."""
    for path in sorted(directory.glob("*.log")):
        for header, batch in iterate_batches(path.read_bytes()):
            yield header, bytes(batch)


def file_sizes(data_dir: Path) -> dict[str, int]:
    """Return every file below a directory with its size: equal before and after, nothing stored."""
    return {
        str(path.relative_to(data_dir)): path.stat().st_size
        for path in sorted(data_dir.rglob("*"))
        if path.is_file()
    }

"""Directories that another system keeps its data in are left alone. Called by `metadata_store`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_broker.host.interface import FileSystem, Job

#: In every log directory of Apache Kafka.
KAFKA_NAME = "meta.properties"
#: One of them is in every directory that has served this broker.
OUR_NAMES = ("log-dir.meta", "metadata")


def refuse_directories_of_kafka(fs: FileSystem, paths: Iterable[str]) -> Job[None]:
    """Refuse log directories of Apache Kafka, before anything is made in them.

    Nothing in them can be read here, so that a broker would seem to have lost everything; and
    Kafka does not start any more on a directory with names in it that are not its own.

    Raises:
        ConfigError: names those that are.
        OSError: one cannot be looked at.
    """
    faults = []
    for path in dict.fromkeys(paths):
        if not (yield from _is_there(fs, f"{path}/{KAFKA_NAME}")):
            continue
        is_ours = False
        for name in OUR_NAMES:
            is_ours = is_ours or (yield from _is_there(fs, f"{path}/{name}"))
        if not is_ours:
            faults.append(
                f"{path} is a log directory of Apache Kafka (it has {KAFKA_NAME}), which cannot be "
                "read here: name an empty directory, and let a mirroring tool copy the records"
            )
    if faults:
        raise ConfigError(faults)


def _is_there(fs: FileSystem, path: str) -> Job[bool]:
    try:
        return (yield fs.stat, (path,)) is not None
    except (NotADirectoryError, PermissionError):
        return False  # opening it says that better

"""Reading a configuration: the file, and with it whatever else the caller hands over.

Runs before there is a broker, so it blocks: a small file, read once.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from trio_broker.errors import ConfigFault
from trio_broker.settings.resolve import Resolved, resolve
from trio_broker.settings.sources import (
    FILE_BYTES_MAX,
    Entry,
    Source,
    read_assignments,
    read_environment,
    read_file,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from trio_broker.config import BrokerConfig


def load_config(
    path: str | os.PathLike[str] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    assignments: Iterable[str] = (),
    serve: bool = False,
) -> BrokerConfig:
    """Build a configuration from where `trio-broker serve` has its own from.

    Defaults < file < environment < assignments. Nothing is read that is not handed over: pass
    ``os.environ`` to have the environment looked at. It blocks while it reads the file, so call it
    before `trio.run`, or on a thread.

    Args:
        path: of a TOML file, as `trio-broker config init` writes it.
        environ: variables; those that begin with ``TRIO_BROKER_`` are settings.
        assignments: ``key=value`` each, as for ``-X``.
        serve: whether to take the defaults of `trio-broker serve`, which differ in a few places
            (docs/reference/configuration.md).

    Raises:
        ConfigError: with every mistake of all sources, not only the first. A file that cannot be
            read is one, too.
    """
    return load(path, environ=environ, assignments=assignments, serve=serve).config


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    assignments: Iterable[str] = (),
    options: Iterable[Entry] = (),
    serve: bool = False,
) -> Resolved:
    """Do what `load_config` does, with the options of a command on top; tell where values are from.

    Raises:
        ConfigError: with every mistake of all sources.
    """
    sources = [] if path is None else [_source_of(os.fspath(path))]
    if environ is not None:
        sources.append(read_environment(environ))
    sources += [read_assignments(assignments), Source(tuple(options))]
    return resolve(sources, serve=serve)


def _source_of(path: str) -> Source:
    try:
        content = read_bytes(path)
    except OSError as error:
        return Source(faults=(ConfigFault(_unreadable(error), place=path),))
    return read_file(path, content)


def read_bytes(path: str) -> bytes:
    """Return what is in a file, or a little more of it than a configuration may have.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        return file.read(FILE_BYTES_MAX + 1)


def _unreadable(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file; `trio-broker config init` writes one to start from"
    if isinstance(error, PermissionError):
        return "may not be read by this user; change its owner or its mode"
    if isinstance(error, IsADirectoryError):
        return "is a directory; name the file in it"
    return f"cannot be read: {error.strerror or error}"

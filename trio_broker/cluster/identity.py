"""Whose metadata a folder holds: cluster id, node id and format, fixed at the first start.

Written before anything else, so that a folder of another broker, another cluster or a newer
version is refused before a byte of it is interpreted. Called by `embedded` while it opens.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import NamedTuple
from uuid import UUID

from trio_broker.errors import ConfigError, CorruptMetadata, FormatTooNew
from trio_broker.host.interface import FileSystem, Job
from trio_broker.host.jobs import read_small_file, write_small_file

#: Raised whenever a folder must not be touched by older versions any more.
FORMAT_VERSION = 1
IDENTITY_NAME = "identity"


class Identity(NamedTuple):
    """Whose a metadata folder is."""

    cluster_id: str
    node_id: int


def new_cluster_id(new_uuid: Callable[[], UUID]) -> str:
    """Return a fresh cluster id in Kafka's form: 22 characters of URL-safe base64.

    Like Kafka's it never begins with "-", which command lines would take for an option.
    """
    while True:
        text = base64.urlsafe_b64encode(new_uuid().bytes).decode().rstrip("=")
        if not text.startswith("-"):
            return text


def read_identity(fs: FileSystem, directory: str, owner: str) -> Job[Identity | None]:
    """Return whose folder `directory` is; None if that is not written there, or damaged.

    Raises:
        FormatTooNew: a newer version of this package wrote in this folder.
    """
    path = f"{directory}/{IDENTITY_NAME}"
    payload = yield from read_small_file(fs, path, owner)
    if payload is None:
        return None
    try:
        fields = json.loads(payload)
        version = int(fields["format"])
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptMetadata(f"{path} makes no sense ({error!r})") from error
    if version > FORMAT_VERSION:
        raise FormatTooNew(
            f"{directory} has format {version}, this version reads up to {FORMAT_VERSION}"
        )
    try:
        return Identity(str(fields["cluster_id"]), int(fields["node_id"]))
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptMetadata(f"{path} makes no sense ({error!r})") from error


def write_identity(fs: FileSystem, directory: str, owner: str, identity: Identity) -> Job[None]:
    """Write whose folder this is, durably."""
    fields = {"format": FORMAT_VERSION, **identity._asdict()}
    payload = json.dumps(fields, separators=(",", ":")).encode()
    yield from write_small_file(fs, f"{directory}/{IDENTITY_NAME}", owner, payload)


def check_identity(
    directory: str, stored: Identity, *, node_id: int, cluster_id: str | None
) -> None:
    """Compare whose folder it is with whom the configuration says we are.

    Args:
        directory: for the message.
        stored: whose it is.
        node_id: ours.
        cluster_id: ours, None if the configuration leaves it open.

    Raises:
        ConfigError: it is not ours; names both values and what to do.
    """
    faults = []
    if stored.node_id != node_id:
        faults.append(
            f"node_id: {directory} belongs to node {stored.node_id}, this broker is configured as "
            f"node {node_id}; set node_id={stored.node_id} or use another data_dir"
        )
    if cluster_id is not None and stored.cluster_id != cluster_id:
        faults.append(
            f"cluster_id: {directory} belongs to cluster {stored.cluster_id!r}, this broker is "
            f"configured for {cluster_id!r}; leave cluster_id unset or use another data_dir"
        )
    if faults:
        raise ConfigError(faults)

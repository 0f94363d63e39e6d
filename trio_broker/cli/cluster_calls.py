"""What the commands of ``trio-broker cluster`` do. Called by `cluster`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from trio_broker.cli.output import (
    Column,
    print_facts,
    print_table,
    say,
    show_object,
    size_text,
    text_of,
)
from trio_broker.cli.running import Unhealthy
from trio_broker.cli.watermarks import is_served
from trio_broker.client.connection import VersionMismatch
from trio_broker.client.errors import request_error
from trio_broker.client.metadata import NOBODY
from trio_broker.errors import RequestError, TrioBrokerError
from trio_broker.storage.disk_state import thresholds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_broker.client.client import Client

_NODE_COLUMNS = (
    Column("node_id", "BROKER", is_right=True),
    Column("host", "HOST"),
    Column("port", "PORT", is_right=True),
    Column("rack", "RACK"),
    Column("is_controller", "CONTROLLER"),
)
_LOG_DIR_COLUMNS = (
    Column("node_id", "BROKER", is_right=True),
    Column("path", "LOG DIR"),
    Column("error", "ERROR"),
    Column("partitions", "PARTITIONS", is_right=True),
    Column("logs_bytes", "LOGS", is_right=True, text=size_text),
    Column("usable_bytes", "FREE", is_right=True, text=size_text),
    Column("total_bytes", "DISK", is_right=True, text=size_text),
)
#: Between two looks of `health --wait`.
_PAUSE_SECONDS = 0.25
_REASONS_MAX = 20


async def info(client: Client, output: str) -> None:
    """Show the cluster."""
    described = await client.admin.describe_cluster()
    topics = await client.admin.list_topics()
    value = {
        "cluster_id": described.cluster_id,
        "controller": None if described.controller == NOBODY else described.controller,
        "brokers": [
            {
                "node_id": node.node_id,
                "host": node.host,
                "port": node.port,
                "rack": node.rack,
                "is_controller": node.node_id == described.controller,
            }
            for _, node in sorted(described.nodes.items())
        ],
        "log_dirs": await _log_dirs(client, sorted(described.nodes)),
        "topics": len(topics),
        "partitions": sum(len(topic.partitions) for topic in topics),
    }
    show_object(output, value, lambda: _print_info(value))


def _print_info(value: Mapping[str, Any]) -> None:
    print_facts(
        [
            ("Cluster", text_of(value["cluster_id"])),
            ("Brokers", str(len(value["brokers"]))),
            ("Topics", str(value["topics"])),
            ("Partitions", str(value["partitions"])),
        ]
    )
    print()
    print_table(_NODE_COLUMNS, value["brokers"])
    if value["log_dirs"]:
        print()
        print_table(_LOG_DIR_COLUMNS, value["log_dirs"])


async def _log_dirs(client: Client, node_ids: list[int]) -> list[dict[str, Any]]:
    """Return what brokers tell of their disks; one that does not tell is left out."""
    rows = []
    for node_id in node_ids:
        try:
            log_dirs = await client.admin.describe_log_dirs(node_id)
        except (VersionMismatch, RequestError) as error:
            say(f"broker {node_id} does not tell about its log dirs: {error}")
            continue
        rows += [
            {
                "node_id": node_id,
                "path": log_dir.path,
                "error": (
                    request_error(log_dir.error_code).code.name if log_dir.error_code else None
                ),
                "total_bytes": log_dir.total_bytes if log_dir.total_bytes >= 0 else None,
                "usable_bytes": log_dir.usable_bytes if log_dir.usable_bytes >= 0 else None,
                "logs_bytes": sum(log_dir.partition_bytes.values()),
                "partitions": len(log_dir.partition_bytes),
            }
            for log_dir in log_dirs
        ]
    return rows


async def health(client: Client, output: str, *, wait_seconds: float) -> None:
    """Say whether every partition is served.

    Args:
        client: of the cluster.
        output: table, json or jsonl.
        wait_seconds: how long to look again and again.

    Raises:
        Unhealthy: something is wrong; it was written to stdout.
        Unreachable, RequestTimedOut: nobody answers.
    """
    deadline = trio.current_time() + wait_seconds
    value: dict[str, Any] | None = None
    while value is None or not value["healthy"]:
        try:
            value = await _look(client)
        except TrioBrokerError:
            if trio.current_time() >= deadline:
                raise
        if trio.current_time() >= deadline and value is not None:
            break
        await trio.sleep(_PAUSE_SECONDS)
    show_object(output, value, lambda: _print_health(value))
    if not value["healthy"]:
        raise Unhealthy("the cluster is not healthy")


async def _look(client: Client) -> dict[str, Any]:
    described = await client.admin.describe_cluster()
    topics = await client.admin.list_topics(include_internal=True)
    log_dirs = await _log_dirs(client, sorted(described.nodes))
    unserved, behind = [], []
    for topic in topics:
        for index, partition in topic.partitions.items():
            place = f"{topic.name}-{index}"
            if not is_served(partition):
                unserved.append(place)
            elif len(partition.in_sync) < len(partition.replicas):
                behind.append(place)
    offline = [row for row in log_dirs if row["error"]]
    full = [row for row in log_dirs if _is_full(row)]
    reasons = [f"{place} is offline" for place in unserved]
    reasons += [f"{place} has replicas that are behind or away" for place in behind]
    reasons += [
        f"log dir {row['path']} of broker {row['node_id']}: {row['error']}" for row in offline
    ]
    reasons += [
        f"log dir {row['path']} of broker {row['node_id']}: {_why_full(row)}" for row in full
    ]
    if described.controller == NOBODY:
        reasons.append("there is no controller")
    return {
        "healthy": not reasons,
        "reasons": reasons,
        "brokers": len(described.nodes),
        "topics": len(topics),
        "partitions": sum(len(topic.partitions) for topic in topics),
        "offline_partitions": len(unserved),
        "under_replicated_partitions": len(behind),
        "offline_log_dirs": len(offline),
        "full_log_dirs": len(full),
    }


def _is_full(row: Mapping[str, Any]) -> bool:
    """Tell whether a disk has less room than this broker needs; others do without until 0."""
    total_bytes, usable_bytes = row["total_bytes"], row["usable_bytes"]
    if total_bytes is None or usable_bytes is None:
        return False
    return bool(usable_bytes < thresholds(total_bytes).degraded_bytes)


def _why_full(row: Mapping[str, Any]) -> str:
    """Say that no records are taken. This broker says of nothing else that no byte is usable."""
    if row["usable_bytes"]:
        return (
            f"{size_text(row['usable_bytes'])} of {size_text(row['total_bytes'])} free, which is "
            "too little to take records"
        )
    return (
        "takes no records, because the disk is full or the logs may not grow (storage.bytes_max); "
        "delete records or topics, shorten their retention, or give it more room"
    )


def _print_health(value: Mapping[str, Any]) -> None:
    print("healthy" if value["healthy"] else "not healthy")
    for reason in value["reasons"][:_REASONS_MAX]:
        print(f"  {reason}")
    if len(value["reasons"]) > _REASONS_MAX:
        print(f"  and {len(value['reasons']) - _REASONS_MAX} more")

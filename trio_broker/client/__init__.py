"""A Kafka client for Trio programs, structured: whatever runs belongs to a block.

Speaks the protocol through `wire` and `records` to any Kafka broker, this one included, over TCP or
in memory. `scope` is where its tasks are started, the other files start none.

Public names are loaded when they are first used (PEP 562).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trio_broker.client.admin import Admin
    from trio_broker.client.admin_results import ConfigOperation, ResourceType
    from trio_broker.client.client import Client, open_client
    from trio_broker.client.connection import ConnectionLost, VersionMismatch, open_connection
    from trio_broker.client.consumer import Consumer
    from trio_broker.client.consumer_state import ConsumedBatch
    from trio_broker.client.errors import (
        ClientClosed,
        DeliveryTimedOut,
        RequestTimedOut,
        Unreachable,
    )
    from trio_broker.client.group_consumer import GroupConsumer
    from trio_broker.client.options import (
        ClientOptions,
        ConsumerOptions,
        GroupOptions,
        ProducerOptions,
    )
    from trio_broker.client.producer import Producer
    from trio_broker.client.producer_batch import Delivery, RecordMetadata
    from trio_broker.client.reader import ConsumedRecord
    from trio_broker.client.types import (
        CommittedOffset,
        IsolationLevel,
        ListedOffset,
        OffsetSpec,
        TopicPartition,
    )
    from trio_broker.records.compression import Compression

__all__ = [
    "Admin",
    "Client",
    "ClientClosed",
    "ClientOptions",
    "CommittedOffset",
    "Compression",
    "ConfigOperation",
    "ConnectionLost",
    "ConsumedBatch",
    "ConsumedRecord",
    "Consumer",
    "ConsumerOptions",
    "Delivery",
    "DeliveryTimedOut",
    "GroupConsumer",
    "GroupOptions",
    "IsolationLevel",
    "ListedOffset",
    "OffsetSpec",
    "Producer",
    "ProducerOptions",
    "RecordMetadata",
    "RequestTimedOut",
    "ResourceType",
    "TopicPartition",
    "Unreachable",
    "VersionMismatch",
    "open_client",
    "open_connection",
]

_HOMES = {
    "Admin": "admin",
    "ConfigOperation": "admin_results",
    "ResourceType": "admin_results",
    "Client": "client",
    "open_client": "client",
    "ConnectionLost": "connection",
    "VersionMismatch": "connection",
    "open_connection": "connection",
    "Consumer": "consumer",
    "ConsumedBatch": "consumer_state",
    "ConsumedRecord": "reader",
    "ClientClosed": "errors",
    "DeliveryTimedOut": "errors",
    "RequestTimedOut": "errors",
    "Unreachable": "errors",
    "GroupConsumer": "group_consumer",
    "ClientOptions": "options",
    "ConsumerOptions": "options",
    "GroupOptions": "options",
    "ProducerOptions": "options",
    "Producer": "producer",
    "Delivery": "producer_batch",
    "RecordMetadata": "producer_batch",
    "CommittedOffset": "types",
    "IsolationLevel": "types",
    "ListedOffset": "types",
    "OffsetSpec": "types",
    "TopicPartition": "types",
}


def __getattr__(name: str) -> object:
    import importlib

    if name == "Compression":
        home = "trio_broker.records.compression"
    elif name in _HOMES:
        home = f"trio_broker.client.{_HOMES[name]}"
    else:
        raise AttributeError(f"module 'trio_broker.client' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

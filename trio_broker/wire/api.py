"""The APIs of the Kafka protocol that this package has declarations for, and their versions.

Which of them a broker *serves* is decided by `trio_broker.broker.handlers`. The ranges are those of
Apache Kafka 4.3. Looking up an API costs no import of its messages: those are loaded when
`Api.request_type` or `Api.response_type` is first used.
"""

from __future__ import annotations

import importlib
from enum import IntEnum
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_broker.wire.message import Message

#: First flexible version of an API that has none: above every version there can be.
NEVER_FLEXIBLE = 0x7FFF


class ApiKey(IntEnum):
    """Numbers of the APIs, as they begin each request."""

    PRODUCE = 0
    FETCH = 1
    LIST_OFFSETS = 2
    METADATA = 3
    OFFSET_COMMIT = 8
    OFFSET_FETCH = 9
    FIND_COORDINATOR = 10
    JOIN_GROUP = 11
    HEARTBEAT = 12
    LEAVE_GROUP = 13
    SYNC_GROUP = 14
    DESCRIBE_GROUPS = 15
    LIST_GROUPS = 16
    SASL_HANDSHAKE = 17
    API_VERSIONS = 18
    CREATE_TOPICS = 19
    DELETE_TOPICS = 20
    DELETE_RECORDS = 21
    INIT_PRODUCER_ID = 22
    OFFSET_FOR_LEADER_EPOCH = 23
    ADD_PARTITIONS_TO_TXN = 24
    ADD_OFFSETS_TO_TXN = 25
    END_TXN = 26
    WRITE_TXN_MARKERS = 27
    TXN_OFFSET_COMMIT = 28
    DESCRIBE_CONFIGS = 32
    ALTER_CONFIGS = 33
    DESCRIBE_LOG_DIRS = 35
    SASL_AUTHENTICATE = 36
    CREATE_PARTITIONS = 37
    DELETE_GROUPS = 42
    INCREMENTAL_ALTER_CONFIGS = 44
    OFFSET_DELETE = 47
    DESCRIBE_CLUSTER = 60
    DESCRIBE_PRODUCERS = 61
    DESCRIBE_TRANSACTIONS = 65
    LIST_TRANSACTIONS = 66
    CONSUMER_GROUP_HEARTBEAT = 68
    CONSUMER_GROUP_DESCRIBE = 69
    LIST_CONFIG_RESOURCES = 74
    DESCRIBE_TOPIC_PARTITIONS = 75


class Api(NamedTuple):
    """One API: its versions, and where its messages are declared.

    Attributes:
        key: number of the API.
        name: Kafka's name, without Request or Response.
        min_version: oldest version that can be decoded.
        max_version: newest version that can be decoded.
        advertised_min_version: oldest version to name in an ApiVersions response. Lower than
            `min_version` where old clients draw wrong conclusions from the truth.
        flexible_version: first version with compact encodings and tagged fields, or
            `NEVER_FLEXIBLE`.
    """

    key: ApiKey
    name: str
    min_version: int
    max_version: int
    advertised_min_version: int
    flexible_version: int

    def supports(self, version: int) -> bool:
        """Say whether requests of this version can be decoded."""
        return self.min_version <= version <= self.max_version

    @property
    def module_name(self) -> str:
        """Name of the module with the declarations of request and response."""
        return f"trio_broker.wire.messages.{self.key.name.lower()}"

    @property
    def request_type(self) -> type[Message]:
        """Class of the request's body; its module is imported on first use."""
        return _message_type(self.module_name, f"{self.name}Request")

    @property
    def response_type(self) -> type[Message]:
        """Class of the response's body; its module is imported on first use."""
        return _message_type(self.module_name, f"{self.name}Response")


@cache
def _message_type(module_name: str, class_name: str) -> type[Message]:
    found: type[Message] = getattr(importlib.import_module(module_name), class_name)
    return found


def _api(
    key: ApiKey, name: str, versions: tuple[int, int], flexible: int, advertised: int | None = None
) -> Api:
    least, most = versions
    return Api(key, name, least, most, least if advertised is None else advertised, flexible)


_DECLARED = (
    # librdkafka before 2.11 sends gzip, snappy and lz4 uncompressed unless the range begins at 0
    # (its issue 4956, Kafka's KAFKA-18659), yet never uses these versions.
    _api(ApiKey.PRODUCE, "Produce", (3, 13), 9, advertised=0),
    _api(ApiKey.FETCH, "Fetch", (4, 18), 12),
    _api(ApiKey.LIST_OFFSETS, "ListOffsets", (1, 11), 6),
    _api(ApiKey.METADATA, "Metadata", (0, 13), 9),
    _api(ApiKey.OFFSET_COMMIT, "OffsetCommit", (2, 10), 8),
    _api(ApiKey.OFFSET_FETCH, "OffsetFetch", (1, 10), 6),
    _api(ApiKey.FIND_COORDINATOR, "FindCoordinator", (0, 6), 3),
    _api(ApiKey.JOIN_GROUP, "JoinGroup", (0, 9), 6),
    _api(ApiKey.HEARTBEAT, "Heartbeat", (0, 4), 4),
    _api(ApiKey.LEAVE_GROUP, "LeaveGroup", (0, 5), 4),
    _api(ApiKey.SYNC_GROUP, "SyncGroup", (0, 5), 4),
    _api(ApiKey.DESCRIBE_GROUPS, "DescribeGroups", (0, 6), 5),
    _api(ApiKey.LIST_GROUPS, "ListGroups", (0, 5), 3),
    _api(ApiKey.SASL_HANDSHAKE, "SaslHandshake", (0, 1), NEVER_FLEXIBLE),
    _api(ApiKey.API_VERSIONS, "ApiVersions", (0, 4), 3),
    _api(ApiKey.CREATE_TOPICS, "CreateTopics", (2, 7), 5),
    _api(ApiKey.DELETE_TOPICS, "DeleteTopics", (1, 6), 4),
    _api(ApiKey.DELETE_RECORDS, "DeleteRecords", (0, 2), 2),
    _api(ApiKey.INIT_PRODUCER_ID, "InitProducerId", (0, 5), 2),
    _api(ApiKey.OFFSET_FOR_LEADER_EPOCH, "OffsetForLeaderEpoch", (2, 4), 4),
    _api(ApiKey.ADD_PARTITIONS_TO_TXN, "AddPartitionsToTxn", (0, 5), 3),
    _api(ApiKey.ADD_OFFSETS_TO_TXN, "AddOffsetsToTxn", (0, 4), 3),
    _api(ApiKey.END_TXN, "EndTxn", (0, 5), 3),
    _api(ApiKey.WRITE_TXN_MARKERS, "WriteTxnMarkers", (1, 2), 1),
    _api(ApiKey.TXN_OFFSET_COMMIT, "TxnOffsetCommit", (0, 5), 3),
    _api(ApiKey.DESCRIBE_CONFIGS, "DescribeConfigs", (1, 4), 4),
    _api(ApiKey.ALTER_CONFIGS, "AlterConfigs", (0, 2), 2),
    _api(ApiKey.DESCRIBE_LOG_DIRS, "DescribeLogDirs", (1, 5), 2),
    _api(ApiKey.SASL_AUTHENTICATE, "SaslAuthenticate", (0, 2), 2),
    _api(ApiKey.CREATE_PARTITIONS, "CreatePartitions", (0, 3), 2),
    _api(ApiKey.DELETE_GROUPS, "DeleteGroups", (0, 2), 2),
    _api(ApiKey.INCREMENTAL_ALTER_CONFIGS, "IncrementalAlterConfigs", (0, 1), 1),
    _api(ApiKey.OFFSET_DELETE, "OffsetDelete", (0, 0), NEVER_FLEXIBLE),
    _api(ApiKey.DESCRIBE_CLUSTER, "DescribeCluster", (0, 2), 0),
    _api(ApiKey.DESCRIBE_PRODUCERS, "DescribeProducers", (0, 0), 0),
    _api(ApiKey.DESCRIBE_TRANSACTIONS, "DescribeTransactions", (0, 0), 0),
    _api(ApiKey.LIST_TRANSACTIONS, "ListTransactions", (0, 2), 0),
    _api(ApiKey.CONSUMER_GROUP_HEARTBEAT, "ConsumerGroupHeartbeat", (0, 1), 0),
    _api(ApiKey.CONSUMER_GROUP_DESCRIBE, "ConsumerGroupDescribe", (0, 1), 0),
    _api(ApiKey.LIST_CONFIG_RESOURCES, "ListConfigResources", (0, 1), 0),
    _api(ApiKey.DESCRIBE_TOPIC_PARTITIONS, "DescribeTopicPartitions", (0, 0), 0),
)

#: Every declared API by its number.
APIS: Mapping[int, Api] = MappingProxyType({int(api.key): api for api in _DECLARED})

"""The rows of `error_table` about topics, configurations, records and the cluster."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from tests.broker.admin_calls import (
    APPEND,
    SET,
    TOPIC,
    delete_records_request,
    describe_request,
    epoch_request,
    incremental_request,
    log_dirs_request,
    pages_request,
    partitions_request,
    producers_request,
    replace_request,
)
from tests.broker.error_table import (
    DATA_TABLE,
    DOES_IT,
    FRAMES,
    FUTURE,
    LONG,
    NO_EPOCHS,
    NO_ID,
    NO_TOPICS,
    NOPE,
    ORDERS,
    UNANSWERED,
    Row,
    case,
    create,
    delete_topic,
    on_node,
    twice,
)
from trio_broker.names import OFFSETS_TOPIC_NAME
from trio_broker.wire.api import ApiKey
from trio_broker.wire.messages.describe_cluster import DescribeClusterRequest
from trio_broker.wire.messages.list_config_resources import ListConfigResourcesRequest

BROKER, LOGGER = 4, 8


def endpoints(kind: int) -> DescribeClusterRequest:
    return DescribeClusterRequest(include_cluster_authorized_operations=False, endpoint_type=kind)


ADMIN_TABLE: Mapping[ApiKey, Row] = {
    ApiKey.CREATE_TOPICS: Row(
        [case("one that is there already", create(ORDERS), 36)],
        NO_EPOCHS,
        [
            case("a name that is too long", create(LONG), 17),
            case("more partitions than a topic may have", create(NOPE, 2**31 - 1), 37, kafka=44),
        ],
        [
            case("no name", create(""), 17),
            case("a name that is none", create("a/b"), 17),
            case("no partitions", create(NOPE, 0), 37),
            case("too many replicas", create(NOPE, 1, 99), 38),
            case("no replicas", create(NOPE, 1, 0), 38),
            case("an unknown config", create(NOPE, configs={"nope": "1"}), 40),
            case("a config of another type", create(NOPE, configs={"retention.ms": "x"}), 40),
            case("a config that is null", create(NOPE, configs={"retention.ms": None}), 40),
            case("an unknown broker", create(NOPE, -1, -1, assignments=[(0, [99])]), 39),
            case("partitions with a gap", create(NOPE, -1, -1, assignments=[(1, [0])]), 39),
            case("partitions and assignments", create(NOPE, 1, -1, assignments=[(0, [0])]), 42),
            case("a topic twice", twice(create(NOPE), "topics"), 42),
        ],
    ),
    ApiKey.DELETE_TOPICS: Row(
        [
            case("by name", delete_topic(NOPE), 3),
            case("by id", delete_topic(None, NO_ID), 100, since=6),
        ],
        NO_EPOCHS,
        FRAMES,
        [
            case("no name and no id", delete_topic(None), 42, since=6),
            case("a name and an id", delete_topic(ORDERS, UUID(int=5)), 42, since=6),
        ],
    ),
    ApiKey.CREATE_PARTITIONS: Row(
        [case("topic", partitions_request(NOPE, 2), 3)],
        NO_EPOCHS,
        [
            case("a name that is too long", partitions_request(LONG, 2), 3),
            case("more than a topic may have", partitions_request(ORDERS, 2**31 - 1), 37, kafka=-1),
            case("more than the broker may have", partitions_request(ORDERS, 9), 44,
                 kafka=DOES_IT),
        ],
        [
            case("as many as there are", partitions_request(ORDERS, 1), 37),
            case("fewer than there are", partitions_request(ORDERS, 0), 37),
            case("a negative number", partitions_request(ORDERS, -7), 37),
            case("too few assignments", partitions_request(ORDERS, 3, assignments=[[0]]), 39),
            case("an unknown broker", partitions_request(ORDERS, 2, assignments=[[99]]), 39),
            case("no broker", partitions_request(ORDERS, 2, assignments=[[]]), 39),
            case("a topic twice", twice(partitions_request(ORDERS, 2), "topics"), 42),
            case("the broker's own topic", partitions_request(OFFSETS_TOPIC_NAME, 99), 17,
                 kafka=DOES_IT),
        ],
    ),
    ApiKey.ALTER_CONFIGS: Row(
        [case("topic", replace_request(NOPE, {}), 3)],
        NO_EPOCHS,
        FRAMES,
        [
            case("an illegal name", replace_request("a/b", {}), 17),
            case("no name", replace_request("", {}), 42),
            case("an unknown config", replace_request(ORDERS, {"nope": "1"}), 40),
            case("a value of another type", replace_request(ORDERS, {"segment.ms": "x"}), 40),
            case("a value out of bounds", replace_request(ORDERS, {"segment.ms": "0"}), 40),
            case("what is not honoured", replace_request(ORDERS, {"preallocate": "true"}), 40,
                 kafka=DOES_IT),
            case("compaction", replace_request(ORDERS, {"cleanup.policy": "compact"}), 40,
                 kafka=DOES_IT),
            case("null", replace_request(ORDERS, {"segment.ms": None}), 42),
            case("an unknown type", replace_request(ORDERS, {}, kind=3), 42),
            case("loggers", on_node(lambda n: replace_request(n, {}, kind=LOGGER)), 42),
            case("another broker", replace_request("55", {}, kind=BROKER), 42),
            case("a resource twice", twice(replace_request(ORDERS, {}), "resources"), 42,
                 kafka=UNANSWERED),
            case("the broker's own topic", replace_request(OFFSETS_TOPIC_NAME, {}), 40,
                 kafka=DOES_IT),
        ],
    ),
    ApiKey.INCREMENTAL_ALTER_CONFIGS: Row(
        [case("topic", incremental_request(NOPE), 3)],
        NO_EPOCHS,
        FRAMES,
        [
            case("an illegal name", incremental_request("a/b"), 17),
            case("no name", incremental_request(""), 42),
            case("an unknown config", incremental_request(ORDERS, ("nope", SET, "1")), 40),
            case("another type", incremental_request(ORDERS, ("segment.ms", SET, "x")), 40),
            case("no list", incremental_request(ORDERS, ("segment.ms", APPEND, "1")), 40),
            case("an unknown operation", incremental_request(ORDERS, ("segment.ms", 9, "1")), 42,
                 kafka=-1),
            case("null", incremental_request(ORDERS, ("segment.ms", SET, None)), 42),
            case(
                "a config twice",
                incremental_request(ORDERS, ("segment.ms", SET, "1"), ("segment.ms", SET, "2")),
                42,
            ),
            case("an unknown type", incremental_request(ORDERS, kind=3), 42),
            case("another broker", incremental_request("55", kind=BROKER), 42),
            case("a resource twice", twice(incremental_request(ORDERS), "resources"), 42),
        ],
    ),
    ApiKey.DESCRIBE_CONFIGS: Row(
        [case("topic", describe_request(TOPIC, NOPE), 3)],
        NO_EPOCHS,
        FRAMES,
        [
            case("an illegal name", describe_request(TOPIC, "a/b"), 17),
            case("another broker", describe_request(BROKER, "55"), 42),
            case("no number", describe_request(BROKER, "x"), 42),
            case("an unknown type", describe_request(3, "x"), 42),
        ],
    ),
    ApiKey.DELETE_RECORDS: Row(
        [
            case("topic", delete_records_request(NOPE, {0: 0}), 3),
            case("partition", delete_records_request(ORDERS, {1: 0}), 3),
        ],
        NO_EPOCHS,
        FRAMES,
        [
            case("a negative partition", delete_records_request(ORDERS, {-1: 0}), 3),
            case("above the end", delete_records_request(ORDERS, {0: 99}), 1),
            case("a negative offset", delete_records_request(ORDERS, {0: -2}), 1),
            case("the broker's own topic", delete_records_request(OFFSETS_TOPIC_NAME, {0: 0}), 17),
        ],
    ),
    ApiKey.OFFSET_FOR_LEADER_EPOCH: Row(
        [
            case("topic", epoch_request(NOPE, 0), 3),
            case("partition", epoch_request(ORDERS, 0, partition=1), 3),
        ],
        [case("of a leader to come", epoch_request(ORDERS, 0, current=FUTURE), 75)],
        FRAMES,
        [case("an epoch that never was", epoch_request(ORDERS, -5), 0)],
    ),
    ApiKey.DESCRIBE_LOG_DIRS: Row(
        [case("left out of the answer", log_dirs_request({NOPE: [0]}), 0)],
        NO_EPOCHS,
        FRAMES,
        [case("a partition that is none", log_dirs_request({ORDERS: [-1]}), 0)],
    ),
    ApiKey.DESCRIBE_PRODUCERS: Row(
        [
            case("topic", producers_request(NOPE, 0), 3),
            case("partition", producers_request(ORDERS, 1), 3),
        ],
        NO_EPOCHS,
        FRAMES,
        [case("an illegal name", producers_request("a/b", 0), 17)],
    ),
    ApiKey.DESCRIBE_TOPIC_PARTITIONS: Row(
        [case("topic", pages_request(NOPE), 3)],
        NO_EPOCHS,
        FRAMES,
        [
            case("an illegal name", pages_request("a/b"), 17),
            case("a cursor elsewhere", pages_request(ORDERS, cursor=("zzz", 0)), 42),
            case("a negative cursor", pages_request(ORDERS, cursor=(ORDERS, -1)), 42),
        ],
    ),
    ApiKey.DESCRIBE_CLUSTER: Row(
        NO_TOPICS,
        NO_EPOCHS,
        FRAMES,
        [
            case("endpoints of controllers", endpoints(2), 114, since=1),
            case("endpoints of a kind that is none", endpoints(9), 115, since=1),
        ],
    ),
    ApiKey.LIST_CONFIG_RESOURCES: Row(
        NO_TOPICS,
        NO_EPOCHS,
        FRAMES,
        [case("an unknown type", ListConfigResourcesRequest(resource_types=[99]), 35, since=1)],
    ),
}  # fmt: skip
TABLE: Mapping[ApiKey, Row] = {**DATA_TABLE, **ADMIN_TABLE}

"""The fields of the JSON that commands write, with their meaning. Nothing else is in it.

Stable: fields are added, and not renamed or removed, within a major version. The reference page is
written from here, and a test compares what commands write.

A field's value is text that says what it is, or, for an object or a list of objects, a `Fields` of
its own.
"""

from __future__ import annotations

from typing import TypeAlias

Fields: TypeAlias = "dict[str, str | Fields]"

_SOURCE = (
    "where the value comes from: TOPIC, BROKER, BROKERS_DEFAULT, STATIC_BROKER or DEFAULT "
    "(nobody has set it)"
)

CREATED_TOPIC: Fields = {
    "name": "of the topic",
    "topic_id": "its id; null if nothing was created, or the broker does not tell",
    "partitions": "how many; null if the broker does not tell",
    "replication_factor": "brokers that have each partition; null if the broker does not tell",
}

LISTED_TOPIC: Fields = {
    "name": "of the topic",
    "topic_id": "its id; null if the broker does not tell",
    "is_internal": "whether the brokers keep their own records in it",
    "partitions": "how many",
    "replication_factor": "brokers that have each partition",
}

LONG_LISTED_TOPIC: Fields = {
    **LISTED_TOPIC,
    "records": "offsets from the first to the last record, over all partitions",
    "size_bytes": "of all partitions, each counted on its leader; null if a broker does not tell",
}

DESCRIBED_PARTITION: Fields = {
    "partition": "index",
    "leader": "id of the broker that leads it; null if there is none",
    "leader_epoch": "how often that has changed; null if the broker does not tell",
    "replicas": "ids of the brokers that have it",
    "in_sync": "ids of those that have all of it",
    "offline": "ids of those that are away",
    "start_offset": "of the oldest record kept; null if nobody serves it",
    "end_offset": "of the next record to come (the high watermark); null if nobody serves it",
    "records": "offsets between the two",
    "size_bytes": "on its leader; null if the broker does not tell",
    "error": "Kafka's name of why nobody serves it, or null",
}

DESCRIBED_CONFIG: Fields = {
    "name": "Kafka's name of the config",
    "value": "as text; null if there is none, or if it is secret",
    "source": _SOURCE,
    "is_default": "whether nobody has set it",
    "is_read_only": "whether it cannot be set for a topic",
    "documentation": "what it does, in the broker's words",
}

DESCRIBED_TOPIC: Fields = {
    **LONG_LISTED_TOPIC,
    "partitions": DESCRIBED_PARTITION,
    "configs": DESCRIBED_CONFIG,
    "retention": "what retention does next and has done, sentence by sentence; a broker that does "
    "not tell leaves the list empty",
}

ALTERED_CONFIG: Fields = {
    "name": "Kafka's name of the config",
    "before": "its value before",
    "after": "its value now; with --dry-run, the value it would have if it is known",
    "source": _SOURCE,
}

TRUNCATED_PARTITION: Fields = {
    "topic": "name of the topic",
    "partition": "index",
    "start_offset_before": "of the oldest record before",
    "start_offset": "of the oldest record now, or as it would be with --dry-run",
    "end_offset": "of the next record to come",
    "deleted_records": "offsets between the first two",
}

DELETED_TOPIC: Fields = {
    "name": "of the topic",
    "partitions": "how many it had",
    "records": "how many offsets it had",
}

LISTED_GROUP: Fields = {
    "group": "its id",
    "state": "Empty, PreparingRebalance, CompletingRebalance, Stable or Dead; null if not told",
    "protocol_type": "consumer for consumers",
    "group_type": "classic or consumer; null if the broker does not tell",
}

LONG_LISTED_GROUP: Fields = {
    **LISTED_GROUP,
    "members": "how many",
    "lag": "records behind what is committed, over all partitions; null if nothing is committed",
}

DESCRIBED_MEMBER: Fields = {
    "member_id": "from the coordinator",
    "instance_id": "of a static member, else null",
    "client_id": "what it calls itself",
    "client_host": "its address",
    "partitions": "what it reads, as topic-partition",
}

DESCRIBED_OFFSET: Fields = {
    "topic": "name of the topic",
    "partition": "index",
    "committed_offset": "of the next record to process; null if nothing is committed",
    "start_offset": "of the oldest record there is",
    "end_offset": "of the next record to come",
    "lag": "records from the committed offset (or the oldest one there is, if that is later) to "
    "the end; null if nothing is committed",
    "lag_seconds": "age of the oldest record that is not processed, by its own timestamp; 0 if "
    "there is none; null if it could not be read",
    "lost_records": "records that went before they were processed",
    "member_id": "who reads the partition now, or null",
    "client_id": "likewise",
    "client_host": "likewise",
}

DESCRIBED_GROUP: Fields = {
    "group": "its id",
    "state": "Empty, PreparingRebalance, CompletingRebalance, Stable or Dead",
    "protocol_type": "consumer for consumers",
    "assignor": "the one in use; null if there is none",
    "coordinator": "id of the broker that coordinates it",
    "lag": "sum of the partitions' lags",
    "lag_seconds": "largest of the partitions' lags in seconds; null if none is known",
    "members": DESCRIBED_MEMBER,
    "offsets": DESCRIBED_OFFSET,
}

SOUGHT_OFFSET: Fields = {
    "topic": "name of the topic",
    "partition": "index",
    "committed_offset": "before; null if nothing was committed",
    "new_offset": "now, or as it would be with --dry-run",
    "end_offset": "of the next record to come",
    "lag": "records from the new offset to the end",
    "note": "why the new offset is not the one asked for, or null",
}

DESCRIBED_NODE: Fields = {
    "node_id": "id of the broker",
    "host": "where clients reach it",
    "port": "likewise",
    "rack": "where it stands, or null",
    "is_controller": "whether admin requests go to it",
}

DESCRIBED_LOG_DIR: Fields = {
    "node_id": "id of the broker",
    "path": "of the directory",
    "error": "Kafka's name of what is wrong with it, or null",
    "total_bytes": "of its disk; null if the broker does not tell",
    "usable_bytes": "likewise",
    "logs_bytes": "what the partitions in it take",
    "partitions": "how many there are in it",
}

CLUSTER_INFO: Fields = {
    "cluster_id": "null if the broker does not tell",
    "controller": "id of the broker that admin requests go to, or null",
    "brokers": DESCRIBED_NODE,
    "log_dirs": DESCRIBED_LOG_DIR,
    "topics": "how many, internal ones left out",
    "partitions": "of those topics",
}

CLUSTER_HEALTH: Fields = {
    "healthy": "whether nothing is wrong",
    "reasons": "what is, a sentence each",
    "brokers": "how many there are",
    "topics": "how many, internal ones included",
    "partitions": "of those topics",
    "offline_partitions": "nobody serves them",
    "under_replicated_partitions": "a replica is behind or away",
    "offline_log_dirs": "directories that have failed",
    "full_log_dirs": "directories with less room than a broker needs to take records",
}

FINDING: Fields = {
    "check": "what was looked at",
    "level": "ok, warning or failure",
    "message": "what was found",
    "advice": "what to do about it, or null",
}

RECORD: Fields = {
    "topic": "name of the topic",
    "partition": "index",
    "offset": "in the partition",
    "timestamp_ms": "milliseconds since 1970; null for none",
    "key": 'text, null for none, or `{"base64": "..."}` if the bytes are not UTF-8',
    "value": "likewise; null is a tombstone",
    "headers": "list of [name, value]; names may repeat, values are written likewise",
}

#: What a command writes, by the words that call it.
BY_COMMAND: dict[str, Fields] = {
    "topic create": CREATED_TOPIC,
    "topic list": LISTED_TOPIC,
    "topic list --long": LONG_LISTED_TOPIC,
    "topic describe": DESCRIBED_TOPIC,
    "topic alter": ALTERED_CONFIG,
    "topic add-partitions": CREATED_TOPIC,
    "topic truncate": TRUNCATED_PARTITION,
    "topic delete": DELETED_TOPIC,
    "consume --json": RECORD,
    "group list": LISTED_GROUP,
    "group list --long": LONG_LISTED_GROUP,
    "group describe": DESCRIBED_GROUP,
    "group seek": SOUGHT_OFFSET,
    "cluster info": CLUSTER_INFO,
    "cluster health": CLUSTER_HEALTH,
    "doctor": FINDING,
}

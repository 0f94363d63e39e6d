"""Decides DeleteTopics, and when a deleted topic may be forgotten.

The rules and codes are those of Apache Kafka's controller
(org.apache.kafka.controller.ReplicationControlManager, kafka.server.ControllerApis); where this
broker is stricter, `delete_topics` says so. Pure; called by `trio_broker.broker.controller`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import attrs
from attrs import frozen

from trio_broker.errors import ErrorCode
from trio_broker.metadata.image import MetadataImage, PartitionState, TopicState
from trio_broker.metadata.records import (
    DeletionRecord,
    creation_key,
    deletion_key,
    encode_record,
    partition_key_prefix,
    topic_key,
)
from trio_broker.metadata.steps import Decision, StepBuilder
from trio_broker.metadata.transaction import Delete, Guard, Operation, Put, Transaction
from trio_broker.names import ZERO_TOPIC_ID, TopicId, TopicName


@frozen(kw_only=True)
class TopicReference:
    """A topic named by its name or by its id; the other one is None."""

    name: str | None = None
    topic_id: TopicId | None = None


@frozen(kw_only=True)
class DeleteTopicResult:
    """The answer for one topic of a DeleteTopics request.

    Attributes:
        name: None where only an unknown id was given.
        topic_id: zero where only an unknown name was given.
        code: NONE, or why it was not deleted.
        message: the reason for people, None without an error.
        partitions: what must stop now, empty after an error.
    """

    name: str | None
    topic_id: TopicId = ZERO_TOPIC_ID
    code: ErrorCode = ErrorCode.NONE
    message: str | None = None
    partitions: tuple[PartitionState, ...] = ()

    def failed(self, code: ErrorCode, message: str) -> DeleteTopicResult:
        """Return the answer if the topic could not be deleted after all."""
        return attrs.evolve(self, code=code, message=message, partitions=())

    def is_gone(self, image: MetadataImage) -> bool:
        """Whether there is no such topic, though perhaps another one of its name by now."""
        topic = None if self.name is None else image.topics_by_name.get(TopicName(self.name))
        return topic is None or self.topic_id not in {ZERO_TOPIC_ID, topic.topic_id}


def delete_topics(
    image: MetadataImage, references: Sequence[TopicReference]
) -> Decision[DeleteTopicResult]:
    """Decide a DeleteTopics request.

    A topic that is named twice, by name, by id or by both, is refused with INVALID_REQUEST and
    stays. Stricter than Kafka: internal topics are refused with INVALID_TOPIC_EXCEPTION, since
    the broker's own coordinators run on them.
    """
    appearances = Counter(_identity(image, reference) for reference in references)
    results: dict[object, DeleteTopicResult] = {}
    steps = StepBuilder()
    for reference in references:
        identity = _identity(image, reference)
        if identity in results:
            continue
        topic = _find(image, reference)
        result = DeleteTopicResult(
            name=reference.name if topic is None else topic.name,
            topic_id=(reference.topic_id or ZERO_TOPIC_ID) if topic is None else topic.topic_id,
        )
        refusal = _deletion_refusal(reference, topic, appearances[identity])
        if refusal is not None or topic is None:
            assert refusal is not None, "an unknown topic is refused"
            results[identity] = result.failed(*refusal)
            continue
        guards, operations = _deletion(image, topic)
        steps.add(len(results), guards, operations)
        results[identity] = attrs.evolve(result, partitions=topic.partitions)
    return Decision(tuple(results.values()), steps.steps())


def _find(image: MetadataImage, reference: TopicReference) -> TopicState | None:
    if reference.topic_id is not None:
        return image.topics_by_id.get(reference.topic_id)
    return image.topics_by_name.get(TopicName(reference.name or ""))


def _identity(image: MetadataImage, reference: TopicReference) -> object:
    """Return what is equal for two references to one topic, whichever way they name it."""
    topic = _find(image, reference)
    return reference if topic is None else topic.topic_id


def _deletion_refusal(
    reference: TopicReference, topic: TopicState | None, appearances: int
) -> tuple[ErrorCode, str] | None:
    if (reference.name is None) == (reference.topic_id is None):
        return (
            ErrorCode.INVALID_REQUEST,
            "You may not specify both topic name and topic id, and must specify one.",
        )
    if appearances > 1:
        return (ErrorCode.INVALID_REQUEST, "The topic was given more than once.")
    if topic is None:
        if reference.topic_id is not None:
            return (ErrorCode.UNKNOWN_TOPIC_ID, "This server does not host this topic ID.")
        return (
            ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
            "This server does not host this topic-partition.",
        )
    if topic.is_internal:
        return (ErrorCode.INVALID_TOPIC_EXCEPTION, f"{topic.name} belongs to the broker itself.")
    return None


def _deletion(image: MetadataImage, topic: TopicState) -> tuple[list[Guard], list[Operation]]:
    record = DeletionRecord(
        name=topic.name, partitions=tuple(state.replicas for state in topic.partitions)
    )
    operations: list[Operation] = [
        Delete(topic_key(topic.name)),
        Put(deletion_key(topic.topic_id), encode_record(record)),
    ]
    prefix = partition_key_prefix(topic.topic_id)
    operations += [Delete(f"{prefix}{state.partition}") for state in topic.partitions]
    operations += [
        Delete(creation_key(creation.topic_id, creation.first))
        for creation in image.creations.get(topic.topic_id, ())
    ]
    return [Guard(topic_key(topic.name), topic.mod_revision)], operations


def forget_deletions(image: MetadataImage, topic_ids: Collection[TopicId]) -> Transaction:
    """Decide that the files of these deleted topics are gone; unknown ids are ignored."""
    found = [image.deletions[id_] for id_ in topic_ids if id_ in image.deletions]
    return Transaction(
        tuple(Guard(deletion_key(entry.topic_id), entry.mod_revision) for entry in found),
        tuple(Delete(deletion_key(entry.topic_id)) for entry in found),
    )

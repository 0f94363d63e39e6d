"""The table of APIs and what can be wrong with their requests: Kafka's code for each.

There is a row for every API that is advertised, and a column for each kind of fault; where a
request of an API cannot have such a fault, the row says why. Where the answer of Apache Kafka 4.3
is another one on purpose, the case says which: ``KAFKA_BOOTSTRAP=host:port`` runs the same table
against it (`test_error_table`).

Unsupported versions and frames that are too large are not in the table, because they mean the same
for every API: see `test_error_table`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

from tests.broker.harness import fetch_request, make_batch, produce_request
from trio_broker.names import OFFSETS_TOPIC_NAME
from trio_broker.wire.api import ApiKey
from trio_broker.wire.messages.api_versions import ApiVersionsRequest
from trio_broker.wire.messages.create_topics import (
    CreatableReplicaAssignment,
    CreatableTopic,
    CreatableTopicConfig,
    CreateTopicsRequest,
)
from trio_broker.wire.messages.delete_groups import DeleteGroupsRequest
from trio_broker.wire.messages.delete_topics import DeleteTopicsRequest, DeleteTopicState
from trio_broker.wire.messages.describe_groups import DescribeGroupsRequest
from trio_broker.wire.messages.find_coordinator import FindCoordinatorRequest
from trio_broker.wire.messages.heartbeat import HeartbeatRequest
from trio_broker.wire.messages.init_producer_id import InitProducerIdRequest
from trio_broker.wire.messages.join_group import JoinGroupRequest, JoinGroupRequestProtocol
from trio_broker.wire.messages.leave_group import LeaveGroupRequest, MemberIdentity
from trio_broker.wire.messages.list_groups import ListGroupsRequest
from trio_broker.wire.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsTopic,
)
from trio_broker.wire.messages.metadata import MetadataRequest, MetadataRequestTopic
from trio_broker.wire.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
from trio_broker.wire.messages.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteRequestPartition,
    OffsetDeleteRequestTopic,
)
from trio_broker.wire.messages.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopic,
    OffsetFetchRequestTopics,
)
from trio_broker.wire.messages.sync_group import SyncGroupRequest

#: A topic with one partition, two records in epoch 0, and a max.message.bytes of 2,000.
ORDERS = "trio-broker-errors"
#: A group of consumers of that topic, with one member, in its first generation.
MEMBERS = "trio-broker-errors.members"
#: A group without members that has committed an offset of that topic.
SIMPLE = "trio-broker-errors.simple"
#: A group that somebody is about to join.
JOINING = "trio-broker-errors.joining"
NOPE = "trio-broker-errors.nope"
NO_ID = UUID(int=7)
LONG = "x" * 250
FUTURE = 9

#: In place of a code: the connection is closed without an answer; there is no answer at all.
CLOSES, UNANSWERED = -100, -200
#: Of Apache Kafka: not asked, because it does what this broker refuses, which others would notice.
DOES_IT = -300


class Known(NamedTuple):
    """What a request may have to name."""

    topic_id: UUID
    member_id: str
    generation: int
    node_id: int
    producer_id: int


Build: TypeAlias = Callable[[Known, int], Any]


class Case(NamedTuple):
    """A request with one thing wrong.

    Attributes:
        what: is wrong.
        build: makes the request of what is known and the version.
        code: the only one in the answer besides 0; 0: there is no other.
        since: first version in which this can be said; later ones than `until` are not tried.
        kafka: what Apache Kafka answers where that differs on purpose.
    """

    what: str
    build: Build
    code: int
    since: int = 0
    until: int = 99
    kafka: int | None = None


class Nothing(NamedTuple):
    """A request of the API cannot have this fault."""

    why: str


Column: TypeAlias = "Sequence[Case] | Nothing"


class Row(NamedTuple):
    """What can be wrong with the requests of one API."""

    unknown_topic: Column
    wrong_epoch: Column
    oversize: Column
    illegal_argument: Column


NO_TOPICS = Nothing("it names no topics")
NO_EPOCHS = Nothing("it carries no epoch or generation")
FRAMES = Nothing("nothing in it has a limit of its own, only the frame has")


def case(what: str, request: Any, code: int, **more: Any) -> Case:
    """Make a case of a request, or of something that makes one."""
    return Case(what, request if callable(request) else lambda *_: request, code, **more)


def twice(request: Any, field: str) -> Any:
    """Name the same thing twice."""
    return type(request)(
        **{
            name: getattr(request, name) if name != field else [*getattr(request, name)] * 2
            for name in request.__kafka_fields__
        }
    )


def produce(batch: bytes | None, *, unknown: bool = False, **arguments: Any) -> Build:
    """Produce to the topic, by its name or its id as the version wants it."""

    def build(known: Known, version: int) -> Any:
        if version >= 13:
            return produce_request(batch, topic=NO_ID if unknown else known.topic_id, **arguments)
        return produce_request(batch, topic=NOPE if unknown else ORDERS, **arguments)

    return build


def old_epoch(known: Known, version: int) -> Any:
    batch = make_batch(producer_id=known.producer_id, producer_epoch=0, base_sequence=0)
    return produce(batch)(known, version)


def fetch(offset: int = 0, *, unknown: bool = False, **arguments: Any) -> Build:
    def build(known: Known, version: int) -> Any:
        if version >= 13:
            return fetch_request(offset, topic=NO_ID if unknown else known.topic_id, **arguments)
        return fetch_request(offset, topic=NOPE if unknown else ORDERS, **arguments)

    return build


def list_offsets(
    topic: str = ORDERS, timestamp: int = -1, *, partition: int = 0, epoch: int = -1
) -> ListOffsetsRequest:
    wanted = ListOffsetsPartition(
        partition_index=partition, current_leader_epoch=epoch, timestamp=timestamp
    )
    topics = [ListOffsetsTopic(name=topic, partitions=[wanted])]
    return ListOffsetsRequest(replica_id=-1, topics=topics)


def metadata(name: str | None, *, topic_id: UUID | None = None) -> MetadataRequest:
    topic = MetadataRequestTopic(name=name, **({"topic_id": topic_id} if topic_id else {}))
    return MetadataRequest(topics=[topic], allow_auto_topic_creation=False)


def commit(
    *,
    group: str = SIMPLE,
    unknown: bool = False,
    partition: int = 0,
    note: str = "",
    member: str | None = "",
    generations_later: int | None = None,
) -> Build:
    """Commit; member None: the one there is."""

    def build(known: Known, version: int) -> Any:
        place = OffsetCommitRequestPartition(
            partition_index=partition, committed_offset=1, committed_metadata=note
        )
        topic = OffsetCommitRequestTopic(
            name=NOPE if unknown else ORDERS,
            topic_id=NO_ID if unknown else known.topic_id,
            partitions=[place],
        )
        later = generations_later
        return OffsetCommitRequest(
            group_id=group,
            generation_id_or_member_epoch=-1 if later is None else known.generation + later,
            member_id=known.member_id if member is None else member,
            topics=[topic],
        )

    return build


def offset_fetch(group: str = SIMPLE, *, unknown: bool = False, epoch: int = -1) -> Build:
    def build(known: Known, version: int) -> Any:
        name = NOPE if unknown else ORDERS
        if version < 8:
            topics = [OffsetFetchRequestTopic(name=name, partition_indexes=[0])]
            return OffsetFetchRequest(group_id=group, topics=topics)
        wanted = OffsetFetchRequestTopics(
            name=name, topic_id=NO_ID if unknown else known.topic_id, partition_indexes=[0]
        )
        of_group = OffsetFetchRequestGroup(group_id=group, member_epoch=epoch, topics=[wanted])
        return OffsetFetchRequest(groups=[of_group])

    return build


def coordinator(key: str, kind: int = 0) -> FindCoordinatorRequest:
    return FindCoordinatorRequest(key=key, key_type=kind, coordinator_keys=[key])


def join(
    group: str = MEMBERS,
    *,
    member_id: str = "",
    session_ms: int = 10_000,
    kind: str = "consumer",
    protocols: Sequence[tuple[str, bytes]] = (("range", b""),),
    instance: str | None = None,
) -> JoinGroupRequest:
    return JoinGroupRequest(
        group_id=group,
        session_timeout_ms=session_ms,
        rebalance_timeout_ms=10_000,
        member_id=member_id,
        group_instance_id=instance,
        protocol_type=kind,
        protocols=[JoinGroupRequestProtocol(name=name, metadata=data) for name, data in protocols],
    )


def member_call(
    request_type: Any,
    *,
    group: str = MEMBERS,
    later: int = 0,
    member: str | None = None,
    **more: Any,
) -> Build:
    """Make a Heartbeat or SyncGroup request of the member there is, or of another."""

    def build(known: Known, version: int) -> Any:
        return request_type(
            group_id=group,
            generation_id=known.generation + later,
            member_id=known.member_id if member is None else member,
            **more,
        )

    return build


def sync(**changes: Any) -> Build:
    values = {"assignments": (), "protocol_type": "consumer", "protocol_name": "range"}
    return member_call(SyncGroupRequest, **(values | changes))


def leave(group: str, member: str, instance: str | None = None) -> LeaveGroupRequest:
    identity = MemberIdentity(member_id=member, group_instance_id=instance)
    return LeaveGroupRequest(group_id=group, member_id=member, members=[identity])


def create(
    name: str,
    partitions: int = 1,
    replicas: int = 1,
    *,
    configs: Mapping[str, str | None] | None = None,
    assignments: Sequence[tuple[int, Sequence[int]]] = (),
) -> CreateTopicsRequest:
    topic = CreatableTopic(
        name=name,
        num_partitions=partitions,
        replication_factor=replicas,
        assignments=[
            CreatableReplicaAssignment(partition_index=index, broker_ids=ids)
            for index, ids in assignments
        ],
        configs=[
            CreatableTopicConfig(name=key, value=value) for key, value in (configs or {}).items()
        ],
    )
    return CreateTopicsRequest(topics=[topic])


def delete_topic(name: str | None, topic_id: UUID | None = None) -> Build:
    def build(known: Known, version: int) -> Any:
        if version < 6:
            return DeleteTopicsRequest(topic_names=[name], timeout_ms=5000)
        state = DeleteTopicState(name=name, topic_id=topic_id or UUID(int=0))
        return DeleteTopicsRequest(topics=[state], timeout_ms=5000)

    return build


def offset_delete(group: str, topic: str, partition: int = 0) -> OffsetDeleteRequest:
    place = OffsetDeleteRequestPartition(partition_index=partition)
    topics = [OffsetDeleteRequestTopic(name=topic, partitions=[place])]
    return OffsetDeleteRequest(group_id=group, topics=topics)


def on_node(build: Callable[[str], Any]) -> Build:
    """Name the broker that is asked, whatever its id is."""
    return lambda known, _: build(str(known.node_id))


DAMAGED = bytes([*make_batch(b"1")[:-1], 0xFF])
GAP = make_batch(producer_id=10**9, producer_epoch=0, base_sequence=0)
DATA_TABLE: Mapping[ApiKey, Row] = {
    ApiKey.PRODUCE: Row(
        [
            case("by name", produce(make_batch(), unknown=True), 3, until=12),
            case("by id", produce(make_batch(), unknown=True), 100, since=13),
            case("a partition", produce(make_batch(), partition=1), 3),
            case("the broker's own", produce_request(make_batch(), topic=OFFSETS_TOPIC_NAME), 17,
                 until=12),
        ],
        [case("of a producer that was fenced", old_epoch, 47)],
        [case("a batch above max.message.bytes", produce(make_batch(bytes(3000))), 10)],
        [
            case("acks", produce(make_batch(), acks=2), 21),
            case("no records", produce(None), 87, kafka=UNANSWERED),
            case("a negative partition", produce(make_batch(), partition=-1), 3),
            case("a wrong checksum", produce(DAMAGED), 2),
            case("a time far ahead", produce(make_batch(timestamp_ms=2**60)), 32),
        ],
    ),
    ApiKey.FETCH: Row(
        [
            case("by name", fetch(unknown=True), 3, until=12),
            case("by id", fetch(unknown=True), 100, since=13),
            case("a partition", fetch(partition=1), 3),
        ],
        [
            case("of a leader to come",
                 fetch(partition_arguments={"current_leader_epoch": FUTURE}), 75, since=9),
            case("of a session that is not there",
                 fetch(session_id=5, session_epoch=3), 70, since=7),
        ],
        [case("wants more than there is", fetch(partition_max_bytes=2**31 - 1), 0)],
        [
            case("an offset behind the end", fetch(9), 1),
            case("a negative offset", fetch(-5), 1),
            case("a negative partition", fetch(partition=-1), 3),
        ],
    ),
    ApiKey.LIST_OFFSETS: Row(
        [
            case("topic", list_offsets(NOPE), 3),
            case("a partition", list_offsets(partition=1), 3),
        ],
        [case("of a leader to come", list_offsets(epoch=FUTURE), 75, since=4)],
        FRAMES,
        [
            case("a kind of offset that is none", list_offsets(timestamp=-9), 35),
            case("a partition twice", twice(list_offsets(), "topics"), 42),
        ],
    ),
    ApiKey.METADATA: Row(
        [
            case("by name", metadata(NOPE), 3, since=4),
            case("by id", metadata(None, topic_id=NO_ID), 100, since=12),
        ],
        NO_EPOCHS,
        [case("a name that is too long", metadata(LONG), 17, since=4)],
        [case("a name that is none", metadata("a/b"), 17, since=4)],
    ),
    ApiKey.OFFSET_COMMIT: Row(
        [
            case("by name", commit(unknown=True), 3, until=9),
            case("by id", commit(unknown=True), 100, since=10),
            case("a partition", commit(partition=1), 3),
        ],
        [
            case("an old generation", commit(group=MEMBERS, member=None, generations_later=-1), 22),
            case("a later one", commit(group=MEMBERS, member=None, generations_later=1), 22),
            case("of a group that is not there", commit(group=NOPE, generations_later=0), 22,
                 until=8),
            case("the same, since 9", commit(group=NOPE, generations_later=0), 69, since=9),
        ],
        [case("metadata", commit(note="x" * 5000), 12)],
        [
            case("nobody's member id", commit(group=MEMBERS, member="x", generations_later=0), 25),
            case("no member", commit(group=MEMBERS), 25),
        ],
    ),
    ApiKey.OFFSET_FETCH: Row(
        [
            case("by name", offset_fetch(unknown=True), 0, until=9),
            case("by id", offset_fetch(unknown=True), 100, since=10),
        ],
        [case("of a member of a classic group", offset_fetch(MEMBERS, epoch=5), 0, since=9)],
        FRAMES,
        [case("a group that is not there", offset_fetch(NOPE), 0)],
    ),
    ApiKey.FIND_COORDINATOR: Row(
        NO_TOPICS,
        NO_EPOCHS,
        FRAMES,
        [
            case("no name, as old clients may have", coordinator(""), 0),
            case("a kind of key that is none", coordinator("g", 9), 42, since=1),
            case("transactions", coordinator("t", 1), 53, since=1, kafka=DOES_IT),
        ],
    ),
    ApiKey.JOIN_GROUP: Row(
        NO_TOPICS,
        NO_EPOCHS,
        [
            case("metadata", join(JOINING, protocols=[("range", bytes(100_000))]), 44, since=4,
                 kafka=79),
        ],
        [
            case("no group", join(""), 24),
            case("a short session", join(session_ms=1), 26),
            case("a long session", join(session_ms=2**31 - 1), 26),
            case("no protocols", join(JOINING, protocols=[]), 23),
            case("no protocol type", join(JOINING, kind=""), 23),
            case("another protocol type", join(kind="connect"), 23),
            case("no protocol that all know", join(protocols=[("mine", b"")]), 23),
            case("a member id of nobody", join(member_id="x"), 25),
            case("no member id", join(JOINING), 79, since=4),
        ],
    ),
    ApiKey.HEARTBEAT: Row(
        NO_TOPICS,
        [
            case("an old generation", member_call(HeartbeatRequest, later=-1), 22),
            case("a later one", member_call(HeartbeatRequest, later=1), 22),
        ],
        FRAMES,
        [
            case("no group", member_call(HeartbeatRequest, group=""), 24),
            case("a group that is not there", member_call(HeartbeatRequest, group=NOPE), 25),
            case("a member id of nobody", member_call(HeartbeatRequest, member="x"), 25),
            case("an instance of nobody",
                 member_call(HeartbeatRequest, group_instance_id="i"), 25, since=3),
        ],
    ),
    ApiKey.LEAVE_GROUP: Row(
        NO_TOPICS,
        NO_EPOCHS,
        FRAMES,
        [
            case("no group", leave("", "x"), 24),
            case("a group that is not there", leave(NOPE, "x"), 25),
            case("a member id of nobody", leave(MEMBERS, "x"), 25),
            case("an instance of nobody", leave(MEMBERS, "", "i"), 25, since=3),
        ],
    ),
    ApiKey.SYNC_GROUP: Row(
        NO_TOPICS,
        [case("an old generation", sync(later=-1), 22), case("a later one", sync(later=1), 22)],
        FRAMES,
        [
            case("no group", sync(group=""), 24),
            case("nobody", sync(member="x"), 25),
            case("a group that is not there", sync(group=NOPE), 25),
            case("an instance of nobody", sync(group_instance_id="i"), 25, since=3),
            case("another protocol", sync(protocol_name="mine"), 23, since=5),
            case("another protocol type", sync(protocol_type="connect"), 23, since=5),
            case("no protocol", sync(protocol_name=None), 23, since=5),
            case("no protocol type", sync(protocol_type=None), 23, since=5),
        ],
    ),
    ApiKey.DESCRIBE_GROUPS: Row(
        NO_TOPICS,
        NO_EPOCHS,
        FRAMES,
        [
            case("a group that is not there", DescribeGroupsRequest(groups=[NOPE]), 0, until=5),
            case("the same, since 6", DescribeGroupsRequest(groups=[NOPE]), 69, since=6),
            case("no group", DescribeGroupsRequest(groups=[""]), 69, since=6),
        ],
    ),
    ApiKey.LIST_GROUPS: Row(
        NO_TOPICS,
        NO_EPOCHS,
        FRAMES,
        [case("a state that is none", ListGroupsRequest(states_filter=["mine"]), 0)],
    ),
    ApiKey.API_VERSIONS: Row(
        NO_TOPICS,
        NO_EPOCHS,
        FRAMES,
        [
            case("names", ApiVersionsRequest(client_software_name=name), 42, since=3)
            for name in ("-a", "a b", "")
        ],
    ),
    ApiKey.INIT_PRODUCER_ID: Row(
        NO_TOPICS,
        [
            # Only one with a transactional id is held to what it says it had.
            case("of a producer without transactions", InitProducerIdRequest(
                transactional_id=None, transaction_timeout_ms=1, producer_id=5, producer_epoch=7
            ), 0, since=3),
        ],
        FRAMES,
        [
            case("an empty transactional id", InitProducerIdRequest(
                transactional_id="", transaction_timeout_ms=1
            ), 42),
        ],
    ),
    ApiKey.DELETE_GROUPS: Row(
        NO_TOPICS,
        NO_EPOCHS,
        FRAMES,
        [
            case("no group", DeleteGroupsRequest(groups_names=[""]), 69),
            case("a group that is not there", DeleteGroupsRequest(groups_names=[NOPE]), 69),
            case("a group with members", DeleteGroupsRequest(groups_names=[MEMBERS]), 68),
        ],
    ),
    ApiKey.OFFSET_DELETE: Row(
        [
            case("topic", offset_delete(SIMPLE, NOPE), 3),
            case("a partition", offset_delete(SIMPLE, ORDERS, 1), 3),
        ],
        NO_EPOCHS,
        FRAMES,
        [
            case("no group", offset_delete("", ORDERS), 24),
            case("a group that is not there", offset_delete(NOPE, ORDERS), 69),
            case("a topic that is read", offset_delete(MEMBERS, ORDERS), 86),
        ],
    ),
}  # fmt: skip

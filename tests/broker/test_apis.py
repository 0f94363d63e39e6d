"""Every API that is served, in every version: answered, or refused as Kafka refuses it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
import trio

from tests.broker.harness import World, codes, make_batch, running, simulated, slow
from trio_broker import BrokerConfig, ErrorCode
from trio_broker.broker.handlers.table import SERVED
from trio_broker.cluster.store import StoreUnavailable
from trio_broker.config import LimitsConfig, TopicConfig
from trio_broker.group.commands import CommitOffsets
from trio_broker.names import ZERO_TOPIC_ID
from trio_broker.wire.api import APIS, ApiKey
from trio_broker.wire.fields import REQUIRED
from trio_broker.wire.messages.api_versions import ApiVersionsRequest
from trio_broker.wire.messages.create_topics import (
    CreatableReplicaAssignment,
    CreatableTopic,
    CreatableTopicConfig,
    CreateTopicsRequest,
)
from trio_broker.wire.messages.delete_topics import DeleteTopicsRequest, DeleteTopicState
from trio_broker.wire.messages.describe_cluster import DescribeClusterRequest
from trio_broker.wire.messages.describe_configs import (
    DescribeConfigsRequest,
    DescribeConfigsResource,
)
from trio_broker.wire.messages.find_coordinator import FindCoordinatorRequest
from trio_broker.wire.messages.init_producer_id import InitProducerIdRequest
from trio_broker.wire.messages.metadata import MetadataRequest, MetadataRequestTopic

ALL = sorted(SERVED.values(), key=lambda api: api.key)


def blank(request_type: Any) -> Any:
    """Return a request that says nothing: zeros, empty strings, empty lists."""
    fields = request_type.__kafka_fields__.items()
    values = {name: field.missing_value for name, field in fields if field.default is REQUIRED}
    if "acks" in values:
        values["acks"] = 1  # else there is no answer
    return request_type(**values)


# --------------------------------------------------------------------------------- all of them
async def test_every_version_of_an_empty_request_is_answered(wire_config: BrokerConfig) -> None:
    async with running(wire_config) as run, run.connect() as client:
        for api in ALL:
            request = blank(APIS[api.key].request_type)
            for version in range(api.min_version, api.max_version + 1):
                assert await client.call(request, version) is not None, (api, version)


async def test_what_is_no_request_of_the_version_closes_that_connection_only(
    wire_config: BrokerConfig,
) -> None:
    async with running(wire_config) as run, run.connect() as witness:

        async def closes(frame: bytes) -> None:
            async with run.connect() as client:
                await client.send_bytes(frame)
                await client.wait_closed()

        for api in ALL:
            request = blank(APIS[api.key].request_type)
            for version in (api.min_version, api.max_version):
                frame = witness.encode(request, version)
                await closes((len(frame) - 5).to_bytes(4, "big") + frame[4:-1])
            for version in (api.min_version - 1, api.max_version + 1, 0x7FFF, -1):
                if api.key is ApiKey.API_VERSIONS:
                    continue  # see below
                frame = bytearray(witness.encode(request, api.max_version))
                frame[6:8] = version.to_bytes(2, "big", signed=True)
                await closes(bytes(frame))
            assert await witness.call(request, api.max_version) is not None


async def test_an_api_that_is_not_served_closes_the_connection(wire_config: BrokerConfig) -> None:
    async with running(wire_config) as run:
        for key in (4, 5, 99, -1, 0x7FFF):
            assert key not in SERVED
            async with run.connect() as client:
                frame = bytearray(client.encode(ApiVersionsRequest(), 0))
                frame[4:6] = key.to_bytes(2, "big", signed=True)
                await client.send_bytes(bytes(frame))
                await client.wait_closed()


# --------------------------------------------------------------------------------- ApiVersions
async def test_api_versions_tells_what_is_served_and_the_version_to_ask_in(
    wire_config: BrokerConfig,
) -> None:
    known = ApiVersionsRequest(client_software_name="a.b-c", client_software_version="1.0")
    async with running(wire_config) as run, run.connect() as client:
        for version in range(5):
            answer = await client.call(known, version)
            assert answer.error_code == 0
            offered = {api.api_key: (api.min_version, api.max_version) for api in answer.api_keys}
            assert set(offered) == set(SERVED)
            # librdkafka before 2.11 does not compress if Produce 0 is missing.
            assert offered[ApiKey.PRODUCE] == (0, 13)
            for key, (least, most) in offered.items():
                if key != ApiKey.PRODUCE:
                    assert (least, most) == (SERVED[key].min_version, SERVED[key].max_version)
        [session] = [connection.session for connection in run.state.clients]
        assert (session.software_name, session.software_version) == ("a.b-c", "1.0")

        # A version from the future is answered in version 0, and the connection goes on.
        frame = bytearray(client.encode(known, 4, 7))
        frame[6:8] = (99).to_bytes(2, "big")
        await client.send_bytes(bytes(frame))
        answered, answer = await client.receive_with_id(known, 0)
        assert (answered, answer.error_code) == (7, ErrorCode.UNSUPPORTED_VERSION)
        assert [api.api_key for api in answer.api_keys] == [ApiKey.API_VERSIONS]
        for name in ("", "-a", "a b", "a-", "ä"):
            bad = ApiVersionsRequest(client_software_name=name, client_software_version="1")
            assert (await client.call(bad, 3)).error_code == ErrorCode.INVALID_REQUEST


# ------------------------------------------------------------------------------------ Metadata
def metadata(*topics: Any, create: bool = False, **arguments: Any) -> MetadataRequest:
    """Ask for topics by name or id; without any, for all."""
    wanted = [
        MetadataRequestTopic(name=None, topic_id=topic)
        if isinstance(topic, UUID)
        else MetadataRequestTopic(name=topic)
        for topic in topics
    ]
    return MetadataRequest(topics=wanted or None, allow_auto_topic_creation=create, **arguments)


async def test_every_version_of_metadata(wire_config: BrokerConfig) -> None:
    async with running(wire_config) as run, run.connect() as client:
        topic_id = await run.broker.create_topic("orders", partitions=2)
        await run.broker.create_topic("carts")
        host, port = run.address
        for version in range(14):
            every = metadata() if version >= 1 else MetadataRequest(topics=())
            answer = await client.call(every, version)
            assert [(b.node_id, b.host, b.port) for b in answer.brokers] == [(0, host, port)]
            assert [topic.name for topic in answer.topics] == ["carts", "orders"]
            if version >= 1:
                assert answer.controller_id == 0
                assert (await client.call(MetadataRequest(topics=()), version)).topics == []
            if version >= 2:
                assert answer.cluster_id == run.broker.cluster_id
            orders = answer.topics[1]
            assert orders.topic_id == (topic_id if version >= 10 else ZERO_TOPIC_ID)
            assert [part.partition_index for part in orders.partitions] == [0, 1]
            for part in orders.partitions:
                assert (part.error_code, part.leader_id) == (0, 0)
                assert (part.replica_nodes, part.isr_nodes) == ([0], [0])
                assert not part.offline_replicas
                assert part.leader_epoch == (0 if version >= 7 else -1)
            if version < 4:
                continue
            answer = await client.call(metadata("nowhere", "..", "x" * 250), version)
            assert codes(answer.topics) == [
                ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
                ErrorCode.INVALID_TOPIC_EXCEPTION,
                ErrorCode.INVALID_TOPIC_EXCEPTION,
            ]
            if version >= 12:
                answer = await client.call(metadata(topic_id, ZERO_TOPIC_ID), version)
                assert codes(answer.topics) == [0, ErrorCode.UNKNOWN_TOPIC_ID]
                assert answer.topics[0].name == "orders"
            elif version >= 10:
                # Ids are in the schema of these versions, but not to be used yet.
                answer = await client.call(metadata(topic_id), version)
                assert codes(answer.topics) == [ErrorCode.INVALID_REQUEST]


async def test_metadata_creates_topics_for_those_who_may(wire_config: BrokerConfig) -> None:
    async with running(wire_config.with_values(num_partitions=3)) as run:
        async with run.connect() as client:
            for version in (0, 1, 3, 4, 12):
                name = f"made-{version}"
                answer = await client.call(metadata(name, create=True), version)
                assert codes(answer.topics) == [0]
                assert codes(answer.topics[0].partitions) == [0] * 3
                assert (await client.produce(make_batch(), topic=name)).error_code == 0
            answer = await client.call(metadata("kept-out", create=False), 4)
            assert codes(answer.topics) == [ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
            answer = await client.call(metadata("__consumer_offsets", "twice", "twice"), 4)
            assert codes(answer.topics) == [ErrorCode.UNKNOWN_TOPIC_OR_PARTITION] * 2
    config = wire_config.with_values(auto_create_topics=False)
    async with running(config) as run, run.connect() as client:
        answer = await client.call(metadata("kept-out", create=True), 4)
        assert codes(answer.topics) == [ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]


async def test_clients_are_told_the_advertised_address(wire_config: BrokerConfig) -> None:
    config = wire_config.with_values(advertised="broker.example:9999")
    async with running(config) as run, run.connect() as client:
        answer = await client.call(metadata(), 9)
        assert [(b.host, b.port) for b in answer.brokers] == [("broker.example", 9999)]
        found = await client.call(FindCoordinatorRequest(key="g"), 2)
        assert (found.host, found.port) == ("broker.example", 9999)


# ------------------------------------------------------------------- CreateTopics, DeleteTopics
def topic(name: str, partitions: int = 1, replicas: int = 1, **arguments: Any) -> CreatableTopic:
    values: dict[str, Any] = {"assignments": (), "configs": ()}
    return CreatableTopic(
        name=name, num_partitions=partitions, replication_factor=replicas, **(values | arguments)
    )


def config_of(name: str, value: str | None) -> CreatableTopicConfig:
    return CreatableTopicConfig(name=name, value=value)


@pytest.mark.parametrize("version", range(2, 8))
async def test_every_version_creates_topics_that_can_be_used_at_once(
    wire_config: BrokerConfig, version: int
) -> None:
    async with running(wire_config) as run, run.connect() as client:
        wanted = [
            topic("orders", 3, configs=[config_of("retention.ms", "1000")]),
            topic("assigned", -1, -1, assignments=[
                CreatableReplicaAssignment(partition_index=index, broker_ids=[0])
                for index in range(2)
            ]),
        ]  # fmt: skip
        answer = await client.call(CreateTopicsRequest(topics=wanted), version)
        assert codes(answer.topics) == [0, 0]
        if version >= 5:
            assert [t.num_partitions for t in answer.topics] == [3, 2]
            assert [t.replication_factor for t in answer.topics] == [1, 1]
            # An array, never null: Java's Admin client fails on null.
            configs = {entry.name: entry for entry in answer.topics[0].configs}
            assert configs["retention.ms"].value == "1000"
            assert configs["retention.ms"].config_source == 1
        if version >= 7:
            assert answer.topics[0].topic_id == run.topic_id("orders")
        if version >= 4:
            answer = await client.call(CreateTopicsRequest(topics=[topic("d", -1, -1)]), version)
            assert codes(answer.topics) == [0]
        for partition in range(3):
            stored = await client.produce(make_batch(), partition=partition)
            assert (stored.error_code, stored.base_offset) == (0, 0)


async def test_topics_that_cannot_be_created_have_kafkas_code(wire_config: BrokerConfig) -> None:
    config = wire_config.with_values(limits=LimitsConfig(partitions_max=10))
    async with running(config) as run, run.connect() as client:
        await run.broker.create_topic("a.b")

        async def created(*topics: CreatableTopic, **arguments: Any) -> list[int]:
            request = CreateTopicsRequest(topics=topics, **arguments)
            answer = await client.call(request, 7)
            for result in answer.topics:
                assert result.configs is not None
                assert bool(result.error_message) == bool(result.error_code)
            return codes(answer.topics)

        bad = ErrorCode.INVALID_TOPIC_EXCEPTION
        assert await created(topic(""), topic("."), topic("ä"), topic("x" * 250)) == [bad] * 4
        assert await created(topic("a.b")) == [ErrorCode.TOPIC_ALREADY_EXISTS]
        assert await created(topic("a_b")) == [bad]
        assert await created(topic("c", 0)) == [ErrorCode.INVALID_PARTITIONS]
        assert await created(topic("c", 1, 2)) == [ErrorCode.INVALID_REPLICATION_FACTOR]
        assert await created(topic("c", 1, 0)) == [ErrorCode.INVALID_REPLICATION_FACTOR]
        unknown = [config_of("no.such", "1")]
        wrong = [config_of("retention.ms", "soon")]
        missing = [config_of("retention.ms", None)]
        for configs in (unknown, wrong, missing):
            assert await created(topic("c", configs=configs)) == [ErrorCode.INVALID_CONFIG]
        assert await created(topic("c", 11)) == [ErrorCode.POLICY_VIOLATION]
        assert await created(topic("twice"), topic("twice"), topic("once")) == [
            ErrorCode.INVALID_REQUEST,
            0,
        ]
        assert await created(topic("only-checked"), validate_only=True) == [0]
        assert set(run.state.router.by_name) == {"a.b", "once"}


@pytest.mark.parametrize("version", range(1, 7))
async def test_every_version_deletes_topics(wire_config: BrokerConfig, version: int) -> None:
    async with running(wire_config) as run, run.connect() as client:
        ids = {name: await run.broker.create_topic(name) for name in ("a", "b", "c")}
        await client.produce(make_batch(), topic="a")
        if version < 6:
            request = DeleteTopicsRequest(topic_names=["a", "nowhere"], timeout_ms=1000)
        else:
            request = DeleteTopicsRequest(
                topics=[
                    DeleteTopicState(name="a", topic_id=ZERO_TOPIC_ID),
                    DeleteTopicState(name="nowhere", topic_id=ZERO_TOPIC_ID),
                    DeleteTopicState(name=None, topic_id=ids["b"]),
                    DeleteTopicState(name=None, topic_id=UUID(int=77)),
                ],
                timeout_ms=1000,
            )
        answer = await client.call(request, version)
        unknown = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        expected = [0, unknown] + ([0, ErrorCode.UNKNOWN_TOPIC_ID] if version >= 6 else [])
        assert codes(answer.responses) == expected
        if version >= 6:
            assert [r.name for r in answer.responses] == ["a", "nowhere", "b", None]
        left = {"b", "c"} if version < 6 else {"c"}
        assert set(run.state.router.by_name) == left
        owners = {entry.owner for entry in run.host.fs.open_files()}
        assert not any(str(ids["a"]) in owner for owner in owners)


async def test_deletions_that_are_refused(wire_config: BrokerConfig) -> None:
    async with running(wire_config) as run, run.connect() as client:
        await run.broker.create_topic("a")
        await run.state.coordinator.commit(CommitOffsets(group_id="g", offsets=()))
        topic_id = run.topic_id("a")
        states = [
            DeleteTopicState(name="a", topic_id=ZERO_TOPIC_ID),
            DeleteTopicState(name=None, topic_id=topic_id),
            DeleteTopicState(name="__consumer_offsets", topic_id=ZERO_TOPIC_ID),
            DeleteTopicState(name=None, topic_id=ZERO_TOPIC_ID),
        ]
        answer = await client.call(DeleteTopicsRequest(topics=states, timeout_ms=1000), 6)
        assert [(r.name, r.error_code) for r in answer.responses] == [
            ("a", ErrorCode.INVALID_REQUEST),
            ("__consumer_offsets", ErrorCode.INVALID_TOPIC_EXCEPTION),
            (None, ErrorCode.INVALID_REQUEST),
        ]
        both = [DeleteTopicState(name="a", topic_id=topic_id)]
        answer = await client.call(DeleteTopicsRequest(topics=both, timeout_ms=1000), 6)
        assert codes(answer.responses) == [ErrorCode.INVALID_REQUEST]
        assert "a" in run.state.router.by_name


@simulated
async def test_changes_of_topics_that_take_too_long_are_answered_in_time(world: World) -> None:
    async with world.running() as run:
        await run.broker.create_topic("old")
        async with world.connect() as client, world.connect() as other:
            with slow("/data/logs", 8.0):
                began = trio.current_time()
                create = CreateTopicsRequest(topics=[topic("new")], timeout_ms=3_000)
                assert codes((await client.call(create, 5)).topics) == [ErrorCode.REQUEST_TIMED_OUT]
                delete = DeleteTopicsRequest(topic_names=["old"], timeout_ms=0)
                answer = await other.call(delete, 5)
                assert codes(answer.responses) == [ErrorCode.REQUEST_TIMED_OUT]
                assert 4 <= trio.current_time() - began < 5
            await trio.sleep(60)
            # What was begun has gone on.
            assert set(run.state.router.by_name) == {"new"}
            assert (await client.produce(make_batch(), topic="new")).error_code == 0
        await run.wait_idle()


# ------------------------------------------------------------------------------------- others
async def test_every_version_finds_the_coordinator(wire_config: BrokerConfig) -> None:
    async with running(wire_config) as run, run.connect() as client:
        host, port = run.address

        async def find(version: int, key: str, kind: int) -> tuple[int, int, str, int]:
            request = FindCoordinatorRequest(key=key, key_type=kind, coordinator_keys=[key])
            answer = await client.call(request, version)
            one = answer.coordinators[0] if version >= 4 else answer
            return one.error_code, one.node_id, one.host, one.port

        for version in range(7):
            assert await find(version, "group", 0) == (0, 0, host, port)
            assert await find(version, "", 0) == (0, 0, host, port)  # what Kafka once allowed
            if version >= 1:
                refused = ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
                assert (await find(version, "t", 1))[0] == refused
                assert (await find(version, "s", 7))[0] == ErrorCode.INVALID_REQUEST
            if version >= 4:
                keys = FindCoordinatorRequest(coordinator_keys=["a", "", "b"])
                answer = await client.call(keys, version)
                assert [(c.key, c.error_code) for c in answer.coordinators] == [
                    ("a", 0),
                    ("", 0),
                    ("b", 0),
                ]


async def test_every_version_gives_fresh_producer_ids(wire_config: BrokerConfig) -> None:
    def request(transactional_id: str | None) -> InitProducerIdRequest:
        return InitProducerIdRequest(
            transactional_id=transactional_id, transaction_timeout_ms=60_000
        )

    refused = ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    seen = set()
    for _ in range(2):
        async with running(wire_config) as run, run.connect() as client:
            for version in range(6):
                for _ in range(3):
                    answer = await client.call(request(None), version)
                    assert (answer.error_code, answer.producer_epoch) == (0, 0)
                    assert answer.producer_id not in seen
                    seen.add(answer.producer_id)
                answer = await client.call(request("t"), version)
                assert (answer.error_code, answer.producer_id) == (refused, -1)
                answer = await client.call(request(""), version)
                assert answer.error_code == ErrorCode.INVALID_REQUEST


async def test_a_store_that_cannot_be_written_is_an_answer(
    wire_config: BrokerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(wire_config) as run, run.connect() as client:

        async def commit(transaction: object) -> None:
            raise StoreUnavailable("no room")

        with monkeypatch.context() as patch:
            patch.setattr(run.state.controller._store, "commit", commit)
            request = InitProducerIdRequest(transactional_id=None, transaction_timeout_ms=1)
            answer = await client.call(request, 4)
            assert answer.error_code == ErrorCode.COORDINATOR_NOT_AVAILABLE
            answer = await client.call(CreateTopicsRequest(topics=[topic("a")]), 7)
            assert codes(answer.topics) == [ErrorCode.KAFKA_STORAGE_ERROR]
            answer = await client.call(metadata("a", create=True), 9)
            assert codes(answer.topics) == [ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]


@pytest.mark.parametrize("version", range(3))
async def test_every_version_describes_the_cluster(wire_config: BrokerConfig, version: int) -> None:
    def request(**arguments: Any) -> DescribeClusterRequest:
        values = {"include_cluster_authorized_operations": False}
        return DescribeClusterRequest(**(values | arguments))

    async with running(wire_config) as run, run.connect() as client:
        answer = await client.call(request(), version)
        assert (answer.error_code, answer.cluster_id) == (0, run.broker.cluster_id)
        assert [(b.broker_id, b.host, b.port) for b in answer.brokers] == [(0, *run.address)]
        assert answer.controller_id == 0
        allowed = await client.call(request(include_cluster_authorized_operations=True), version)
        assert answer.cluster_authorized_operations < 0 < allowed.cluster_authorized_operations
        if version >= 1:
            answer = await client.call(request(endpoint_type=2), version)
            assert answer.error_code == ErrorCode.MISMATCHED_ENDPOINT_TYPE


@pytest.mark.parametrize("version", range(1, 5))
async def test_every_version_describes_configs(wire_config: BrokerConfig, version: int) -> None:
    config = wire_config.with_values(topic=TopicConfig(retention_ms=5_000, segment_bytes=9_999))
    async with running(config) as run, run.connect() as client:
        await run.broker.create_topic("orders", configs={"retention.ms": "1000"})

        async def describe(kind: int, name: str, keys: Any = None, **arguments: Any) -> Any:
            resource = DescribeConfigsResource(
                resource_type=kind, resource_name=name, configuration_keys=keys
            )
            request = DescribeConfigsRequest(resources=[resource], **arguments)
            [result] = (await client.call(request, version)).results
            assert (result.resource_type, result.resource_name) == (kind, name)
            return result

        found = await describe(2, "orders", include_synonyms=True, include_documentation=True)
        entries = {entry.name: entry for entry in found.configs}
        assert [entry.name for entry in found.configs] == sorted(entries)
        retention = entries["retention.ms"]
        assert (retention.value, retention.config_source) == ("1000", 1)
        assert [(s.value, s.source) for s in retention.synonyms] == [
            ("1000", 1),
            ("5000", 4),
            ("604800000", 5),
        ]
        assert (entries["segment.bytes"].value, entries["segment.bytes"].config_source) == (
            "9999",
            4,
        )
        assert entries["cleanup.policy"].config_source == 5
        if version >= 3:
            assert retention.config_type == 5
            assert retention.documentation
        found = await describe(2, "orders", ["retention.ms", "no.such"])
        assert [entry.name for entry in found.configs] == ["retention.ms"]
        assert not found.configs[0].synonyms
        assert len((await describe(2, "orders", [])).configs) == len(entries)  # none: all
        broker = await describe(4, "0")
        assert {"broker.id", "log.dirs"} <= {entry.name for entry in broker.configs}
        assert all(entry.read_only for entry in broker.configs)
        for kind, name, code in (
            (2, "nowhere", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
            (2, "..", ErrorCode.INVALID_TOPIC_EXCEPTION),
            (4, "7", ErrorCode.INVALID_REQUEST),
            (4, "x", ErrorCode.INVALID_REQUEST),
            (99, "x", ErrorCode.INVALID_REQUEST),
            (4, "", 0),
        ):
            result = await describe(kind, name)
            assert (result.error_code, result.configs) == (code, [])

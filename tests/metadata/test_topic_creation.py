"""CreateTopics: each answer of Kafka's, and where the replicas go."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.metadata.strategies import DIRECTORY_A, DIRECTORY_B, new_topics, world_with_brokers
from trio_broker.config import LimitsConfig
from trio_broker.errors import ErrorCode
from trio_broker.metadata.decisions import CreationRules, NewTopic, create_topics
from trio_broker.names import OFFSETS_TOPIC_NAME, ZERO_TOPIC_ID

RULES = CreationRules(partitions_default=3)


def create(world, *requests, rules=RULES, validate_only=False):
    decision = create_topics(
        world.image,
        requests,
        rules=rules,
        new_topic_id=world.new_topic_id,
        validate_only=validate_only,
    )
    world.commit_steps(decision.steps)
    return decision


def code_of(world, request, **keywords) -> ErrorCode:
    (result,) = create(world, request, **keywords).results
    assert (result.message is None) == (result.code is ErrorCode.NONE)
    return result.code


def test_a_topic_with_defaults():
    world = world_with_brokers()
    (result,) = create(world, NewTopic(name="orders")).results
    topic = world.image.topics_by_name["orders"]
    assert (result.topic_id, result.partitions, result.replication_factor) == (
        topic.topic_id,
        3,
        1,
    )
    assert result.config == world.image.defaults
    assert len(topic.partitions) == 3
    first = topic.partitions[0]
    assert (first.leader, first.leader_epoch, first.isr_ids, first.replica_ids) == (
        0,
        0,
        (0,),
        (0,),
    )
    assert first.isr[0].broker_epoch == world.image.brokers[0].epoch


def test_nothing_expires_of_the_broker_s_own_topics_whoever_creates_them():
    world = world_with_brokers()
    for configs in ([("retention.ms", "60000")], [("retention.bytes", "0")]):
        refused = NewTopic(name=OFFSETS_TOPIC_NAME, configs=configs)
        assert code_of(world, refused) is ErrorCode.INVALID_CONFIG
    wanted = [("retention.ms", "-1"), ("segment.bytes", "2048")]
    assert code_of(world, NewTopic(name=OFFSETS_TOPIC_NAME, configs=wanted)) is ErrorCode.NONE
    assert dict(world.image.topics_by_name[OFFSETS_TOPIC_NAME].configs) == {
        "retention.ms": "-1",
        "retention.bytes": "-1",
        "segment.bytes": "2048",
    }


def test_explicit_configs_are_kept_apart_from_defaults():
    world = world_with_brokers()
    configs = [("retention.ms", "1000"), ("min.insync.replicas", "2")]
    (result,) = create(world, NewTopic(name="orders", configs=configs)).results
    topic = world.image.topics_by_name["orders"]
    assert topic.configs == result.configs == dict(configs)
    assert topic.config.retention_ms == 1000
    assert topic.partitions[0].min_isr == 2


@pytest.mark.parametrize(
    "request_, code",
    [
        (NewTopic(name=""), ErrorCode.INVALID_TOPIC_EXCEPTION),
        (NewTopic(name=".."), ErrorCode.INVALID_TOPIC_EXCEPTION),
        (NewTopic(name="../x"), ErrorCode.INVALID_TOPIC_EXCEPTION),
        (NewTopic(name="x" * 250), ErrorCode.INVALID_TOPIC_EXCEPTION),
        (NewTopic(name="new\n"), ErrorCode.INVALID_TOPIC_EXCEPTION),
        (NewTopic(name="__cluster_metadata"), ErrorCode.INVALID_REQUEST),
        (NewTopic(name="a.b"), ErrorCode.TOPIC_ALREADY_EXISTS),
        (NewTopic(name="a_b"), ErrorCode.INVALID_TOPIC_EXCEPTION),
        (NewTopic(name="new", partitions=0), ErrorCode.INVALID_PARTITIONS),
        (NewTopic(name="new", partitions=-2), ErrorCode.INVALID_PARTITIONS),
        (NewTopic(name="new", partitions=11), ErrorCode.INVALID_PARTITIONS),
        (NewTopic(name="new", partitions=8), ErrorCode.POLICY_VIOLATION),
        (NewTopic(name="new", replication_factor=0), ErrorCode.INVALID_REPLICATION_FACTOR),
        (NewTopic(name="new", replication_factor=-2), ErrorCode.INVALID_REPLICATION_FACTOR),
        (NewTopic(name="new", replication_factor=2), ErrorCode.INVALID_REPLICATION_FACTOR),
        (NewTopic(name="new", configs=[("retention.ms", None)]), ErrorCode.INVALID_CONFIG),
        (NewTopic(name="new", configs=[("retention.ms", "x")]), ErrorCode.INVALID_CONFIG),
        (NewTopic(name="new", configs=[("retention.ms", "-2")]), ErrorCode.INVALID_CONFIG),
        (NewTopic(name="new", configs=[("nonsense", "1")]), ErrorCode.INVALID_CONFIG),
        (NewTopic(name="new", partitions=1, assignments=[(0, [0])]), ErrorCode.INVALID_REQUEST),
        (
            NewTopic(name="new", replication_factor=1, assignments=[(0, [0])]),
            ErrorCode.INVALID_REQUEST,
        ),
        (NewTopic(name="new", assignments=[(1, [0])]), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        (NewTopic(name="new", assignments=[(-1, [0])]), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        (
            NewTopic(name="new", assignments=[(0, [0]), (0, [0])]),
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
        ),
        (NewTopic(name="new", assignments=[(0, [])]), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        (NewTopic(name="new", assignments=[(0, [0, 0])]), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        (NewTopic(name="new", assignments=[(0, [7])]), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        (NewTopic(name="new", partitions=7), ErrorCode.NONE),
        (NewTopic(name="x" * 249), ErrorCode.NONE),
    ],
)
def test_each_refusal_has_kafkas_code_and_changes_nothing(request_, code):
    world = world_with_brokers()
    rules = CreationRules(
        partitions_default=3,
        limits=LimitsConfig(partitions_per_topic_max=10, partitions_max=10),
    )
    assert code_of(world, NewTopic(name="a.b"), rules=rules) is ErrorCode.NONE
    revision = world.image.revision
    assert code_of(world, request_, rules=rules) is code
    assert (world.image.revision > revision) == (code is ErrorCode.NONE)


def test_a_name_given_twice_is_refused_once_and_others_are_created():
    world = world_with_brokers()
    decision = create(
        world, NewTopic(name="twice"), NewTopic(name="orders"), NewTopic(name="twice")
    )
    assert [(result.name, result.code) for result in decision.results] == [
        ("twice", ErrorCode.INVALID_REQUEST),
        ("orders", ErrorCode.NONE),
    ]
    assert list(world.image.topics_by_name) == ["orders"]


def test_names_that_collide_within_one_request():
    world = world_with_brokers()
    results = create(world, NewTopic(name="a.b"), NewTopic(name="a_b")).results
    assert [result.code for result in results] == [
        ErrorCode.NONE,
        ErrorCode.INVALID_TOPIC_EXCEPTION,
    ]


def test_limits_count_what_the_same_request_already_took():
    world = world_with_brokers()
    rules = CreationRules(limits=LimitsConfig(partitions_max=5))
    results = create(
        world, *(NewTopic(name=f"t{i}", partitions=2) for i in range(3)), rules=rules
    ).results
    assert [result.code for result in results] == [
        ErrorCode.NONE,
        ErrorCode.NONE,
        ErrorCode.POLICY_VIOLATION,
    ]
    assert world.image.partition_count == 4


def test_a_validation_decides_the_same_and_commits_nothing():
    world = world_with_brokers()
    decision = create(world, NewTopic(name="orders"), NewTopic(name="bad/name"), validate_only=True)
    assert not decision.steps
    good, bad = decision.results
    assert (good.code, good.partitions, good.topic_id) == (0, 3, ZERO_TOPIC_ID)
    assert bad.code is ErrorCode.INVALID_TOPIC_EXCEPTION
    assert not world.image.topics_by_name


def test_manual_assignments_are_followed():
    world = world_with_brokers(3)
    request = NewTopic(name="orders", assignments=[(1, [2, 0]), (0, [1, 2])])
    assert code_of(world, request) is ErrorCode.NONE
    partitions = world.image.topics_by_name["orders"].partitions
    assert [state.replica_ids for state in partitions] == [(1, 2), (2, 0)]
    assert [state.leader for state in partitions] == [1, 2]
    uneven = NewTopic(name="uneven", assignments=[(0, [0]), (1, [0, 1])])
    assert code_of(world, uneven) is ErrorCode.INVALID_REPLICA_ASSIGNMENT


def test_log_dirs_that_take_nothing_are_avoided():
    world = world_with_brokers()
    rules = CreationRules(excluded_directories={DIRECTORY_A})
    create(world, NewTopic(name="orders", partitions=4), rules=rules)
    partitions = world.image.topics_by_name["orders"].partitions
    assert {state.replicas[0].directory_id for state in partitions} == {DIRECTORY_B}
    nowhere = CreationRules(excluded_directories={DIRECTORY_A, DIRECTORY_B})
    assert code_of(world, NewTopic(name="x"), rules=nowhere) is ErrorCode.KAFKA_STORAGE_ERROR
    by_hand = NewTopic(name="x", assignments=[(0, [0])])
    assert code_of(world, by_hand, rules=nowhere) is ErrorCode.KAFKA_STORAGE_ERROR
    assert "x" not in world.image.topics_by_name


@given(st.integers(1, 4), st.lists(st.tuples(st.integers(1, 9), st.integers(1, 3)), max_size=6))
def test_replicas_are_spread_evenly(shard_count, topics):
    world = world_with_brokers(3, shard_count)
    for index, (partitions, factor) in enumerate(topics):
        request = NewTopic(name=f"t{index}", partitions=partitions, replication_factor=factor)
        assert code_of(world, request) is ErrorCode.NONE
    by_directory: Counter[object] = Counter()
    for key, count in world.image.replica_counts.items():
        by_directory[key.broker_id, key.directory_id] += count
    for broker in world.image.brokers.values():
        counts = [by_directory[broker.broker_id, d.directory_id] for d in broker.directories]
        assert max(counts) - min(counts) <= 1
        for directory in broker.directories:
            shards = [
                world.image.replica_counts.get((broker.broker_id, directory.directory_id, index), 0)
                for index in range(shard_count)
            ]
            assert max(shards) - min(shards) <= 1


@given(st.lists(new_topics, max_size=6), st.lists(new_topics, max_size=6))
def test_each_name_gets_one_answer_that_comes_true(first, second):
    world = world_with_brokers(2)
    create(world, *first)
    existing = set(world.image.topics_by_name)
    results = create(world, *second).results
    assert [result.name for result in results] == list({topic.name: 0 for topic in second})
    created = {result.name for result in results if result.code is ErrorCode.NONE}
    assert set(world.image.topics_by_name) == existing | created
    assert not existing & created
    for result in results:
        if result.name in created:
            topic = world.image.topics_by_name[result.name]
            assert topic.topic_id == result.topic_id
            assert len(topic.partitions) == result.partitions
            assert topic.config == result.config


def test_large_requests_become_several_steps_that_never_split_a_topic():
    world = world_with_brokers()
    requests = [NewTopic(name=f"t{index}", partitions=400) for index in range(5)]
    decision = create(world, *requests)
    assert [step.result_indexes for step in decision.steps] == [(0, 1), (2, 3), (4,)]
    assert world.image.partition_count == 2000

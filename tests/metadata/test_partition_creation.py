"""CreatePartitions: what is refused, where new ones go, and that old ones stay as they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.metadata.strategies import DIRECTORY_A, world_with_brokers
from trio_broker.config import LimitsConfig
from trio_broker.errors import ErrorCode
from trio_broker.metadata.decisions import (
    CreationRules,
    MorePartitions,
    NewTopic,
    create_partitions,
    create_topics,
)
from trio_broker.names import OFFSETS_TOPIC_NAME, ZERO_TOPIC_ID


def make_world(brokers=1, **topics):
    world = world_with_brokers(brokers)
    wanted = topics or {"orders": 2, OFFSETS_TOPIC_NAME: 1}
    decision = create_topics(
        world.image,
        [
            NewTopic(name=name, partitions=count, configs=[("min.insync.replicas", "2")])
            for name, count in wanted.items()
        ],
        rules=CreationRules(),
        new_topic_id=world.new_topic_id,
    )
    assert not any(result.code for result in decision.results)
    world.commit_steps(decision.steps)
    return world


def add(world, *requests, rules=None, validate_only=False):
    decision = create_partitions(
        world.image, requests, rules=rules or CreationRules(), validate_only=validate_only
    )
    world.commit_steps(decision.steps)
    return decision.results


def test_new_partitions_come_behind_the_old_ones():
    world = make_world()
    before = world.image.topics_by_name["orders"]
    (result,) = add(world, MorePartitions(name="orders", count=5))
    after = world.image.topics_by_name["orders"]
    assert (result.code, result.message, result.topic_id) == (0, None, before.topic_id)
    assert after.partitions[:2] == before.partitions
    assert [state.partition for state in after.partitions] == [0, 1, 2, 3, 4]
    assert {state.min_isr for state in after.partitions} == {2}
    assert after.configs == before.configs
    assert world.image.partition_count == 6
    assert sum(world.image.replica_counts.values()) == 6
    assert max(world.image.replica_counts.values()) == 2  # four shards in two log dirs
    assert world.image == world.rebuilt_image()


def test_chosen_brokers():
    world = make_world(brokers=3)
    (result,) = add(world, MorePartitions(name="orders", count=4, assignments=[[2], [1]]))
    assert result.code is ErrorCode.NONE
    states = world.image.topics_by_name["orders"].partitions[2:]
    assert [state.replica_ids for state in states] == [(2,), (1,)]
    assert [state.leader for state in states] == [2, 1]


@pytest.mark.parametrize(
    "request_, code, text",
    [
        (MorePartitions(name="nope", count=3), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "not host"),
        (MorePartitions(name="", count=3), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "not host"),
        (
            MorePartitions(name="orders", count=2),
            ErrorCode.INVALID_PARTITIONS,
            "Topic already has 2 partition(s).",
        ),
        (MorePartitions(name="orders", count=1), ErrorCode.INVALID_PARTITIONS, "not be an incr"),
        (MorePartitions(name="orders", count=-1), ErrorCode.INVALID_PARTITIONS, "not be an incr"),
        (MorePartitions(name="orders", count=2**31 - 1), ErrorCode.INVALID_PARTITIONS, "at most"),
        (
            MorePartitions(name=OFFSETS_TOPIC_NAME, count=9),
            ErrorCode.INVALID_TOPIC_EXCEPTION,
            "belongs to the broker itself",
        ),
        (
            MorePartitions(name="orders", count=4, assignments=[[0]]),
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            "but only 1 assignment(s)",
        ),
        (
            MorePartitions(name="orders", count=3, assignments=[]),
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            "but only 0 assignment(s)",
        ),
        (
            MorePartitions(name="orders", count=3, assignments=[[9]]),
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            "broker 9",
        ),
        (
            MorePartitions(name="orders", count=3, assignments=[[]]),
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            "names no broker",
        ),
        (
            MorePartitions(name="orders", count=3, assignments=[[0, 0]]),
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            "one of them twice",
        ),
        (
            MorePartitions(name="orders", count=3, assignments=[[0, 1]]),
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            "has 2 replica(s)",
        ),
    ],
)
def test_refusals(request_, code, text):
    world = make_world(brokers=2)
    revision = world.image.revision
    (result,) = add(world, request_)
    assert (result.name, result.code, result.topic_id) == (request_.name, code, ZERO_TOPIC_ID)
    assert text in result.message
    assert world.image.revision == revision


def test_limits_count_what_the_request_already_took():
    world = make_world(a=2, b=2)
    rules = CreationRules(limits=LimitsConfig(partitions_max=7, partitions_per_topic_max=6))
    results = add(
        world,
        MorePartitions(name="a", count=4),
        MorePartitions(name="b", count=4),
        rules=rules,
    )
    assert [result.code for result in results] == [0, ErrorCode.POLICY_VIOLATION]
    assert world.image.partition_count == 6


def test_no_log_dir_takes_replicas():
    world = make_world()
    everything = {directory.directory_id for directory in world.image.brokers[0].directories}
    rules = CreationRules(excluded_directories=everything)
    (result,) = add(world, MorePartitions(name="orders", count=3), rules=rules)
    assert result.code is ErrorCode.KAFKA_STORAGE_ERROR
    rules = CreationRules(excluded_directories=everything - {DIRECTORY_A})
    (result,) = add(world, MorePartitions(name="orders", count=4), rules=rules)
    assert result.code is ErrorCode.NONE
    states = world.image.topics_by_name["orders"].partitions[2:]
    assert {state.replicas[0].directory_id for state in states} == {DIRECTORY_A}


def test_a_name_given_twice_is_refused_once_and_a_validation_changes_nothing():
    world = make_world(a=1, b=1)
    revision = world.image.revision
    results = add(
        world,
        MorePartitions(name="a", count=2),
        MorePartitions(name="b", count=2),
        MorePartitions(name="a", count=3),
        validate_only=True,
    )
    assert [(r.name, r.code) for r in results] == [("a", ErrorCode.INVALID_REQUEST), ("b", 0)]
    assert world.image.revision == revision


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(-1, 9)), max_size=6))
def test_partitions_only_ever_get_more(requests):
    world = make_world(brokers=2, a=1, b=3)
    for name, count in requests:
        before = world.image.topics_by_name
        (result,) = add(world, MorePartitions(name=name, count=count))
        after = world.image.topics_by_name
        if result.code:
            assert after == before
        else:
            assert len(after[name].partitions) == count > len(before[name].partitions)
            assert after[name].partitions[: len(before[name].partitions)] == before[name].partitions
    assert world.image == world.rebuilt_image()
    assert sum(world.image.replica_counts.values()) == world.image.partition_count

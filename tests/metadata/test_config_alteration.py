"""Altering topic configs: the four operations, replacing, refusals, and what follows from them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.metadata.strategies import DEFAULTS, world_with_brokers
from trio_broker.config_catalog import parse_topic_configs
from trio_broker.errors import ErrorCode
from trio_broker.metadata.decisions import (
    AlterOperation,
    ConfigChange,
    CreationRules,
    NewTopic,
    TopicAlteration,
    alter_topics,
    create_topics,
)
from trio_broker.names import OFFSETS_TOPIC_NAME, ZERO_TOPIC_ID

SET, DELETE, APPEND, SUBTRACT = AlterOperation
THROTTLED = "leader.replication.throttled.replicas"


def make_world(**configs):
    world = world_with_brokers()
    decision = create_topics(
        world.image,
        [
            NewTopic(name=name, partitions=2, configs=[*configs.items()])
            for name in ("orders", "carts", OFFSETS_TOPIC_NAME)
        ],
        rules=CreationRules(),
        new_topic_id=world.new_topic_id,
    )
    world.commit_steps(decision.steps)
    return world


def alter(world, *changes, name="orders", replaces_all=False, validate_only=False):
    """Alter one topic; return its result."""
    alteration = TopicAlteration(
        name=name,
        changes=[ConfigChange(*change) for change in changes],
        replaces_all=replaces_all,
    )
    decision = alter_topics(world.image, [alteration], validate_only=validate_only)
    world.commit_steps(decision.steps)
    (result,) = decision.results
    return result


def configs_of(world, name="orders"):
    return world.image.topics_by_name[name].configs


def test_set_and_delete():
    world = make_world()
    result = alter(world, ("retention.ms", SET, "5"), ("segment.ms", SET, "7"))
    topic = world.image.topics_by_name["orders"]
    assert (result.code, result.topic_id) == (ErrorCode.NONE, topic.topic_id)
    assert topic.configs == {"retention.ms": "5", "segment.ms": "7"}
    assert (topic.config.retention_ms, topic.config.segment_ms) == (5, 7)
    assert alter(world, ("retention.ms", DELETE, None), ("no.such", DELETE, None)).code == 0
    topic = world.image.topics_by_name["orders"]
    assert topic.configs == {"segment.ms": "7"}
    assert topic.config.retention_ms == DEFAULTS.retention_ms
    assert configs_of(world, "carts") == {}
    assert world.image == world.rebuilt_image()


def test_append_and_subtract():
    world = make_world()
    assert alter(world, (THROTTLED, APPEND, "0:0, 1:0")).code == 0
    assert alter(world, (THROTTLED, APPEND, "1:0,1:1")).code == 0
    assert configs_of(world) == {THROTTLED: "0:0,1:0,1:1"}
    assert alter(world, (THROTTLED, SUBTRACT, "0:0,9:9")).code == 0
    assert configs_of(world) == {THROTTLED: "1:0,1:1"}
    assert alter(world, ("cleanup.policy", APPEND, "delete")).code == 0
    result = alter(world, ("cleanup.policy", APPEND, "compact"))
    assert (result.code, "not supported" in result.message) == (ErrorCode.INVALID_CONFIG, True)
    assert alter(world, ("cleanup.policy", SUBTRACT, "delete")).code == ErrorCode.INVALID_CONFIG


def test_replacing_returns_the_rest_to_defaults():
    world = make_world(**{"retention.ms": "5", "segment.ms": "7"})
    assert alter(world, ("segment.ms", SET, "8"), replaces_all=True).code == 0
    assert configs_of(world) == {"segment.ms": "8"}
    assert alter(world, replaces_all=True).code == 0
    assert configs_of(world) == {}


def test_what_changes_nothing_is_not_committed():
    world = make_world(**{"retention.ms": "5"})
    revision = world.image.revision
    assert alter(world, ("retention.ms", SET, "5")).code == 0
    assert alter(world, ("segment.ms", DELETE, None)).code == 0
    assert alter(world).code == 0
    assert alter(world, ("retention.ms", SET, "6"), validate_only=True).code == 0
    assert world.image.revision == revision


def test_partitions_learn_how_many_replicas_must_be_in_sync():
    world = make_world()
    before = world.image.topics_by_name["orders"].partitions
    assert alter(world, ("min.insync.replicas", SET, "2")).code == 0
    states = world.image.topics_by_name["orders"].partitions
    assert [state.min_isr for state in states] == [2, 2]
    assert [state.partition_epoch for state in states] == [1, 1]
    assert [state.leader_epoch for state in states] == [0, 0]
    assert alter(world, ("retention.ms", SET, "6")).code == 0
    assert world.image.topics_by_name["orders"].partitions == states
    assert before[0].replicas == states[0].replicas


@pytest.mark.parametrize(
    "name, changes, code, text",
    [
        ("nope", [], ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "does not exist"),
        ("", [], ErrorCode.INVALID_REQUEST, "Default topic resources"),
        ("a/b", [], ErrorCode.INVALID_TOPIC_EXCEPTION, "invalid"),
        ("orders", [("no.such", SET, "1")], ErrorCode.INVALID_CONFIG, "unknown topic config"),
        ("orders", [("no.such", APPEND, "1")], ErrorCode.INVALID_CONFIG, "unknown topic config"),
        ("orders", [("retention.ms", SET, "x")], ErrorCode.INVALID_CONFIG, "invalid value 'x'"),
        ("orders", [("retention.ms", SET, "-2")], ErrorCode.INVALID_CONFIG, "at least -1"),
        ("orders", [("flush.ms", SET, "1")], ErrorCode.INVALID_CONFIG, "'durability'"),
        ("orders", [("retention.ms", APPEND, "1")], ErrorCode.INVALID_CONFIG, "Can't APPEND"),
        ("orders", [("preallocate", SUBTRACT, "1")], ErrorCode.INVALID_CONFIG, "Can't SUBTRACT"),
        ("orders", [("retention.ms", SET, None)], ErrorCode.INVALID_REQUEST, "Null value"),
        ("orders", [(THROTTLED, APPEND, None)], ErrorCode.INVALID_REQUEST, "Null value"),
        ("orders", [("retention.ms", 4, "1")], ErrorCode.INVALID_REQUEST, "Unknown operations"),
        ("orders", [("retention.ms", -1, "1")], ErrorCode.INVALID_REQUEST, "Unknown operations"),
        (
            "orders",
            [("retention.ms", SET, "1"), ("retention.ms", DELETE, None)],
            ErrorCode.INVALID_REQUEST,
            "duplicate config keys",
        ),
        (
            OFFSETS_TOPIC_NAME,
            [("retention.ms", SET, "1"), ("segment.bytes", SET, "2048")],
            ErrorCode.INVALID_CONFIG,
            "needs its retention.ms as it is",
        ),
    ],
)
def test_refusals(name, changes, code, text):
    world = make_world()
    revision = world.image.revision
    result = alter(world, *changes, name=name)
    assert (result.name, result.code, result.topic_id) == (name, code, ZERO_TOPIC_ID)
    assert text in result.message
    assert world.image.revision == revision


def test_a_broker_s_own_topic_keeps_what_it_needs():
    world = make_world(**{"retention.ms": "-1", "segment.bytes": "4096"})
    for changes, replaces_all in ((("retention.ms", DELETE, None),), False), ((), True):
        result = alter(world, *changes, name=OFFSETS_TOPIC_NAME, replaces_all=replaces_all)
        assert result.code is ErrorCode.INVALID_CONFIG
    changes = ("segment.bytes", SET, "2048"), ("retention.ms", SET, "-1")
    assert alter(world, *changes, name=OFFSETS_TOPIC_NAME).code == 0
    assert configs_of(world, OFFSETS_TOPIC_NAME)["segment.bytes"] == "2048"


def test_one_faulty_change_refuses_all_of_its_topic_and_a_topic_twice_is_refused_twice():
    world = make_world()
    good, bad = ConfigChange("retention.ms", SET, "5"), ConfigChange("no.such", SET, "1")
    decision = alter_topics(
        world.image,
        [
            TopicAlteration(name="orders", changes=[good, bad]),
            TopicAlteration(name="carts", changes=[good]),
            TopicAlteration(name="nope", changes=[good]),
            TopicAlteration(name="nope", changes=[good]),
        ],
    )
    world.commit_steps(decision.steps)
    assert [result.code for result in decision.results] == [
        ErrorCode.INVALID_CONFIG,
        ErrorCode.NONE,
        ErrorCode.INVALID_REQUEST,
        ErrorCode.INVALID_REQUEST,
    ]
    assert (configs_of(world), configs_of(world, "carts")) == ({}, {"retention.ms": "5"})


def test_long_names_make_no_long_messages():
    world = make_world()
    result = alter(world, *[("x" * 30_000 + str(number), SET, None) for number in range(20)])
    assert (result.code, len(result.message)) == (ErrorCode.INVALID_REQUEST, 1000)


changes = st.builds(
    ConfigChange,
    st.sampled_from(["retention.ms", "segment.bytes", "cleanup.policy", THROTTLED, "preallocate"]),
    st.integers(-1, 4),
    st.sampled_from(["1", "100000", "delete", "0:0", "1:1,0:0", "false", "true", "", None]),
)


@given(st.lists(st.tuples(st.lists(changes, max_size=3), st.booleans()), max_size=5))
def test_what_is_stored_is_always_legal_and_refusals_change_nothing(alterations):
    world = make_world()
    for wanted, replaces_all in alterations:
        before = dict(configs_of(world))
        alteration = TopicAlteration(name="orders", changes=wanted, replaces_all=replaces_all)
        decision = alter_topics(world.image, [alteration])
        world.commit_steps(decision.steps)
        topic = world.image.topics_by_name["orders"]
        if decision.results[0].code:
            assert topic.configs == before
        elif replaces_all:
            assert topic.configs.keys() <= {change.name for change in wanted}
        assert topic.config == parse_topic_configs(topic.configs, DEFAULTS)
    assert world.image == world.rebuilt_image()


def test_lists_grow_to_a_bound_only():
    """What is longer could not be told by DescribeConfigs, whatever else was asked for."""
    world = make_world()
    parts = [",".join(f"{topic}:{number}" for number in range(3_500)) for topic in (1, 2)]
    assert alter(world, (THROTTLED, APPEND, parts[0])).code is ErrorCode.NONE
    assert alter(world, (THROTTLED, APPEND, parts[1])).code is ErrorCode.INVALID_CONFIG
    assert configs_of(world) == {THROTTLED: parts[0]}

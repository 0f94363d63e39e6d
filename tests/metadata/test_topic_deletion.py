"""DeleteTopics: by name, by id, and what is remembered until the files are gone."""

from __future__ import annotations

from uuid import UUID

import pytest

from tests.metadata.strategies import world_with_brokers
from trio_broker.errors import ErrorCode
from trio_broker.metadata.decisions import (
    CreationRules,
    NewTopic,
    TopicReference,
    create_topics,
    delete_topics,
    forget_deletions,
)
from trio_broker.names import OFFSETS_TOPIC_NAME, ZERO_TOPIC_ID


@pytest.fixture
def world():
    world = world_with_brokers()
    names = ["orders", "carts", OFFSETS_TOPIC_NAME]
    decision = create_topics(
        world.image,
        [NewTopic(name=name, partitions=2) for name in names],
        rules=CreationRules(),
        new_topic_id=world.new_topic_id,
    )
    world.commit_steps(decision.steps)
    return world


def delete(world, *references):
    decision = delete_topics(world.image, references)
    world.commit_steps(decision.steps)
    return decision.results


def test_by_name_and_by_id(world):
    orders = world.image.topics_by_name["orders"]
    carts = world.image.topics_by_name["carts"]
    results = delete(world, TopicReference(name="orders"), TopicReference(topic_id=carts.topic_id))
    assert [(r.name, r.topic_id, r.code) for r in results] == [
        ("orders", orders.topic_id, ErrorCode.NONE),
        ("carts", carts.topic_id, ErrorCode.NONE),
    ]
    assert results[0].partitions == orders.partitions
    assert list(world.image.topics_by_name) == [OFFSETS_TOPIC_NAME]
    assert world.image.replica_counts.keys() == {
        (r.broker_id, r.directory_id, r.shard_index)
        for state in world.image.topics_by_name[OFFSETS_TOPIC_NAME].partitions
        for r in state.replicas
    }


def test_a_deletion_is_remembered_until_it_is_forgotten(world):
    orders = world.image.topics_by_name["orders"]
    delete(world, TopicReference(name="orders"))
    pending = world.image.deletions[orders.topic_id]
    assert pending.name == "orders"
    assert pending.partitions == tuple(state.replicas for state in orders.partitions)
    world.commit(forget_deletions(world.image, [orders.topic_id, UUID(int=1)]))
    assert not world.image.deletions
    assert forget_deletions(world.image, [orders.topic_id]).operations == ()


def test_a_name_can_be_used_again_at_once(world):
    old = world.image.topics_by_name["orders"].topic_id
    delete(world, TopicReference(name="orders"))
    decision = create_topics(
        world.image,
        [NewTopic(name="orders")],
        rules=CreationRules(),
        new_topic_id=world.new_topic_id,
    )
    world.commit_steps(decision.steps)
    assert world.image.topics_by_name["orders"].topic_id != old
    assert old in world.image.deletions


def test_refusals(world):
    revision = world.image.revision
    orders = world.image.topics_by_name["orders"].topic_id
    cases = [
        (TopicReference(name="nope"), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        (TopicReference(name=""), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        (TopicReference(topic_id=UUID(int=1)), ErrorCode.UNKNOWN_TOPIC_ID),
        (TopicReference(), ErrorCode.INVALID_REQUEST),
        (TopicReference(name="orders", topic_id=orders), ErrorCode.INVALID_REQUEST),
        (TopicReference(name=OFFSETS_TOPIC_NAME), ErrorCode.INVALID_TOPIC_EXCEPTION),
    ]
    for reference, code in cases:
        (result,) = delete(world, reference)
        assert result.code is code, reference
        assert result.message
        assert result.partitions == ()
    (unknown,) = delete(world, TopicReference(name="nope"))
    assert (unknown.name, unknown.topic_id) == ("nope", ZERO_TOPIC_ID)
    assert world.image.revision == revision


def test_naming_a_topic_twice_in_any_way_refuses_it_once(world):
    orders = world.image.topics_by_name["orders"].topic_id
    results = delete(
        world,
        TopicReference(name="orders"),
        TopicReference(topic_id=orders),
        TopicReference(name="carts"),
        TopicReference(name="nope"),
        TopicReference(name="nope"),
    )
    assert [(r.name, r.code) for r in results] == [
        ("orders", ErrorCode.INVALID_REQUEST),
        ("carts", ErrorCode.NONE),
        ("nope", ErrorCode.INVALID_REQUEST),
    ]
    assert "orders" in world.image.topics_by_name

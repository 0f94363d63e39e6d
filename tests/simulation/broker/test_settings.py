"""What the shadow model knows of a topic's configuration: no more than its operator can know."""

from __future__ import annotations

from uuid import UUID

import pytest

from trio_broker.config import Durability, TopicConfig
from trio_broker.testing.model import Model, TopicModel, Violation
from trio_broker.testing.topic_settings import TopicSettings

NAME = "max_message_bytes"


def settings() -> TopicSettings:
    return TopicSettings({NAME: 1000})


def test_what_was_acknowledged_is_all_there_can_be() -> None:
    known = settings()
    known.attempt({NAME: 300})
    assert known.now(NAME) == [1000, 300]
    known.acknowledge({NAME: 300})
    assert known.now(NAME) == [300]
    assert not known.contradiction({NAME: 300})
    assert "is 1000" in known.contradiction({NAME: 1000})


def test_what_had_no_answer_may_come_true_until_a_restart() -> None:
    known = settings()
    known.attempt({NAME: 300})  # never answered
    known.attempt({NAME: 800})
    known.acknowledge({NAME: 800})
    assert sorted(known.now(NAME)) == [300, 800]
    known.started({NAME: 800}, all_seen=True)
    assert known.now(NAME) == known.lately(NAME) == [800]


def test_a_batch_is_judged_by_all_that_was_in_effect_while_it_was_under_way() -> None:
    known = settings()
    mark = known.mark(NAME)
    for value in (300, 800):
        known.attempt({NAME: value})
        known.acknowledge({NAME: value})
    assert set(known.since(NAME, mark)) == {1000, 300, 800}
    assert set(known.since(NAME, known.mark(NAME))) == {800}


def test_until_every_log_was_looked_at_what_was_in_effect_before_counts() -> None:
    known = settings()
    known.attempt({NAME: 300})
    known.acknowledge({NAME: 300})
    known.started({NAME: 300}, all_seen=False)
    assert known.lately(NAME) == [1000, 300]


def topic(model: Model, durability: Durability) -> TopicModel:
    model.creating.add("orders")
    found = model.topic_found("orders", UUID(int=1), TopicConfig(), durability, 2, 0.0)
    found.grow(2)
    return found


def test_a_weaker_promise_counts_when_it_is_asked_for_and_takes_nothing_back() -> None:
    found = topic(Model(), Durability.FSYNC)
    [partition, _] = found.partitions
    partition.learn(0, b"a", 0.0, "acknowledged")
    found.alter({"durability": Durability.OS})
    partition.learn(1, b"b", 0.0, "acknowledged")
    partition.power_lost(0.0)
    assert partition.lossy_from == 1


@pytest.mark.parametrize("flushed", [True, False])
def test_a_stronger_promise_counts_when_it_is_acknowledged(flushed: bool) -> None:
    found = topic(Model(), Durability.OS)
    [partition, _] = found.partitions
    partition.learn(0, b"a", 0.0, "acknowledged")
    found.alter({"durability": Durability.FSYNC})
    assert found.durability is Durability.OS
    found.altered({"durability": Durability.FSYNC}, flushed=flushed)
    assert found.durability is (Durability.FSYNC if flushed else Durability.OS)
    assert partition.secure_end == (1 if flushed else 0)
    assert not found.was_always_durable


def test_partitions_and_configuration_are_there_for_good() -> None:
    model = Model()
    found = topic(model, Durability.FSYNC)
    with pytest.raises(Violation, match="1 of 2 partitions"):
        model.topic_found("orders", found.topic_id, TopicConfig(), Durability.FSYNC, 1, 0.0)
    other = TopicConfig(segment_bytes=1024)
    with pytest.raises(Violation, match="segment_bytes is 1024, possible are"):
        model.topic_found("orders", found.topic_id, other, Durability.FSYNC, 2, 0.0)

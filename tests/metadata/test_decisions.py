"""Producer ids, and what a starting broker changes."""

from __future__ import annotations

from tests.metadata.strategies import BROKER, DIRECTORY_A, DIRECTORY_B, world_with_brokers
from trio_broker.metadata.decisions import (
    PRODUCER_ID_BLOCK_SIZE,
    CreationRules,
    NewTopic,
    StartedDirectory,
    advertise_endpoints,
    allocate_producer_ids,
    create_topics,
    start_broker,
)
from trio_broker.metadata.records import EndpointRecord
from trio_broker.names import BrokerId


def started(clean_a=True, clean_b=True, shard_count=2):
    return [
        StartedDirectory(directory_id=DIRECTORY_A, shard_count=shard_count, clean=clean_a),
        StartedDirectory(directory_id=DIRECTORY_B, shard_count=shard_count, clean=clean_b),
    ]


def world_with_topic(partitions=6, brokers=1, factor=1):
    world = world_with_brokers(brokers)
    request = NewTopic(name="orders", partitions=partitions, replication_factor=factor)
    decision = create_topics(
        world.image, [request], rules=CreationRules(), new_topic_id=world.new_topic_id
    )
    world.commit_steps(decision.steps)
    return world


def partitions_of(world):
    return world.image.topics_by_name["orders"].partitions


def test_producer_id_blocks_never_overlap():
    world = world_with_brokers()
    blocks = []
    for _ in range(3):
        transaction, block = allocate_producer_ids(world.image)
        world.commit(transaction)
        blocks.append(block)
    assert [block.first for block in blocks] == [
        0,
        PRODUCER_ID_BLOCK_SIZE,
        2 * PRODUCER_ID_BLOCK_SIZE,
    ]


def test_two_who_decide_on_one_image_cannot_both_get_the_block():
    world = world_with_brokers()
    first, _ = allocate_producer_ids(world.image)
    second, _ = allocate_producer_ids(world.image)
    world.commit(first)
    assert world.table.conflict(second.guards) is not None


def test_a_clean_start_changes_nothing():
    world = world_with_topic()
    assert start_broker(world.image, BROKER, started()) == ()


def test_an_unclean_log_dir_raises_the_epochs_of_its_partitions_only():
    world = world_with_topic()
    for starts in (1, 2):
        world.commit_steps(start_broker(world.image, BROKER, started(clean_a=False)))
        for state in partitions_of(world):
            in_a = state.replicas[0].directory_id == DIRECTORY_A
            assert (state.leader_epoch, state.partition_epoch) == (
                (starts, starts) if in_a else (0, 0)
            )
    assert {state.replicas[0].directory_id for state in partitions_of(world)} == {
        DIRECTORY_A,
        DIRECTORY_B,
    }


def test_only_the_leaders_own_start_raises_an_epoch():
    world = world_with_topic(brokers=2, factor=2)
    world.commit_steps(start_broker(world.image, BROKER, started(False, False)))
    for state in partitions_of(world):
        assert state.leader_epoch == (1 if state.leader == BROKER else 0)


def test_a_new_number_of_shards_deals_the_replicas_out_anew():
    world = world_with_topic(partitions=12)
    for shard_count in (3, 1, 2):
        world.commit_steps(start_broker(world.image, BROKER, started(shard_count=shard_count)))
        counts = world.image.replica_counts
        assert len(counts) == 2 * shard_count
        assert set(counts.values()) == {6 // shard_count}
        assert all(state.leader_epoch == 0 for state in partitions_of(world))


def test_an_absent_log_dir_takes_nothing_new_and_keeps_what_it_has():
    world = world_with_topic()
    world.commit_steps(start_broker(world.image, BROKER, started()[:1]))
    decision = create_topics(
        world.image,
        [NewTopic(name="new", partitions=3)],
        rules=CreationRules(),
        new_topic_id=world.new_topic_id,
    )
    world.commit_steps(decision.steps)
    new = world.image.topics_by_name["new"]
    assert {state.replicas[0].directory_id for state in new.partitions} == {DIRECTORY_A}
    assert DIRECTORY_B in {state.replicas[0].directory_id for state in partitions_of(world)}
    # It comes back, in a run with fewer shards and not closed in order.
    world.commit_steps(start_broker(world.image, BROKER, started(True, False, shard_count=1)))
    for state in partitions_of(world):
        in_b = state.replicas[0].directory_id == DIRECTORY_B
        assert (state.leader_epoch, state.replicas[0].shard_index) == (1 if in_b else 0, 0)


def test_many_partitions_become_several_steps():
    world = world_with_topic(partitions=1000)
    world.commit_steps(start_broker(world.image, BROKER, started(shard_count=3)))
    steps = start_broker(world.image, BROKER, started(False, False, shard_count=4))
    assert [len(step.transaction.operations) for step in steps] == [1000, 1]


def test_endpoints_are_told_once():
    world = world_with_brokers(2)
    endpoints = [EndpointRecord(listener="kafka", host="localhost", port=9092)]
    transaction = advertise_endpoints(world.image, BrokerId(1), endpoints)
    world.commit(transaction)
    assert world.image.brokers[BrokerId(1)].endpoints == tuple(endpoints)
    assert len(world.image.brokers[BrokerId(1)].directories) == 2
    assert advertise_endpoints(world.image, BrokerId(1), endpoints).operations == ()
    # A restart keeps them until the broker knows better.
    assert start_broker(world.image, BROKER, started()) == ()

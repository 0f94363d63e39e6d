"""The image: following revisions and starting from a snapshot give the same."""

from __future__ import annotations

from uuid import UUID

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.metadata.strategies import (
    BROKER,
    DEFAULTS,
    DIRECTORY_A,
    DIRECTORY_B,
    new_topics,
    topic_names,
    world_with_brokers,
)
from trio_broker.errors import CorruptMetadata, FormatTooNew
from trio_broker.metadata.decisions import (
    CreationRules,
    MorePartitions,
    NewTopic,
    StartedDirectory,
    TopicReference,
    allocate_producer_ids,
    create_partitions,
    create_topics,
    delete_topics,
    forget_creations,
    forget_deletions,
    start_broker,
)
from trio_broker.metadata.image import MetadataImage, image_from_snapshot
from trio_broker.metadata.records import TopicRecord, encode_record, partition_key, topic_key
from trio_broker.metadata.transaction import Delete, KeyValue, Put, Revision
from trio_broker.names import TopicPartition, collision_key

actions = st.one_of(
    st.tuples(st.just("create"), st.lists(new_topics, max_size=4), st.booleans()),
    st.tuples(st.just("delete"), st.lists(topic_names, max_size=3)),
    st.tuples(st.just("forget")),
    st.tuples(st.just("made"), st.integers(1, 3)),
    st.tuples(st.just("more"), st.integers(1, 3)),
    st.tuples(st.just("producer ids")),
    st.tuples(st.just("start"), st.integers(1, 3), st.booleans(), st.booleans()),
)


def run(world, action) -> None:
    image = world.image
    match action:
        case ("create", requests, validate_only):
            decision = create_topics(
                image,
                requests,
                rules=CreationRules(),
                new_topic_id=world.new_topic_id,
                validate_only=validate_only,
            )
            world.commit_steps(decision.steps)
        case ("delete", names):
            references = [
                TopicReference(name=name)
                if index % 2 or name not in image.topics_by_name
                else TopicReference(topic_id=image.topics_by_name[name].topic_id)
                for index, name in enumerate(names)
            ]
            world.commit_steps(delete_topics(image, references).steps)
        case ("forget",):
            world.commit(forget_deletions(image, list(image.deletions)[:1]))
        case ("made", most):
            pending = [each for some in image.creations.values() for each in some]
            world.commit(forget_creations(image, pending[:most]))
        case ("more", added):
            requests = [
                MorePartitions(name=topic.name, count=len(topic.partitions) + added)
                for topic in image.topics_by_name.values()
            ]
            world.commit_steps(create_partitions(image, requests, rules=CreationRules()).steps)
        case ("producer ids",):
            world.commit(allocate_producer_ids(image)[0])
        case ("start", shard_count, clean_a, clean_b):
            directories = [
                StartedDirectory(directory_id=id_, shard_count=shard_count, clean=clean)
                for id_, clean in ((DIRECTORY_A, clean_a), (DIRECTORY_B, clean_b))
            ]
            world.commit_steps(start_broker(image, BROKER, directories))


@given(st.lists(actions, max_size=12))
@settings(max_examples=150)
def test_following_revisions_equals_starting_from_a_snapshot(chosen):
    world = world_with_brokers(2)
    for action in chosen:
        before = world.image
        copy = attrs.evolve(before)
        run(world, action)
        assert before == copy  # an image never changes
        assert world.image == world.rebuilt_image()
        check_image(world.image)
        # What is deleted is not created any more.
        assert all(map(world.image.partition, world.image.being_created()))


def check_image(image: MetadataImage) -> None:
    """Everything the image says twice it says the same both times."""
    topics = list(image.topics_by_name.values())
    assert {topic.topic_id: topic for topic in topics} == image.topics_by_id
    assert {collision_key(topic.name): topic.name for topic in topics} == (
        image.topics_by_collision_key
    )
    assert image.partition_count == sum(len(topic.partitions) for topic in topics)
    counted: dict[object, int] = {}
    for topic in topics:
        for index, state in enumerate(topic.partitions):
            assert (state.topic_name, state.partition) == (topic.name, index)
            assert image.partition(TopicPartition(topic.topic_id, index)) is state
            assert state.topic_partition == TopicPartition(topic.topic_id, index)
            assert state.min_isr == topic.config.min_insync_replicas
            for replica in state.replicas:
                key = (replica.broker_id, replica.directory_id, replica.shard_index)
                counted[key] = counted.get(key, 0) + 1
    assert counted == image.replica_counts


def world_with_topic():
    world = world_with_brokers()
    run(world, ("create", [NewTopic(name="orders", partitions=2)], False))
    return world


def test_new_partitions_are_still_to_be_made_until_that_is_forgotten():
    world = world_with_topic()
    [first] = world.image.creations[world.image.topics_by_name["orders"].topic_id]
    run(world, ("more", 3))
    topic_id = world.image.topics_by_name["orders"].topic_id
    everything = {TopicPartition(topic_id, index) for index in range(5)}
    assert world.image.being_created() == everything
    world.commit(forget_creations(world.image, [first, first]))
    assert world.image.being_created() == {TopicPartition(topic_id, index) for index in (2, 3, 4)}
    assert forget_creations(world.image, [first]).operations == ()
    [second] = world.image.creations[topic_id]
    run(world, ("delete", ["orders"]))
    assert not world.image.creations
    assert forget_creations(world.image, [second]).operations == ()
    assert world.image == world.rebuilt_image()


def test_the_replicas_of_a_log_dir_are_named():
    image = world_with_topic().image
    topic_id = image.topics_by_name["orders"].topic_id
    found = [list(image.replicas_in(BROKER, id_)) for id_ in (DIRECTORY_A, DIRECTORY_B)]
    assert sorted(found) == [[TopicPartition(topic_id, 0)], [TopicPartition(topic_id, 1)]]
    assert not list(image.replicas_in(1, DIRECTORY_A))


def test_unknown_partitions_are_none():
    image = world_with_topic().image
    topic_id = image.topics_by_name["orders"].topic_id
    assert image.partition(TopicPartition(topic_id, 2)) is None
    assert image.partition(TopicPartition(topic_id, -1)) is None
    assert image.partition(TopicPartition(UUID(int=99), 0)) is None


def test_a_change_of_one_partition_keeps_the_others_objects():
    world = world_with_topic()
    before = world.image.topics_by_name["orders"].partitions
    key = partition_key(before[0].topic_id, 1)
    entry = world.table.get(key)
    world.image = world.image.apply(world.table.apply([Put(key, entry.value)]))
    after = world.image.topics_by_name["orders"].partitions
    assert after[0] is before[0]
    assert after[1].mod_revision == world.image.revision


def test_a_broker_keeps_the_epoch_of_its_first_registration():
    world = world_with_brokers()
    epoch = world.image.brokers[BROKER].epoch
    run(world, ("start", 5, True, True))
    assert world.image.brokers[BROKER].epoch == epoch
    assert world.image.brokers[BROKER].mod_revision > epoch


@pytest.mark.parametrize(
    "operations",
    [
        [Delete("topics/orders")],
        [
            Put(
                "topics/lonely",
                b'{"v":1,"topic_id":"%s","partitions":1}' % str(UUID(int=5)).encode(),
            )
        ],
        [Put(f"parts/{UUID(int=5)}/0", b"{}")],
        [Put("parts/nonsense/0", b"{}")],
        [Put(f"parts/{UUID(int=5)}/00", b"{}")],
        [Put(f"parts/{UUID(int=5)}/-1", b"{}")],
        [Put(f"parts/{UUID(int=5)}/²", b"{}")],
        [Put("brokers/known/x", b'{"v":1}')],
        [Put("topics/..", b'{"v":1,"topic_id":"%s","partitions":1}' % str(UUID(int=5)).encode())],
        [Delete("pids")],
    ],
)
def test_nonsense_is_refused_and_the_image_stays(operations):
    world = world_with_topic()
    before = attrs.evolve(world.image)
    with pytest.raises(CorruptMetadata):
        world.image.apply(Revision(world.image.revision + 1, tuple(operations)))
    assert world.image == before


def test_a_missing_partition_record_is_refused():
    world = world_with_topic()
    topic_id = world.image.topics_by_name["orders"].topic_id
    entries = [entry for entry in world.table.entries() if entry.key != partition_key(topic_id, 0)]
    with pytest.raises(CorruptMetadata, match="orders has 2 partitions"):
        image_from_snapshot(entries, 9, DEFAULTS)


def test_one_id_for_two_topics_and_colliding_names_are_refused():
    world = world_with_topic()
    topic = world.image.topics_by_name["orders"]
    value = encode_record(TopicRecord(topic_id=topic.topic_id, partitions=2))
    with pytest.raises(CorruptMetadata, match="belongs to both orders and other"):
        world.image.apply(Revision(world.image.revision + 1, (Put(topic_key("other"), value),)))
    entries = [
        KeyValue(entry.key.replace("orders", "a.b"), entry.value, 1, 1)
        for entry in world.table.entries()
    ]
    twin = UUID(int=77)
    entries += [
        KeyValue("topics/a_b", encode_record(TopicRecord(topic_id=twin, partitions=1)), 1, 1),
        KeyValue(
            partition_key(twin, 0), world.table.get(partition_key(topic.topic_id, 0)).value, 1, 1
        ),
    ]
    with pytest.raises(CorruptMetadata, match="collide"):
        image_from_snapshot(entries, 9, DEFAULTS)


def test_a_name_taken_over_by_another_id_in_one_revision():
    world = world_with_topic()
    old = world.image.topics_by_name["orders"]
    new_id = UUID(int=77)
    value = world.table.get(partition_key(old.topic_id, 0)).value
    world.image = world.image.apply(
        world.table.apply(
            [
                Put("topics/orders", encode_record(TopicRecord(topic_id=new_id, partitions=1))),
                Put(partition_key(new_id, 0), value),
                Delete(partition_key(old.topic_id, 0)),
                Delete(partition_key(old.topic_id, 1)),
            ]
        )
    )
    assert world.image.topics_by_name["orders"].topic_id == new_id
    assert old.topic_id not in world.image.topics_by_id
    check_image(world.image)
    assert world.image == world.rebuilt_image()


def test_stored_configs_that_make_no_sense_are_refused():
    world = world_with_topic()
    topic = world.image.topics_by_name["orders"]
    record = TopicRecord(topic_id=topic.topic_id, partitions=2, configs={"retention.ms": "junk"})
    with pytest.raises(CorruptMetadata, match=r"orders: invalid value 'junk'"):
        world.image.apply(
            Revision(world.image.revision + 1, (Put("topics/orders", encode_record(record)),))
        )


def test_a_kind_of_key_from_a_newer_version_is_refused():
    with pytest.raises(FormatTooNew, match="acl/alice"):
        image_from_snapshot([KeyValue("acl/alice", b"{}", 1, 1)], 1, DEFAULTS)

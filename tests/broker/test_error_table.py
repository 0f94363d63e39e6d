"""Each API x unknown topic, unsupported version, wrong epoch, oversize, illegal argument.

What is specific to an API is in `error_table`. With ``KAFKA_BOOTSTRAP=host:port`` the same table is
also put to the Apache Kafka at that address, which is how the codes in it were found; a topic and
groups with names of the table's own are made there and deleted again.
"""

from __future__ import annotations

import os
import struct
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.broker.admin_error_table import TABLE
from tests.broker.error_table import (
    CLOSES,
    DOES_IT,
    JOINING,
    MEMBERS,
    NOPE,
    ORDERS,
    SIMPLE,
    UNANSWERED,
    Case,
    Known,
    Nothing,
    commit,
    create,
    delete_topic,
    join,
    member_call,
)
from tests.broker.harness import Client, make_batch, open_client, produce_request, running
from trio_broker import BrokerConfig
from trio_broker.broker.handlers.table import SERVED
from trio_broker.config import LimitsConfig
from trio_broker.group.consumer_protocol import Subscription, encode_subscription
from trio_broker.host.real import real_host
from trio_broker.names import TopicName
from trio_broker.wire.api import APIS, ApiKey
from trio_broker.wire.messages.delete_groups import DeleteGroupsRequest
from trio_broker.wire.messages.find_coordinator import FindCoordinatorRequest
from trio_broker.wire.messages.init_producer_id import InitProducerIdRequest
from trio_broker.wire.messages.leave_group import LeaveGroupRequest, MemberIdentity
from trio_broker.wire.messages.metadata import MetadataRequest, MetadataRequestTopic
from trio_broker.wire.messages.sync_group import SyncGroupRequest, SyncGroupRequestAssignment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractAsyncContextManager

KAFKA_BOOTSTRAP = os.environ.get("KAFKA_BOOTSTRAP")
#: Session of the member there is, long enough for all cases.
SESSION_MS = 300_000
ANSWER_SECONDS = 10
LIMITS = LimitsConfig(partitions_max=8, partitions_per_topic_max=100)


def answered_codes(response: Any) -> set[int]:
    """Return every code that is anywhere in a response; none: the connection was closed."""
    if response is None:
        return {CLOSES}
    found: set[int] = set()

    def look(value: Any) -> None:
        if isinstance(value, list | tuple):
            for one in value:
                look(one)
        elif hasattr(value, "__kafka_fields__"):
            for name in value.__kafka_fields__:
                if name == "error_code":
                    found.add(int(value.error_code))
                else:
                    look(getattr(value, name))

    look(response)
    return found


def cases_of(key: ApiKey) -> Iterator[tuple[str, Case]]:
    for column, cases in TABLE[key]._asdict().items():
        if not isinstance(cases, Nothing):
            for case in cases:
                yield column, case


def versions_of(key: ApiKey, case: Case) -> tuple[int, ...]:
    """Return the first and the last version in which this can be said."""
    first = max(SERVED[key].min_version, case.since)
    last = min(SERVED[key].max_version, case.until)
    assert first <= last, (key, case.what)
    return (first,) if first == last else (first, last)


async def prepare(client: Client) -> Known:
    """Make what the table says is there.

    Its records are of now: Kafka deletes older ones, and forgets their producer, whenever it looks,
    which is first half a minute after it was started.
    """
    now_ms = real_host().wall.now_ms()
    created = await client.call(create(ORDERS, configs={"max.message.bytes": "2000"}))
    assert answered_codes(created) == {0}
    with trio.fail_after(20):
        while True:  # brokers of a cluster learn of a topic after it is made
            topic_id = created.topics[0].topic_id
            two = make_batch(b"1", b"2", timestamp_ms=now_ms)
            sent = await client.call(produce_request(two, topic=topic_id))
            if answered_codes(sent) == {0}:
                break
    anybody = InitProducerIdRequest(transactional_id=None, transaction_timeout_ms=1)
    with trio.fail_after(20):
        producer = await client.call(anybody)
        while answered_codes(producer) != {0}:  # a broker fetches its first ids when it is asked
            producer = await client.call(anybody)
    with trio.fail_after(20):
        while answered_codes(await client.call(FindCoordinatorRequest(coordinator_keys=["g"]))) != {
            0
        }:
            pass  # a first group makes the broker create a topic
    metadata = Subscription(topics=(TopicName(ORDERS),))
    request = join(session_ms=SESSION_MS, protocols=[("range", encode_subscription(metadata))])
    with trio.fail_after(20):
        joined = await client.call(request, 3)
        while joined.error_code in {14, 15, 16}:
            joined = await client.call(request, 3)
    assert joined.error_code == 0
    alone = SyncGroupRequestAssignment(member_id=joined.member_id, assignment=b"")
    known = Known(
        topic_id=topic_id,
        member_id=joined.member_id,
        generation=joined.generation_id,
        node_id=(await client.call(MetadataRequest(topics=()))).controller_id,
        producer_id=producer.producer_id,
    )
    synced = await client.call(member_call(SyncGroupRequest, assignments=[alone])(known, 3), 3)
    assert synced.error_code == 0
    with trio.fail_after(20):
        while answered_codes(await client.call(commit(group=SIMPLE)(known, 10))) != {0}:
            pass
    # A newer epoch of a producer fences the older one.
    batch = make_batch(
        timestamp_ms=now_ms, producer_id=known.producer_id, producer_epoch=5, base_sequence=0
    )
    assert answered_codes(await client.call(produce_request(batch, topic=topic_id))) == {0}
    return known


async def clean_up(client: Client, known: Known | None = None) -> None:
    """Take away what `prepare` made, or may have made in an earlier run."""
    if known is not None:
        leaving = MemberIdentity(member_id=known.member_id)
        await client.call(LeaveGroupRequest(group_id=MEMBERS, members=[leaving]))
    await client.call(DeleteGroupsRequest(groups_names=[MEMBERS, SIMPLE, JOINING, NOPE]))
    for name in (ORDERS, NOPE):
        await client.call(delete_topic(name)(known, 6))  # type: ignore[arg-type]


async def wrong_answers(
    connect: Callable[[], AbstractAsyncContextManager[Client]],
    known: Known,
    key: ApiKey,
    *,
    kafka: bool,
) -> list[str]:
    """Return each case that was answered otherwise than the table says."""
    found = []
    for column, case in cases_of(key):
        expected = case.code if case.kafka is None or not kafka else case.kafka
        if expected == DOES_IT:
            continue
        for version in versions_of(key, case):
            codes = {UNANSWERED}
            async with connect() as client:
                with trio.move_on_after(ANSWER_SECONDS):
                    answer = await client.call(case.build(known, version), version)
                    codes = answered_codes(answer) - {0}
            if codes != {expected} - {0}:
                found.append(f"{column}: {case.what}, version {version}: {codes}, not {expected}")
    return found


@asynccontextmanager
async def prepared(config: BrokerConfig) -> AsyncIterator[Any]:
    """Run a broker on which there is what the table says; gives it, a client and what is known."""
    async with running(config.with_values(limits=LIMITS)) as run, run.connect() as client:
        yield run, client, await prepare(client)


# ------------------------------------------------------------------------------------- the table
def test_every_advertised_api_has_a_row_and_every_column_something_to_say() -> None:
    assert TABLE.keys() == SERVED.keys()
    for key, row in TABLE.items():
        for column, cases in row._asdict().items():
            assert cases.why if isinstance(cases, Nothing) else cases, (key, column)


@pytest.mark.parametrize("key", TABLE, ids=lambda key: key.name)
async def test_what_is_wrong_has_kafkas_code(wire_config: BrokerConfig, key: ApiKey) -> None:
    async with prepared(wire_config) as (run, client, known):
        image = run.state.controller.image
        assert not await wrong_answers(run.connect, known, key, kafka=False)
        assert run.state.controller.image is image  # a refusal changes nothing
        good = produce_request(make_batch(), topic=ORDERS)
        assert answered_codes(await client.call(good, 9)) == {0}


@pytest.mark.parametrize("key", TABLE, ids=lambda key: key.name)
async def test_versions_that_are_not_served(wire_config: BrokerConfig, key: ApiKey) -> None:
    """The connection closes; only ApiVersions is answered, for how else would a client know."""
    api = SERVED[key]
    async with running(wire_config) as run:
        for version in (api.advertised_min_version - 1, api.max_version + 1, 0x7FFF):
            async with run.connect() as client:
                request = _smallest(client, key, api.max_version)
                request[6:8] = struct.pack(">h", version)
                await client.send_bytes(bytes(request))
                answer = await client.receive_frame()
                if key is ApiKey.API_VERSIONS:
                    assert answer is not None
                    assert struct.unpack_from(">h", answer, 4) == (35,)
                else:
                    assert answer is None


@pytest.mark.parametrize("key", TABLE, ids=lambda key: key.name)
async def test_frames_that_are_too_large(wire_config: BrokerConfig, key: ApiKey) -> None:
    """The connection closes before the frame has been read, and no other one."""
    async with running(wire_config) as run, run.connect() as witness:
        network = run.state.config.network
        is_produce = key is ApiKey.PRODUCE
        limit = network.produce_frame_bytes_max if is_produce else network.frame_bytes_max
        async with run.connect() as client:
            request = _smallest(client, key, SERVED[key].max_version)
            request[:4] = struct.pack(">i", limit + 1)
            await client.send_bytes(bytes(request))
            assert await client.receive_frame() is None
        assert await witness.call(MetadataRequest(topics=())) is not None


def _smallest(client: Client, key: ApiKey, version: int) -> bytearray:
    """Return some request of an API, with its header."""
    topic = MetadataRequest(topics=[MetadataRequestTopic(name=NOPE)])
    frame = bytearray(client.encode(topic, APIS[ApiKey.METADATA].max_version))
    struct.pack_into(">hh", frame, 4, key, version)
    return frame


# --------------------------------------------------------------------------------- Apache Kafka
@pytest.mark.skipif(KAFKA_BOOTSTRAP is None, reason="KAFKA_BOOTSTRAP names no Apache Kafka")
async def test_apache_kafka_answers_as_the_table_says() -> None:
    assert KAFKA_BOOTSTRAP is not None
    host, _, port = KAFKA_BOOTSTRAP.rpartition(":")
    network = real_host().network
    wrong: list[str] = []
    connect = partial(open_client, network, (host, int(port)))
    async with connect() as client:
        await clean_up(client)
        known = await prepare(client)
        for key in TABLE:
            found = await wrong_answers(connect, known, key, kafka=True)
            wrong += [f"{key.name}: {line}" for line in found]
        await clean_up(client, known)
    assert not wrong, "\n".join(wrong)

"""How fast clients may change topics: refusals, waiting times, silence, and who is not counted."""

from __future__ import annotations

import math

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.broker.admin_calls import partitions_request
from tests.broker.harness import World, codes, simulated
from trio_broker import ErrorCode
from trio_broker.broker.token_bucket import TokenBucket
from trio_broker.config import LimitsConfig
from trio_broker.names import ZERO_TOPIC_ID
from trio_broker.wire.messages.create_topics import CreatableTopic, CreateTopicsRequest
from trio_broker.wire.messages.delete_topics import DeleteTopicsRequest, DeleteTopicState
from trio_broker.wire.messages.metadata import MetadataRequest, MetadataRequestTopic

LIMITS = LimitsConfig(topic_mutations_per_second=2, topic_mutations_burst=4)


def create_request(*names: str, validate_only: bool = False) -> CreateTopicsRequest:
    topics = [
        CreatableTopic(
            name=name, num_partitions=1, replication_factor=1, assignments=(), configs=()
        )
        for name in names
    ]
    return CreateTopicsRequest(topics=topics, timeout_ms=30_000, validate_only=validate_only)


def by_code(results) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for result in results:
        found.setdefault(result.error_code, []).append(result.name)
    return found


@simulated
async def test_what_is_over_the_limit_is_refused_and_told_when_to_come_back(world: World) -> None:
    async with world.running(limits=LIMITS) as run, world.connect() as client:
        # What exists already, or is only validated, changes nothing and costs nothing.
        await run.broker.create_topic("known")
        await client.call(create_request(*"abcdefgh", validate_only=True))
        answer = await client.call(create_request("known", *"abcdef"))
        assert by_code(answer.topics) == {
            ErrorCode.TOPIC_ALREADY_EXISTS: ["known"],
            0: list("abcd"),
            ErrorCode.THROTTLING_QUOTA_EXCEEDED: list("ef"),
        }
        assert "limits.topic_mutations_per_second" in answer.topics[-1].error_message
        assert 900 < answer.throttle_time_ms <= 1000
        # The next request is not even read before that.
        began = trio.current_time()
        answer = await client.call(create_request(*"ef"))
        assert codes(answer.topics) == [0, 0]
        assert answer.throttle_time_ms == 0
        assert 0.9 < trio.current_time() - began < 2

        answer = await client.call(partitions_request("a", 2))
        assert codes(answer.results) == [ErrorCode.THROTTLING_QUOTA_EXCEEDED]
        answer = await client.call(partitions_request("a", 2))
        assert codes(answer.results) == [0]
        states = [
            DeleteTopicState(name="a", topic_id=ZERO_TOPIC_ID),
            DeleteTopicState(name=None, topic_id=run.topic_id("b")),
            DeleteTopicState(name="nope", topic_id=ZERO_TOPIC_ID),
        ]
        answer = await client.call(DeleteTopicsRequest(topics=states, timeout_ms=1))
        assert by_code(answer.responses) == {
            ErrorCode.UNKNOWN_TOPIC_OR_PARTITION: ["nope"],
            ErrorCode.THROTTLING_QUOTA_EXCEEDED: ["a", "b"],
        }
        answer = await client.call(DeleteTopicsRequest(topics=states, timeout_ms=1))
        assert codes(answer.responses) == [0, 0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
        # The program around the broker is not counted.
        for number in range(20):
            await run.broker.create_topic(f"embedded-{number}")


@simulated
async def test_old_clients_get_everything_and_wait_for_it(world: World) -> None:
    async with world.running(limits=LIMITS) as run, world.connect() as client:
        answer = await client.call(create_request(*"abcdef"), 5)
        assert codes(answer.topics) == [0] * 6
        assert 900 < answer.throttle_time_ms <= 1000
        async with world.connect() as other:
            began = trio.current_time()
            answer = await client.call(MetadataRequest(topics=None), 5)
            assert len(answer.topics) == 6
            assert 0.9 < trio.current_time() - began < 2
            began = trio.current_time()
            await other.call(MetadataRequest(topics=None), 5)
            assert trio.current_time() - began < 0.5
        assert len(run.state.router.by_name) == 6


@simulated
async def test_topics_created_by_use_are_counted_too(world: World) -> None:
    async with world.running(limits=LIMITS) as run, world.connect() as client:
        wanted = [MetadataRequestTopic(name=name) for name in "abcdef"]
        request = MetadataRequest(topics=wanted, allow_auto_topic_creation=True)
        answer = await client.call(request)
        assert codes(answer.topics) == [0, 0, 0, 0, *[ErrorCode.LEADER_NOT_AVAILABLE] * 2]
        assert 900 < answer.throttle_time_ms <= 1000
        answer = await client.call(request)
        assert (codes(answer.topics), answer.throttle_time_ms) == ([0] * 6, 0)
        assert len(run.state.router.by_name) == 6


@simulated
async def test_a_stop_does_not_wait_for_silent_clients(world: World) -> None:
    limits = LimitsConfig(topic_mutations_per_second=0.01, topic_mutations_burst=1)
    async with world.running(limits=limits) as run, world.connect() as client:
        answer = await client.call(create_request("a", "b"))
        assert answer.throttle_time_ms > 50_000
        await trio.sleep(1)
        run.tree.request_stop()
        began = trio.current_time()
        await client.wait_closed()
        assert trio.current_time() - began < 5


@pytest.mark.parametrize("rate", [0, 3])
def test_a_bucket_without_rate_has_no_limit(rate):
    bucket = TokenBucket(rate, 2, now=5.0)
    assert bucket.take(9, 5.0) == (9 if rate == 0 else 2)
    bucket.owe(1, 5.0)
    assert bucket.seconds_until(1, 5.0) == (0 if rate == 0 else pytest.approx(2 / 3))
    assert repr(bucket).startswith("<TokenBucket")


@given(
    st.floats(0.1, 100),
    st.integers(1, 50),
    st.lists(st.tuples(st.booleans(), st.integers(0, 100), st.floats(-1, 20)), max_size=30),
)
def test_a_bucket_never_gives_more_than_its_rate_and_burst(rate, burst, steps):
    bucket = TokenBucket(rate, burst, now=0.0)
    now, latest, taken = 0.0, 0.0, 0
    for owes, count, passed in steps:
        now += passed
        latest = max(latest, now)
        if owes:
            bucket.owe(count, now)
            assert bucket.seconds_until(0, now) <= burst / rate + 1e-9
            continue
        granted = bucket.take(count, now)
        assert 0 <= granted <= count
        taken += granted
        assert taken <= burst + latest * rate + 1e-6
        if granted < count:
            wait = bucket.seconds_until(count - granted, now)
            assert 0 < wait <= 2 * burst / rate + 1e-9
            ready = TokenBucket(rate, burst, now=0.0)
            ready._tokens, ready._as_of = bucket._tokens, bucket._as_of
            assert ready.take(1, max(now, bucket._as_of) + wait + 1e-6) == min(1, math.floor(burst))

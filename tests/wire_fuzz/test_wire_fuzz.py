"""A few rounds of what `python -m tests.wire_fuzz` goes on with, and what its oracles must see."""

from __future__ import annotations

import random
import struct
from typing import Any
from unittest.mock import patch

import pytest

from tests.wire_fuzz import oracle
from tests.wire_fuzz.attack import Tally, run_round
from tests.wire_fuzz.batches import broken_batch, sound_batch
from tests.wire_fuzz.requests import RequestMaker, World
from tests.wire_fuzz.tokens import tokens_of
from tests.wire_fuzz.versions import Difference, compare, pairs
from trio_broker.broker.handlers import describe_cluster, list_offsets
from trio_broker.broker.handlers.table import SERVED
from trio_broker.errors import ErrorCode
from trio_broker.records.validation import BatchFault, validate_produced
from trio_broker.wire.api import APIS, ApiKey
from trio_broker.wire.message import encode_response
from trio_broker.wire.messages.heartbeat import HeartbeatResponse

ROUNDS = 3


def test_requests_made_up_and_mutilated(seed: int) -> None:
    tally = Tally()
    for number in range(ROUNDS):
        run_round(seed + number, tally, requests=250)
    assert tally.outcomes["answered"] > 20 * ROUNDS
    assert tally.outcomes["closed"] > 10 * ROUNDS
    assert len({name for name, _ in tally.versions}) > len(SERVED) // 2


def test_neighbouring_versions_say_the_same(seed: int) -> None:
    """Some of them, with requests that all are known to agree on; the command draws others."""
    for api_key, newer in random.Random(seed).sample(pairs(), 4):
        assert compare(api_key, newer, 100, requests=15) > 5


def test_an_answer_that_depends_on_the_version_is_noticed() -> None:
    """A planted mistake: version 5 of ListOffsets answers one offset too many."""
    handle = list_offsets.handle

    async def mistaken(state: Any, session: Any, version: int, request: Any) -> Any:
        answer = await handle(state, session, version, request)
        for topic in answer.topics if version == 5 else ():
            for partition in topic.partitions:
                partition.offset += 1
        return answer

    served = {**SERVED, ApiKey.LIST_OFFSETS: _with_handler(ApiKey.LIST_OFFSETS, mistaken)}
    with patch("trio_broker.broker.handlers.table.SERVED", served), pytest.raises(Difference):
        for seed in range(5):
            compare(ApiKey.LIST_OFFSETS, 5, seed)


def test_a_handler_that_fails_is_noticed() -> None:
    """A planted mistake: DescribeCluster raises for one of its arguments."""
    handle = describe_cluster.handle

    async def mistaken(state: Any, session: Any, version: int, request: Any) -> Any:
        if request.include_cluster_authorized_operations:
            raise KeyError("a mistake")
        return await handle(state, session, version, request)

    served = {**SERVED, ApiKey.DESCRIBE_CLUSTER: _with_handler(ApiKey.DESCRIBE_CLUSTER, mistaken)}
    noticed = pytest.raises((AssertionError, BaseExceptionGroup))
    with patch("trio_broker.broker.handlers.table.SERVED", served), noticed:
        for seed in range(5):
            run_round(seed, Tally(), requests=300)


def _with_handler(key: ApiKey, handler: Any) -> Any:
    kind = type(SERVED[key])
    return kind(key, SERVED[key].min_version, SERVED[key].max_version, handler)


def test_codes_that_an_api_does_not_have_are_noticed() -> None:
    for code, is_known in ((ErrorCode.UNKNOWN_MEMBER_ID, True), (ErrorCode.CORRUPT_MESSAGE, False)):
        frame = encode_response(ApiKey.HEARTBEAT, 4, 7, HeartbeatResponse(error_code=code))[4:]
        if is_known:
            assert oracle.read_answer(ApiKey.HEARTBEAT, 4, frame)[0] == 7
        else:
            with pytest.raises(oracle.Unreadable, match="CORRUPT_MESSAGE"):
                oracle.read_answer(ApiKey.HEARTBEAT, 4, frame)
    with pytest.raises(oracle.Unreadable):
        oracle.read_answer(ApiKey.HEARTBEAT, 4, frame[:-1])


@pytest.mark.parametrize("api_key", SERVED, ids=lambda key: APIS[key].name)
def test_the_second_encoder_writes_the_same_bytes(api_key: int, seed: int) -> None:
    maker = RequestMaker(World(), random.Random(seed))
    for version in range(SERVED[api_key].min_version, SERVED[api_key].max_version + 1):
        for _ in range(5):
            message = maker.message(api_key, version)
            assert tokens_of(message, version).encode() == message.encode(version)


def test_whatever_is_wrong_with_a_batch_it_is_refused_or_consistent(seed: int) -> None:
    chance = random.Random(seed)
    refused = 0
    now_ms = 1_700_000_000_000
    for _ in range(2_000):
        batch = broken_batch(chance, sound_batch(chance, now_ms), now_ms)
        verdict = validate_produced(
            memoryview(batch),
            max_message_bytes=1_000_000,
            segment_bytes=1_000_000,
            now_ms=now_ms,
            before_max_ms=1_000,
            after_max_ms=1_000,
            api_version=chance.randint(3, 13),
        )
        if isinstance(verdict, BatchFault):
            refused += 1
            continue
        assert verdict.base_offset == 0
        assert verdict.record_count == verdict.last_offset_delta + 1 > 0
        assert verdict.size_bytes == len(batch)
        assert verdict.magic == 2
        assert not verdict.is_control
        assert struct.unpack_from(">b", batch, 16) == (2,)
    assert 1_000 < refused < 2_000

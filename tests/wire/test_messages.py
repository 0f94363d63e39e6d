"""Every declared message in every version, against an independent implementation."""

from __future__ import annotations

import random
import subprocess
import sys
import zlib
from typing import TYPE_CHECKING, TypeVar

import pytest

from tests.wire.kio_pairs import (
    kio_decode,
    kio_encode,
    kio_type,
    message_versions,
    random_pair,
)
from trio_broker.errors import ProtocolError
from trio_broker.wire.api import APIS
from trio_broker.wire.compiler import ELEMENTS_PER_PIECE
from trio_broker.wire.message import Message, encode_response, encoding_response
from trio_broker.wire.messages.api_versions import (
    ApiVersion,
    ApiVersionsResponse,
    FinalizedFeatureKey,
    SupportedFeatureKey,
)
from trio_broker.wire.messages.heartbeat import HeartbeatResponse
from trio_broker.wire.messages.metadata import (
    MetadataRequest,
    MetadataRequestTopic,
    MetadataResponse,
    MetadataResponseBroker,
    MetadataResponsePartition,
    MetadataResponseTopic,
)

if TYPE_CHECKING:
    from collections.abc import Generator

    from trio_broker.wire.buffers import Buffer

T = TypeVar("T")

INSTANCES = 5
ALL = sorted(message_versions(), key=lambda pair: (pair[0].__name__, pair[1]))
MESSAGE_TYPES = sorted({message_type for message_type, _ in ALL}, key=lambda cls: cls.__name__)


def run(pieces: Generator[None, None, T]) -> T:
    """Run a generator to its end and return its result."""
    while True:
        try:
            next(pieces)
        except StopIteration as stop:
            result: T = stop.value
            return result


def in_pieces(message: Message, version: int) -> bytes:
    """Encode piece by piece."""
    parts: list[Buffer] = []
    run(message.encoding(parts, version))
    return b"".join(parts)


@pytest.mark.parametrize("message_type", MESSAGE_TYPES, ids=lambda cls: cls.__name__)
def test_same_bytes_and_same_values_as_kio(message_type: type[Message], seed: int) -> None:
    for version in range(message_type.versions[0], message_type.versions[1] + 1):
        rng = random.Random(zlib.crc32(f"{message_type.__name__} {version}".encode(), seed))
        entity_type = kio_type(message_type, version)
        for _ in range(INSTANCES):
            ours, theirs = random_pair(rng, message_type, entity_type, version)
            assert isinstance(ours, Message)
            encoded = kio_encode(theirs)
            assert ours.encode(version) == encoded
            assert message_type.decode(encoded, version) == ours
            assert message_type.decode(memoryview(b"head" + encoded), version, 4) == ours
            assert kio_decode(entity_type, encoded) == theirs
            assert in_pieces(ours, version) == encoded
            assert run(message_type.decoding(encoded, version)) == ours


@pytest.mark.parametrize("message_type", MESSAGE_TYPES, ids=lambda cls: cls.__name__)
def test_declarations_agree_with_the_table_of_apis(message_type: type[Message]) -> None:
    api = APIS[message_type.api_key]
    assert message_type.versions == (api.min_version, api.max_version)
    assert message_type.flexible_version == api.flexible_version
    assert message_type in {api.request_type, api.response_type}


def test_features_are_never_sent_in_version_3() -> None:
    """librdkafka before 2.2 cannot skip a tagged field there."""
    response = ApiVersionsResponse(
        error_code=0,
        api_keys=[ApiVersion(api_key=18, min_version=0, max_version=4)],
        supported_features=[SupportedFeatureKey(name="f", min_version=1, max_version=2)],
        finalized_features_epoch=0,
        finalized_features=[
            FinalizedFeatureKey(name="f", max_version_level=2, min_version_level=1)
        ],
        zk_migration_ready=True,
    )
    assert response.encode(3) == bytes.fromhex("0000 02 0012 0000 0004 00 00000000 00")
    assert ApiVersionsResponse.decode(response.encode(4), 4) == response


def test_features_of_other_brokers_are_skipped_in_version_3() -> None:
    with_epoch = bytes.fromhex("0000 01 00000000 01 01 08 0000000000000007")
    assert ApiVersionsResponse.decode(with_epoch, 3).finalized_features_epoch == -1


def test_unknown_tagged_fields_are_skipped_at_every_level() -> None:
    request = bytes.fromhex(
        "02"  # one topic
        "00000000000000000000000000000000 0261"  # no id, "a"
        "02 03 01 ff ff01 02 beef"  # tags 3 and 255 in the topic
        "00 00"
        "01 00 00"  # tag 0, empty, in the request
    )
    decoded = MetadataRequest.decode(request, 12)
    assert decoded == MetadataRequest(
        topics=[MetadataRequestTopic(name="a")], allow_auto_topic_creation=False
    )


def test_constructor_asks_for_fields_without_default() -> None:
    with pytest.raises(TypeError, match="host"):
        MetadataResponseBroker(node_id=1, port=9092)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="rackk"):
        MetadataResponseBroker(node_id=1, host="a", port=9092, rackk="b")  # type: ignore[call-arg]
    broker = MetadataResponseBroker(node_id=1, host="a", port=9092)
    assert repr(broker) == "MetadataResponseBroker(node_id=1, host='a', port=9092, rack=None)"
    with pytest.raises(AttributeError):
        broker.other = 1  # type: ignore[attr-defined]


def test_values_that_a_version_cannot_carry_are_refused() -> None:
    topic = MetadataResponseTopic(error_code=0, name=None, partitions=())
    response = MetadataResponse(brokers=(), topics=[topic])
    assert response.encode(12)
    with pytest.raises(ValueError, match="MetadataResponse version 11"):
        response.encode(11)
    with pytest.raises(ValueError, match="MetadataResponse version 4"):
        MetadataResponse(brokers=(), topics=(), throttle_time_ms=2**31).encode(4)
    with pytest.raises(ValueError, match="40000 bytes"):
        MetadataResponse(brokers=(), topics=(), cluster_id="x" * 40_000).encode(9)
    with pytest.raises(ValueError, match="version 14"):
        MetadataResponse(brokers=(), topics=()).encode(14)
    with pytest.raises(ProtocolError, match="version 14"):
        MetadataRequest.decode(b"", 14)


def test_large_messages_come_in_pieces_of_bounded_size() -> None:
    partitions = [
        MetadataResponsePartition(
            error_code=0, partition_index=index, leader_id=1, replica_nodes=(1,), isr_nodes=(1,)
        )
        for index in range(1000)
    ]
    topics = [
        MetadataResponseTopic(error_code=0, name=name, partitions=partitions) for name in "abc"
    ]
    response = MetadataResponse(brokers=(), topics=topics)
    for version in range(14):
        parts: list[Buffer] = []
        sizes = []
        for _ in response.encoding(parts, version):
            sizes.append(sum(map(len, parts)) - sum(sizes))
        assert b"".join(parts) == response.encode(version)
        assert len(sizes) == 3003 // ELEMENTS_PER_PIECE
        assert max(sizes) < 5000
        frame = encoding_response(3, version, 7, response)
        assert run(frame) == encode_response(3, version, 7, response)
        decoding = MetadataResponse.decoding(b"".join(parts), version)
        assert len(list(decoding)) == 3003 // ELEMENTS_PER_PIECE
    with pytest.raises(ProtocolError, match="ends inside"):
        run(MetadataResponse.decoding(response.encode(12)[:-500], 12))
    with pytest.raises(ProtocolError, match="version 14"):
        run(MetadataResponse.decoding(b"", 14))
    with pytest.raises(ValueError, match="cannot carry"):
        in_pieces(MetadataResponse(brokers=(), topics=(), throttle_time_ms=2**31), 4)
    with pytest.raises(ValueError, match="version 14"):
        in_pieces(response, 14)


def test_equal_versions_share_their_code() -> None:
    for version in range(5):
        HeartbeatResponse(error_code=0).encode(version)
    sources = HeartbeatResponse.compiled_functions
    assert len([s for s in sources if "def encode" in s and "yield" not in s]) == 3


def test_importing_the_folder_loads_no_message() -> None:
    code = (
        "import sys, trio_broker.wire.api, trio_broker.wire.headers, trio_broker.wire.frames, "
        "trio_broker.wire.produce, trio_broker.wire.fetch, trio_broker.wire.message; "
        "print([m for m in sys.modules if 'wire.messages' in m or m in {'trio', 'attr'}])"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True
    )
    assert output.stdout.strip() == "[]"

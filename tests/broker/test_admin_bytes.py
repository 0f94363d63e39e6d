"""Arrays that may be null in the protocol, and at which Java's Admin client fails if they are.

Looked at as bytes: a decoder that took null for empty would hide it. In flexible versions a null
array is 0x00 and an empty one 0x01.
"""

from __future__ import annotations

import struct

import pytest

from tests.broker.admin_calls import TOPIC, describe_request, pages_request
from tests.broker.harness import running
from trio_broker import BrokerConfig
from trio_broker.config_catalog import TOPIC_CONFIGS
from trio_broker.wire.messages.create_topics import CreatableTopic, CreateTopicsRequest

EMPTY, NO_TAGS, NULL_STRING = b"\x01", b"\x00", b"\x00"


def compact_array(*elements: bytes) -> bytes:
    assert len(elements) < 127
    return bytes([len(elements) + 1]) + b"".join(elements)


async def test_replicas_that_could_be_elected_are_empty_lists(wire_config: BrokerConfig) -> None:
    async with running(wire_config) as run, run.connect() as client:
        topic_id = await run.broker.create_topic("orders")
        await client.send(pages_request("orders"))
        frame = await client.receive_frame()
        assert frame is not None
        broker = struct.pack(">i", 0)
        partition = b"".join(
            [
                struct.pack(">hiii", 0, 0, 0, 0),  # error, index, leader, leader epoch
                compact_array(broker),  # replicas
                compact_array(broker),  # in sync
                EMPTY,  # eligible leader replicas
                EMPTY,  # last known of these
                EMPTY,  # offline
                NO_TAGS,
            ]
        )
        topic = b"".join(
            [
                struct.pack(">h", 0),
                b"\x07orders",
                topic_id.bytes,
                b"\x00",  # not internal
                compact_array(partition),
            ]
        )
        cursor = b"\xff"  # a structure that is null
        start = struct.pack(">i", 101) + NO_TAGS + struct.pack(">i", 0) + b"\x02"
        assert frame.startswith(start + topic)
        assert frame.endswith(NO_TAGS + cursor + NO_TAGS)
        assert len(frame) == len(start + topic) + 4 + len(NO_TAGS + cursor + NO_TAGS)


@pytest.mark.parametrize("version", [5, 6, 7])
async def test_configs_of_a_new_topic_are_a_list_even_after_an_error(
    wire_config: BrokerConfig, version: int
) -> None:
    async with running(wire_config) as run, run.connect() as client:

        async def create(name: str, *, validate_only: bool = False) -> bytes:
            """Return what comes behind the error message of the only topic."""
            topic = CreatableTopic(
                name=name, num_partitions=1, replication_factor=1, assignments=(), configs=()
            )
            request = CreateTopicsRequest(topics=[topic], validate_only=validate_only)
            await client.send(request, version)
            frame = await client.receive_frame()
            assert frame is not None
            head = struct.pack(">i", 0) + b"\x02" + bytes([len(name) + 1]) + name.encode()
            behind = frame[frame.index(head) + len(head) :]
            if version >= 7:
                behind = behind[16:]
            (code,) = struct.unpack_from(">h", behind)
            message_bytes = behind[2] - 1 if behind[2] else 0
            assert (code == 0) == (behind[2] == NULL_STRING[0])
            return behind[3 + message_bytes :]

        for validate_only in (True, False):
            found = await create("orders", validate_only=validate_only)
            assert found[:7] == struct.pack(">ihB", 1, 1, len(TOPIC_CONFIGS) + 1)
            assert b"retention.ms" in found
        # Exists already: no partitions, no replicas, no configs, no tags.
        failed = await create("orders")
        assert failed == struct.pack(">ih", -1, -1) + EMPTY + NO_TAGS + NO_TAGS


async def test_synonyms_that_are_not_asked_for_are_an_empty_list(
    wire_config: BrokerConfig,
) -> None:
    async with running(wire_config) as run, run.connect() as client:
        await run.broker.create_topic("orders")
        for version in (3, 4):
            await client.send(describe_request(TOPIC, "orders", ["preallocate"]), version)
            frame = await client.receive_frame()
            assert frame is not None
            read_only, source, is_sensitive, kind = b"\x01", b"\x05", b"\x00", b"\x01"
            empty = EMPTY if version == 4 else struct.pack(">i", 0)
            assert read_only + source + is_sensitive + empty + kind in frame

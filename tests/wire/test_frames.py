"""Frames come out whole and the same, however the stream is cut."""

from __future__ import annotations

import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_broker.buffers import BufferPool
from trio_broker.errors import ForeignProtocol, ProtocolError
from trio_broker.wire.frames import FrameSplitter

KIB = 1024
MIB = 1024 * KIB


class Got(NamedTuple):
    """A frame that was handed out."""

    content: bytes
    is_owned: bool


def feed(splitter: FrameSplitter, stream: bytes, sizes: list[int]) -> list[Got]:
    """Receive the stream in pieces of at most these sizes (repeated) and collect the frames."""
    got = []
    position = turn = 0
    while position < len(stream):
        target = splitter.writable()
        assert len(target) > 0
        size = min(sizes[turn % len(sizes)], len(target), len(stream) - position)
        target[:size] = stream[position : position + size]
        splitter.received(size, now=float(turn))
        del target
        position += size
        turn += 1
        while (frame := splitter.next_frame()) is not None:
            got.append(Got(bytes(frame), splitter.frame_is_owned))
    return got


def framed(body: bytes) -> bytes:
    return struct.pack(">i", len(body)) + body


bodies = st.builds(
    lambda key, size: struct.pack(">h", key) + bytes([size % 251]) * size,
    st.sampled_from([0, 1, 3, 18]),
    st.one_of(
        st.integers(2, 50),
        st.sampled_from([4 * KIB, 32 * KIB - 2, 32 * KIB - 1, 64 * KIB - 6, 64 * KIB, 300 * KIB]),
    ),
)


@given(
    st.lists(bodies, min_size=1, max_size=8),
    st.lists(st.sampled_from([1, 2, 3, 5, 7, 100, 4096, 65_536, 10**6]), min_size=1, max_size=4),
)
def test_any_split_gives_the_same_frames(contents: list[bytes], sizes: list[int]) -> None:
    if max(sizes) < 100:  # single bytes of big frames would take long
        contents = [body[:200] for body in contents]
    splitter = FrameSplitter(MIB, MIB)
    got = feed(splitter, b"".join(map(framed, contents)), sizes)
    assert [frame.content for frame in got] == contents
    assert splitter.is_empty
    assert splitter.partial_since is None
    assert splitter.partial_bytes == 0


def test_big_frame_has_a_buffer_of_its_own() -> None:
    splitter = FrameSplitter(MIB, MIB)
    frame = framed(b"\x00\x00" + b"a" * 60 * KIB)
    first = splitter.writable()
    first[:100] = frame[:100]
    splitter.received(100)
    assert splitter.next_frame() is None
    rest = splitter.writable()
    assert len(rest) == len(frame) - 100 + 4 * KIB  # some room for what comes behind it
    missing = len(frame) - 100
    rest[:missing] = frame[100:]
    splitter.received(missing)
    got = splitter.next_frame()
    assert got == frame[4:]
    assert splitter.frame_is_owned


def test_what_comes_behind_a_big_frame_is_received_with_its_end() -> None:
    """So one large frame after another takes one wake-up each, not two."""
    pool = BufferPool()
    made = [pool.make(310 * KIB) for _ in range(5)]
    del made  # memory to be used again, so that nothing has to grow
    splitter = FrameSplitter(MIB, MIB, pool)
    big = framed(b"\x00\x00" + b"a" * 300 * KIB)
    small = framed(b"\x00\x12" + b"b" * 50)
    feed(splitter, big[:100], [100])
    kept = []
    for _ in range(3):
        target = splitter.writable()
        stream = big[100:] + small * 2 + big[:100]
        target[: len(stream)] = stream
        splitter.received(len(stream), now=7.0)
        del target
        while (frame := splitter.next_frame()) is not None:
            kept.append(frame[:])  # nobody writes where somebody still looks
        assert (splitter.partial_since, splitter.partial_bytes) == (7.0, 100)
        assert splitter.expected_bytes == len(big) - 100
    assert kept == [big[4:], small[4:], small[4:]] * 3


@given(
    st.lists(bodies, min_size=1, max_size=6),
    st.lists(st.sampled_from([100, 4096, 65_536, 10**6]), min_size=1, max_size=4),
)
def test_frames_in_memory_used_before_are_the_same(contents: list[bytes], sizes: list[int]) -> None:
    """Two connections share the memory; what one keeps of its frames, the other leaves alone."""
    pool = BufferPool()
    keeper = FrameSplitter(MIB, MIB, pool)
    other = FrameSplitter(MIB, MIB, pool)
    kept: list[memoryview] = []
    for body in contents:
        stream = framed(body)
        while stream:
            target = keeper.writable()
            size = min(sizes[len(kept) % len(sizes)], len(target), len(stream))
            target[:size] = stream[:size]
            keeper.received(size)
            stream = stream[size:]
            del target
            while (frame := keeper.next_frame()) is not None:
                kept.append(frame[:])
        assert [got.content for got in feed(other, framed(b"\x00\x00" + body), sizes)] == [
            b"\x00\x00" + body
        ]
    assert kept == contents


def test_a_claimed_size_takes_no_new_memory_with_a_pool_either() -> None:
    pool = BufferPool()
    splitters = [FrameSplitter(MIB, MIB, pool) for _ in range(3)]
    claim = struct.pack(">ih", MIB - 4, 0) + b"ab"
    for splitter in splitters:
        feed(splitter, claim, [8])
    assert pool.kept_bytes == 0
    feed(splitters[0], bytes(MIB - 8), [10**6])
    assert splitters[0].is_empty
    one = pool.kept_bytes
    assert one > 0
    for _ in range(5):  # only what is idle is claimed
        feed(FrameSplitter(MIB, MIB, pool), claim, [8])
    assert pool.kept_bytes == one


def test_it_says_how_much_the_frame_still_needs() -> None:
    splitter = FrameSplitter(MIB, MIB)
    stream = framed(b"\x00\x00" + b"a" * 500 * KIB)
    assert splitter.expected_bytes == 1
    feed(splitter, stream[:10_000], [10_000])
    assert splitter.expected_bytes == len(stream) - 10_000
    feed(splitter, stream[10_000:300_000], [100_000])
    assert splitter.expected_bytes == len(stream) - 300_000
    feed(splitter, stream[300_000:], [100_000])
    assert splitter.expected_bytes == 1


def test_slices_of_a_frame_outlive_it() -> None:
    """A buffer is never received into while somebody looks at it."""
    splitter = FrameSplitter(MIB, MIB)
    kept = []
    for value in (b"a", b"b", b"c"):
        target = splitter.writable()
        stream = framed(b"\x00\x03" + value * 50)
        target[: len(stream)] = stream
        splitter.received(len(stream))
        del target
        frame = splitter.next_frame()
        assert frame is not None
        assert not splitter.frame_is_owned
        kept.append(frame[2:])
    splitter.writable()
    assert kept == [b"a" * 50, b"b" * 50, b"c" * 50]
    with pytest.raises(ValueError, match="released"):
        bytes(frame)


def test_small_buffer_is_used_again_when_nobody_looks() -> None:
    splitter = FrameSplitter(MIB, MIB)
    feed(splitter, framed(b"\x00\x03abcdef") * 10, [20])
    tracemalloc.start()
    feed(splitter, framed(b"\x00\x03abcdef") * 1000, [20])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert splitter.claimed_bytes == 4 * KIB
    assert peak < 400_000  # the frames collected here, and no new buffers


def test_last_byte_of_a_full_buffer_survives() -> None:
    """A frame that only begins before the end of the buffer goes on in the next, undamaged."""
    splitter = FrameSplitter(MIB, MIB)
    body = b"\x00\x01" + b"\xff" * 998
    stream = framed(body) * 512
    got = feed(splitter, stream, [64 * KIB])
    assert [item.content for item in got] == [body] * 512


def test_buffer_grows_for_peers_that_fill_it_and_shrinks_when_idle() -> None:
    splitter = FrameSplitter(MIB, MIB)
    assert splitter.claimed_bytes == 0
    feed(splitter, framed(b"\x00\x03" + b"x" * 1000) * 200, [10**6])
    assert splitter.claimed_bytes == 64 * KIB
    splitter.shrink()
    assert splitter.claimed_bytes == 0
    assert feed(splitter, framed(b"\x00\x03ok"), [100]) == [(b"\x00\x03ok", False)]


def test_shrink_keeps_what_has_arrived() -> None:
    splitter = FrameSplitter(MIB, MIB)
    feed(splitter, b"\x00\x00", [2])
    splitter.shrink()
    assert feed(splitter, b"\x00\x04abcd", [6]) == [(b"abcd", False)]


@pytest.mark.parametrize("size", [-1, -(2**31), 2**31 - 1, 0, 3, MIB + 1])
@pytest.mark.parametrize("received", [4, 5, 6, 20])
def test_illegal_sizes_are_refused_at_once(size: int, received: int) -> None:
    splitter = FrameSplitter(MIB, MIB)
    stream = struct.pack(">ih", size, 0) + bytes(20)
    with pytest.raises(ProtocolError, match="a frame of"):
        feed(splitter, stream[:received], [received])


@pytest.mark.parametrize(
    "first, said, is_told",
    [
        (b"GET /metrics HTTP/1.1\r\n", "an HTTP request came", True),
        (b"POST /topics HTTP/1.1\r\n", "an HTTP request came", True),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "an HTTP request came", True),
        (b"HTTP/1.1 400 Bad Request\r\n", "what answers there speaks HTTP", False),
        (bytes.fromhex("16030102000100"), "a TLS handshake came", False),
        (bytes.fromhex("15030300020246"), "what answers there expects TLS", False),
    ],
)
@pytest.mark.parametrize("received", [4, 5, 6, 7])
def test_other_protocols_are_told_by_how_they_begin(
    first: bytes, said: str, received: int, *, is_told: bool
) -> None:
    with pytest.raises(ForeignProtocol, match=said) as caught:
        feed(FrameSplitter(100 * MIB, 4 * MIB), first[:received], [received])
    assert caught.value.reply.startswith(b"HTTP/1.1 400 ") == is_told


def test_limits_depend_on_the_api() -> None:
    splitter = FrameSplitter(2 * MIB, 64 * KIB)
    produce = framed(b"\x00\x00" + bytes(MIB))
    assert feed(splitter, produce, [10**6])[0].content == produce[4:]
    with pytest.raises(ProtocolError, match="at most 65536"):
        feed(splitter, framed(b"\x00\x01" + bytes(MIB)), [100])
    before_authentication = FrameSplitter(64 * KIB, 64 * KIB)
    with pytest.raises(ProtocolError, match="at most 65536"):
        feed(before_authentication, produce, [100])


def test_claimed_sizes_cost_only_what_arrives() -> None:
    splitters = [FrameSplitter(100 * MIB, 4 * MIB) for _ in range(3)]
    for splitter in splitters:
        feed(splitter, struct.pack(">ih", 100 * MIB, 0) + b"ab", [8])
        splitter.writable()
        assert splitter.claimed_bytes <= 64 * KIB + 4 * KIB


def test_frame_above_a_mebibyte_grows_with_what_arrives() -> None:
    splitter = FrameSplitter(100 * MIB, 4 * MIB)
    body = b"\x00\x00" + bytes(range(256)) * (5 * 4096)
    stream = framed(body)
    for received in range(0, len(stream) - 100_000, 100_000):
        feed(splitter, stream[received : received + 100_000], [100_000])
        assert splitter.claimed_bytes <= max(4 * (received + 100_000), 64 * KIB) + 64 * KIB
    got = feed(splitter, stream[received + 100_000 :], [100_000])
    assert got == [(body, True)]


def test_a_frame_in_a_cycle_is_collected_in_silence() -> None:
    """As it is when a connection ends with an error whose traceback holds it.

    Development mode complains where Python 3.13 and later always do.
    """
    program = """
import gc
from tests.wire.test_frames import KIB, MIB, FrameSplitter, framed

splitter = FrameSplitter(MIB, MIB)
left = framed(b"\\0\\0" + bytes(300 * KIB))
while left:
    target = splitter.writable()
    size = min(len(target), len(left))
    target[:size], left = left[:size], left[size:]
    splitter.received(size, now=0.0)
    frame = splitter.next_frame()
assert splitter.frame_is_owned
cycle = [frame]
cycle.append(cycle)
del cycle, frame, splitter, target
gc.collect()
"""
    run = subprocess.run(
        [sys.executable, "-X", "dev", "-c", program],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "Exception ignored" not in run.stderr


def test_partial_since_is_when_the_incomplete_frame_began() -> None:
    splitter = FrameSplitter(MIB, MIB)
    frame = framed(b"\x00\x03" + b"x" * 10)

    def receive(part: bytes, now: float) -> int:
        target = splitter.writable()
        target[: len(part)] = part
        splitter.received(len(part), now)
        frames = 0
        while splitter.next_frame() is not None:
            frames += 1
        return frames

    assert splitter.partial_since is None
    assert receive(frame[:5], 10.0) == 0
    assert splitter.partial_since == 10.0
    assert receive(frame[5:9], 11.0) == 0
    assert (splitter.partial_since, splitter.partial_bytes) == (10.0, 9)
    assert receive(frame[9:] + frame[:3], 12.0) == 1
    assert (splitter.partial_since, splitter.partial_bytes) == (12.0, 3)
    assert receive(frame[3:], 13.0) == 1
    assert splitter.partial_since is None
    big = framed(b"\x00\x00" + b"x" * 60 * KIB)
    assert receive(frame + big[:50], 14.0) == 1
    assert receive(big[50:200], 15.0) == 0
    assert (splitter.partial_since, splitter.partial_bytes) == (14.0, 200)
    assert receive(big[200:], 16.0) == 1
    assert splitter.partial_since is None

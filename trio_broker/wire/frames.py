"""Cut a stream of bytes into frames, and say where the next bytes should go.

Owned by a connection's loop (broker and client), which receives straight into `writable()`. Two
places hold bytes:

- a small buffer that grows to 64 KiB where a peer fills it, and holds any number of small frames;
- for a frame above 32 KiB that is not complete yet, a buffer of its own, so that its records are
  never copied again. Where no such buffer is left from earlier frames, it grows with the bytes that
  have really arrived: a claimed size costs nothing. It has some room behind the frame, where the
  beginning of the next one may arrive with the end of this one; that goes to the small buffer.

Nobody writes where somebody still looks: a frame handed out ends its life at the next
`writable()`, and if slices of it are still alive then, the buffer is left to them and replaced.
"""

from __future__ import annotations

import sys
from io import BytesIO
from struct import Struct

from trio_broker.buffers import BufferPool, is_unshared
from trio_broker.errors import ProtocolError
from trio_broker.wire.api import ApiKey
from trio_broker.wire.strangers import too_large

_KIB = 1024
#: Size of the small buffer of a new connection: idle ones must stay cheap.
_BUFFER_BYTES_MIN = 4 * _KIB
_BUFFER_BYTES_MAX = 64 * _KIB
#: Incomplete frames above this get a buffer of their own.
OWN_BUFFER_BYTES_MIN = 32 * _KIB
#: A buffer claimed before anything has arrived is at most this large: memory that the C library
#: gives out again is not untouched, so what a client merely claims must stay small.
_CLAIM_BYTES_MAX = 64 * _KIB
#: Room behind a frame in a buffer of its own. A peer that sends one large frame after another is
#: then read from half as often: the next size is known when a frame is complete.
_ROOM_BEHIND_BYTES = 4 * _KIB
#: By how much a buffer that is full of received bytes grows.
_GROWTH = 4
_SIZE_BYTES = 4
_FRAME_BYTES_MIN = 4  # the correlation id of a response without a body
_PRODUCE = int(ApiKey.PRODUCE)
_read_size = Struct(">i").unpack_from
_read_size_key = Struct(">ih").unpack_from


class FrameSplitter:
    """The receiving half of one connection, without I/O.

    Attributes:
        produce_frame_bytes_max: largest Produce request accepted.
        frame_bytes_max: largest frame of any other kind. Both may be changed at any time and
            count from the next frame on (a connection that has to authenticate starts lower).
        frame_is_owned: whether the frame last returned has a buffer of its own. Slices of it may
            be kept without copying; a slice of any other frame keeps up to 64 KiB alive.
        partial_since: the `now` of the `received` that began the incomplete frame, or None.
    """

    __slots__ = (
        "_buffer",
        "_buffers",
        "_end",
        "_frames",
        "_last_received",
        "_own",
        "_own_filled",
        "_own_frame_bytes",
        "_start",
        "_wanted_bytes",
        "frame_bytes_max",
        "frame_is_owned",
        "partial_since",
        "produce_frame_bytes_max",
    )

    def __init__(
        self,
        produce_frame_bytes_max: int,
        frame_bytes_max: int,
        buffers: BufferPool | None = None,
    ) -> None:
        self.produce_frame_bytes_max = produce_frame_bytes_max
        self.frame_bytes_max = frame_bytes_max
        self.frame_is_owned = False
        self.partial_since: float | None = None
        self._last_received = 0.0
        self._buffers = buffers
        self._buffer = bytearray()  # small frames; bytes from _start to _end are not handed out
        self._start = 0
        self._end = 0
        self._wanted_bytes = _BUFFER_BYTES_MIN  # size of the small buffer when next allocated
        self._own: memoryview | None = None  # buffer of the big frame that is arriving
        self._own_filled = 0
        self._own_frame_bytes = 0
        self._frames: list[memoryview] = []  # handed out since the last writable()

    @property
    def is_empty(self) -> bool:
        """Whether there is no byte of a frame that has not been handed out."""
        return self._own is None and self._start == self._end

    @property
    def partial_bytes(self) -> int:
        """Bytes received of the incomplete frame, with its size."""
        if self._own is not None:
            return self._own_filled + _SIZE_BYTES
        return self._end - self._start

    @property
    def expected_bytes(self) -> int:
        """How many more bytes complete the frame that is arriving; 1 if that is not known."""
        if self._own is not None:
            return self._own_frame_bytes - self._own_filled
        return 1

    @property
    def claimed_bytes(self) -> int:
        """Memory held for receiving, to be counted against the broker's budget."""
        own_bytes = 0 if self._own is None else len(self._own)
        return len(self._buffer) + own_bytes

    def shrink(self) -> None:
        """Give the small buffer back if it is empty, as a connection may that has become idle."""
        if self.is_empty:
            self._buffer = bytearray()
            self._start = self._end = 0
            self._wanted_bytes = _BUFFER_BYTES_MIN

    def writable(self) -> memoryview:
        """Return where to receive next; never empty.

        Frames returned before become invalid; slices taken of them stay valid. Release the view
        (or drop it) before the next call of `next_frame`.
        """
        frames = self._frames
        for frame in frames:
            frame.release()
        frames.clear()
        own = self._own
        if own is not None:
            if self._own_filled == len(own):
                own = self._grow_own(own)
            return own[self._own_filled : self._own_frame_bytes + _ROOM_BEHIND_BYTES]
        self._make_room()
        return memoryview(self._buffer)[self._end :]

    def received(self, byte_count: int, now: float = 0.0) -> None:
        """Tell how many bytes were put where `writable` said.

        Args:
            byte_count: at most the length of that view.
            now: any clock; comes back as `partial_since`.
        """
        self._last_received = now
        if self.partial_since is None:
            self.partial_since = now
        if self._own is not None:
            self._own_filled += byte_count
            behind_bytes = self._own_filled - self._own_frame_bytes
            if behind_bytes > 0:
                self._keep_behind(self._own, behind_bytes)
            return
        self._end += byte_count
        if self._end == len(self._buffer) and self._wanted_bytes < _BUFFER_BYTES_MAX:
            self._wanted_bytes = min(4 * self._wanted_bytes, _BUFFER_BYTES_MAX)

    def next_frame(self) -> memoryview | None:
        """Return the next complete frame without its size, or None until more is received.

        The view is valid until the next `writable`. Call until None before receiving again.

        Raises:
            ProtocolError: the peer claims a frame with a negative or too large size.
            ForeignProtocol: that was no size, but the beginning of another protocol.
        """
        own = self._own
        if own is not None:
            if self._own_filled < self._own_frame_bytes:
                return None
            self._own = None
            self.frame_is_owned = True
            self.partial_since = None if self._start == self._end else self._last_received
            frame = own[: self._own_frame_bytes]
            self._frames.append(frame)
            return frame
        start = self._start
        available = self._end - start
        if available < _SIZE_BYTES + 2:
            if available >= _SIZE_BYTES:
                size = _read_size(self._buffer, start)[0]
                _check_size(size, max(self.produce_frame_bytes_max, self.frame_bytes_max))
            elif not available:
                self.partial_since = None
            return None
        size, api_key = _read_size_key(self._buffer, start)
        _check_size(
            size, self.frame_bytes_max if api_key != _PRODUCE else self.produce_frame_bytes_max
        )
        start += _SIZE_BYTES
        end = start + size
        if end <= self._end:
            self._start = end
            self.partial_since = None if end == self._end else self._last_received
            self.frame_is_owned = False
            frame = memoryview(self._buffer)[start:end]
            self._frames.append(frame)
            return frame
        if size > OWN_BUFFER_BYTES_MIN:
            self._begin_own(size)
        else:
            self._wanted_bytes = max(self._wanted_bytes, _SIZE_BYTES + size)
        return None

    def _make_room(self) -> None:
        """Make `_buffer` have free bytes behind `_end`, moving or replacing it as needed."""
        start, end = self._start, self._end
        left = end - start
        buffer = self._buffer
        if len(buffer) < self._wanted_bytes or not is_unshared(buffer):
            self._buffer = bytearray(self._wanted_bytes)
            self._buffer[:left] = buffer[start:end]
        elif start:
            buffer[:left] = buffer[start:end]
        self._start, self._end = 0, left

    def _begin_own(self, frame_bytes: int) -> None:
        """Move the beginning of a big frame into a buffer of its own."""
        start = self._start + _SIZE_BYTES
        filled = self._end - start
        own = None
        if self._buffers is not None:
            own = self._buffers.reuse(frame_bytes + _ROOM_BEHIND_BYTES)
        if own is None:
            own = self._allocate(frame_bytes, max(_CLAIM_BYTES_MAX, _GROWTH * filled))
        own[:filled] = memoryview(self._buffer)[start : self._end]
        self._own = own
        self._own_filled = filled
        self._own_frame_bytes = frame_bytes
        self._start = self._end = 0

    def _keep_behind(self, own: memoryview, byte_count: int) -> None:
        """Put what has arrived behind a big frame into the small buffer, which is empty."""
        self._wanted_bytes = max(self._wanted_bytes, _ROOM_BEHIND_BYTES)
        self._make_room()
        frame_end = self._own_frame_bytes
        self._buffer[:byte_count] = own[frame_end : frame_end + byte_count]
        self._end = byte_count
        self._own_filled = frame_end

    def _grow_own(self, own: memoryview) -> memoryview:
        """Enlarge a buffer that is full of received bytes."""
        grown = self._allocate(self._own_frame_bytes, _GROWTH * len(own))
        grown[: len(own)] = own
        self._own = grown
        return grown

    def _allocate(self, frame_bytes: int, byte_count_max: int) -> memoryview:
        """Return memory for a frame, or for its beginning; to be used again if it holds it all."""
        if frame_bytes > byte_count_max:
            return _allocate(byte_count_max)
        made = None
        if self._buffers is not None:
            made = self._buffers.make(frame_bytes + _ROOM_BEHIND_BYTES)
        return made or _allocate(frame_bytes + _ROOM_BEHIND_BYTES)


def _check_size(size: int, limit: int) -> None:
    if size < _FRAME_BYTES_MIN:
        raise ProtocolError(f"a frame of {size} bytes")
    if size > limit:
        raise too_large(size, limit)


class _Memory(BytesIO):
    """Memory whose views may be garbage together with it.

    The garbage collector closes a BytesIO that is in a cycle, with the traceback of an error for
    example, and complains on stderr where a view of it is still there.
    """

    __slots__ = ()

    def close(self) -> None:
        """Do nothing: there is nothing but memory."""


def _allocate(byte_count: int) -> memoryview:
    """Return writable memory that costs little until it is written.

    `bytes` of zeros come untouched from the system, where `bytearray` would fill them; BytesIO
    makes them writable without a copy. Not in Python 3.12, of which there are versions that crash
    when such memory is in a cycle (https://github.com/python/cpython/issues/111049).
    """
    if sys.version_info[:2] == (3, 12):
        return memoryview(bytearray(byte_count))
    return _Memory(bytes(byte_count)).getbuffer()

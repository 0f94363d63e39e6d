"""Large buffers that are used again and again, for frames received and for bytes read from files.

Memory that is fresh from the system is dear: the kernel clears every page of it when it is first
touched, and does so again after the C library has given it back. For a request of 1 MiB that costs
about as much as reading it from the socket. So a buffer that was made once is kept, and handed out
again as soon as nobody looks at it any more.

Nobody has to give a buffer back. What is in it is looked at through memory views (by a connection,
by the write queue, by a lane's thread that may be stuck in the kernel), and a bytearray refuses to
change its size while there is a view of it: that is asked before it is handed out again.
"""

from __future__ import annotations

from bisect import bisect_left

_KIB = 1024
#: Sizes of buffers. The largest holds what clients send at most by default: a batch of 1 MiB
#: (Kafka's max.request.size) with the fields around it.
BUFFER_SIZES_BYTES = (64 * _KIB, 128 * _KIB, 256 * _KIB, 512 * _KIB, 1088 * _KIB)
#: What the buffers kept by one pool may come to, in use or not.
KEPT_BYTES_MAX = 16 * 1024 * _KIB
#: Buffers of one size: as many as are looked at when one is asked for.
KEPT_COUNT_MAX = 32
#: After so many buffers were handed out, those are let go that were not among them.
TRIM_AFTER = 1024


class _Kept:
    """A buffer, and whether it was handed out since the last trim."""

    __slots__ = ("buffer", "was_used")

    def __init__(self, buffer: bytearray) -> None:
        self.buffer = buffer
        self.was_used = True


class BufferPool:
    """Buffers of some sizes between 64 KiB and 1 MiB. For one thread.

    Attributes:
        kept_bytes: in all buffers that are kept, in use or not.
    """

    __slots__ = ("_by_size", "_until_trim", "kept_bytes")

    def __init__(self) -> None:
        self.kept_bytes = 0
        self._by_size: tuple[list[_Kept], ...] = tuple([] for _ in BUFFER_SIZES_BYTES)
        self._until_trim = TRIM_AFTER

    def __repr__(self) -> str:
        return f"<BufferPool {self.kept_bytes} B in {sum(map(len, self._by_size))} buffers>"

    def reuse(self, byte_count: int) -> memoryview | None:
        """Return memory of this size that was held before and is not in use, or None.

        What is in it are remains of its earlier use.
        """
        index = bisect_left(BUFFER_SIZES_BYTES, byte_count)
        if index == len(BUFFER_SIZES_BYTES):
            return None
        for kept in self._by_size[index]:  # from the first: few buffers stay in the CPU's cache
            if is_unshared(kept.buffer):
                kept.was_used = True
                self._until_trim -= 1
                if not self._until_trim:
                    self._trim()
                return memoryview(kept.buffer)[:byte_count]
        return None

    def make(self, byte_count: int) -> memoryview | None:
        """Return new memory of this size that will be used again, or None if it may not be kept."""
        index = bisect_left(BUFFER_SIZES_BYTES, byte_count)
        if index == len(BUFFER_SIZES_BYTES) or len(self._by_size[index]) == KEPT_COUNT_MAX:
            return None
        size_bytes = BUFFER_SIZES_BYTES[index]
        if self.kept_bytes + size_bytes > KEPT_BYTES_MAX:
            return None
        kept = _Kept(bytearray(size_bytes))
        self._by_size[index].append(kept)
        self.kept_bytes += size_bytes
        return memoryview(kept.buffer)[:byte_count]

    def _trim(self) -> None:
        """Let go of buffers that have served a load now gone, or that somebody never lets go of."""
        self._until_trim = TRIM_AFTER
        for buffers in self._by_size:
            for kept in buffers[:]:
                if not kept.was_used:
                    buffers.remove(kept)
                    self.kept_bytes -= len(kept.buffer)
                kept.was_used = False


def is_unshared(buffer: bytearray) -> bool:
    """Say whether no view of the buffer is alive: a bytearray refuses to change its size if so."""
    try:
        last = buffer.pop()
    except BufferError:
        return False
    buffer.append(last)  # of a full buffer it is a received byte
    return True

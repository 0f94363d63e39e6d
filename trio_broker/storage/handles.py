"""The budget of descriptors and of loaded indexes, shared by the logs of a broker.

Owns which segment files stay open between operations: the most recently used ones, as many as the
budget allows, so that thousands of partitions with many segments each fit into a small number of
descriptors and an idle replica holds none. The same for indexes, by the bytes they take.

Used on the event loop only. Jobs, which run elsewhere, hand over what they opened or loaded through
`offers`, a plain list whose append and pop are atomic; it is looked at whenever the loop next comes
by. So a job never touches a segment, and nothing it opened is ever without an owner.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

from trio_broker.config import MIB
from trio_broker.storage.index import SegmentIndex

if TYPE_CHECKING:
    from trio_broker.host.interface import File, FileSystem, OpenFile
    from trio_broker.storage.segment import Segment

    #: What a job gives back for a segment.
    Offers: TypeAlias = list[tuple[Segment, File | SegmentIndex]]

INDEX_BYTES_MAX = 32 * MIB


class SegmentCache:
    """Open files and loaded indexes of segments, least recently used first out.

    Attributes:
        files_max: most files kept open. Jobs open at most one more each while they run.
        offers: where jobs put what they opened or loaded.
    """

    __slots__ = (
        "_files",
        "_index_bytes",
        "_indexes",
        "_promised",
        "files_max",
        "index_bytes_max",
        "offers",
    )

    def __init__(self, files_max: int, index_bytes_max: int = INDEX_BYTES_MAX) -> None:
        self.files_max = files_max
        self.index_bytes_max = index_bytes_max
        self.offers: Offers = []
        self._files: OrderedDict[Segment, None] = OrderedDict()
        self._indexes: OrderedDict[Segment, int] = OrderedDict()
        self._index_bytes = 0
        self._promised = 0

    def __repr__(self) -> str:
        return (
            f"<SegmentCache {len(self._files)} of {self.files_max} files,"
            f" {self._index_bytes} B of indexes>"
        )

    @property
    def open_count(self) -> int:
        """Number of files kept open now."""
        return len(self._files)

    @property
    def index_bytes(self) -> int:
        """Memory that loaded indexes take, about."""
        return self._index_bytes

    def file_of(self, segment: Segment) -> File | None:
        """Return a segment's file if it is open, and remember that it was used."""
        if self.offers:
            self.take_offers()
        if segment.file is not None:
            self._files.move_to_end(segment)
        return segment.file

    def index_of(self, segment: Segment) -> SegmentIndex | None:
        """Return a segment's index if it is loaded, and remember that it was used."""
        if self.offers:
            self.take_offers()
        if segment.index is not None:
            self._indexes.move_to_end(segment)
        return segment.index

    def reserve(self) -> bool:
        """Promise room for one more file; False if every open one is needed where it is.

        The promise ends with `unreserve`, right before `keep_file` if the file was opened.
        """
        if not self._make_room(1):
            return False
        self._promised += 1
        return True

    def unreserve(self, count: int) -> None:
        """Give promises back."""
        self._promised -= count

    def limit_files(self, files_max: int) -> None:
        """Keep so many files open from now on; what is too many is closed as soon as it can be."""
        self.files_max = files_max
        excess = len(self._files) + self._promised - files_max
        idle = [segment for segment in self._files if not _is_needed(segment)]
        for segment in idle[: max(excess, 0)]:
            self.close_file(segment)

    def take_offers(self) -> None:
        """Keep what jobs opened or loaded, or close it where it is no longer wanted."""
        while self.offers:
            segment, item = self.offers.pop()
            if isinstance(item, SegmentIndex):
                self.keep_index(segment, item)
            else:
                self.keep_file(segment, item)

    def keep_file(self, segment: Segment, file: File) -> None:
        """Keep a file open for a segment if there is room and use for it, else close it.

        One that was opened before the segment grew through another is of no use: it does not know
        how long the file is.
        """
        if segment.file is file:
            return
        if (
            segment.is_dropped
            or segment.file is not None
            or file.is_spare
            or file.size < segment.size_bytes
            or not self._make_room(1)
        ):
            file.close()
            return
        segment.file = file
        self._files[segment] = None

    def keep_index(self, segment: Segment, index: SegmentIndex) -> None:
        """Keep a loaded index, unless the segment has one or has grown since."""
        if (
            segment.is_dropped
            or segment.index is not None
            or index.covered_bytes != segment.size_bytes
        ):
            return
        segment.index = index
        self.count_index(segment)

    def count_index(self, segment: Segment) -> None:
        """Count what a segment's index takes now; it is the most recently used one."""
        assert segment.index is not None
        size_bytes = segment.index.memory_bytes
        self._index_bytes += size_bytes - self._indexes.pop(segment, 0)
        self._indexes[segment] = size_bytes
        if self._index_bytes > self.index_bytes_max:
            self._drop_indexes()

    def forget(self, segment: Segment) -> None:
        """Close and unload everything of a segment that leaves its log."""
        segment.is_dropped = True
        self.close_file(segment)
        self.drop_index(segment)

    def close_file(self, segment: Segment) -> None:
        """Close a segment's file, if it is open."""
        if segment.file is not None:
            file, segment.file = segment.file, None
            del self._files[segment]
            file.close()

    def drop_index(self, segment: Segment) -> None:
        """Unload a segment's index, if it is loaded."""
        segment.index = None
        self._index_bytes -= self._indexes.pop(segment, 0)

    def _make_room(self, count: int) -> bool:
        """Close the least recently used files until `count` more fit; False if they never do."""
        missing = len(self._files) + self._promised + count - self.files_max
        if missing <= 0:
            return True
        idle = (segment for segment in self._files if not _is_needed(segment))
        victims = list(islice(idle, missing))
        if len(victims) < missing:
            return False
        for segment in victims:
            self.close_file(segment)
        return True

    def _drop_indexes(self) -> None:
        excess = self._index_bytes - self.index_bytes_max
        victims = []
        for segment, size_bytes in self._indexes.items():
            if excess <= 0:
                break
            if not segment.pins:
                victims.append(segment)
                excess -= size_bytes
        for segment in victims:
            self.drop_index(segment)


def _is_needed(segment: Segment) -> bool:
    return segment.pins > 0 or segment.holds_unsynced


def open_files_of(fs: FileSystem, *owners: str) -> list[OpenFile]:
    """Return what the handle ledger shows open for some owners."""
    return list(fs.open_files(frozenset(owners)))

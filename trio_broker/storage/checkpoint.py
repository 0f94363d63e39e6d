"""What a log writes down about itself, so that a start need not look into its segments.

- The *checkpoint* of a replica: its recovery point (all before it is durable and sound), where its
  segments are, its start offset and its leader epochs. Written at least every
  `storage.recovery_point_bytes`, after every roll and every change of the start offset.
- The *summary* of a replica in its log dir's clean marker: the same for the very end of the log,
  written when it is closed in order, so that a clean start opens no file of it.

Both are JSON inside the frame of `jobs.write_small_file`, which has the checksum.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from trio_broker.host import jobs
from trio_broker.storage import paths
from trio_broker.storage.files import read_derived
from trio_broker.storage.segment import LogPoint, Segment, SegmentFacts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_broker.host.interface import Job
    from trio_broker.storage.files import ReplicaFiles

_VERSION = 1
#: More segments than these, or more producer state, and a summary points to the checkpoint.
SUMMARY_SEGMENTS_MAX = 8
SUMMARY_PRODUCER_BYTES_MAX = 4096


class LogState(NamedTuple):
    """A log up to some point, as written down.

    Attributes:
        log_start_offset: first offset that is served.
        end: everything before this point is durable and sound.
        segments: all segments up to there, oldest first; the last one's size is `end.position`.
        epochs: the leader epochs, see `LeaderEpochCache.to_bytes`.
        has_producers: whether any producer was known at `end`.
        producers: their state where it is part of this; else it is in the snapshot for `end`.
        unchecked_bytes: bytes before `end` that the replica's last checkpoint does not cover.
    """

    log_start_offset: int
    end: LogPoint
    segments: tuple[SegmentFacts, ...]
    epochs: bytes
    has_producers: bool
    producers: bytes | None = None
    unchecked_bytes: int = 0

    def make_segments(self) -> list[Segment]:
        """Make the segments that are listed; their index files are taken to be complete."""
        bases = [facts.base_offset for facts in self.segments]
        segments = []
        for facts, end_offset in zip(self.segments, [*bases[1:], self.end.offset], strict=False):
            segment = Segment.from_facts(facts, end_offset)
            segment.indexed_bytes = facts.size_bytes
            segments.append(segment)
        return segments


class LogSummary(NamedTuple):
    """What a clean marker says about one replica.

    Attributes:
        end_offset: the log end offset.
        state: all about the log, None if its checkpoint says it.
    """

    end_offset: int
    state: LogState | None


def encode_state(state: LogState) -> dict[str, Any]:
    """Return a state as JSON values."""
    return {
        "version": _VERSION,
        "log_start_offset": state.log_start_offset,
        "end": list(state.end),
        "segments": [list(facts) for facts in state.segments],
        "epochs": state.epochs.hex(),
        "has_producers": state.has_producers,
        "producers": None if state.producers is None else state.producers.hex(),
        "unchecked_bytes": state.unchecked_bytes,
    }


def decode_state(values: Mapping[str, Any]) -> LogState | None:
    """Read what `encode_state` returned; None if it is of another version or makes no sense."""
    if values.get("version") != _VERSION:
        return None
    try:
        producers = values["producers"]
        return LogState(
            int(values["log_start_offset"]),
            LogPoint(*map(int, values["end"])),
            tuple(SegmentFacts(*map(int, facts)) for facts in values["segments"]),
            bytes.fromhex(values["epochs"]),
            bool(values["has_producers"]),
            None if producers is None else bytes.fromhex(producers),
            int(values["unchecked_bytes"]),
        )
    except (KeyError, TypeError, ValueError):
        return None


def encode_summaries(summaries: Mapping[str, LogSummary]) -> bytes:
    """Return the summaries of replicas, by directory name, as the body of a clean marker."""
    replicas = {
        name: {
            "end_offset": summary.end_offset,
            "state": None if summary.state is None else encode_state(summary.state),
        }
        for name, summary in sorted(summaries.items())
    }
    return json.dumps({"version": _VERSION, "replicas": replicas}).encode()


def decode_summaries(payload: bytes) -> dict[str, LogSummary]:
    """Read the body of a clean marker; a replica that it does not speak of clearly is left out."""
    try:
        values = json.loads(payload)
        replicas = values["replicas"].items() if values["version"] == _VERSION else ()
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    summaries = {}
    for name, entry in replicas:
        state = None if entry["state"] is None else decode_state(entry["state"])
        if state is not None or entry["state"] is None:
            summaries[name] = LogSummary(int(entry["end_offset"]), state)
    return summaries


def write_checkpoint(files: ReplicaFiles, state: LogState) -> Job[None]:
    """Replace a replica's checkpoint; the failures are those of `jobs.write_small_file`."""
    payload = json.dumps(encode_state(state)).encode()
    path = files.path(paths.CHECKPOINT_NAME)
    yield from jobs.write_small_file(files.fs, path, files.owner, payload)


def read_checkpoint(files: ReplicaFiles) -> Job[LogState | None]:
    """Return a replica's checkpoint, or None if it is missing or damaged."""
    path = files.path(paths.CHECKPOINT_NAME)
    payload = yield from read_derived(files.fs, path, files.owner)
    if payload is None:
        return None
    try:
        values = json.loads(payload)
    except ValueError:
        return None
    return decode_state(values) if isinstance(values, dict) else None


def write_snapshot(files: ReplicaFiles, offset: int, producers: bytes) -> Job[None]:
    """Write the producer state at an offset."""
    path = files.path(paths.offset_name(offset, paths.SNAPSHOT_SUFFIX))
    yield from jobs.write_small_file(files.fs, path, files.owner, producers)


def read_snapshot(files: ReplicaFiles, offset: int) -> Job[bytes | None]:
    """Return the producer state at an offset, or None if it is missing or damaged."""
    path = files.path(paths.offset_name(offset, paths.SNAPSHOT_SUFFIX))
    return (yield from read_derived(files.fs, path, files.owner))

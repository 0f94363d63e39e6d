"""A log dir on disk: whose it is, its lock, its clean marker, and what lies in it.

Called by `broker.log_dir` at start and stop. Opening takes the lock before anything is read, and
changes nothing that the clean marker speaks of. `begin_job` removes the marker, durably, before
anything of that is touched: from then on a crash means recovery, while a start that fails before
has spoilt nothing. The marker comes back as the very last thing of an orderly stop, with a summary
of every replica that was closed in order; a replica it does not name is recovered even after an
orderly stop.
"""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING
from uuid import UUID

from attrs import define, field

from trio_broker.config import MIB
from trio_broker.errors import AppendFailed, ConfigError, CorruptLog, FormatTooNew, SyncFailed
from trio_broker.host import jobs
from trio_broker.storage import paths
from trio_broker.storage.checkpoint import decode_summaries, encode_summaries
from trio_broker.storage.files import read_derived, unlink_if_there

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trio_broker.host.interface import DirectoryLock, FileSystem, Job
    from trio_broker.names import TopicPartition
    from trio_broker.storage.checkpoint import LogSummary

#: Raised whenever a log dir must not be touched by older versions any more.
FORMAT_VERSION = 1

#: One job removes at most so many files of deleted replicas, and stops after so many bytes: a
#: filesystem takes some tens of milliseconds to give a gigabyte back.
REMOVED_FILES_MAX = 32
REMOVED_BYTES_MAX = 256 * MIB

_NOT_CLEAN = b"{}"
_KNOWN_NAMES = frozenset(
    {
        paths.META_NAME,
        paths.CLEAN_MARKER_NAME,
        paths.QUARANTINE_NAME,
        paths.LOCK_NAME,
        paths.BALLAST_NAME,
    }
)


@define(eq=False)
class LogDirectory:
    """A log dir whose lock is held.

    Attributes:
        path: of the directory.
        directory_id: its identity, whatever its path.
        was_clean: an orderly stop came before.
        summaries: what that stop wrote down, by replica; each is good for one opening, which needs
            the marker to be gone (`begin_job`).
        replicas: replicas found.
        accepted: replicas that are not there, and whose loss an operator has accepted.
        deleted: directory names of deleted replicas whose files are still to be removed.
        strays: names of anything else, which nobody may delete.
    """

    fs: FileSystem
    path: str
    directory_id: UUID
    was_clean: bool
    summaries: dict[TopicPartition, LogSummary]
    replicas: list[TopicPartition]
    accepted: set[TopicPartition]
    deleted: list[str]
    strays: list[str]
    _lock: DirectoryLock = field(repr=False)

    def replica_path(self, topic_partition: TopicPartition) -> str:
        """Return the directory of a replica."""
        return f"{self.path}/{paths.replica_name(topic_partition)}"

    def take_summary(self, topic_partition: TopicPartition) -> LogSummary | None:
        """Return what the clean marker said of a replica, once: afterwards it is out of date."""
        return self.summaries.pop(topic_partition, None)

    def begin_job(self) -> Job[None]:
        """Make sure that the clean marker never counts again; before any log is opened.

        Raises:
            SyncFailed, OSError: it may or may not count, so nothing may be changed.
        """
        return _remove_marker(self.fs, self.path)

    def forget_accepted_job(self, topic_partition: TopicPartition) -> Job[None]:
        """Remove an operator's word that a replica may be made anew, now that it was.

        Not synced: where the directory is, the next start removes it again.

        Raises:
            OSError: it is still there.
        """
        name = self.replica_path(topic_partition) + paths.ACCEPT_LOSS_SUFFIX
        yield from unlink_if_there(self.fs, name)

    def make_replicas_job(
        self, replicas: Sequence[TopicPartition], *, sync: bool = True
    ) -> Job[list[str]]:
        """Make the directories of new replicas, with one fsync for all of them.

        Opening a log makes its directory too, but each with an fsync of its own. After this,
        `recovery.open_log_job` may be told that it `is_durable`.

        Args:
            replicas: whose.
            sync: False: a call that follows makes these durable too.

        Returns:
            The paths of those that were made.

        Raises:
            SyncFailed, OSError: those that were made by this call have been removed again.
        """
        paths_wanted = [self.replica_path(key) for key in replicas]
        return _make_replicas(self.fs, self.path, paths_wanted, sync=sync)

    def remove_made_job(self, directories: Sequence[str]) -> Job[None]:
        """Remove directories of new replicas that could not be made durable.

        Raises:
            OSError: some are still there.
        """
        return _remove_trees(self.fs, directories)

    def move_away_job(
        self, replicas: Sequence[TopicPartition], *, sync: bool = True
    ) -> Job[dict[str, OSError]]:
        """Give the directories of replicas the names that mark them as deleted.

        With one fsync for all of them. One that is not there is no failure, so this may be
        repeated; the files in them must be closed.

        Args:
            replicas: whose.
            sync: False: a call that follows makes these durable too.

        Returns:
            What failed, by the name that the directory was to get.

        Raises:
            SyncFailed: after a power cut they may all be in their places.
        """
        return _move_away(self.fs, self.path, replicas, sync=sync)

    def remove_deleted_job(self, name: str) -> Job[bool]:
        """Remove some of the files of a deleted replica; return whether it is gone.

        So many that other jobs of the lane need not wait long: call it until it returns True. Safe
        to repeat after a crash. The name is one of `deleted`, or a `paths.deleted_name`.

        Raises:
            OSError: something could not be removed; the rest is still there.
        """
        assert name.endswith(paths.DELETED_SUFFIX)
        return _remove_some(self.fs, f"{self.path}/{name}")

    def quarantine_job(self, name: str) -> Job[str]:
        """Move a directory or file that nobody knows out of the way; return where it is now.

        Raises:
            SyncFailed: it may be back after a power cut.
            OSError: it could not be moved.
        """
        return _quarantine(self.fs, self.path, name)

    def check_job(self) -> Job[None]:
        """See that the path still leads to this directory.

        Whoever mounts disks may have taken it away, with the filesystem that failed: then the path
        leads to an empty directory, on which everything works and no record is found.

        Raises:
            CorruptLog: it leads to another one.
            OSError: it cannot be read.
        """
        return _check_identity(self.fs, self.path, self.directory_id)

    def mark_clean_job(self, summaries: Mapping[TopicPartition, LogSummary]) -> Job[None]:
        """Write the clean marker: the last thing before `release`.

        Args:
            summaries: of every replica that was closed in order. Those not named are recovered at
                the next start.

        Raises:
            SyncFailed, AppendFailed, OSError: there is no marker; everything is recovered.
        """
        by_name = {paths.replica_name(key): summary for key, summary in summaries.items()}
        return jobs.write_small_file(
            self.fs,
            f"{self.path}/{paths.CLEAN_MARKER_NAME}",
            owner_of(self.path),
            encode_summaries(by_name),
        )

    def release(self) -> None:
        """Let go of the lock, once the last call in this directory has returned. Idempotent."""
        self._lock.release()


def open_log_directory_job(
    fs: FileSystem,
    path: str,
    *,
    cluster_id: str,
    node_id: int,
    new_directory_id: UUID,
    description: str,
) -> Job[LogDirectory]:
    """Take possession of a log dir, making it if there is none.

    Args:
        fs: the filesystem.
        path: of the directory.
        cluster_id: of the cluster this broker belongs to.
        node_id: of this broker.
        new_directory_id: identity to give it if it is new.
        description: who is asking, for the message that others get.

    Raises:
        LogDirInUse: somebody else has it.
        FormatTooNew: a newer version of this package wrote in it.
        ConfigError: it belongs to another cluster or node.
        CorruptLog: it holds logs, but nothing says whose.
        SyncFailed, AppendFailed, OSError: the disk refused.
    """
    yield from jobs.make_directories(fs, path)
    lock: DirectoryLock = yield fs.lock_directory, (path, description)
    try:
        return (yield from _open_locked(fs, path, lock, cluster_id, node_id, new_directory_id))
    except BaseException:
        lock.release()
        raise


def _open_locked(
    fs: FileSystem,
    path: str,
    lock: DirectoryLock,
    cluster_id: str,
    node_id: int,
    new_directory_id: UUID,
) -> Job[LogDirectory]:
    names: list[str] = yield fs.list_directory, (path,)
    replicas, deleted, strays = [], [], []
    accepted: set[TopicPartition] = set()
    for name in names:
        replica = paths.parse_replica_name(name)
        if replica is not None:
            replicas.append(replica)
        elif name.endswith(jobs.TEMPORARY_SUFFIX):
            yield from unlink_if_there(fs, f"{path}/{name}")
        elif name.endswith(paths.DELETED_SUFFIX) and paths.parse_replica_name(
            name.removesuffix(paths.DELETED_SUFFIX)
        ):
            deleted.append(name)
        elif name.endswith(paths.ACCEPT_LOSS_SUFFIX) and (
            replica := paths.parse_replica_name(name.removesuffix(paths.ACCEPT_LOSS_SUFFIX))
        ):
            accepted.add(replica)
        elif name not in _KNOWN_NAMES:
            strays.append(name)
    if paths.META_NAME in names:
        directory_id = yield from _read_meta(fs, path, cluster_id, node_id)
    elif replicas:
        raise CorruptLog(f"{path} holds logs, but {paths.META_NAME}, which says whose, is missing")
    else:
        directory_id = new_directory_id
        yield from _write_meta(fs, path, cluster_id, node_id, directory_id)
    for replica in accepted.intersection(replicas):  # it was made, or was never away
        accepted.remove(replica)
        name = paths.replica_name(replica) + paths.ACCEPT_LOSS_SUFFIX
        yield from unlink_if_there(fs, f"{path}/{name}")
    summaries = yield from _read_marker(fs, path)
    return LogDirectory(
        fs,
        path,
        directory_id,
        summaries is not None,
        summaries or {},
        replicas,
        accepted,
        deleted,
        strays,
        lock,
    )


def _read_marker(fs: FileSystem, path: str) -> Job[dict[TopicPartition, LogSummary] | None]:
    """Read the clean marker, if there is one that means something."""
    marker = f"{path}/{paths.CLEAN_MARKER_NAME}"
    payload = yield from read_derived(fs, marker, owner_of(path))
    if payload is None or payload == _NOT_CLEAN:
        return None
    summaries = {}
    for name, summary in decode_summaries(payload).items():
        replica = paths.parse_replica_name(name)
        if replica is not None:
            summaries[replica] = summary
    return summaries


def _remove_marker(fs: FileSystem, path: str) -> Job[None]:
    """Make sure that the clean marker never counts again.

    It is replaced by one that means nothing before it is removed. Removing alone would do, were it
    not for an fsync of the directory that fails: the name would seem to be gone, and come back with
    the next power cut, long after other data was written. The same fsync covers the names of
    replicas that a process made right before it was killed.
    """
    marker = f"{path}/{paths.CLEAN_MARKER_NAME}"
    try:
        yield from jobs.write_small_file(fs, marker, owner_of(path), _NOT_CLEAN)
    except (AppendFailed, OSError):
        # A full disk must not keep the broker from starting: how else could it delete anything?
        yield from unlink_if_there(fs, marker)
        yield from jobs.sync_directory(fs, path)
    else:
        yield from unlink_if_there(fs, marker)


def _read_meta(fs: FileSystem, path: str, cluster_id: str, node_id: int) -> Job[UUID]:
    """Return the directory id, if the directory is ours."""
    meta = f"{path}/{paths.META_NAME}"
    payload = yield from jobs.read_small_file(fs, meta, owner_of(path))
    if payload is None:
        raise CorruptLog(f"{meta} is damaged: nothing says whose log dir this is")
    try:
        fields = json.loads(payload)
        version = int(fields["format"])
        if version > FORMAT_VERSION:
            raise FormatTooNew(f"{path} has format {version}, this version knows {FORMAT_VERSION}")
        directory_id = UUID(fields["directory_id"])
        stored = str(fields["cluster_id"]), int(fields["node_id"])
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptLog(f"{meta} makes no sense ({error!r})") from error
    if stored != (cluster_id, node_id):
        fault = (
            f"log_dirs: {path} belongs to node {stored[1]} of cluster {stored[0]!r}, this is "
            f"node {node_id} of cluster {cluster_id!r}"
        )
        raise ConfigError([fault])
    return directory_id


def _check_identity(fs: FileSystem, path: str, directory_id: UUID) -> Job[None]:
    meta = f"{path}/{paths.META_NAME}"
    payload = yield from jobs.read_small_file(fs, meta, owner_of(path))
    try:
        found = None if payload is None else UUID(json.loads(payload)["directory_id"])
    except (ValueError, KeyError, TypeError):
        found = None
    if found != directory_id:
        raise CorruptLog(f"{path} is not the directory that was opened: is its disk mounted?")


def _write_meta(
    fs: FileSystem, path: str, cluster_id: str, node_id: int, directory_id: UUID
) -> Job[None]:
    fields = {
        "format": FORMAT_VERSION,
        "directory_id": str(directory_id),
        "cluster_id": cluster_id,
        "node_id": node_id,
    }
    meta = f"{path}/{paths.META_NAME}"
    yield from jobs.write_small_file(fs, meta, owner_of(path), json.dumps(fields).encode())


def _make_replicas(
    fs: FileSystem, path: str, directories: Sequence[str], *, sync: bool
) -> Job[list[str]]:
    made: list[str] = []
    try:
        for directory in directories:
            if (yield fs.stat, (directory,)) is None:
                yield fs.make_directory, (directory,)
                made.append(directory)
        if sync:
            yield from jobs.sync_directory(fs, path)
    except (OSError, SyncFailed):
        yield from _remove_trees(fs, made)
        raise
    return made


def _remove_trees(fs: FileSystem, directories: Sequence[str]) -> Job[None]:
    for directory in directories:
        yield from jobs.remove_tree(fs, directory)


def _move_away(
    fs: FileSystem, path: str, replicas: Sequence[TopicPartition], *, sync: bool
) -> Job[dict[str, OSError]]:
    failures: dict[str, OSError] = {}
    for replica in replicas:
        source, name = f"{path}/{paths.replica_name(replica)}", paths.deleted_name(replica)
        try:
            yield from _replace_tree(fs, source, f"{path}/{name}")
        except FileNotFoundError:
            continue  # it was never made, or this was done before
        except OSError as error:
            failures[name] = error
    if sync:
        # Also if there was nothing to rename: an attempt before this one may have got only so far.
        yield from jobs.sync_directory(fs, path)
    return failures


def _replace_tree(fs: FileSystem, source: str, target: str) -> Job[None]:
    try:
        yield fs.rename, (source, target)
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise
        yield from jobs.remove_tree(fs, target)
        yield fs.rename, (source, target)


def _remove_some(fs: FileSystem, path: str) -> Job[bool]:
    try:
        names: list[str] = yield fs.list_directory, (path,)
    except FileNotFoundError:
        return True
    size_bytes = 0
    for number, name in enumerate(names):
        if number == REMOVED_FILES_MAX or size_bytes >= REMOVED_BYTES_MAX:
            return False
        info = yield fs.stat, (f"{path}/{name}",)
        if info is not None and info.is_directory:
            yield from jobs.remove_tree(fs, f"{path}/{name}")
        elif info is not None:
            yield from unlink_if_there(fs, f"{path}/{name}")
            size_bytes += info.size_bytes
    try:
        yield fs.remove_directory, (path,)
    except FileNotFoundError:
        pass
    return True


def _quarantine(fs: FileSystem, path: str, name: str) -> Job[str]:
    quarantine = f"{path}/{paths.QUARANTINE_NAME}"
    yield from jobs.make_directories(fs, quarantine)
    target = f"{quarantine}/{name}"
    number = 0
    while (yield fs.stat, (target,)) is not None:
        number += 1
        target = f"{quarantine}/{name}.{number}"
    yield fs.rename, (f"{path}/{name}", target)
    yield from jobs.sync_directory(fs, quarantine)
    yield from jobs.sync_directory(fs, path)
    return target


def owner_of(path: str) -> str:
    """Return what files of a log dir itself are entered under in the handle ledger."""
    return f"log-dir/{path}"

"""What ``trio-broker doctor`` looks at: the machine, before or beside a broker.

Blocks, as there is nothing else to do. Called by `doctor`.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import platform
import sys
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from trio_broker.broker.descriptors import divide_descriptors
from trio_broker.broker.http_server import missing_libraries
from trio_broker.cli.now import now_ms
from trio_broker.cli.options import TABLE
from trio_broker.cli.output import Column, counted, show_rows, size_text
from trio_broker.config import BrokerConfig
from trio_broker.config_checks import split_address
from trio_broker.errors import ConfigError, LogDirInUse
from trio_broker.host import facts
from trio_broker.host.config_file import load
from trio_broker.host.real import real_host
from trio_broker.records.compression import Compression, available
from trio_broker.storage.disk_state import LOW_INODES, thresholds
from trio_broker.storage.foreign_directories import KAFKA_NAME, OUR_NAMES
from trio_broker.storage.paths import LOCK_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from trio_broker.settings.sources import Entry

#: Filesystems whose locks and fsyncs other machines or programs answer for.
_REMOTE_KINDS = ("nfs", "cifs", "smb", "9p", "fuse", "ceph", "glusterfs")
_MEMORY_KINDS = frozenset({"tmpfs", "ramfs"})
#: Descriptors that the interpreter has open by itself.
_DESCRIPTORS_TAKEN = 10
#: A limit that is nearly what was configured troubles nobody.
_CONNECTIONS_SHARE = 0.9
_SYNCS = 10
#: A group commit takes as long, and every acknowledgement with it.
_SLOW_SYNC_MS = 50.0
_PROBE_BYTES = 4096
#: Nothing was written before this program was.
_EARLIEST_MS = 1_760_000_000_000
_CLOCK_TOLERANCE_MS = 60_000


class Level(Enum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


class Finding(NamedTuple):
    """See `shapes.FINDING`."""

    check: str
    level: Level
    message: str
    advice: str | None = None


def examine(
    config_path: str | None, assignments: Iterable[str], options: Iterable[Entry]
) -> list[Finding]:
    """Look at everything; with a configuration that is wrong, at what does not need it."""
    findings = list(_python())
    config = BrokerConfig()
    try:
        config = load(
            config_path, environ=os.environ, assignments=assignments, options=options, serve=True
        ).config
    except ConfigError as error:
        findings += [
            Finding("configuration", Level.FAILURE, fault, "`trio-broker config explain KEY` helps")
            for fault in error.faults
        ]
        return findings + list(_extras(config)) + list(_clock([]))
    findings.append(
        Finding("configuration", Level.OK, config_path or "environment and defaults, no mistakes")
    )
    findings += _extras(config)
    findings += _descriptors(config)
    directories = list(dict.fromkeys([config.data_dir, *config.log_directories]))
    locked = {config.metadata_directory, *config.log_directories}
    for directory in directories:
        of_metadata = [config.metadata_directory] if directory == config.data_dir else []
        findings += _directory(directory, [*of_metadata, *({directory} & locked)])
    findings += _ports(config, in_use=any(map(_is_in_use, locked)))
    findings += _advertised(config)
    findings += _clock(directories)
    return findings


def show(output: str, findings: Sequence[Finding]) -> None:
    """Write the findings: what to do stands below each."""
    if output != TABLE:
        rows: list[dict[str, Any]] = [
            finding._asdict() | {"level": finding.level.value} for finding in findings
        ]
        show_rows(output, rows, (), none="")
        return
    columns = (Column("level", "LEVEL"), Column("check", "CHECK"), Column("message", "FINDING"))
    rows = []
    for finding in findings:
        rows.append(finding._asdict() | {"level": finding.level.value})
        if finding.advice:
            rows.append({"level": "", "check": "", "message": f"-> {finding.advice}"})
    show_rows(output, rows, columns, none="")
    bad = sum(finding.level is Level.FAILURE for finding in findings)
    doubtful = sum(finding.level is Level.WARNING for finding in findings)
    print(f"{counted(bad, 'failure')}, {counted(doubtful, 'warning')}", file=sys.stderr)


# ------------------------------------------------------------------------- what is installed
def _python() -> Iterator[Finding]:
    yield Finding(
        "python", Level.OK, f"Python {platform.python_version()}, Trio {trio.__version__}"
    )


def _extras(config: BrokerConfig) -> Iterator[Finding]:
    missing = missing_libraries()
    if missing:
        yield Finding(
            "extra server",
            Level.FAILURE if config.http.listen is not None else Level.WARNING,
            f"{', '.join(missing)} not installed: no health and no metrics over HTTP",
            "pip install 'trio-broker[server]', or serve with --http off",
        )
    else:
        yield Finding("extra server", Level.OK, "installed")
    codecs = [codec.name.lower() for codec in Compression if not available(codec)]
    if codecs:
        yield Finding(
            "extra compression",
            Level.WARNING,
            f"no library for {', '.join(codecs)}: batches are stored and sent as they are, but "
            "`consume` and `log inspect --records` cannot read them here",
            "pip install 'trio-broker[compression]'",
        )
    else:
        yield Finding("extra compression", Level.OK, "installed")


# ------------------------------------------------------------------------------- descriptors
def _descriptors(config: BrokerConfig) -> Iterator[Finding]:
    allowed = facts.descriptors_hard_max()
    advice = (
        "raise it: LimitNOFILE=65536 in the systemd unit, --ulimit nofile=65536 for a container, "
        "or /etc/security/limits.conf"
    )
    try:
        budget = divide_descriptors(config, allowed=allowed, taken=_DESCRIPTORS_TAKEN)
    except ConfigError as error:
        yield Finding("descriptors", Level.FAILURE, error.faults[0], advice)
        return
    wanted = config.network.connections_max
    if budget.connections_max < wanted * _CONNECTIONS_SHARE:
        yield Finding(
            "descriptors",
            Level.WARNING,
            f"{allowed} allowed, which leaves room for {budget.connections_max} connections, "
            f"not {wanted} (network.connections_max)",
            advice,
        )
    else:
        yield Finding("descriptors", Level.OK, f"{allowed} allowed")


# ------------------------------------------------------------------------------- directories
def _names_in(path: str) -> set[str]:
    try:
        return set(os.listdir(path))
    except OSError:
        return set()


def _directory(path: str, locks: Sequence[str]) -> Iterator[Finding]:
    """Look at a directory, in which the directories `locks` are locked by a broker that runs."""
    check = f"directory {path}"
    there = os.path.abspath(path)
    if path in locks and os.path.islink(there):
        yield Finding(
            check, Level.FAILURE, "is a symbolic link", "name the directory that it points to"
        )
        return
    if not os.path.exists(there):
        while not os.path.exists(there):
            there = os.path.dirname(there)
        if not os.access(there, os.W_OK | os.X_OK):
            yield Finding(
                check,
                Level.FAILURE,
                f"does not exist, and {there} cannot be written by this user",
                f"mkdir -p {path} && chown {os.geteuid()} {path}, as root",
            )
        else:
            yield Finding(check, Level.OK, "does not exist yet; `serve` makes it")
    elif not os.path.isdir(there):
        yield Finding(check, Level.FAILURE, "is no directory", "name another one")
        return
    else:
        if KAFKA_NAME in (names := _names_in(there)) and not names & set(OUR_NAMES):
            yield Finding(
                check,
                Level.FAILURE,
                "is a log directory of Apache Kafka, which cannot be read here",
                "name an empty directory, and let a mirroring tool copy the records",
            )
            return
        for lock in locks:
            yield from _lock(check, os.path.abspath(lock))
        yield from _writing(check, there)
    yield from _filesystem(check, there)
    yield from _space(check, there)


def _holder(path: str) -> str | None:
    """Say who runs a broker here, if somebody does. Only looks where there is a lock.

    Raises:
        OSError: the filesystem has no locks.
    """
    if not os.path.exists(os.path.join(path, LOCK_NAME)):
        return None
    try:
        real_host().fs.lock_directory(path, "trio-broker doctor").release()
    except LogDirInUse as error:
        return str(error)
    return None


def _is_in_use(path: str) -> bool:
    try:
        return _holder(path) is not None
    except OSError:
        return False  # told with the directory


def _lock(check: str, path: str) -> Iterator[Finding]:
    try:
        holder = _holder(path)
    except OSError as error:
        yield Finding(
            check,
            Level.FAILURE,
            f"cannot be locked: {error.strerror}",
            "two brokers on one directory would destroy it; use a filesystem with flock",
        )
        return
    if holder is not None:
        yield Finding(
            check,
            Level.WARNING,
            holder,
            "fine if that is the broker you mean; another one could not start here",
        )


def _writing(check: str, path: str) -> Iterator[Finding]:
    probe = os.path.join(path, f".trio-broker-doctor-{os.getpid()}")
    try:
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        advice = f"chown -R {os.geteuid()} {path}, or run as its owner"
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            advice = "give space back: delete, or enlarge the disk"
        yield Finding(check, Level.FAILURE, f"cannot be written: {error.strerror}", advice)
        return
    try:
        started_ms = now_ms()
        for _ in range(_SYNCS):
            os.write(descriptor, bytes(_PROBE_BYTES))
            os.fsync(descriptor)
        each_ms = (now_ms() - started_ms) / _SYNCS
    except OSError as error:
        yield Finding(
            check,
            Level.FAILURE,
            f"cannot be written: {error.strerror}",
            "look at the disk, and into the kernel's log",
        )
        return
    finally:
        os.close(descriptor)
        os.unlink(probe)
    if each_ms > _SLOW_SYNC_MS:
        yield Finding(
            check,
            Level.WARNING,
            f"can be written, but fsync takes {each_ms:.0f} ms, and so does every acknowledgement",
            "a faster disk, or durability=interval where losing a second at a power cut is fine",
        )
    else:
        yield Finding(check, Level.OK, f"can be written, fsync takes {each_ms:.1f} ms")


def _filesystem(check: str, path: str) -> Iterator[Finding]:
    mount = facts.mount_of(path)
    if mount is None:
        return
    where = f"{mount.kind} on {mount.mount_point}"
    if mount.kind.startswith(_REMOTE_KINDS):
        yield Finding(
            check,
            Level.WARNING,
            f"{where}: locks and fsync are somebody else's promises",
            "a local disk (ext4, xfs) keeps what was acknowledged",
        )
    elif mount.kind in _MEMORY_KINDS:
        yield Finding(
            check,
            Level.WARNING,
            f"{where}: everything is gone after a restart of the machine",
            "fine for tests; else name a directory on a disk",
        )
    elif mount.kind == "overlay":
        yield Finding(
            check,
            Level.WARNING,
            f"{where}: everything goes with the container",
            "mount a volume there",
        )
    else:
        yield Finding(check, Level.OK, where)


def _space(check: str, path: str) -> Iterator[Finding]:
    space = real_host().fs.space(path)
    limits = thresholds(space.total_bytes)
    free = f"{size_text(space.free_bytes)} of {size_text(space.total_bytes)} free"
    if space.free_bytes < limits.degraded_bytes:
        yield Finding(
            check,
            Level.FAILURE,
            f"{free}: below {size_text(limits.degraded_bytes)} produce is refused",
            "give space back, or enlarge the disk",
        )
    elif space.free_bytes < limits.low_bytes:
        yield Finding(
            check,
            Level.WARNING,
            f"{free}: below {size_text(limits.low_bytes)} retention runs at once",
            "shorten retention, or enlarge the disk",
        )
    elif space.free_inodes < LOW_INODES:
        yield Finding(
            check,
            Level.WARNING,
            f"{space.free_inodes} inodes free",
            "each segment needs some; delete small files",
        )
    else:
        yield Finding(check, Level.OK, free)


# ------------------------------------------------------------------------------ ports, clock
def _ports(config: BrokerConfig, *, in_use: bool) -> Iterator[Finding]:
    addresses = [("kafka", listener) for listener in config.listeners]
    if config.http.listen is not None:
        addresses.append(("http", config.http.listen))
    for kind, address in addresses:
        host, port = split_address(address)
        check = f"port {kind}://{address}"
        fault = trio.run(_listen, host, port)
        if fault is None:
            yield Finding(check, Level.OK, "free")
        elif fault.errno == errno.EADDRINUSE and in_use:
            yield Finding(check, Level.OK, "in use, presumably by the broker that runs here")
        else:
            advice = {
                errno.EADDRINUSE: f"`ss -ltnp 'sport = :{port}'` says by whom; or another port",
                errno.EACCES: "ports below 1024 need root or CAP_NET_BIND_SERVICE; take a higher",
            }.get(fault.errno or 0, "name an address of this machine, or 0.0.0.0 for all of them")
            yield Finding(check, Level.FAILURE, fault.strerror or str(fault), advice)


def _advertised(config: BrokerConfig) -> Iterator[Finding]:
    """Look at the address that clients are told from here, where it should mean the same."""
    if config.advertised is None:
        return
    host, port = split_address(config.advertised)
    check = f"advertised {config.advertised}"
    try:
        addresses = trio.run(_addresses_of, host, port)
    except OSError as error:
        yield Finding(
            check,
            Level.WARNING,
            f"cannot be resolved here: {error.strerror or error}",
            "clients are told this name, so all of them must be able to resolve it",
        )
        return
    listened = {split_address(listener)[0] for listener in config.listeners}
    if all(map(_is_loopback, addresses)) and not all(map(_is_loopback, listened)):
        yield Finding(
            check,
            Level.WARNING,
            "is this machine for itself: clients elsewhere are told to connect to their own",
            "advertise a name or address that they can reach, if there are such clients",
        )
    else:
        yield Finding(check, Level.OK, f"is {', '.join(sorted(addresses))}")


async def _addresses_of(host: str, port: int) -> set[str]:
    found = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)
    return {str(address[0]) for *_, address in found}


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _listen(host: str, port: int) -> OSError | None:
    """Listen for a moment; return what is against it."""
    try:
        listeners = await real_host().network.listen(host, port)
    except OSError as error:
        return error
    for listener in listeners:
        listener.close()
    return None


def _clock(directories: Iterable[str]) -> Iterator[Finding]:
    now = now_ms()
    advice = "set it, and keep it with chrony or systemd-timesyncd"
    newest = max(
        (int(os.stat(path).st_mtime * 1000) for path in directories if os.path.isdir(path)),
        default=0,
    )
    if now < _EARLIEST_MS:
        yield Finding("clock", Level.FAILURE, "is years behind: retention goes by it", advice)
    elif newest > now + _CLOCK_TOLERANCE_MS:
        yield Finding(
            "clock",
            Level.WARNING,
            f"was {(newest - now) // 1000} s ahead when something was last written here",
            advice,
        )
    elif facts.clock_is_synchronised() is False:
        yield Finding("clock", Level.WARNING, "is kept by nobody (adjtimex says so)", advice)
    else:
        yield Finding("clock", Level.OK, "plausible")

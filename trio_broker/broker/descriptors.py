"""Who may have how many of the process's descriptors: settled at the start.

The system allows a number of them (RLIMIT_NOFILE). What the broker cannot do without is set aside,
and the rest is divided between segment files, of which the most recently used stay open, and
clients. A topic that nobody uses needs none, so their number is not bounded by this: CreateTopics
is never refused for want of descriptors.

Several brokers in one process share the limit (`host.leases`): each has a lease for as long as it
runs, and divides its share anew when others come or go. The division holds as long as nobody else
in the process takes many, and nobody lowers the limit.
What happens then: `listeners` turns new clients away, and `host.spares` keeps files going.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import trio
from attrs import frozen

from trio_broker.errors import ConfigError
from trio_broker.host.leases import Claim

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trio_broker.config import BrokerConfig
    from trio_broker.host.interface import Host

#: Fewer open segment files, or connections, than this make no sense.
FILES_MIN = 16
CONNECTIONS_MIN = 16
#: More open segment files than this save no time worth the kernel's memory.
FILES_DEFAULT_MAX = 16_384
#: What the interpreter, Trio, the metadata store and the locks need, and some more.
_RESERVED_BASE = 40
#: Of each lane: its bell, the files and directories of a job, two spare ones.
_RESERVED_PER_LANE = 6
_SPARES_PER_LANE = 2
_SPARES_BASE = 4
#: Of each address listened on, which may be two of a machine: the listener and its spare one.
_RESERVED_PER_ADDRESS = 4


@frozen(kw_only=True)
class DescriptorBudget:
    """The division of what is allowed.

    Attributes:
        allowed: descriptors that the process may have.
        taken: were open before the broker started: an embedding program's.
        reserved: for everything that is neither a segment nor a client.
        spares: of these, how many are kept for when there are no others.
        files_max: most segment files kept open.
        connections_max: most connections of Kafka clients.
        is_shared: other brokers in the process have the rest.
    """

    allowed: int
    taken: int
    reserved: int
    spares: int
    files_max: int
    connections_max: int
    is_shared: bool = False

    def __str__(self) -> str:
        return (
            f"{self.allowed} allowed (RLIMIT_NOFILE), {self.taken} taken, {self.reserved} reserved,"
            f" {self.files_max} for segment files, {self.connections_max} for connections"
            + (", the rest is other brokers' in this process" if self.is_shared else "")
        )


def claim_of(config: BrokerConfig) -> Claim:
    """Return what a broker with this configuration needs, and has use for."""
    configured_files = max(config.storage.open_files_max, 0)
    connections_min = _connections_min(config)
    return Claim(
        _reserved(config),
        (configured_files or FILES_MIN) + connections_min,
        (configured_files or FILES_DEFAULT_MAX) + config.network.connections_max,
    )


def _reserved(config: BrokerConfig) -> int:
    reserved = _RESERVED_BASE + _RESERVED_PER_LANE * _lanes(config)
    reserved += _RESERVED_PER_ADDRESS * len(config.listeners)
    if config.http.listen is not None:
        reserved += _RESERVED_PER_ADDRESS + config.http.connections_max
    return reserved


def _lanes(config: BrokerConfig) -> int:
    return 1 + config.storage.shards_per_log_dir * len(config.log_directories)


def _connections_min(config: BrokerConfig) -> int:
    return min(CONNECTIONS_MIN, config.network.connections_max) if config.listeners else 0


def divide_descriptors(
    config: BrokerConfig, *, allowed: int, taken: int, others: int = 0, room: int | None = None
) -> DescriptorBudget:
    """Divide the descriptors of a process, or one broker's share of them.

    Args:
        config: what is to be run.
        allowed: RLIMIT_NOFILE.
        taken: open already, by others than brokers.
        others: what other brokers in the process need at least.
        room: this broker's share besides what is reserved; None: all that is left.

    Raises:
        ConfigError: there are too few for what is configured, or for any broker.
    """
    claim = claim_of(config)
    if room is None:
        room = allowed - taken - others - claim.reserved
    if room < claim.least:
        raise ConfigError([_fault(config, allowed, taken, others, claim.reserved)])
    configured_files = max(config.storage.open_files_max, 0)
    files_max = configured_files or max(FILES_MIN, min(FILES_DEFAULT_MAX, room // 2))
    return DescriptorBudget(
        allowed=allowed,
        taken=taken,
        reserved=claim.reserved,
        spares=_SPARES_BASE + _SPARES_PER_LANE * _lanes(config),
        files_max=files_max,
        connections_max=min(config.network.connections_max, max(0, room - files_max)),
        is_shared=room < min(claim.most, allowed - taken - claim.reserved),
    )


@contextmanager
def leased_budget(
    config: BrokerConfig, host: Host, changed: Callable[[DescriptorBudget], None]
) -> Iterator[DescriptorBudget]:
    """Take a share of the process's descriptors for the length of a block.

    Args:
        config: of the broker that takes it.
        host: the machine.
        changed: called when the share has become another one: other brokers have come, or gone.

    Raises:
        ConfigError: what the others leave is too little.
    """

    def divide() -> DescriptorBudget:
        return divide_descriptors(
            config, allowed=allowed, taken=lease.taken, others=lease.others, room=lease.room
        )

    def tell() -> None:
        """Go on in the event loop of this broker, wherever that of the other one is."""
        if token is trio.lowlevel.current_trio_token():
            changed(divide())
            return
        with suppress(trio.RunFinishedError):  # then nobody is left to be told
            token.run_sync_soon(lambda: changed(divide()))

    token = trio.lowlevel.current_trio_token()
    allowed = host.descriptors_max
    with host.descriptor_leases.lease(
        claim_of(config),
        tell,
        allowed=allowed,
        taken=host.open_descriptors,
    ) as lease:
        yield divide()


def _fault(config: BrokerConfig, allowed: int, taken: int, others: int, reserved: int) -> str:
    configured_files = max(config.storage.open_files_max, 0)
    connections_min = _connections_min(config)
    what = (
        f"{configured_files} segment files (storage.open_files_max)"
        if configured_files
        else f"{FILES_MIN} segment files"
    )
    needed = taken + others + reserved + (configured_files or FILES_MIN) + connections_min
    return (
        f"the process may have {allowed} descriptors (RLIMIT_NOFILE), and {needed} are needed: "
        f"{taken} are open already, "
        + (f"{others} for other brokers in this process, " if others else "")
        + f"{reserved} for the broker itself, {what}, {connections_min} "
        "connections; raise the limit (ulimit -n, LimitNOFILE= of systemd)"
        + (" or lower storage.open_files_max" if configured_files else "")
    )

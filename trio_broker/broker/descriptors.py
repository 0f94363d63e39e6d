"""Who may have how many of the process's descriptors: settled once, at the start.

The system allows a number of them (RLIMIT_NOFILE). What the broker cannot do without is set aside,
and the rest is divided between segment files, of which the most recently used stay open, and
clients. A topic that nobody uses needs none, so their number is not bounded by this: CreateTopics
is never refused for want of descriptors.

The division holds as long as nobody else in the process takes many, and nobody lowers the limit.
What happens then: `listeners` turns new clients away, and `host.spares` keeps files going.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from trio_broker.errors import ConfigError

if TYPE_CHECKING:
    from trio_broker.config import BrokerConfig

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
    """

    allowed: int
    taken: int
    reserved: int
    spares: int
    files_max: int
    connections_max: int

    def __str__(self) -> str:
        return (
            f"{self.allowed} allowed (RLIMIT_NOFILE), {self.taken} taken, {self.reserved} reserved,"
            f" {self.files_max} for segment files, {self.connections_max} for connections"
        )


def divide_descriptors(config: BrokerConfig, *, allowed: int, taken: int) -> DescriptorBudget:
    """Divide the descriptors of a process.

    Args:
        config: what is to be run.
        allowed: RLIMIT_NOFILE.
        taken: open already.

    Raises:
        ConfigError: there are too few for what is configured, or for any broker.
    """
    lanes = 1 + config.storage.shards_per_log_dir * len(config.log_directories)
    reserved = _RESERVED_BASE + _RESERVED_PER_LANE * lanes
    reserved += _RESERVED_PER_ADDRESS * len(config.listeners)
    if config.http.listen is not None:
        reserved += _RESERVED_PER_ADDRESS + config.http.connections_max
    room = allowed - taken - reserved
    connections_min = min(CONNECTIONS_MIN, config.network.connections_max)
    if not config.listeners:
        connections_min = 0
    configured_files = max(config.storage.open_files_max, 0)
    if room < (configured_files or FILES_MIN) + connections_min:
        raise ConfigError([_fault(config, allowed, taken, reserved, connections_min)])
    files_max = configured_files or max(FILES_MIN, min(FILES_DEFAULT_MAX, room // 2))
    return DescriptorBudget(
        allowed=allowed,
        taken=taken,
        reserved=reserved,
        spares=_SPARES_BASE + _SPARES_PER_LANE * lanes,
        files_max=files_max,
        connections_max=min(config.network.connections_max, max(0, room - files_max)),
    )


def _fault(
    config: BrokerConfig, allowed: int, taken: int, reserved: int, connections_min: int
) -> str:
    configured_files = max(config.storage.open_files_max, 0)
    what = (
        f"{configured_files} segment files (storage.open_files_max)"
        if configured_files
        else f"{FILES_MIN} segment files"
    )
    needed = taken + reserved + (configured_files or FILES_MIN) + connections_min
    return (
        f"the process may have {allowed} descriptors (RLIMIT_NOFILE), and {needed} are needed: "
        f"{taken} are open already, {reserved} for the broker itself, {what}, {connections_min} "
        "connections; raise the limit (ulimit -n, LimitNOFILE= of systemd)"
        + (" or lower storage.open_files_max" if configured_files else "")
    )

"""What can be set about a client, a producer and a consumer; every field with unit and default.

The names and defaults are Apache Kafka's where it has them, except where a comment says why not.
"""

from __future__ import annotations

from typing import Any

from attrs import field, frozen, validators

from trio_broker.client.connection import CLIENT_ID
from trio_broker.client.types import IsolationLevel, OffsetSpec
from trio_broker.records.compression import Compression

ACKS_NONE = 0
ACKS_LEADER = 1
ACKS_ALL = -1

_KIB = 1024
_MIB = 1024 * _KIB
#: Batches of a producer that a broker remembers, so that it knows duplicates.
_IDEMPOTENT_IN_FLIGHT_MAX = 5


def _positive(default: Any) -> Any:
    return field(default=default, validator=validators.gt(0))


def _not_negative(default: Any) -> Any:
    return field(default=default, validator=validators.ge(0))


def _named(value: Any, names: dict[str, Any]) -> Any:
    """Take a value, or what has that name."""
    if not isinstance(value, str):
        return value
    if value.lower() not in names:
        raise ValueError(f"{value!r} is none of {', '.join(names)}")
    return names[value.lower()]


def _to_compression(value: Compression | str) -> Compression:
    return Compression(_named(value, {codec.name.lower(): codec for codec in Compression}))


def _to_isolation(value: IsolationLevel | str) -> IsolationLevel:
    return IsolationLevel(_named(value, {level.name.lower(): level for level in IsolationLevel}))


def _to_acks(value: int | str) -> int:
    return int(_named(value, {"all": ACKS_ALL}))


def _to_reset(value: OffsetSpec | str | None) -> OffsetSpec | None:
    names = {"earliest": OffsetSpec.EARLIEST, "latest": OffsetSpec.LATEST, "none": None}
    reset: OffsetSpec | None = _named(value, names)
    return reset


@frozen(kw_only=True)
class ClientOptions:
    """Of `open_client`.

    Attributes:
        client_id: name shown in the broker's logs.
        request_timeout_seconds: how long an answer may take before the connection is given up.
        connect_timeout_seconds: how long connecting to one address may take.
        start_timeout_seconds: how long `open_client` tries to find a broker.
        call_timeout_seconds: how long an admin call goes on trying.
        topic_timeout_seconds: how long a topic that does not exist is looked for before sending
            to it or reading it fails. (In Java it takes max.block.ms, a minute.)
        retry_backoff_seconds: pause before the second attempt, doubled before each further one.
        retry_backoff_max_seconds: longest pause.
        metadata_max_age_seconds: how long metadata is used without asking again.
        connection_idle_seconds: a connection that was idle for longer is replaced before it is
            used, since brokers close them after 10 minutes (connections.max.idle.ms).
    """

    client_id: str = CLIENT_ID
    request_timeout_seconds: float = _positive(30.0)
    connect_timeout_seconds: float = _positive(10.0)
    start_timeout_seconds: float = _positive(10.0)
    call_timeout_seconds: float = _positive(60.0)
    topic_timeout_seconds: float = _not_negative(5.0)
    retry_backoff_seconds: float = _positive(0.1)
    retry_backoff_max_seconds: float = _positive(1.0)
    metadata_max_age_seconds: float = _positive(300.0)
    connection_idle_seconds: float = _positive(540.0)


@frozen(kw_only=True)
class ProducerOptions:
    """Of `Client.open_producer`.

    Attributes:
        acks: "all" (or -1): every in-sync replica has a record before it is acknowledged; 1: the
            leader has; 0: nobody answers, and failures go unnoticed.
        idempotent: whether brokers refuse duplicates, so that a retry stores nothing twice
            (KIP-98); None: if acks is "all".
        compression: codec of batches, as `Compression` or its name.
        linger_seconds: how long a batch waits for more records while it is not full.
        batch_bytes: a batch takes records up to this size, counted before compression. More
            than Kafka's 16 KiB, since here a batch costs much and a byte little.
        request_bytes_max: size of a request, and of a record, before compression; the broker's
            limit on a batch (max.message.bytes) is about the same.
        in_flight_max: requests without an answer on each connection. With idempotence at most 5,
            and the order of a partition's records is kept in any case: without idempotence a
            partition has one batch under way at a time.
        buffer_bytes: memory for records that are not acknowledged; when it is full, sending
            waits.
        delivery_timeout_seconds: how long after `send` a record is sent again before it fails.
        request_timeout_seconds: how long a broker may take to answer.
    """

    acks: int = field(default=ACKS_ALL, converter=_to_acks, validator=validators.in_((-1, 0, 1)))
    idempotent: bool | None = None
    compression: Compression = field(default=Compression.NONE, converter=_to_compression)
    linger_seconds: float = _not_negative(0.005)
    batch_bytes: int = _positive(64 * _KIB)
    request_bytes_max: int = _positive(_MIB)
    in_flight_max: int = _positive(5)
    buffer_bytes: int = _positive(32 * _MIB)
    delivery_timeout_seconds: float = _positive(120.0)
    request_timeout_seconds: float = _positive(30.0)

    def __attrs_post_init__(self) -> None:
        if self.idempotent and self.acks != ACKS_ALL:
            raise ValueError("an idempotent producer needs acks='all'")
        if self.is_idempotent and self.in_flight_max > _IDEMPOTENT_IN_FLIGHT_MAX:
            raise ValueError(
                f"an idempotent producer may have {_IDEMPOTENT_IN_FLIGHT_MAX} requests in flight, "
                f"not {self.in_flight_max}: brokers remember no more"
            )

    @property
    def is_idempotent(self) -> bool:
        """Whether brokers are to refuse duplicates."""
        return self.acks == ACKS_ALL if self.idempotent is None else self.idempotent


@frozen(kw_only=True)
class ConsumerOptions:
    """Of `Client.open_consumer`, and part of those of a group consumer.

    Attributes:
        isolation: `IsolationLevel` or its name.
        auto_offset_reset: where to begin without a position, or with one that the log does not
            have: "latest" (the default), "earliest", or "none": then reading fails.
        records_max: most records that one batch hands out.
        fetch_wait_seconds: how long a broker holds a fetch back for `fetch_bytes_min`.
        fetch_bytes_min: see `fetch_wait_seconds`.
        fetch_bytes_max: most bytes of one answer; a single batch may be larger.
        partition_fetch_bytes: most bytes of one partition in an answer, likewise.
        prefetch_bytes: fetching stops while so much has been fetched and not been taken, counted
            as it came (compressed). One answer per broker may come on top.
        partition_prefetch_bytes: the same for each partition.
        decompressed_bytes_max: a batch that becomes larger than this is refused.
        check_crcs: whether to compare the checksum of every batch.
    """

    isolation: IsolationLevel = field(
        default=IsolationLevel.READ_UNCOMMITTED, converter=_to_isolation
    )
    auto_offset_reset: OffsetSpec | None = field(default=OffsetSpec.LATEST, converter=_to_reset)
    records_max: int = _positive(500)
    fetch_wait_seconds: float = _not_negative(0.5)
    fetch_bytes_min: int = _positive(1)
    fetch_bytes_max: int = _positive(50 * _MIB)
    partition_fetch_bytes: int = _positive(_MIB)
    prefetch_bytes: int = _positive(64 * _MIB)
    partition_prefetch_bytes: int = _positive(2 * _MIB)
    decompressed_bytes_max: int = _positive(256 * _MIB)
    check_crcs: bool = True


@frozen(kw_only=True)
class GroupOptions:
    """Of `Client.open_group_consumer`.

    Attributes:
        assignors: names of assignors offered, best first: "range", "cooperative-sticky". All
            members of a group need one in common. Rebalances are cooperative if all offered ones
            are; to move a running group from one to the other, offer both first (KIP-429).
        instance_id: makes this a static member (KIP-345): a restart within the session timeout
            does not disturb the group. Two members must not have the same.
        session_timeout_seconds: without a heartbeat for so long the group goes on without it.
        heartbeat_seconds: pause between heartbeats.
        rebalance_timeout_seconds: how long a rebalance waits for its members; also how long the
            program may work on a batch before it is taken out of the group
            (max.poll.interval.ms).
        auto_commit_seconds: how often the positions of what was processed are committed; None:
            only the program commits.
        rack: where this consumer runs (KIP-881).
    """

    assignors: tuple[str, ...] = field(default=("range", "cooperative-sticky"), converter=tuple)
    instance_id: str | None = None
    session_timeout_seconds: float = _positive(45.0)
    heartbeat_seconds: float = _positive(3.0)
    rebalance_timeout_seconds: float = _positive(300.0)
    auto_commit_seconds: float | None = 5.0
    rack: str | None = None

    def __attrs_post_init__(self) -> None:
        if not self.assignors:
            raise ValueError("a group consumer needs an assignor")
        if self.heartbeat_seconds >= self.session_timeout_seconds:
            raise ValueError("heartbeat_seconds must be less than session_timeout_seconds")

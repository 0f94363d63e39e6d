"""The error tree: what the package raises, split by who is at fault, and Kafka's error codes.

Expected failures of a request are *values* (`ErrorCode`), never exceptions: a handler answers
them. Exceptions are for the machine (`StorageError`), the operator (`ConfigError`), the peer
(`ProtocolError`), a caller of the embedded API (`RequestError`) and bugs (everything else).

Lowest layer together with `names`: imports nothing of the package.
"""

from __future__ import annotations

import errno as errno_names
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class ErrorCode(IntEnum):
    """Kafka's error codes that this broker knows (org.apache.kafka.common.protocol.Errors)."""

    UNKNOWN_SERVER_ERROR = -1
    NONE = 0
    OFFSET_OUT_OF_RANGE = 1
    CORRUPT_MESSAGE = 2
    UNKNOWN_TOPIC_OR_PARTITION = 3
    INVALID_FETCH_SIZE = 4
    LEADER_NOT_AVAILABLE = 5
    NOT_LEADER_OR_FOLLOWER = 6
    REQUEST_TIMED_OUT = 7
    BROKER_NOT_AVAILABLE = 8
    REPLICA_NOT_AVAILABLE = 9
    MESSAGE_TOO_LARGE = 10
    STALE_CONTROLLER_EPOCH = 11
    OFFSET_METADATA_TOO_LARGE = 12
    NETWORK_EXCEPTION = 13
    COORDINATOR_LOAD_IN_PROGRESS = 14
    COORDINATOR_NOT_AVAILABLE = 15
    NOT_COORDINATOR = 16
    INVALID_TOPIC_EXCEPTION = 17
    RECORD_LIST_TOO_LARGE = 18
    NOT_ENOUGH_REPLICAS = 19
    NOT_ENOUGH_REPLICAS_AFTER_APPEND = 20
    INVALID_REQUIRED_ACKS = 21
    ILLEGAL_GENERATION = 22
    INCONSISTENT_GROUP_PROTOCOL = 23
    INVALID_GROUP_ID = 24
    UNKNOWN_MEMBER_ID = 25
    INVALID_SESSION_TIMEOUT = 26
    REBALANCE_IN_PROGRESS = 27
    INVALID_COMMIT_OFFSET_SIZE = 28
    TOPIC_AUTHORIZATION_FAILED = 29
    GROUP_AUTHORIZATION_FAILED = 30
    CLUSTER_AUTHORIZATION_FAILED = 31
    INVALID_TIMESTAMP = 32
    UNSUPPORTED_SASL_MECHANISM = 33
    ILLEGAL_SASL_STATE = 34
    UNSUPPORTED_VERSION = 35
    TOPIC_ALREADY_EXISTS = 36
    INVALID_PARTITIONS = 37
    INVALID_REPLICATION_FACTOR = 38
    INVALID_REPLICA_ASSIGNMENT = 39
    INVALID_CONFIG = 40
    NOT_CONTROLLER = 41
    INVALID_REQUEST = 42
    UNSUPPORTED_FOR_MESSAGE_FORMAT = 43
    POLICY_VIOLATION = 44
    OUT_OF_ORDER_SEQUENCE_NUMBER = 45
    DUPLICATE_SEQUENCE_NUMBER = 46
    INVALID_PRODUCER_EPOCH = 47
    INVALID_TXN_STATE = 48
    INVALID_PRODUCER_ID_MAPPING = 49
    INVALID_TRANSACTION_TIMEOUT = 50
    CONCURRENT_TRANSACTIONS = 51
    TRANSACTION_COORDINATOR_FENCED = 52
    TRANSACTIONAL_ID_AUTHORIZATION_FAILED = 53
    SECURITY_DISABLED = 54
    OPERATION_NOT_ATTEMPTED = 55
    KAFKA_STORAGE_ERROR = 56
    LOG_DIR_NOT_FOUND = 57
    SASL_AUTHENTICATION_FAILED = 58
    UNKNOWN_PRODUCER_ID = 59
    REASSIGNMENT_IN_PROGRESS = 60
    DELEGATION_TOKEN_AUTH_DISABLED = 61
    NON_EMPTY_GROUP = 68
    GROUP_ID_NOT_FOUND = 69
    FETCH_SESSION_ID_NOT_FOUND = 70
    INVALID_FETCH_SESSION_EPOCH = 71
    LISTENER_NOT_FOUND = 72
    TOPIC_DELETION_DISABLED = 73
    FENCED_LEADER_EPOCH = 74
    UNKNOWN_LEADER_EPOCH = 75
    UNSUPPORTED_COMPRESSION_TYPE = 76
    STALE_BROKER_EPOCH = 77
    OFFSET_NOT_AVAILABLE = 78
    MEMBER_ID_REQUIRED = 79
    PREFERRED_LEADER_NOT_AVAILABLE = 80
    GROUP_MAX_SIZE_REACHED = 81
    FENCED_INSTANCE_ID = 82
    ELIGIBLE_LEADERS_NOT_AVAILABLE = 83
    ELECTION_NOT_NEEDED = 84
    NO_REASSIGNMENT_IN_PROGRESS = 85
    GROUP_SUBSCRIBED_TO_TOPIC = 86
    INVALID_RECORD = 87
    UNSTABLE_OFFSET_COMMIT = 88
    THROTTLING_QUOTA_EXCEEDED = 89
    PRODUCER_FENCED = 90
    RESOURCE_NOT_FOUND = 91
    DUPLICATE_RESOURCE = 92
    UNACCEPTABLE_CREDENTIAL = 93
    INCONSISTENT_VOTER_SET = 94
    INVALID_UPDATE_VERSION = 95
    FEATURE_UPDATE_FAILED = 96
    SNAPSHOT_NOT_FOUND = 98
    POSITION_OUT_OF_RANGE = 99
    UNKNOWN_TOPIC_ID = 100
    DUPLICATE_BROKER_REGISTRATION = 101
    BROKER_ID_NOT_REGISTERED = 102
    INCONSISTENT_TOPIC_ID = 103
    INCONSISTENT_CLUSTER_ID = 104
    TRANSACTIONAL_ID_NOT_FOUND = 105
    FETCH_SESSION_TOPIC_ID_ERROR = 106
    INELIGIBLE_REPLICA = 107
    NEW_LEADER_ELECTED = 108
    FENCED_MEMBER_EPOCH = 110
    UNRELEASED_INSTANCE_ID = 111
    UNSUPPORTED_ASSIGNOR = 112
    STALE_MEMBER_EPOCH = 113
    MISMATCHED_ENDPOINT_TYPE = 114
    UNSUPPORTED_ENDPOINT_TYPE = 115
    UNKNOWN_SUBSCRIPTION_ID = 117
    TELEMETRY_TOO_LARGE = 118
    TRANSACTION_ABORTABLE = 120


class TrioBrokerError(Exception):
    """Base of everything this package raises on purpose."""


class ConfigFault(NamedTuple):
    """One mistake in a configuration.

    Attributes:
        reason: what is wrong and what to do about it; begins with "must" if it goes on a sentence
            whose subject is the key.
        keys: the keys it is about, the one to change first.
        place: where that one was set: a file, an environment variable, an option; "" if nobody
            said.
    """

    reason: str
    keys: tuple[str, ...] = ()
    place: str = ""

    def __str__(self) -> str:
        parts = [self.place] if self.place else []
        if self.keys and self.reason.startswith("must "):
            parts.append(f"{self.keys[0]} {self.reason}")
        else:
            parts += [*self.keys[:1], self.reason]
        return ": ".join(parts)


class ConfigError(TrioBrokerError):
    """The configuration is wrong; raised before any file or socket is opened.

    Attributes:
        faults: every mistake found, each a sentence with the path of the key, the reason and,
            where there is one, a suggestion.
        details: the same in parts.
    """

    def __init__(self, faults: Sequence[str | ConfigFault]) -> None:
        self.details = tuple(
            fault if isinstance(fault, ConfigFault) else ConfigFault(fault) for fault in faults
        )
        self.faults = tuple(map(str, self.details))
        super().__init__("\n".join(self.faults))


class ProtocolError(TrioBrokerError):
    """A peer sent bytes that are not a legal message: its connection closes, nothing else."""


class ForeignProtocol(ProtocolError):
    """A peer speaks another protocol.

    Attributes:
        reply: says so in that protocol; may be empty.
    """

    def __init__(self, message: str, *, reply: bytes = b"") -> None:
        super().__init__(message)
        self.reply = reply


class RequestError(TrioBrokerError):
    """A call of the embedded API was answered with an error code.

    Attributes:
        code: the same code a Kafka client would have received.
    """

    def __init__(self, code: ErrorCode, message: str = "") -> None:
        super().__init__(f"{code.name}: {message}" if message else code.name)
        self.code = code
        self.message = message


class BrokerClosed(TrioBrokerError):
    """The broker is stopping or has stopped, and the call was not carried out."""


class BrokerCrashed(TrioBrokerError):
    """The broker failed for a reason that no boundary of its task tree may absorb.

    The cause (one exception, or a group) is `__cause__`.
    """


class CorruptRecords(TrioBrokerError):
    """The bytes of a batch are not the records that its header promises."""


class DecompressionFailed(CorruptRecords):
    """Compressed records are damaged, or larger than the caller was ready to accept."""


class CodecUnavailable(TrioBrokerError):
    """A compression codec needs a library that is not installed."""


class StorageError(TrioBrokerError):
    """The machine's disk, or what is on it, failed."""


class AppendFailed(StorageError):
    """A write did not complete; the file was cut back to where it began.

    Attributes:
        errno: the system's reason.
        cut_back: False if even cutting back failed, so that the file's tail is unknown.
        was_reading: nothing was written yet; what has to be read first could not be.
    """

    def __init__(
        self, path: str, error_number: int, *, cut_back: bool, was_reading: bool = False
    ) -> None:
        reason = errno_names.errorcode.get(error_number, str(error_number))
        what = "reading, before an append to," if was_reading else "append to"
        super().__init__(f"{what} {path} failed with {reason}")
        self.path = path
        self.errno = error_number
        self.cut_back = cut_back
        self.was_reading = was_reading


class SyncFailed(StorageError):
    """fsync failed: what was written since the last one may be lost, and must not be synced again.

    Retrying would report success for pages that the kernel has already dropped (Rebello et al.,
    "Can Applications Recover from fsync Failures?", ATC 2020).
    """

    def __init__(self, path: str, error_number: int) -> None:
        reason = errno_names.errorcode.get(error_number, str(error_number))
        super().__init__(f"fsync of {path} failed with {reason}")
        self.path = path
        self.errno = error_number


class StuckIO(StorageError):
    """A system call outlived its deadline; the file stays untouched until that call returns."""


class CorruptLog(StorageError):
    """Acknowledged bytes of a log are damaged; nothing was truncated."""


class LogMissing(CorruptLog):
    """The directory of a log that was there is gone, and with it what was acknowledged."""


class CorruptMetadata(StorageError):
    """What the metadata store holds is damaged or makes no sense; nothing was changed."""


class LogDirFailed(StorageError):
    """A whole log dir is offline."""


class LogDirInUse(StorageError):
    """Another process (or another broker in this one) holds the lock of a directory."""


class FormatTooNew(StorageError):
    """The data was written by a newer version of this package, which this one must not touch."""

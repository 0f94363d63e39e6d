"""What a group coordinator is asked and what it answers, as plain values.

Handlers in `broker/` make these of requests and make responses of the replies; `machine` takes
them. Nothing here knows a version of the protocol except where the version changes what happens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from attrs import field, frozen

from trio_broker.errors import ErrorCode

if TYPE_CHECKING:
    from trio_broker.group.offsets import OffsetToCommit
    from trio_broker.group.prepared_commit import PreparedCommit
    from trio_broker.group.schemas import CoordinatorRecord
    from trio_broker.group.turn import Change, Effect

#: "No member id yet", of a member that joins for the first time.
NO_MEMBER_ID = ""
#: "Not of any generation".
NO_GENERATION = -1

_MEMBER_ID_REQUIRED_VERSION = 4
_SKIP_ASSIGNMENT_VERSION = 9
_GROUP_ID_NOT_FOUND_VERSION = 9
#: From this version on OffsetCommit names topics by id.
TOPIC_ID_VERSION = 10


class Now(NamedTuple):
    """The time, twice: a clock that is set back must not make members look dead.

    Attributes:
        wall_ms: civil time since 1970, for what is stored.
        clock_ms: of a clock that never jumps (Trio's), for deadlines.
    """

    wall_ms: int
    clock_ms: int


class Protocol(NamedTuple):
    """One way of assigning that a joining member knows, with its metadata for that way."""

    name: str
    metadata: bytes


@frozen(kw_only=True)
class JoinGroup:
    """A JoinGroup request.

    Attributes:
        group_id: the group.
        member_id: as given by the coordinator; empty: none yet.
        group_instance_id: of a static member (KIP-345).
        client_id: what the client calls itself.
        client_host: where it connected from.
        protocol_type: what the group is for.
        protocols: what the member knows, the best first.
        session_timeout_ms: it may be silent so long.
        rebalance_timeout_ms: it may take so long to join again; negative: the session timeout.
        unique_text: text no other request has had; becomes the end of a new member's id.
        api_version: of the request; decides about MEMBER_ID_REQUIRED and `skip_assignment`.
        reason: the client's own words, for the log.
    """

    group_id: str
    member_id: str = NO_MEMBER_ID
    group_instance_id: str | None = None
    client_id: str = ""
    client_host: str = ""
    protocol_type: str
    protocols: tuple[Protocol, ...]
    session_timeout_ms: int
    rebalance_timeout_ms: int = -1
    unique_text: str
    api_version: int
    reason: str | None = None

    @property
    def requires_member_id(self) -> bool:
        """Whether a new member must come again with the id it is given (KIP-394)."""
        return self.api_version >= _MEMBER_ID_REQUIRED_VERSION

    @property
    def knows_skip_assignment(self) -> bool:
        """Whether a leader can be told not to assign (KIP-814)."""
        return self.api_version >= _SKIP_ASSIGNMENT_VERSION


class JoinedMember(NamedTuple):
    """One member, as its group's leader is told."""

    member_id: str
    group_instance_id: str | None
    metadata: bytes


class JoinReply(NamedTuple):
    """Answer to `JoinGroup`.

    Attributes:
        code: NONE or why not.
        member_id: of whom it is for; with MEMBER_ID_REQUIRED the new id.
        generation: that the member is part of now.
        protocol_type: of the group; None on errors.
        protocol_name: that the members have chosen; None on errors (before version 7: "").
        leader_id: the member that has to assign.
        skip_assignment: the leader must not assign, what is assigned still holds.
        members: all of them, for the leader; nobody else needs them.
    """

    code: ErrorCode
    member_id: str = NO_MEMBER_ID
    generation: int = NO_GENERATION
    protocol_type: str | None = None
    protocol_name: str | None = None
    leader_id: str = NO_MEMBER_ID
    skip_assignment: bool = False
    members: tuple[JoinedMember, ...] = ()


@frozen(kw_only=True)
class SyncGroup:
    """A SyncGroup request.

    Attributes:
        group_id: the group.
        generation: that the member got when it joined.
        member_id: of the member.
        group_instance_id: of a static member.
        protocol_type: None: not said (before version 5).
        protocol_name: None: not said (before version 5).
        assignments: of the leader, by member id; of others empty.
    """

    group_id: str
    generation: int
    member_id: str
    group_instance_id: str | None = None
    protocol_type: str | None = None
    protocol_name: str | None = None
    assignments: dict[str, bytes] = field(factory=dict)


class SyncReply(NamedTuple):
    """Answer to `SyncGroup`: what the member is to do in this generation."""

    code: ErrorCode
    protocol_type: str | None = None
    protocol_name: str | None = None
    assignment: bytes = b""


class LeavingMember(NamedTuple):
    """A member that leaves; with an empty id the static member of that instance id is meant."""

    member_id: str
    group_instance_id: str | None = None
    reason: str | None = None


class LeaveReply(NamedTuple):
    """Answer to a LeaveGroup request.

    Before version 3 there is one code for one member: `single_code`.

    Attributes:
        code: for the whole request.
        members: a code for each member, if `code` is NONE.
    """

    code: ErrorCode
    members: tuple[ErrorCode, ...] = ()

    @property
    def single_code(self) -> ErrorCode:
        """The code where only one can be told."""
        return self.code or next(iter(self.members), ErrorCode.NONE)


@frozen(kw_only=True)
class CommitOffsets:
    """An OffsetCommit request; the caller has checked that its topics and partitions exist.

    Attributes:
        group_id: may be empty, as Kafka allows for old clients.
        generation: that the client is a member of; -1: of none.
        member_id: empty: not a member.
        group_instance_id: of a static member.
        offsets: what to commit.
        retention_ms: keep these so long (only versions 2 to 4 can say so); -1: as the broker does.
        api_version: of the request; decides the code for a group that does not exist.
    """

    group_id: str
    generation: int = NO_GENERATION
    member_id: str = NO_MEMBER_ID
    group_instance_id: str | None = None
    offsets: tuple[OffsetToCommit, ...]
    retention_ms: int = -1
    api_version: int = 9

    @property
    def unknown_group_code(self) -> ErrorCode:
        """What a member of a group that does not exist is told."""
        if self.api_version >= _GROUP_ID_NOT_FOUND_VERSION:
            return ErrorCode.GROUP_ID_NOT_FOUND
        return ErrorCode.ILLEGAL_GENERATION

    @property
    def unknown_topic_code(self) -> ErrorCode:
        """What is said of a topic that does not exist."""
        if self.api_version >= TOPIC_ID_VERSION:
            return ErrorCode.UNKNOWN_TOPIC_ID
        return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


class CodesReply(NamedTuple):
    """Answer where each thing asked for has its own code.

    Attributes:
        code: for the whole request.
        codes: one for each thing, in order, if `code` is NONE.
    """

    code: ErrorCode
    codes: tuple[ErrorCode, ...] = ()


Response: TypeAlias = JoinReply | SyncReply | LeaveReply | CodesReply


class Reply(NamedTuple):
    """An answer, and the token that came with the question."""

    token: object
    response: Response


class Note(NamedTuple):
    """Something an operator may want to read: why a group rebalances, who was dropped."""

    group_id: str
    text: str


@frozen(kw_only=True)
class GroupDecision:
    """What to do about a command; see `machine` for how.

    Attributes:
        records: to append in one batch; perhaps none.
        replies: to send now, whatever becomes of the records.
        wake_at_ms: when `expire` is to be called at the latest, on the clock of `Now.clock_ms`;
            None: not before the next command.
        notes: for the log.
        changes: the machine's own: the records, decoded, if they are of no commit.
        commit: the offsets whose records these are, which are encoded already.
        effects: the machine's own: what follows when the records are stored, or are not.
    """

    records: tuple[CoordinatorRecord, ...]
    replies: tuple[Reply, ...]
    wake_at_ms: int | None
    notes: tuple[Note, ...]
    changes: tuple[Change, ...]
    commit: PreparedCommit | None
    effects: tuple[Effect, ...]


class MemberDescription(NamedTuple):
    """One member in a `GroupDescription`; metadata only while the group is stable."""

    member_id: str
    group_instance_id: str | None
    client_id: str
    client_host: str
    metadata: bytes
    assignment: bytes


class GroupDescription(NamedTuple):
    """A group as DescribeGroups shows it."""

    group_id: str
    state: str
    protocol_type: str
    protocol_name: str
    members: tuple[MemberDescription, ...]


class GroupListing(NamedTuple):
    """A group as ListGroups shows it."""

    group_id: str
    protocol_type: str
    state: str
    group_type: str

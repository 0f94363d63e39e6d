"""What comes out of one command while it is being decided.

The parts of the coordinator (`membership`, `rebalance`, `commits`) each take a `Turn` and add to
it; `machine` makes a `GroupDecision` of it. `Change` and `Effect` are how a decision remembers
what to do once its records are stored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from trio_broker.group.commands import Note, Reply

if TYPE_CHECKING:
    from trio_broker.errors import ErrorCode
    from trio_broker.group.classic_group import ClassicGroup
    from trio_broker.group.commands import Now, Response
    from trio_broker.group.group_metadata import GroupMetadata
    from trio_broker.group.members import Member
    from trio_broker.group.prepared_commit import PreparedCommit
    from trio_broker.group.schemas import GroupMetadataKey, OffsetCommitKey, OffsetCommitValue


class Change(NamedTuple):
    """A record before it is encoded; value None deletes what the key is about."""

    key: OffsetCommitKey | GroupMetadataKey
    value: OffsetCommitValue | GroupMetadata | None


class Answer(NamedTuple):
    """Answer `response` when the records are stored, or what `otherwise` makes of the code."""

    token: object
    response: Response
    otherwise: Callable[[ErrorCode], Response]


class AssignmentWritten(NamedTuple):
    """When the records are stored, the group is stable in `generation` with `assignments`."""

    group: ClassicGroup
    generation: int
    assignments: dict[str, bytes]


class StaticRejoinWritten(NamedTuple):
    """When the records are stored, the restarted static member may hear that it is back."""

    group: ClassicGroup
    generation: int
    member: Member
    token: object
    old_leader_id: str
    knows_skip_assignment: bool


Effect: TypeAlias = Answer | AssignmentWritten | StaticRejoinWritten


class Turn:
    """One command: its time, and what it leads to.

    Attributes:
        now: when it was given.
        replies: to send whatever becomes of the records.
        notes: for the log.
        changes: to store, in this order.
        commit: offsets to store; then there are no changes besides.
        effects: for when they are stored.
        touched: groups of which nothing may be left, to be forgotten then.
    """

    __slots__ = ("changes", "commit", "effects", "notes", "now", "replies", "touched")

    def __init__(self, now: Now) -> None:
        self.now = now
        self.replies: list[Reply] = []
        self.notes: list[Note] = []
        self.changes: list[Change] = []
        self.commit: PreparedCommit | None = None
        self.effects: list[Effect] = []
        self.touched: list[ClassicGroup] = []

    def answer(self, token: object, response: Response) -> None:
        """Answer now."""
        self.replies.append(Reply(token, response))

    def note(self, group_id: str, text: str) -> None:
        """Tell the operator."""
        self.notes.append(Note(group_id, text))

    def write(
        self,
        key: OffsetCommitKey | GroupMetadataKey,
        value: OffsetCommitValue | GroupMetadata | None,
    ) -> None:
        """Store something, or with None forget it."""
        self.changes.append(Change(key, value))

    def answer_when_stored(
        self, token: object, response: Response, otherwise: Callable[[ErrorCode], Response]
    ) -> None:
        """Answer once the records of this turn are stored; at once if there are none."""
        if self.changes or self.commit is not None:
            self.effects.append(Answer(token, response, otherwise))
        else:
            self.answer(token, response)

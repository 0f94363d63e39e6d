"""Members of one group: they join, sync, beat and commit, and leave in order or without a word.

What Kafka promises a group within one life of the broker: everybody in a generation is told the
same leader and protocol; what a member gets in a generation is what that generation's leader has
assigned to it, and nothing else; and a member of an older generation commits nothing any more once
a newer one is known to somebody (I5). When all trouble is over, every member gets into a generation
that lasts (I10).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import trio
from attrs import define

from trio_broker.errors import ErrorCode
from trio_broker.storage.disk_state import DiskState
from trio_broker.testing.model import Violation
from trio_broker.testing.workload.caller import Caller
from trio_broker.testing.workload.committing import PASSING
from trio_broker.wire.messages.heartbeat import HeartbeatRequest, HeartbeatResponse
from trio_broker.wire.messages.join_group import (
    JoinGroupRequest,
    JoinGroupRequestProtocol,
    JoinGroupResponse,
)
from trio_broker.wire.messages.leave_group import (
    LeaveGroupRequest,
    LeaveGroupResponse,
    MemberIdentity,
)
from trio_broker.wire.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
    OffsetCommitResponse,
)
from trio_broker.wire.messages.sync_group import (
    SyncGroupRequest,
    SyncGroupRequestAssignment,
    SyncGroupResponse,
)

if TYPE_CHECKING:
    from trio_broker.testing.brokers import Life
    from trio_broker.testing.workload.world import World

    #: A life, and how much trouble with disks there had been.
    Term: TypeAlias = tuple[Life, int]

GROUP = "members"
SESSION_SECONDS = 6.0
REBALANCE_SECONDS = 3.0
#: After that the others may have gone on without a member.
_LATE_SECONDS = REBALANCE_SECONDS + 1.0
#: After that a trouble with the disk can no longer be news to the broker.
DISK_SETTLES_SECONDS = 5.0
#: Newest version that hands out a member id without a second request.
_ONE_STEP_VERSION = 3
_RETRY_SECONDS = 0.2
#: What a member that is not up to date is told; it joins again.
_STALE = frozenset(
    {
        ErrorCode.UNKNOWN_MEMBER_ID,
        ErrorCode.ILLEGAL_GENERATION,
        ErrorCode.REBALANCE_IN_PROGRESS,
    }
)


@define(eq=False)
class Generation:
    """What is known of one generation of the group.

    Attributes:
        leader: its leader's id, as everybody was told.
        protocol: that was chosen.
        assigned: what the leader has assigned, by member id; None before it has.
    """

    leader: str
    protocol: str
    assigned: dict[str, bytes] | None = None


class GroupModel:
    """What the members of the group have been told, by term of the coordinator and generation.

    A term ends with the broker's life, and when its disk has had trouble: the coordinator may have
    read again what it had written down, which is every generation that was assigned.
    """

    def __init__(self) -> None:
        self._generations: dict[tuple[Term, int], Generation] = {}
        self._newest: dict[Term, int] = {}
        self._troubled_terms = 0

    def term_of_its_own(self) -> int:
        """Return the number of a term in which nobody else can be."""
        self._troubled_terms -= 1
        return self._troubled_terms

    def newest(self, term: Term) -> int:
        """Return the newest generation that anybody knows of, -1 if nobody knows any."""
        return self._newest.get(term, -1)

    def assigned(self, number: int, member_id: str) -> bytes | None:
        """Return what a generation's leader has last assigned to a member, None if unknown."""
        found = None
        for (_, known), generation in self._generations.items():
            if known == number and generation.assigned and member_id in generation.assigned:
                found = generation.assigned[member_id]
        return found

    def joined(self, term: Term, answer: JoinGroupResponse) -> Generation:
        """Take in an answer to JoinGroup.

        Raises:
            Violation: it does not go with what others were told.
        """
        number = answer.generation_id
        protocol = answer.protocol_name or ""
        known = self._generations.setdefault((term, number), Generation(answer.leader, protocol))
        if (known.leader, known.protocol) != (answer.leader, protocol):
            raise Violation(
                f"I5 generation {number} is led by {known.leader} with {known.protocol}, and by"
                f" {answer.leader} with {protocol}"
            )
        if answer.members and answer.member_id != answer.leader:
            raise Violation(f"I5 {answer.member_id} is told the members, and does not lead")
        self._newest[term] = max(self.newest(term), number)
        return known


class Member:
    """One member, with a connection of its own."""

    def __init__(self, world: World, group: GroupModel, name: str, *, operations: int) -> None:
        self.name = name
        self._world = world
        self._group = group
        self._caller = Caller(world, name)
        self._draws = world.sim.random(name)
        self._operations = operations
        self._member_id = ""
        self._number = -1
        self._term: Term | None = None

    async def run(self) -> None:
        """Be a member so many times; at the end, of a generation that lasts, and leave."""
        while self._operations > 0 and not self._world.is_over:
            self._operations -= 1
            await self._world.pause(self._draws)
            if await self._get_in():
                await self._be_in()
        await self._world.over.wait()
        if self._draws.random() < 0.5:
            await self._come_and_go()
        while not (await self._get_in() and await self._beat()):  # noqa: ASYNC110 - it asks
            await trio.sleep(_RETRY_SECONDS)
        await self._leave()
        self._caller.close()

    async def _come_and_go(self) -> None:
        """Once no trouble is news any more, be late and commit, or let others be late."""
        await trio.sleep_until(self._world.disk_changed_at + DISK_SETTLES_SECONDS)
        if not await self._get_in():
            return
        if self._draws.random() < 0.5:
            await trio.sleep(_LATE_SECONDS)
            await self._commit()
        else:
            await self._leave()

    async def _get_in(self) -> bool:
        """Join and sync; return whether this is a member with an assignment now."""
        answer = await self._join()
        if answer is None:
            return False
        self._term = self._present_term()
        self._number = answer.generation_id
        generation = self._group.joined(self._term, answer)
        assignments = {
            member.member_id: b"%d/%s" % (self._number, member.member_id.encode())
            for member in answer.members
        }
        if answer.members:
            if generation.assigned not in (None, assignments):
                raise Violation(f"I5 generation {self._number} has changed its members")
            generation.assigned = assignments
        synced = await self._caller.call(
            SyncGroupRequest(
                group_id=GROUP,
                generation_id=self._number,
                member_id=self._member_id,
                protocol_type="consumer",
                protocol_name=answer.protocol_name,
                assignments=[
                    SyncGroupRequestAssignment(member_id=member_id, assignment=assignment)
                    for member_id, assignment in assignments.items()
                ],
            ),
            SyncGroupResponse,
            waits_seconds=REBALANCE_SECONDS,
        )
        if synced is None or not self._is_in(ErrorCode(synced.error_code), "syncs"):
            return False
        wanted = self._group.assigned(self._number, self._member_id)
        if wanted is not None and bytes(synced.assignment) != wanted:
            raise Violation(
                f"I5 {self._member_id} gets {bytes(synced.assignment)!r} in generation"
                f" {self._number}, its leader has assigned {wanted!r}"
            )
        self._world.saw("rebalance")
        return True

    def _present_term(self) -> Term:
        """Return the coordinator's term; one of its own while the disk has trouble.

        An operation that was under way when the trouble ended may fail after that, and what the
        broker makes of it lasts longer still.
        """
        world, life = self._world, self._caller.life
        assert life is not None
        has_trouble = world.server.lies_below is not None or world.server.disk_refuses
        is_recent = trio.current_time() - world.disk_changed_at < DISK_SETTLES_SECONDS
        is_felt = any(log_dir.health.state is not DiskState.OK for log_dir in life.state.log_dirs)
        if has_trouble or is_recent or is_felt:
            return life, self._group.term_of_its_own()
        return life, world.disk_troubles

    async def _join(self) -> JoinGroupResponse | None:
        protocols = [JoinGroupRequestProtocol(name="range", metadata=b"topics")]
        if self._draws.random() < 0.5:
            protocols.append(JoinGroupRequestProtocol(name="sticky", metadata=b"topics"))
        answer = await self._caller.call(
            JoinGroupRequest(
                group_id=GROUP,
                session_timeout_ms=int(SESSION_SECONDS * 1000),
                rebalance_timeout_ms=int(REBALANCE_SECONDS * 1000),
                member_id=self._member_id,
                protocol_type="consumer",
                protocols=protocols,
            ),
            JoinGroupResponse,
            version_max=self._draws.choice((_ONE_STEP_VERSION, None)),
            waits_seconds=REBALANCE_SECONDS + SESSION_SECONDS,
        )
        if answer is None:
            return None
        code = ErrorCode(answer.error_code)
        if code is ErrorCode.MEMBER_ID_REQUIRED:
            self._member_id = answer.member_id
            return None
        if not self._is_in(code, "joins"):
            return None
        self._member_id = answer.member_id
        return answer

    def _is_in(self, code: ErrorCode, what: str) -> bool:
        """Take in the code of an answer; return whether it says that all is well."""
        if code is ErrorCode.NONE:
            return True
        if code is ErrorCode.UNKNOWN_MEMBER_ID:
            self._member_id = ""
        elif code not in _STALE | PASSING:
            raise Violation(f"I6 {self.name} {what} and gets {code.name}")
        return False

    async def _be_in(self) -> None:
        """Do what members do; then leave, or stay silent, or just go on."""
        for _ in range(self._draws.randint(0, 3)):
            await self._world.pause(self._draws)
            roll = self._draws.random()
            if roll < 0.2:
                await trio.sleep(_LATE_SECONDS)
            elif roll < 0.6 and not await self._beat():
                return
            await self._commit()
        roll = self._draws.random()
        if roll < 0.3:
            await self._leave()
        elif roll < 0.5:
            self._caller.close()  # and let its session expire
            self._member_id = ""

    async def _beat(self) -> bool:
        answer = await self._caller.call(
            HeartbeatRequest(group_id=GROUP, generation_id=self._number, member_id=self._member_id),
            HeartbeatResponse,
        )
        return answer is not None and self._is_in(ErrorCode(answer.error_code), "beats")

    async def _commit(self) -> None:
        """Commit, which a member of an older generation than the newest must not."""
        partitions = self._world.some_partitions(self._draws)[:1]
        if not partitions or self._term is None:
            return
        [partition] = partitions
        was_stale = self._number < self._group.newest(self._term)
        answer = await self._caller.call(
            OffsetCommitRequest(
                group_id=GROUP,
                generation_id_or_member_epoch=self._number,
                member_id=self._member_id,
                topics=[
                    OffsetCommitRequestTopic(
                        name=partition.topic.name,
                        topic_id=partition.topic.topic_id,
                        partitions=[
                            OffsetCommitRequestPartition(
                                partition_index=partition.index,
                                committed_offset=1,
                                committed_metadata="",
                            )
                        ],
                    )
                ],
            ),
            OffsetCommitResponse,
        )
        if answer is None:
            return
        code = ErrorCode(answer.topics[0].partitions[0].error_code)
        if self._is_in(code, "commits"):
            if was_stale and self._present_term() == self._term:
                raise Violation(
                    f"I5 {self.name} commits in generation {self._number}, and"
                    f" {self._group.newest(self._term)} had begun"
                )
        elif was_stale:
            self._world.saw("fenced commit")

    async def _leave(self) -> None:
        answer = await self._caller.call(
            LeaveGroupRequest(
                group_id=GROUP,
                member_id=self._member_id,
                members=[MemberIdentity(member_id=self._member_id)],
            ),
            LeaveGroupResponse,
        )
        if answer is not None:
            self._is_in(ErrorCode(answer.error_code), "leaves")
        self._member_id = ""

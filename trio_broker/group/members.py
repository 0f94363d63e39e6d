"""One member of a classic group, with the requests of it that wait for an answer."""

from __future__ import annotations

from attrs import define

from trio_broker.group.commands import Protocol

#: Counted for each protocol beside its bytes, so that a list of empty ones is not free.
_PROTOCOL_BYTES = 64
#: The same for the member itself.
_MEMBER_BYTES = 512


@define(eq=False, kw_only=True)
class Member:
    """A member; changed only by `classic_group` and `rebalance`.

    Attributes:
        member_id: given by the coordinator.
        group_instance_id: of a static member.
        client_id: what the client calls itself.
        client_host: where it connected from.
        session_timeout_ms: how long it may be silent.
        rebalance_timeout_ms: how long it may take to join again.
        protocols: what it knows, the best first.
        assignment: what it is to do in this generation.
        is_new: it joins for the first time, and cannot send heartbeats before it is answered.
        join_token: of its JoinGroup that waits; None: none does.
        sync_token: of its SyncGroup that waits; None: none does.
    """

    member_id: str
    group_instance_id: str | None
    client_id: str
    client_host: str
    session_timeout_ms: int
    rebalance_timeout_ms: int
    protocols: tuple[Protocol, ...]
    assignment: bytes = b""
    is_new: bool = False
    join_token: object | None = None
    sync_token: object | None = None

    @property
    def is_static(self) -> bool:
        """Whether it comes back under the same name after a restart (KIP-345)."""
        return self.group_instance_id is not None

    @property
    def has_joined(self) -> bool:
        """Whether its JoinGroup waits for the others."""
        return self.join_token is not None

    @property
    def may_be_silent(self) -> bool:
        """Whether it cannot be expected to send heartbeats, because a request of it waits.

        A new member may not: nobody would notice that its client has gone.
        """
        return not self.is_new and (self.join_token is not None or self.sync_token is not None)

    @property
    def metadata_bytes(self) -> int:
        """About how much memory it takes without its assignment."""
        return member_size_bytes(self.client_id, self.group_instance_id, self.protocols)

    @property
    def size_bytes(self) -> int:
        """About how much memory it takes."""
        return self.metadata_bytes + len(self.assignment)

    def metadata(self, protocol_name: str) -> bytes:
        """Return its metadata for a protocol that it knows."""
        for name, metadata in self.protocols:
            if name == protocol_name:
                return metadata
        raise KeyError(protocol_name)

    def knows(self, protocol_name: str) -> bool:
        """Whether it can take part in that protocol."""
        return any(name == protocol_name for name, _ in self.protocols)


def member_size_bytes(
    client_id: str, group_instance_id: str | None, protocols: tuple[Protocol, ...]
) -> int:
    """Return about how much memory a member takes, assignment aside."""
    names = len(client_id) + len(group_instance_id or "") * 2
    return (
        _MEMBER_BYTES
        + names * 2
        + sum(_PROTOCOL_BYTES + len(name) + len(metadata) for name, metadata in protocols)
    )

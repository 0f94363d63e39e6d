"""Who a request comes from: a connection's client, or the program that embeds the broker."""

from __future__ import annotations

from attrs import define


@define
class Session:
    """One client's identity and what it has told about itself.

    Attributes:
        peer: remote address, or "embedded".
        listener: address the client connected to, (host, port); answers to Metadata give it back
            unless an advertised address is configured.
        client_id: what its requests call it.
        software_name: from ApiVersions v3+ (KIP-511), "" until told.
        software_version: likewise.
        muted_until: Trio time until which no further request of it is read, because it was told
            to slow down (KIP-219); 0: it was not.
    """

    peer: str
    listener: tuple[str, int] | None = None
    client_id: str = ""
    software_name: str = ""
    software_version: str = ""
    muted_until: float = 0.0

    @property
    def is_embedded(self) -> bool:
        """Whether requests come from the same process."""
        return self.listener is None

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
        software_name: from ApiVersions v3+ (KIP-511), "" until told.
        software_version: likewise.
    """

    peer: str
    listener: tuple[str, int] | None = None
    software_name: str = ""
    software_version: str = ""

    @property
    def is_embedded(self) -> bool:
        """Whether requests come from the same process."""
        return self.listener is None

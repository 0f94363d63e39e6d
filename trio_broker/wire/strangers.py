"""Who came instead of a Kafka client, or answers instead of a broker: told by the first four bytes.

Where Kafka has the size of a frame, HTTP and TLS begin with bytes that make it hundreds of
megabytes. Called by `frames` for sizes above the limit; pure.
"""

from __future__ import annotations

from trio_broker.errors import ForeignProtocol, ProtocolError

#: How requests begin: methods of HTTP/1 (RFC 9110), and the preface of HTTP/2 (RFC 9113).
_HTTP_REQUESTS = frozenset(
    (b"GET ", b"HEAD", b"POST", b"PUT ", b"PATC", b"DELE", b"OPTI", b"CONN", b"TRAC", b"PRI ")
)
_HTTP_ANSWER = b"HTTP"
#: Type and major version of a TLS record (RFC 8446, section 5.1).
_TLS_HANDSHAKE = b"\x16\x03"
_TLS_ALERT = b"\x15\x03"

_HTTP_TEXT = (
    b"This port speaks the Kafka protocol, not HTTP.\n"
    b"Health and metrics have an address of their own: http.listen, or serve --http.\n"
)
_HTTP_REPLY = (
    b"HTTP/1.1 400 Bad Request\r\n"
    b"Content-Type: text/plain\r\n"
    b"Content-Length: %d\r\n"
    b"Connection: close\r\n\r\n%s"
) % (len(_HTTP_TEXT), _HTTP_TEXT)


def too_large(size: int, limit: int) -> ProtocolError:
    """Return what to raise for a frame of `size` bytes where at most `limit` are accepted."""
    first = size.to_bytes(4, "big")
    if first in _HTTP_REQUESTS:
        return ForeignProtocol(
            "an HTTP request came to a port that speaks the Kafka protocol; health and metrics "
            "have an address of their own (http.listen)",
            reply=_HTTP_REPLY,
        )
    if first == _HTTP_ANSWER:
        return ForeignProtocol("what answers there speaks HTTP, not the Kafka protocol")
    if first.startswith(_TLS_HANDSHAKE):
        return ForeignProtocol(
            "a TLS handshake came, and TLS is not spoken here; clients need "
            "security.protocol=PLAINTEXT, which is their default"
        )
    if first.startswith(_TLS_ALERT):
        return ForeignProtocol("what answers there expects TLS, which is not spoken here")
    return ProtocolError(f"a frame of {size} bytes, at most {limit} are accepted")

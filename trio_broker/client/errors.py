"""What can go wrong in a client, apart from what a broker answers (`errors.RequestError`)."""

from __future__ import annotations

from trio_broker.errors import ErrorCode, RequestError, TrioBrokerError


class Unreachable(TrioBrokerError):
    """No broker of the cluster, or not the one that is needed, could be reached."""


class RequestTimedOut(TrioBrokerError):
    """No answer, or none but "try again", came in time; `__cause__` is the last failure.

    Whether the broker has acted on the request is unknown.
    """


class DeliveryTimedOut(TrioBrokerError):
    """A record was not acknowledged within the delivery timeout; `__cause__` is the last failure.

    Attributes:
        maybe_stored: True if it was sent and no answer tells that it was refused.
    """

    def __init__(self, message: str, *, maybe_stored: bool) -> None:
        super().__init__(message)
        self.maybe_stored = maybe_stored


class ClientClosed(TrioBrokerError):
    """The client, producer or consumer was closed before the call could be carried out.

    For a record that means: unknown, it may or may not be stored.
    """


def request_error(code: int, message: str | None = None) -> RequestError:
    """Return the exception for an error code of a response, also for one not known here."""
    try:
        known = ErrorCode(code)
    except ValueError:
        text = f"error {code}" + (f": {message}" if message else "")
        return RequestError(ErrorCode.UNKNOWN_SERVER_ERROR, text)
    return RequestError(known, message or "")

"""Messages: one class declares all versions, and its codecs are compiled on first use.

A class that derives from `Request` or `Response` names its API, versions and first flexible
version; its fields are declared with the functions of `trio_broker.wire.fields`, those of nested
structures in classes that derive from `Struct`. Nothing is compiled at import. The first decoding
or encoding in a version turns the declaration into straight-line Python for that version
(`trio_broker.wire.compiler`), as attrs and cattrs do.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar, dataclass_transform

from trio_broker.errors import ProtocolError
from trio_broker.wire import compiler, fields
from trio_broker.wire.fields import Field
from trio_broker.wire.headers import (
    decode_response_header,
    request_head,
    response_head,
)
from trio_broker.wire.primitives import (
    REQUEST_BYTES_PER_ELEMENT,
    RESPONSE_BYTES_PER_ELEMENT,
    element_budget,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from trio_broker.wire.buffers import Buffer

R = TypeVar("R", bound="Response")

#: What decoders raise for bytes that are no message, and encoders for values that do not fit.
_MALFORMED = (struct.error, IndexError, UnicodeDecodeError)
_UNFIT = (struct.error, AttributeError, TypeError)


@dataclass_transform(
    kw_only_default=True,
    field_specifiers=(
        fields.boolean,
        fields.int8,
        fields.int16,
        fields.uint16,
        fields.int32,
        fields.int64,
        fields.float64,
        fields.uuid,
        fields.string,
        fields.binary,
        fields.records,
        fields.array,
        fields.struct,
    ),
)
class StructType(type):
    """Makes slots of the declared fields; everything else waits until it is needed."""

    __kafka_fields__: Mapping[str, Field]

    def __new__(
        mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any
    ) -> StructType:
        """Create the class: take the declarations out, so that slots can have their names."""
        declared = {key: value for key, value in namespace.items() if isinstance(value, Field)}
        for key in declared:
            del namespace[key]
        namespace["__slots__"] = tuple(declared)
        namespace["__kafka_fields__"] = declared
        return super().__new__(mcs, name, bases, namespace, **options)

    def __init__(
        cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **_options: Any
    ) -> None:
        super().__init__(name, bases, namespace)


class Struct(metaclass=StructType):
    """Fields that travel together; compares by value."""

    def __init__(self, **values: Any) -> None:
        """Compile the constructor of this class, put it in place and run it."""
        constructor = compiler.compile_constructor(type(self))
        type(self).__init__ = constructor  # type: ignore[method-assign]
        constructor(self, **values)

    def __eq__(self, other: object) -> bool:
        """Compare field by field; lists and tuples with equal elements are equal."""
        if type(other) is not type(self):
            return NotImplemented
        return all(
            _comparable(getattr(self, name)) == _comparable(getattr(other, name))
            for name in type(self).__kafka_fields__
        )

    __hash__ = None  # type: ignore[assignment]  # fields may be changed

    def __repr__(self) -> str:
        shown = (f"{name}={getattr(self, name)!r}" for name in type(self).__kafka_fields__)
        return f"{type(self).__name__}({', '.join(shown)})"


def _comparable(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


class Message(Struct):
    """The body of a request or a response.

    Attributes:
        api_key: of the API.
        versions: first and last version that is declared.
        flexible_version: first version with compact encodings and tagged fields.
        compiled_functions: codecs by their source, so that equal versions share them.
    """

    api_key: ClassVar[int]
    versions: ClassVar[tuple[int, int]]
    flexible_version: ClassVar[int]
    _bytes_per_element: ClassVar[int]
    _decoders: ClassVar[dict[int, compiler.Decoder]]
    _encoders: ClassVar[dict[int, compiler.Encoder]]
    _piecewise_decoders: ClassVar[dict[int, compiler.PiecewiseDecoder]]
    _piecewise_encoders: ClassVar[dict[int, compiler.PiecewiseEncoder]]
    compiled_functions: ClassVar[dict[str, Any]]

    def __init_subclass__(
        cls, *, api_key: int = -1, versions: tuple[int, int] = (0, -1), flexible: int = 0
    ) -> None:
        """Take what the class statement says about the message."""
        super().__init_subclass__()
        cls.api_key = api_key
        cls.versions = versions
        cls.flexible_version = flexible
        cls._decoders = {}
        cls._encoders = {}
        cls._piecewise_decoders = {}
        cls._piecewise_encoders = {}
        cls.compiled_functions = {}

    @classmethod
    def decode(cls, buffer: Buffer, version: int, start: int = 0) -> Self:
        """Decode a body that begins at `start` and ends where the buffer does.

        Fields that the version lacks get their defaults; unknown tagged fields are dropped.

        Raises:
            ProtocolError: the bytes are not a legal body of this version, or there is no such
                version.
        """
        decoder = cls._decoders.get(version)
        if decoder is None:
            cls._check_version(version, ProtocolError)
            decoder = cls._decoders[version] = compiler.compile_decoder(cls, version)
        budget = element_budget(len(buffer) - start, cls._bytes_per_element)
        try:
            decoded: Self = decoder(buffer, start, budget)
        except _MALFORMED as error:
            raise cls._malformed(error) from None
        return decoded

    @classmethod
    def decoding(cls, buffer: Buffer, version: int, start: int = 0) -> Generator[None, None, Self]:
        """Decode a body as `decode` does, and yield where others may get a turn.

        The buffer must stay as it is until the end.

        Raises:
            ProtocolError: as `decode` does.
        """
        decoder = cls._piecewise_decoders.get(version)
        if decoder is None:
            cls._check_version(version, ProtocolError)
            decoder = compiler.compile_piecewise_decoder(cls, version)
            cls._piecewise_decoders[version] = decoder
        budget = element_budget(len(buffer) - start, cls._bytes_per_element)
        try:
            decoded: Self = yield from decoder(buffer, start, budget)
        except _MALFORMED as error:
            raise cls._malformed(error) from None
        return decoded

    @classmethod
    def _malformed(cls, error: Exception) -> ProtocolError:
        if isinstance(error, UnicodeDecodeError):
            return ProtocolError(f"a string in a {cls.__name__} is not UTF-8")
        return ProtocolError(f"the frame ends inside a {cls.__name__}")

    @classmethod
    def _check_version(cls, version: int, error: type[Exception]) -> None:
        if not cls.versions[0] <= version <= cls.versions[1]:
            raise error(f"{cls.__name__} has no version {version}")

    def encode(self, version: int) -> bytes:
        """Encode the body; fields that the version lacks are left out.

        Raises:
            ValueError: there is no such version, or it cannot carry the value of a field (null, or
                out of range).
        """
        parts: list[Buffer] = []
        self.encode_into(parts, version)
        return b"".join(parts)

    def encode_into(self, parts: list[Buffer], version: int) -> None:
        """Append the encoded body to a list of buffers, records as they are.

        Raises:
            ValueError: as `encode` does.
        """
        cls = type(self)
        encoder = cls._encoders.get(version)
        if encoder is None:
            cls._check_version(version, ValueError)
            encoder = cls._encoders[version] = compiler.compile_encoder(cls, version)
        try:
            encoder(self, parts.append)
        except _UNFIT as error:
            raise ValueError(f"{cls.__name__} version {version} cannot carry: {error}") from error

    def encoding(self, parts: list[Buffer], version: int) -> Generator[None, None, None]:
        """Do as `encode_into` does, and yield where others may get a turn.

        Nothing of the body may change until the end.

        Raises:
            ValueError: as `encode` does.
        """
        cls = type(self)
        encoder = cls._piecewise_encoders.get(version)
        if encoder is None:
            cls._check_version(version, ValueError)
            encoder = compiler.compile_piecewise_encoder(cls, version)
            cls._piecewise_encoders[version] = encoder
        try:
            yield from encoder(self, parts.append)
        except _UNFIT as error:
            raise ValueError(f"{cls.__name__} version {version} cannot carry: {error}") from error


class Request(Message):
    """The body of a request: decoded with the limits that strangers get."""

    _bytes_per_element = REQUEST_BYTES_PER_ELEMENT


class Response(Message):
    """The body of a response: decoded by a client, with wider limits."""

    _bytes_per_element = RESPONSE_BYTES_PER_ELEMENT


def encode_response(api_key: int, api_version: int, correlation_id: int, body: Response) -> bytes:
    """Return the whole frame of a response, with its size.

    Raises:
        ValueError: the version cannot carry the body.
    """
    parts: list[Buffer] = [b""]
    body.encode_into(parts, api_version)
    return _with_head(parts, api_key, api_version, correlation_id)


def encoding_response(
    api_key: int, api_version: int, correlation_id: int, body: Response
) -> Generator[None, None, bytes]:
    """Return what `encode_response` returns, and yield where others may get a turn.

    Raises:
        ValueError: the version cannot carry the body.
    """
    pieces: list[Buffer] = [b""]
    parts: list[Buffer] = []
    for _ in body.encoding(parts, api_version):
        pieces.append(b"".join(parts))
        parts.clear()
        yield
    return _with_head(pieces + parts, api_key, api_version, correlation_id)


def _with_head(parts: list[Buffer], api_key: int, api_version: int, correlation_id: int) -> bytes:
    size = sum(map(len, parts))
    parts[0] = response_head(api_key, api_version, correlation_id, size)
    return b"".join(parts)


def encode_request(
    api_key: int, api_version: int, correlation_id: int, client_id: str | None, body: Request
) -> bytes:
    """Return the whole frame of a request, with its size.

    Raises:
        ValueError: the version cannot carry the body, or the client id is too long.
    """
    parts: list[Buffer] = [b""]
    body.encode_into(parts, api_version)
    size = sum(map(len, parts))
    parts[0] = request_head(api_key, api_version, correlation_id, client_id, size)
    return b"".join(parts)


def decode_response(response_type: type[R], api_version: int, frame: Buffer) -> tuple[int, R]:
    """Decode the frame of a response (without its size) into correlation id and body.

    Raises:
        ProtocolError: the bytes are not a legal response of this version.
    """
    correlation_id, start = decode_response_header(response_type.api_key, api_version, frame)
    return correlation_id, response_type.decode(frame, api_version, start)

"""Turn declared messages into straight-line Python, one function per message and version.

Called by `trio_broker.wire.message` when a version is first used. The generated functions look
like what one would write by hand: neighbouring fields of fixed size are one `struct.Struct`, nested
structures are inlined, versions and nullability are decided here and not while decoding. Where two
versions come out the same they share one function.

What keeps a decoder safe against any bytes:

- reading behind the end raises IndexError or struct.error; slices that would reach behind it leave
  an offset behind it, which the next read or the last check of the function finds;
- each count is checked against the bytes that are left and against the element budget *before*
  anything is allocated for it;
- lengths are checked for being negative, so that offsets only grow.

Each codec exists a second time as a generator that yields after so many elements of arrays, for
messages that are so large that others should get a turn in between.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, TypeAlias

from trio_broker.wire import primitives
from trio_broker.wire.fields import REQUIRED, Field, Kind

if TYPE_CHECKING:
    from trio_broker.wire.buffers import Buffer
    from trio_broker.wire.message import Message, Struct

#: Takes buffer, offset and element budget; returns the message.
Decoder: TypeAlias = Callable[["Buffer", int, int], Any]
#: Takes the message and what to call with each encoded part.
Encoder: TypeAlias = Callable[[Any, Callable[["Buffer"], None]], None]
#: The same, piece by piece.
PiecewiseDecoder: TypeAlias = Callable[["Buffer", int, int], Generator[None, None, Any]]
PiecewiseEncoder: TypeAlias = Callable[
    [Any, Callable[["Buffer"], None]], Generator[None, None, None]
]

#: Elements of arrays, however deep, between two yields of the codecs that have any: less than a
#: millisecond.
ELEMENTS_PER_PIECE = 100
_INDENT = "    "


def compile_constructor(struct_type: type[Struct]) -> Callable[..., None]:
    """Build ``__init__`` with one keyword argument per field."""
    parameters, lines, constants = ["self", "*"], [], {}
    for name, field in struct_type.__kafka_fields__.items():
        if field.default is REQUIRED:
            parameters.append(name)
        else:
            constants[f"default_{name}"] = field.default
            parameters.append(f"{name}=default_{name}")
        lines.append(f"{_INDENT}self.{name} = {name}")
    if not lines:
        parameters, lines = ["self"], [f"{_INDENT}pass"]
    head = f"def __init__({', '.join(parameters)}):"
    source = "\n".join([head, *lines])
    constructor: Callable[..., None] = _build(source, constants, "__init__", struct_type.__name__)
    return constructor


def compile_decoder(message_type: type[Message], version: int) -> Decoder:
    """Build the decoder of one version."""
    return _DecoderWriter(message_type, version).build()  # type: ignore[no-any-return]


def compile_encoder(message_type: type[Message], version: int) -> Encoder:
    """Build the encoder of one version."""
    return _EncoderWriter(message_type, version).build()  # type: ignore[no-any-return]


def compile_piecewise_decoder(message_type: type[Message], version: int) -> PiecewiseDecoder:
    """Build the decoder of one version as a generator that returns the message."""
    writer = _DecoderWriter(message_type, version, piecewise=True)
    return writer.build()  # type: ignore[no-any-return]


def compile_piecewise_encoder(message_type: type[Message], version: int) -> PiecewiseEncoder:
    """Build the encoder of one version as a generator."""
    writer = _EncoderWriter(message_type, version, piecewise=True)
    return writer.build()  # type: ignore[no-any-return]


def _build(source: str, constants: dict[str, Any], name: str, title: str) -> Any:
    namespace = dict(constants)
    code = compile(source, f"<{title} {name}>", "exec")
    exec(code, namespace)  # noqa: S102 - source made here from declarations, never from input
    return namespace[name]


def minimum_bytes(struct_type: type[Struct], version: int, *, flexible: bool) -> int:
    """Return the fewest bytes that an encoded structure can have."""
    total = 1 if flexible else 0  # the count of tagged fields
    for field in struct_type.__kafka_fields__.values():
        if field.is_in(version) and not (flexible and field.tag is not None):
            total += _minimum_field_bytes(field, version, flexible=flexible)
    return total


def _minimum_field_bytes(field: Field, version: int, *, flexible: bool) -> int:
    element = field.element
    if field.is_array:
        return 1 if flexible else 4
    if not isinstance(element, Kind):
        if field.is_nullable_in(version):
            return 1
        return minimum_bytes(element, version, flexible=flexible)
    return _minimum_element_bytes(element, flexible=flexible)


def _minimum_element_bytes(kind: Kind, *, flexible: bool) -> int:
    if kind.is_fixed_size:
        return struct.calcsize(f">{kind.value}")
    if flexible:
        return 1
    return 2 if kind is Kind.STRING else 4


class _Writer:
    """Lines of the function under construction, and the objects its names stand for."""

    def __init__(
        self, message_type: type[Message], version: int, *, piecewise: bool = False
    ) -> None:
        self.message_type = message_type
        self.version = version
        self._piecewise = piecewise
        self.flexible = version >= message_type.flexible_version
        self.lines: list[str] = []
        self.constants: dict[str, Any] = {}
        self.depth = 1
        self._names = 0

    def line(self, text: str) -> None:
        self.lines.append(_INDENT * self.depth + text)

    def begin(self, head: str) -> None:
        """Write the head of the function."""
        self.lines.append(head)
        if self._piecewise:
            self.line("if 0: yield")  # what makes it a generator, also without any array
            self.line(f"left = {ELEMENTS_PER_PIECE}")

    def after_element(self) -> None:
        """Write what comes after each element of an array that is not read or written at once."""
        if self._piecewise:
            self.line("left -= 1")
            self.line(f"if not left: left = {ELEMENTS_PER_PIECE}; yield")

    def name(self, prefix: str) -> str:
        self._names += 1
        return f"{prefix}_{self._names}"

    def compiled(self, function_name: str) -> Any:
        """Compile the lines, unless another version of the message came out the same."""
        source = "\n".join(self.lines)
        known = self.message_type.compiled_functions
        if source not in known:
            title = f"{self.message_type.__name__} version {self.version}"
            known[source] = _build(source, self.constants, function_name, title)
        return known[source]

    def present_fields(self, struct_type: type[Struct]) -> dict[str, Field]:
        """Fields of this version that travel in order, without the tagged ones."""
        return {
            name: field
            for name, field in struct_type.__kafka_fields__.items()
            if field.is_in(self.version) and not (self.flexible and field.tag is not None)
        }

    def tagged_fields(self, struct_type: type[Struct]) -> list[tuple[int, str, Field]]:
        """Tagged fields of this version by tag, the order in which they must be written."""
        if not self.flexible:
            return []
        return sorted(
            (field.tag, name, field)
            for name, field in struct_type.__kafka_fields__.items()
            if field.is_in(self.version) and field.tag is not None
        )


def _struct_name(prefix: str, formats: str) -> str:
    return f"{prefix}_{formats.replace('?', 'o').replace('16s', 'u')}"


def _has_records(struct_type: type[Struct], version: int) -> bool:
    for field in struct_type.__kafka_fields__.values():
        if field.element is Kind.RECORDS:
            return True
        if not isinstance(field.element, Kind) and _has_records(field.element, version):
            return True
    return False


class _DecoderWriter(_Writer):
    """Writes ``decode(buffer, offset, budget)``."""

    def __init__(self, message_type: type[Message], version: int, **options: bool) -> None:
        super().__init__(message_type, version, **options)
        self._run: list[tuple[str, str]] = []  # format and target of fields read together
        self._after_run: list[str] = []
        # Slices of bytes are cheaper than those of a view, but would copy records.
        self._over_view = _has_records(message_type, version)
        self.constants.update(
            new=object.__new__,
            long_varint=primitives.read_long_varint,
            varint=primitives.read_unsigned_varint,
            skip_tags=primitives.skip_tagged_fields,
            fail_budget=primitives.fail_budget,
            fail_length=primitives.fail_length,
            fail_end=primitives.fail_end,
            to_uuid=primitives.uuid_from_bytes,
            unpack=struct.unpack_from,
        )

    def build(self) -> Any:
        self.begin("def decode(buffer, offset, budget):")
        if self._over_view:
            self.line("buffer = memoryview(buffer)")
        else:
            self.line("if type(buffer) is not bytes: buffer = bytes(buffer)")
        self.line("end = len(buffer)")
        self._struct(self.message_type, "message")
        self._flush()
        self.line("if offset > end: fail_end()")
        self.line("return message")
        return self.compiled("decode")

    def _read(self, fmt: str, target: str) -> None:
        """Add one value to the run of values that one Struct reads."""
        self._run.append((fmt, target))

    def _flush(self) -> None:
        """Write the code that reads the run."""
        if self._run:
            formats = "".join(fmt for fmt, _ in self._run)
            if formats == "B":
                self.line(f"{self._run[0][1]} = buffer[offset]")
            else:
                reader = _struct_name("read", formats)
                self.constants[reader] = struct.Struct(f">{formats}").unpack_from
                targets = ", ".join(target for _, target in self._run)
                comma = "," if len(self._run) == 1 else ""
                self.line(f"{targets}{comma} = {reader}(buffer, offset)")
            self.line(f"offset += {struct.calcsize(f'>{formats}')}")
        for text in self._after_run:
            self.line(text)
        self._run.clear()
        self._after_run.clear()

    def _struct(self, struct_type: type[Struct], target: str) -> None:
        """Write the code that makes a structure and reads its fields."""
        self._flush()
        class_name = f"class_{struct_type.__name__}"
        self.constants[class_name] = struct_type
        self.line(f"{target} = new({class_name})")
        present = self.present_fields(struct_type)
        for name, field in struct_type.__kafka_fields__.items():
            if name not in present:
                default = f"missing_{struct_type.__name__}_{name}"
                self.constants[default] = field.missing_value
                self.line(f"{target}.{name} = {default}")
        for name, field in present.items():
            self._field(f"{target}.{name}", field)
        if self.flexible:
            self._tags(struct_type, target)

    def _tags(self, struct_type: type[Struct], target: str) -> None:
        self._flush()
        known = self.tagged_fields(struct_type)
        self.line("if buffer[offset] == 0: offset += 1")
        if not known:
            self.line("else: offset, budget = skip_tags(buffer, offset, budget)")
            return
        self.line("else:")
        self.depth += 1
        count, tag, size, tag_end = (self.name(p) for p in ("count", "tag", "size", "tag_end"))
        self.line(f"{count}, offset = varint(buffer, offset)")
        self.line(f"budget -= {count}")
        self.line("if budget < 0: fail_budget()")
        self.line(f"for _ in range({count}):")
        self.depth += 1
        self.line(f"{tag}, offset = varint(buffer, offset)")
        self.line(f"{size}, offset = varint(buffer, offset)")
        self.line(f"{tag_end} = offset + {size}")
        for number, name, field in known:
            self.line(f"if {tag} == {number}:")
            self.depth += 1
            self._field(f"{target}.{name}", field)
            self._flush()
            self.line(f"if offset != {tag_end}: fail_length({size})")
            self.depth -= 1
        self.line(f"offset = {tag_end}")
        self.depth -= 2

    def _field(self, target: str, field: Field) -> None:
        nullable = field.is_nullable_in(self.version)
        if field.is_array:
            self._array(target, field.element, nullable=nullable)
        elif isinstance(field.element, Kind):
            self._value(target, field.element, nullable=nullable)
        elif nullable:
            self._nullable_struct(target, field.element)
        else:
            nested = self.name("nested")
            self._struct(field.element, nested)
            self._flush()
            self.line(f"{target} = {nested}")

    def _nullable_struct(self, target: str, struct_type: type[Struct]) -> None:
        marker, nested = self.name("marker"), self.name("nested")
        self._read("b", marker)
        self._flush()
        self.line(f"if {marker} < 0: {target} = None")
        self.line("else:")
        self.depth += 1
        self._struct(struct_type, nested)
        self._flush()
        self.line(f"{target} = {nested}")
        self.depth -= 1

    def _value(self, target: str, kind: Kind, *, nullable: bool) -> None:
        if kind is Kind.UUID:
            raw = self.name("raw")
            self._read(kind.value, raw)
            self._after_run.append(f"{target} = to_uuid({raw})")
        elif kind.is_fixed_size:
            self._read(kind.value, target)
        else:
            self._text(target, kind, nullable=nullable)

    def _text(self, target: str, kind: Kind, *, nullable: bool) -> None:
        """Write the code that reads a string, bytes or records."""
        size, stop = self.name("size"), self.name("stop")
        is_string = kind is Kind.STRING
        self._read("B" if self.flexible else "h" if is_string else "i", size)
        self._flush()
        if self.flexible:
            self.line(f"if {size} >= 128: {size}, offset = long_varint(buffer, offset - 1)")
            if is_string:
                self.line(f"if {size} > {primitives.STRING_BYTES_MAX + 1}: fail_length({size})")
            self.line(f"{size} -= 1")
        if nullable:
            self.line(f"if {size} == -1: {target} = None")
            self.line("else:")
            self.depth += 1
        self.line(f"if {size} < 0: fail_length({size})")
        self.line(f"{stop} = offset + {size}")
        if not is_string:
            value = (
                "buffer[offset:{stop}]" if kind is Kind.RECORDS else "bytes(buffer[offset:{stop}])"
            )
        elif self._over_view:
            value = "str(buffer[offset:{stop}], 'utf-8')"
        else:
            value = "buffer[offset:{stop}].decode()"
        self.line(f"{target} = {value.format(stop=stop)}")
        self.line(f"offset = {stop}")
        if nullable:
            self.depth -= 1

    def _array(self, target: str, element: Kind | type[Struct], *, nullable: bool) -> None:
        count = self.name("count")
        self._read("B" if self.flexible else "i", count)
        self._flush()
        if self.flexible:
            self.line(f"if {count} >= 128: {count}, offset = long_varint(buffer, offset - 1)")
            self.line(f"{count} -= 1")
        if nullable:
            self.line(f"if {count} == -1: {target} = None")
            self.line("else:")
            self.depth += 1
        self.line(f"if {count} < 0: fail_length({count})")
        if isinstance(element, Kind):
            least = _minimum_element_bytes(element, flexible=self.flexible)
        else:
            least = max(1, minimum_bytes(element, self.version, flexible=self.flexible))
        self.line(f"budget -= {count}")
        self.line(f"if budget < 0 or {count} * {least} > end - offset: fail_budget()")
        if isinstance(element, Kind) and element.is_fixed_size:
            self._fixed_size_elements(target, element, count, least)
        else:
            self._elements(target, element, count)
        if nullable:
            self.depth -= 1

    def _fixed_size_elements(self, target: str, kind: Kind, count: str, size: int) -> None:
        stop = self.name("stop")
        self.line(f"{stop} = offset + {size} * {count}")
        if kind is Kind.UUID:
            self.line(f"starts = range(offset, {stop}, {size})")
            item = f"to_uuid(bytes(buffer[start:start + {size}]))"
            self.line(f"{target} = [{item} for start in starts]")
        else:
            self.line(f"{target} = list(unpack(f'>{{{count}}}{kind.value}', buffer, offset))")
        self.line(f"offset = {stop}")

    def _elements(self, target: str, element: Kind | type[Struct], count: str) -> None:
        found, item = self.name("list"), self.name("item")
        self.line(f"{target} = {found} = []")
        self.line(f"for _ in range({count}):")
        self.depth += 1
        if isinstance(element, Kind):
            self._value(item, element, nullable=False)
        else:
            self._struct(element, item)
        self._flush()
        self.line(f"{found}.append({item})")
        self.after_element()
        self.depth -= 1


class _EncoderWriter(_Writer):
    """Writes ``encode(message, write)``."""

    def __init__(self, message_type: type[Message], version: int, **options: bool) -> None:
        super().__init__(message_type, version, **options)
        self._run: list[tuple[str, str]] = []  # format and expression of fields packed together
        self._write = "write"
        self.constants.update(
            varint=primitives.encode_unsigned_varint,
            compact_string=primitives.encode_compact_string,
            join=b"".join,
            pack=struct.pack,
        )

    def build(self) -> Any:
        self.begin("def encode(message, write):")
        self._struct(self.message_type, "message")
        self._flush()
        if len(self.lines) == 1:
            self.line("pass")
        return self.compiled("encode")

    def _flush(self) -> None:
        """Write the code that packs the run."""
        if not self._run:
            return
        formats = "".join(fmt for fmt, _ in self._run)
        values = [value for _, value in self._run]
        if set(formats) == {"B"}:
            self.line(f"{self._write}({bytes(map(int, values))!r})")
        else:
            packer = _struct_name("pack", formats)
            self.constants[packer] = struct.Struct(f">{formats}").pack
            self.line(f"{self._write}({packer}({', '.join(values)}))")
        self._run.clear()

    def _struct(self, struct_type: type[Struct], source: str) -> None:
        for name, field in self.present_fields(struct_type).items():
            self._field(f"{source}.{name}", field)
        if self.flexible:
            self._tags(struct_type, source)

    def _tags(self, struct_type: type[Struct], source: str) -> None:
        known = self.tagged_fields(struct_type)
        if not known:
            self._run.append(("B", "0"))
            return
        self._flush()
        tags, outer = self.name("tags"), self._write
        self.line(f"{tags} = []")
        for number, name, field in known:
            value, parts, content = (self.name(p) for p in ("value", "parts", "content"))
            self.line(f"{value} = {source}.{name}")
            self.line(f"if {self._is_sent(value, name, struct_type, field)}:")
            self.depth += 1
            self.line(f"{parts} = []")
            self._write = f"{parts}.append"
            self._field(value, field)
            self._flush()
            self._write = outer
            self.line(f"{content} = join({parts})")
            self.line(f"{tags}.append(varint({number}) + varint(len({content})) + {content})")
            self.depth -= 1
        self.line(f"{self._write}(varint(len({tags})))")
        self.line(f"{self._write}(join({tags}))")

    def _is_sent(self, value: str, name: str, struct_type: type[Struct], field: Field) -> str:
        """Return the condition under which a tagged field says more than its absence."""
        if field.is_array:
            return value if field.missing_value is not None else f"{value} is not None"
        if not isinstance(field.element, Kind):
            fields = field.element.__kafka_fields__.values()
            if any(nested.default is REQUIRED for nested in fields):
                return f"{value} is not None"
            default = f"default_{field.element.__name__}"
            self.constants[default] = field.element()
            return f"{value} is not None and {value} != {default}"
        default = f"default_{struct_type.__name__}_{name}"
        self.constants[default] = field.missing_value
        return f"{value} != {default}"

    def _field(self, source: str, field: Field) -> None:
        nullable = field.is_nullable_in(self.version)
        if field.is_array:
            self._array(source, field.element, nullable=nullable)
        elif isinstance(field.element, Kind):
            self._value(source, field.element, nullable=nullable)
        else:
            nested = self.name("nested")
            self.line(f"{nested} = {source}")
            if nullable:
                self._flush()
                self.line(f"if {nested} is None: {self._write}(b'\\xff')")
                self.line("else:")
                self.depth += 1
                self._run.append(("B", "1"))
                self._struct(field.element, nested)
                self._flush()
                self.depth -= 1
            else:
                self._struct(field.element, nested)

    def _value(self, source: str, kind: Kind, *, nullable: bool) -> None:
        if kind is Kind.UUID:
            self._run.append((kind.value, f"{source}.bytes"))
        elif kind.is_fixed_size:
            self._run.append((kind.value, source))
        elif not self.flexible:
            self._sized(source, kind, nullable=nullable)
        elif kind is Kind.STRING:
            self._flush()
            null = f"b'\\x00' if {source} is None else " if nullable else ""
            self.line(f"{self._write}({null}compact_string({source}))")
        else:
            self._compact_bytes(source, nullable=nullable)

    def _sized(self, source: str, kind: Kind, *, nullable: bool) -> None:
        """Write a text behind its length of 2 or 4 bytes, which joins the run before it."""
        value, size = self.name("value"), self.name("size")
        encoded = f"{source}.encode()" if kind is Kind.STRING else source
        if nullable:
            self.line(f"if {source} is None: {value} = b''; {size} = -1")
            self.line(f"else: {value} = {encoded}; {size} = len({value})")
        else:
            self.line(f"{value} = {encoded}; {size} = len({value})")
        self._run.append(("h" if kind is Kind.STRING else "i", size))
        self._flush()
        self.line(f"{self._write}({value})")

    def _compact_bytes(self, source: str, *, nullable: bool) -> None:
        self._flush()
        value = self.name("value")
        self.line(f"{value} = {source}")
        if nullable:
            self.line(f"if {value} is None: {self._write}(b'\\x00')")
            self.line("else:")
            self.depth += 1
        self.line(f"{self._write}(varint(len({value}) + 1))")
        self.line(f"{self._write}({value})")
        if nullable:
            self.depth -= 1

    def _array(self, source: str, element: Kind | type[Struct], *, nullable: bool) -> None:
        value = self.name("value")
        self.line(f"{value} = {source}")
        if nullable:
            self._flush()
            null = r"b'\x00'" if self.flexible else r"b'\xff\xff\xff\xff'"
            self.line(f"if {value} is None: {self._write}({null})")
            self.line("else:")
            self.depth += 1
        if self.flexible:
            self._flush()
            self.line(f"{self._write}(varint(len({value}) + 1))")
        else:
            self._run.append(("i", f"len({value})"))
            self._flush()
        if isinstance(element, Kind) and element.is_fixed_size:
            self._fixed_size_elements(value, element)
        else:
            item = self.name("item")
            self.line(f"for {item} in {value}:")
            self.depth += 1
            if isinstance(element, Kind):
                self._value(item, element, nullable=False)
            else:
                self._struct(element, item)
            self._flush()
            self.after_element()
            self.depth -= 1
        if nullable:
            self.depth -= 1

    def _fixed_size_elements(self, value: str, kind: Kind) -> None:
        if kind is Kind.UUID:
            self.line(f"{self._write}(join([item.bytes for item in {value}]))")
        else:
            packer = _struct_name("pack", kind.value)  # most have one element, or none
            self.constants[packer] = struct.Struct(f">{kind.value}").pack
            self.line(f"if len({value}) == 1: {self._write}({packer}({value}[0]))")
            many = f"pack(f'>{{len({value})}}{kind.value}', *{value})"
            self.line(f"elif {value}: {self._write}({many})")

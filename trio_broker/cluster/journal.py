"""The journal of the embedded store: one record batch per revision.

Each operation is a record: its key the key, its value the new value, no value a deletion. So the
journal is a Kafka log like any other, and offline tools can print it. The first record carries the
revision as a header, which replay checks. Bytes only; `embedded` reads and writes the log.
"""

from __future__ import annotations

from trio_broker.errors import CorruptMetadata, CorruptRecords
from trio_broker.metadata.transaction import Delete, Operation, Put, Revision
from trio_broker.records.build import Record, build_batch
from trio_broker.records.iterate import iterate_records

REVISION_HEADER = "revision"


def encode_revision(revision: Revision, now_ms: int) -> bytes:
    """Return the batch to append for a revision, which must have operations."""
    headers: tuple[tuple[str, bytes], ...] = ((REVISION_HEADER, str(revision.number).encode()),)
    records = []
    for operation in revision.operations:
        value = operation.value if isinstance(operation, Put) else None
        records.append(Record(operation.key.encode(), value, headers, now_ms))
        headers = ()
    return build_batch(records)


def decode_revision(batch: memoryview) -> Revision:
    """Read one batch of the journal, whose checksum recovery has checked.

    Raises:
        CorruptMetadata: no version of this package wrote it so.
    """
    operations: list[Operation] = []
    number = 0
    try:
        # Nothing here is compressed, so the batch itself bounds what its records take.
        for record in iterate_records(batch, bytes_max=len(batch)):
            if not operations:
                number = int(dict(record.headers)[REVISION_HEADER] or b"")
            if record.key is None:
                raise CorruptMetadata("a record of the metadata journal has no key")
            key = record.key.decode()
            operations.append(Delete(key) if record.value is None else Put(key, record.value))
    except (CorruptRecords, ValueError, KeyError) as error:
        raise CorruptMetadata(f"a batch of the metadata journal: {error!r}") from error
    return Revision(number, tuple(operations))

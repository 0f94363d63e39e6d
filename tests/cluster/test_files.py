"""Identity, snapshot files and journal batches: bytes in, bytes out, nonsense refused."""

from __future__ import annotations

import base64
import json
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_broker.cluster.identity import (
    FORMAT_VERSION,
    Identity,
    check_identity,
    new_cluster_id,
    read_identity,
    write_identity,
)
from trio_broker.cluster.journal import decode_revision, encode_revision
from trio_broker.cluster.snapshots import (
    SnapshotName,
    decode_snapshot,
    encode_snapshot,
    list_snapshots,
    quarantine_snapshot,
    read_snapshot,
    remove_snapshots,
    write_snapshot,
)
from trio_broker.errors import ConfigError, CorruptMetadata, FormatTooNew
from trio_broker.host.jobs import run_inline, write_small_file
from trio_broker.host.real import real_host
from trio_broker.metadata.transaction import Delete, KeyValue, Put, Revision
from trio_broker.records.build import Record, build_batch

OWNER = "test"
texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
revision_numbers = st.integers(1, 2**63)
entries = st.lists(
    st.builds(KeyValue, texts, st.binary(max_size=30), revision_numbers, revision_numbers),
    max_size=5,
    unique_by=lambda entry: entry.key,
)
names = st.builds(SnapshotName, st.integers(0, 10**20 - 1), st.integers(0, 10**20 - 1)).filter(
    lambda name: max(name) < 2**64
)


@pytest.fixture
def fs():
    return real_host().fs


@given(names, entries)
def test_snapshots_are_read_back(name, content):
    stored = decode_snapshot("path", encode_snapshot(name, content))
    assert stored.name == name
    assert stored.entries == tuple(sorted(content))


@given(names, entries, st.data())
def test_a_cut_or_padded_snapshot_is_refused(name, content, data):
    payload = encode_snapshot(name, content)
    cut = data.draw(st.integers(0, len(payload) - 1))
    assert decode_snapshot("path", payload[:cut]) is None
    assert decode_snapshot("path", payload + b"x") is None


def test_a_snapshot_of_a_newer_format_is_refused():
    payload = b"\x00\x02" + encode_snapshot(SnapshotName(1, 1), [])[2:]
    with pytest.raises(FormatTooNew, match="path has format 2"):
        decode_snapshot("path", payload)


def test_snapshot_files(fs, tmp_path):
    directory = str(tmp_path)
    first, second = SnapshotName(3, 10), SnapshotName(20, 40)
    content = [KeyValue("a", b"1", 1, 2)]
    for name in (first, second):
        run_inline(write_snapshot(fs, directory, OWNER, name, content))
    (tmp_path / "other").touch()
    assert run_inline(list_snapshots(fs, directory)) == [second, first]
    stored = run_inline(read_snapshot(fs, directory, OWNER, second))
    assert stored == (second, tuple(content))

    path = tmp_path / str(second)
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    assert run_inline(read_snapshot(fs, directory, OWNER, second)) is None
    run_inline(quarantine_snapshot(fs, directory, second))
    assert (tmp_path / "quarantine" / str(second)).read_bytes() == damaged
    assert run_inline(list_snapshots(fs, directory)) == [first]

    # A file under another's name is not what it says.
    (tmp_path / str(first)).rename(tmp_path / str(SnapshotName(4, 10)))
    assert run_inline(read_snapshot(fs, directory, OWNER, SnapshotName(4, 10))) is None
    run_inline(remove_snapshots(fs, directory, [first, SnapshotName(4, 10)]))
    assert run_inline(list_snapshots(fs, directory)) == []


operations = st.one_of(st.builds(Put, texts, st.binary(max_size=20)), st.builds(Delete, texts))


@given(revision_numbers, st.lists(operations, min_size=1, max_size=5), st.integers(0, 2**45))
def test_revisions_are_read_back_from_the_journal(number, changes, now_ms):
    revision = Revision(number, tuple(changes))
    assert decode_revision(memoryview(encode_revision(revision, now_ms))) == revision


@pytest.mark.parametrize(
    "records",
    [
        [Record(b"key", b"value")],
        [Record(b"key", b"value", (("revision", b"x"),))],
        [Record(b"key", b"value", (("revision", None),))],
        [Record(None, b"value", (("revision", b"1"),))],
        [Record(b"\xff", b"value", (("revision", b"1"),))],
    ],
)
def test_other_batches_are_no_revisions(records):
    with pytest.raises(CorruptMetadata):
        decode_revision(memoryview(build_batch(records)))


@given(st.integers(0, 2**128 - 1))
def test_cluster_ids_look_like_kafkas(number):
    ids = iter([UUID(int=number), UUID(int=5)])
    text = new_cluster_id(lambda: next(ids))
    assert len(text) == 22
    assert not text.startswith("-")
    assert base64.urlsafe_b64decode(text + "==") in {UUID(int=number).bytes, UUID(int=5).bytes}


def test_identity_is_written_and_read_back(fs, tmp_path):
    directory = str(tmp_path)
    assert run_inline(read_identity(fs, directory, OWNER)) is None
    identity = Identity("abc", 3)
    run_inline(write_identity(fs, directory, OWNER, identity))
    assert run_inline(read_identity(fs, directory, OWNER)) == identity
    (tmp_path / "identity").write_bytes(b"damaged")
    assert run_inline(read_identity(fs, directory, OWNER)) is None


@pytest.mark.parametrize(
    "fields, error",
    [
        ({"format": FORMAT_VERSION + 1}, FormatTooNew),
        ({"format": 1}, CorruptMetadata),
        ({"format": 1, "cluster_id": "x", "node_id": "zero"}, CorruptMetadata),
        ({"cluster_id": "x", "node_id": 0}, CorruptMetadata),
        ([], CorruptMetadata),
    ],
)
def test_an_identity_of_another_version_is_refused(fs, tmp_path, fields, error):
    payload = json.dumps(fields).encode()
    run_inline(write_small_file(fs, str(tmp_path / "identity"), OWNER, payload))
    with pytest.raises(error, match=str(tmp_path)):
        run_inline(read_identity(fs, str(tmp_path), OWNER))


def test_a_folder_of_somebody_else_is_refused_with_every_reason():
    stored = Identity("abc", 3)
    check_identity("data", stored, node_id=3, cluster_id=None)
    check_identity("data", stored, node_id=3, cluster_id="abc")
    with pytest.raises(ConfigError) as caught:
        check_identity("data", stored, node_id=4, cluster_id="xyz")
    node, cluster = caught.value.faults
    assert "belongs to node 3" in node
    assert "belongs to cluster 'abc'" in cluster

"""The embedded store on real files: what is committed stays, whatever happens to the folder."""

from __future__ import annotations

import pytest
import trio

from trio_broker.cluster import embedded
from trio_broker.cluster.store import RevisionsGone, StoreUnavailable
from trio_broker.errors import (
    ConfigError,
    CorruptLog,
    CorruptMetadata,
    FormatTooNew,
    LogDirInUse,
)
from trio_broker.host.jobs import run_inline, write_small_file
from trio_broker.host.real import real_host
from trio_broker.metadata.transaction import (
    Committed,
    Conflict,
    Delete,
    Guard,
    KeyValue,
    Put,
    Revision,
    Snapshot,
    Transaction,
)


def put(key: str, value: bytes = b"x", *guards: Guard) -> Transaction:
    return Transaction(guards, (Put(key, value),))


async def fill(store, count: int, start: int = 0) -> None:
    for number in range(start, start + count):
        await store.commit(put(f"key/{number % 20}", b"%d" % number * 10))


async def test_commits_conflicts_and_snapshots(open_real_store):
    async with open_real_store() as store:
        assert await store.snapshot() == Snapshot(0, ())
        committed = await store.commit(put("a/1", b"one", Guard("a/1", 0)))
        assert committed == Committed(Revision(1, (Put("a/1", b"one"),)))
        entry = KeyValue("a/1", b"one", 1, 1)
        assert await store.commit(put("a/1", b"two", Guard("a/1", 0))) == Conflict(1, (entry,))
        await store.commit(put("a/1", b"two", Guard("a/1", 1), Guard("b", 0)))
        await store.commit(Transaction((), (Put("b", b""), Delete("nothing"))))
        assert await store.snapshot("a/") == Snapshot(3, (KeyValue("a/1", b"two", 1, 2),))
        nothing = await store.commit(Transaction((Guard("b", 3),), (Delete("nothing"),)))
        assert nothing == Committed(Revision(3, ()))
        await store.commit(Transaction((), (Delete("b"),)))
        assert [entry.key for entry in (await store.snapshot()).entries] == ["a/1"]
        with pytest.raises(ValueError, match="twice"):
            await store.commit(Transaction((), (Put("c", b""), Delete("c"))))
        before = await store.snapshot()
        assert repr(store).endswith("revision=4>")
        identity = store.identity
    with pytest.raises(StoreUnavailable):
        await store.snapshot()
    with pytest.raises(StoreUnavailable):
        await store.commit(put("a"))
    async with open_real_store() as store:
        assert await store.snapshot() == before
        assert store.identity == identity
        assert len(identity.cluster_id) == 22
        assert (await store.commit(put("c"))).revision.number == 5


async def test_concurrent_commits_take_turns(open_real_store):
    async with open_real_store() as store, trio.open_nursery() as nursery:
        outcomes = []

        async def commit_one(number: int) -> None:
            outcomes.append(await store.commit(put("same", b"%d" % number, Guard("same", 0))))

        for number in range(10):
            nursery.start_soon(commit_one, number)
        while len(outcomes) < 10:
            await trio.testing.wait_all_tasks_blocked()
            await trio.lowlevel.checkpoint()
        assert sum(isinstance(outcome, Committed) for outcome in outcomes) == 1


async def test_a_cancelled_commit_is_not_carried_out_and_blocks_nobody(open_real_store):
    async with open_real_store() as store:
        with trio.CancelScope() as scope:
            scope.cancel()
            await store.commit(put("a"))
        assert scope.cancelled_caught
        assert (await store.snapshot()).revision == 0
        await store.commit(put("b"))
        assert [entry.key for entry in (await store.snapshot()).entries] == ["b"]


async def test_a_watch_sees_each_revision_once(open_real_store):
    async with open_real_store() as store:
        await fill(store, 3)
        seen = []
        async with trio.open_nursery() as nursery:

            async def follow() -> None:
                async with store.watch(2) as revisions:
                    async for revision in revisions:
                        seen.append(revision.number)
                        if revision.number == 6:
                            return

            nursery.start_soon(follow)
            await fill(store, 3, start=3)
        assert seen == [2, 3, 4, 5, 6]
        async with store.watch(1, "key/4") as revisions:
            assert await anext(revisions) == Revision(5, (Put("key/4", b"4" * 10),))
            with trio.move_on_after(0) as scope:
                await anext(revisions)
            assert scope.cancelled_caught
            await store.commit(put("key/4", b"again"))
            assert (await anext(revisions)).number == 7
        closing = store.watch(8)
    async with closing as revisions:
        with pytest.raises(StoreUnavailable):
            await anext(revisions)


async def test_a_watch_from_too_long_ago_is_told(open_real_store, small_store):
    async with open_real_store() as store:
        await fill(store, 60)
    async with open_real_store() as store:
        async with store.watch(1) as revisions:
            with pytest.raises(RevisionsGone):
                await anext(revisions)
        async with store.watch(60) as revisions:
            assert (await anext(revisions)).number == 60


async def test_snapshots_keep_the_journal_short(open_real_store, small_store):
    async with open_real_store() as store:
        await fill(store, 200)
        statistics = store.statistics()
        before = await store.snapshot()
    assert statistics.revision == 200
    assert statistics.keys == 20
    assert statistics.journal_bytes < 8 * 1024
    assert statistics.failure == statistics.tidy_failure == ""
    names = sorted(path.name for path in open_real_store.directory.glob("*.snapshot"))
    assert len(names) == 2
    async with open_real_store() as store:
        assert await store.snapshot() == before
        assert store.statistics().journal_bytes_since_snapshot < 2000


@pytest.mark.parametrize("damage", ["flip", "empty", "remove"])
async def test_a_damaged_snapshot_is_replaced_by_the_one_before(
    open_real_store, small_store, damage
):
    async with open_real_store() as store:
        await fill(store, 100)
        before = await store.snapshot()
    newest = max(open_real_store.directory.glob("*.snapshot"))
    content = newest.read_bytes()
    if damage == "flip":
        newest.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
    elif damage == "empty":
        newest.write_bytes(b"")
    else:
        newest.unlink()
    async with open_real_store() as store:
        assert await store.snapshot() == before
        await fill(store, 50, start=100)
        before = await store.snapshot()
    if damage != "remove":
        assert (open_real_store.directory / "quarantine" / newest.name).exists()
    async with open_real_store() as store:
        assert await store.snapshot() == before


async def refuses(open_real_store, error, match, **keywords) -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(error, match=match)):
        async with open_real_store(**keywords):
            pass


async def test_without_any_whole_snapshot_a_cut_journal_is_refused(open_real_store, small_store):
    async with open_real_store() as store:
        await fill(store, 100)
    for path in open_real_store.directory.glob("*.snapshot"):
        path.write_bytes(b"")
    await refuses(open_real_store, CorruptMetadata, "newest snapshot that is whole ends at 0")


async def test_a_torn_end_of_the_journal_was_never_committed(open_real_store):
    async with open_real_store() as store:
        await fill(store, 5)
        before = await store.snapshot()
    (segment,) = open_real_store.directory.glob("journal/*.log")
    whole = segment.read_bytes()
    segment.write_bytes(whole + whole[: len(whole) // 6])
    async with open_real_store() as store:
        assert await store.snapshot() == before
        await fill(store, 1, start=5)
    async with open_real_store() as store:
        assert (await store.snapshot()).revision == 6


async def test_a_damaged_journal_is_refused_below_its_recovery_point(open_real_store, small_store):
    async with open_real_store() as store:
        await fill(store, 12)
    assert (open_real_store.directory / "journal" / "checkpoint").exists()
    segment = min(open_real_store.directory.glob("journal/*.log"))
    segment.unlink()
    await refuses(open_real_store, CorruptLog, "journal")


async def test_somebody_elses_folder_is_refused(open_real_store):
    async with open_real_store(node_id=3, cluster_id="mine"):
        await refuses(open_real_store, LogDirInUse, "metadata of node 3", node_id=3)
    await refuses(open_real_store, ConfigError, "belongs to node 3", node_id=4)
    await refuses(open_real_store, ConfigError, "cluster 'mine'", node_id=3, cluster_id="yours")
    async with open_real_store(node_id=3) as store:
        assert store.identity == ("mine", 3)


async def test_a_newer_format_is_refused(open_real_store):
    async with open_real_store():
        pass
    path = open_real_store.directory / "identity"
    payload = b'{"format":2,"something":"else"}'
    run_inline(write_small_file(real_host().fs, str(path), "test", payload))
    await refuses(open_real_store, FormatTooNew, "has format 2")


async def test_a_lost_identity_is_restored_from_the_content(open_real_store, caplog):
    async with open_real_store(cluster_id="mine") as store:
        await store.commit(put("meta", b'{"v":1,"cluster_id":"mine"}'))
    (open_real_store.directory / "identity").write_bytes(b"damaged")
    await refuses(open_real_store, ConfigError, "cluster 'mine'", cluster_id="yours")
    async with open_real_store() as store:
        assert store.identity == ("mine", 0)
    assert "lost its identity" in caplog.text
    assert (open_real_store.directory / "identity").stat().st_size > 20


async def test_a_lost_identity_that_nothing_tells_is_refused(open_real_store):
    async with open_real_store() as store:
        await store.commit(put("a"))
    (open_real_store.directory / "identity").unlink()
    await refuses(open_real_store, CorruptMetadata, "which cluster")


async def test_a_full_store_refuses_growth_and_allows_deletion(open_real_store, monkeypatch):
    monkeypatch.setattr(embedded, "CONTENT_BYTES_MAX", 300)
    async with open_real_store() as store:
        await store.commit(put("a", bytes(200)))
        with pytest.raises(StoreUnavailable, match="full"):
            await store.commit(put("b", bytes(200)))
        await store.commit(Transaction((), (Delete("a"),)))
        await store.commit(put("b", bytes(200)))
        assert (await store.snapshot()).revision == 3

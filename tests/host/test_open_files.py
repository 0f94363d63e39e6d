"""The open files of the real machine are listed at once, and described when they are looked at."""

from __future__ import annotations

from attrs import define

from trio_broker.host.interface import OpenFile
from trio_broker.host.ledger import OpenFiles


@define(eq=False)
class Held:
    path: str
    size: int = 0
    owner: str = "somebody"
    opened_at: float = 1.0
    is_in_call: bool = False


def test_entries_are_made_when_they_are_looked_at() -> None:
    held = [Held(name) for name in "abcd"]
    files = OpenFiles(held)
    held[1].size = 7
    entries = [OpenFile(name, "somebody", 1.0, 7 if name == "b" else 0) for name in "abcd"]
    assert len(files) == 4
    assert list(files) == entries
    assert files == entries
    assert files[1] == entries[1]
    assert list(files[1:3]) == entries[1:3]
    assert entries[3] in files


def test_they_are_equal_if_the_same_files_are_open() -> None:
    held = [Held("a"), Held("b")]
    files = OpenFiles(held)
    held[0].size = 9
    assert files == OpenFiles(list(held))
    assert files != OpenFiles([*held, Held("c")])
    assert files != OpenFiles([Held("a"), Held("b")]), "one was closed and opened again"
    assert files != ()

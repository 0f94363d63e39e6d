"""The tutorials work as they are written, and the runner notices if one does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.requirements import missing_programs, skip_loudly
from tests.tutorials.runner import ROOT, TutorialFailed, matches, run_page, steps_of

#: Those with consoles; a page around one program may have a test of its own.
PAGES = [
    page
    for page in sorted((ROOT / "docs" / "tutorials").glob("*.md"))
    if "```console" in page.read_text("utf-8")
]


@pytest.mark.timeout(600)  # some fifty commands, one after another, on whatever machine this is
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_it_works_as_written(page: Path, tmp_path: Path) -> None:
    if missing := missing_programs("bash", "curl"):
        skip_loudly(f"the tutorial {page.stem}", missing)
    assert run_page(page.read_text("utf-8"), tmp_path) >= 5


def test_both_tutorials_are_run() -> None:
    assert {"operator", "embedder"} <= {page.stem for page in PAGES}


def page_of(*lines: str) -> str:
    return "\n".join(["```console", *lines, "```", ""])


@pytest.mark.parametrize(
    "wrong",
    [
        page_of("$ echo one", "two"),
        page_of("$ echo one"),
        page_of("$ true", "one"),
        page_of("$ printf 'one\\ntwo\\n'", "one", "...", "three"),
        page_of("$ false", "$ echo $?", "0"),
        page_of("$ exit 3", "$ echo gone"),
        page_of("$ trio-broker serve --lisen x", "listening kafka://127.0.0.1:9092"),
        page_of("$ pip install './trio-broker[sever]'"),
        page_of("$ pip install 'trio-broker[server]'"),
    ],
)
def test_what_is_wrong_is_noticed(wrong: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        run_page(wrong, tmp_path)


def test_what_is_right_passes(tmp_path: Path) -> None:
    page = page_of("$ cat notes.txt", "hello", "$ echo \\", "  a   b", "a b", "$ (exit 3)") + (
        '```toml title="later.toml"\nx = 1\n```\n' + page_of("$ cat later.toml", "x = 1")
    )
    assert run_page('```toml title="notes.txt"\nhello\n```\n' + page, tmp_path) == 4


def test_output_is_compared_by_kind() -> None:
    assert matches(["at 2026-11-29T17:00:00.123Z, 9.3 s"], ["at 2030-01-01T00:00:00Z,  1 m 5 s"])
    assert matches(["a", "...", "d"], ["a", "b", "c", "d"])
    assert matches(["free: ... of 252.0 GiB"], ["free: 1 of 3.1 TiB"])
    assert not matches(["a", "...", "d"], ["a", "b"])
    assert not matches(["3 records"], ["4 records"])
    assert [step.command for step in steps_of("$ a\nout\n^C\n")] == ["a", "^C"]
    with pytest.raises(AssertionError):
        steps_of("output first\n")


def test_a_failure_names_the_line(tmp_path: Path) -> None:
    with pytest.raises(TutorialFailed, match=r"line 3: \$ echo one"):
        run_page("\n\n" + page_of("$ echo one", "two"), tmp_path)

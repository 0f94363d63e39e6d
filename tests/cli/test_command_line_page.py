"""The reference page tells of the commands that there are."""

from __future__ import annotations

from tests.cli import command_line_page
from trio_broker.cli import exits


def test_the_page_is_up_to_date() -> None:
    assert command_line_page.written() == command_line_page.render(), (
        "run python -m tests.cli.command_line_page"
    )


def test_every_exit_code_is_explained() -> None:
    codes = {value for name, value in vars(exits).items() if name.startswith("EXIT_")}
    assert set(command_line_page.EXIT_CODES) == codes

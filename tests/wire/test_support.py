"""The page about protocol support says what is true."""

from __future__ import annotations

from trio_broker.wire.api import APIS, ApiKey
from trio_broker.wire.support import render_support


def test_every_declared_api_is_in_exactly_one_table() -> None:
    page = render_support({ApiKey.PRODUCE: (3, 13), ApiKey.OFFSET_DELETE: (0, 0)})
    served, _, rest = page.partition("## Not served yet")
    assert "| 0 | Produce | 0-13 | 3-13 | 9+ |" in served
    assert "| 47 | OffsetDelete | 0 | 0 | never |" in served
    for key, api in APIS.items():
        where = served if key in {ApiKey.PRODUCE, ApiKey.OFFSET_DELETE} else rest
        assert page.count(f"\n| {key} | {api.name} |") == 1
        assert f"\n| {key} | {api.name} |" in where


def test_table_of_what_is_missing_is_left_out_when_empty() -> None:
    everything = {key: (api.min_version, api.max_version) for key, api in APIS.items()}
    assert "Not served yet" not in render_support(everything)


def test_page_is_up_to_date() -> None:
    from tests.wire import reference_page

    assert reference_page.PAGE.read_text() == reference_page.text(), (
        "write it again: python -m tests.wire.reference_page"
    )

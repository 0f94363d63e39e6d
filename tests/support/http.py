"""Health and metrics of a server process, asked for over HTTP."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

_SECONDS = 30.0


def ask(base: str, path: str, *, token: str | None = None) -> tuple[int, Any]:
    """Return status and JSON body, or the text if it is none."""
    request = urllib.request.Request(base + path)
    if token is not None:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            status, body = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            status, body = error.code, error.read()
    try:
        return status, json.loads(body)
    except ValueError:
        return status, body.decode()


def metric(base: str, name: str, **labels: str) -> float | None:
    """Return the value of one sample, or the sum of all that have these labels; None: no such."""
    status, page = ask(base, "/metrics")
    assert status == 200, page
    values = [
        sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return sum(values) if values else None

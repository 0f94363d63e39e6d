"""``trio-broker doctor``: what it is called with. What it looks at is in `doctor_checks`."""

from __future__ import annotations

import sys
from typing import Any

import click

from trio_broker.cli.configuration import (
    assignments_option,
    entries_of_options,
    file_option,
    list_settings,
    serve_options,
)
from trio_broker.cli.exits import EXIT_FAILED
from trio_broker.cli.options import output_option


@click.command()
@file_option
@serve_options
@assignments_option
@output_option
@click.option("--strict", is_flag=True, help="Warnings are failures, too.")
@click.pass_context
def doctor(
    context: click.Context,
    /,
    config_path: str | None,
    assignments: tuple[str, ...],
    output: str,
    *,
    strict: bool,
    **options: Any,
) -> None:
    """Say whether this machine can run a broker, and what to do if not.

    Takes the options of `serve`. Looks at the configuration, installed extras, descriptors,
    directories and their disks, ports and the clock. Beside a short test file in directories that
    exist it changes nothing. Exit code 1 if something would keep a broker from working.
    """
    list_settings(context, assignments)
    from trio_broker.cli.doctor_checks import Level, examine, show

    findings = examine(config_path, assignments, list(entries_of_options(**options)))
    show(output, findings)
    bad = {Level.FAILURE, Level.WARNING} if strict else {Level.FAILURE}
    if any(finding.level in bad for finding in findings):
        sys.exit(EXIT_FAILED)

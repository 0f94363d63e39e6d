"""``trio-broker completion``: what a shell needs to complete commands and options."""

from __future__ import annotations

import click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash: eval "$(trio-broker completion bash)"   in ~/.bashrc
    zsh:  eval "$(trio-broker completion zsh)"    in ~/.zshrc
    fish: trio-broker completion fish > ~/.config/fish/completions/trio-broker.fish
    """  # noqa: D301 - for click a \\b keeps lines as they are
    from click.shell_completion import get_completion_class

    script = get_completion_class(shell)
    assert script is not None
    top = context.find_root().command
    source = script(top, {}, "trio-broker", "_TRIO_BROKER_COMPLETE").source()
    # Click's script for fish ends a description at its first comma.
    click.echo(source.replace('string split ","', 'string split --max 1 ","'))

# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm completion`: what a shell needs to complete commands, options, stores and keys."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

PROGRAM = "ihsm"
VARIABLE = "_IHSM_COMPLETE"


@click.command(
    help="""Print what completes `ihsm` in a shell, labels of keys and names of stores too.

    bash: eval "$(ihsm completion bash)" in ~/.bashrc. zsh: eval "$(ihsm completion zsh)" in ~/.zshrc. fish: ihsm
    completion fish > ~/.config/fish/completions/ihsm.fish. Neither device nor PIN is needed.
    """
)
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Run `ihsm completion`."""
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(context.find_root().command, {}, PROGRAM, VARIABLE).source())

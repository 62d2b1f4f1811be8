# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Words that a shell completes: names of stores and labels of keys, from the store's files alone."""

from __future__ import annotations

import contextlib

import click
from click.shell_completion import CompletionItem

from ihsm.errors import IhsmError


def complete_stores(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of the user's stores; none if their folder cannot be read."""
    from ihsm.store import Store

    with contextlib.suppress(IhsmError):
        return [CompletionItem(name) for name in Store.names() if name.startswith(incomplete)]
    return []


def complete_keys(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Labels in the store that the line names, with their kinds, and behind an @ the versions; needs no PIN."""
    from ihsm.store import Store

    found = []
    with contextlib.suppress(IhsmError):
        for record in Store.open(context.params.get("store"), unlock=False).keys():  # noqa: SIM118
            found.append(CompletionItem(record.label, help=record.newest.kind))
            if incomplete.startswith(f"{record.label}@"):
                found += [CompletionItem(f"{record.label}@{each.version}", help=each.kind) for each in record.versions]
    return [item for item in found if item.value.startswith(incomplete)]

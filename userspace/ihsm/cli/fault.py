# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm fault`: faults of a served function, through its control socket; the options are those of the declarations."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from ihsm.cli.common import Number, control_address, device_option, hits_left, json_option, print_json, print_table
from ihsm.control import ControlClient
from ihsm.errors import CommandSeenError, IhsmError
from ihsm.uri import AUTO, Scheme, named_device
from ihsm_abi.control import DEFAULT_FAULT_WAIT_S, MAX_FAULT_WAIT_S
from ihsm_abi.ddi.ops import DdiOp
from ihsm_abi.fault_actions import MAX_COUNT, ActionSpec, FaultError, Parameter
from ihsm_abi.fault_table import ACTIONS
from ihsm_abi.fault_words import from_words, places, to_text
from ihsm_abi.faults import StandingFault
from ihsm_abi.registers import Register

COMMON: Final = {
    "queue": "Queue id.",
    "opcode": "Opcode of an admin command; 0 normal, 1 flush of the HSM; 0 GCM, 1 XTS of AES.",
    "operation": "Operation of an HSM command, such as EccSign, or its number.",
    "session": "Session id of an HSM or AES command.",
    "register": "Register that is read, such as CSTS.",
    "vector": "MSI-X vector.",
    "nth": "The first event that is hit, counted from 1. [default: 1]",
    "count": "How many events are hit. [default: all]",
    "after_ms": "Milliseconds until it begins.",
    "for_ms": "Milliseconds from its beginning to its end.",
    "per_mille": "How many of a thousand events are hit, by chance. [default: all]",
    "seed": "Of the chance: with the same seed the same events are hit. [default: 0]",
}
"""Values that many actions take, with their help; parameters of single actions have theirs in `ACTIONS`."""
ADDABLE: Final = tuple(spec for spec in ACTIONS.values() if not spec.at_start_only)
"""Those that a device can be told of while it runs."""
NAMES: Final = {"operation": tuple(DdiOp.__members__), "register": tuple(Register.__members__)}
"""Those of them that are given by name, with the names."""


def _integer(text: str) -> int:
    """Type of an option that takes an integer, as in Python: 0x for hexadecimal. Its limits depend on the action."""
    try:
        return int(text, 0)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no integer") from None


def _parameters() -> dict[str, list[Parameter]]:
    """Parameters of all actions that can be added by name, without those that are among COMMON."""
    found: dict[str, list[Parameter]] = {}
    for parameter in (parameter for spec in ADDABLE for parameter in spec.parameters if parameter.name not in COMMON):
        found.setdefault(parameter.name, []).append(parameter)
    return found


def _option(name: str) -> str:
    """The option of a value."""
    return f"--{name.replace('_', '-')}"


def _fault_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """An option for each value that an action can take; the command gets it under the value's name."""
    options = []
    for name, text in COMMON.items():
        number_or_name = click.STRING if name in NAMES else _integer
        complete = functools.partial(_complete_names, NAMES.get(name, ()))
        options.append(
            click.option(
                _option(name),
                name,
                type=number_or_name,
                metavar=_metavar(name),
                help=text,
                shell_complete=complete,
            )
        )
    for name, parameters in _parameters().items():
        choices = [str(choice) for choice in parameters[0].choices]
        kind = click.Choice(choices) if choices else _integer
        meanings: dict[str, list[str]] = {parameter.meaning: [] for parameter in parameters}
        for spec in ADDABLE:
            if parameter := spec.parameter(name):
                meanings[parameter.meaning].append(str(spec.action))
        text = "; ".join(f"{meaning} ({', '.join(actions)})" for meaning, actions in meanings.items())
        text = f"{text[0].upper()}{text[1:]}."
        metavar = None if choices else _metavar(name)
        options.append(click.option(_option(name), name, type=kind, metavar=metavar, help=text))
    for option in reversed(options):
        function = option(function)
    return function


def _metavar(name: str) -> str:
    return "NAME" if name in NAMES else "MS" if name.endswith("ms") else "N"


def _complete_names(
    names: Sequence[str], context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[str]:
    """Those that begin so."""
    return [name for name in names if name.startswith(incomplete)]


def _complete_faults(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Numbers of the faults of a device that is named; others are not looked for."""
    with contextlib.suppress(IhsmError):
        uri = named_device(context.params.get("device") or AUTO)
        if uri is not None and uri.scheme == Scheme.VFIO_USER:
            with ControlClient(uri.address) as client:
                found = [CompletionItem(str(entry.number), help=to_text(entry.fault)) for entry in client.faults()]
            return [item for item in found if item.value.startswith(incomplete)]
    return []


def _connected(device: str) -> ControlClient:
    """The control socket of the device that is named, or of the one that there is; errors as `control_address`."""
    return ControlClient(control_address(device, "faults are set where `ihsm serve` runs"))


@click.group(
    help="""Have a served device do something wrong, and wait until it has.

    A fault stays until it is cleared or the device ends, whoever has the device.
    """
)
def fault() -> None:
    """Run `ihsm fault`; a sub-command follows."""


@fault.command(
    help="""Add a fault: ACTION is what goes wrong, the options say for which events, when and how.

    Without options every event is meant. `ihsm fault actions` lists the actions and what each takes.
    """
)
@click.argument("action", type=click.Choice([str(spec.action) for spec in ADDABLE]), metavar="ACTION")
@_fault_options
@device_option
@json_option
def add(action: str, device: str, as_json: bool, **values: int | str | None) -> None:
    """Run `ihsm fault add`."""
    given = {name: _name_or_number(name, value) for name, value in values.items() if value is not None}
    try:
        added = from_words(action, given)
    except FaultError as error:
        if error.field in values:
            raise click.BadParameter(error.reason, param_hint=_option(error.field)) from None
        raise click.UsageError(error.reason) from None
    with _connected(device) as client:
        number = client.add_fault(added)
    if as_json:
        print_json({"id": number, "text": to_text(added), "fault": added.to_json()})
    else:
        click.echo(f"fault {number}: {to_text(added)}")


def _name_or_number(name: str, value: int | str) -> int | str:
    """An operation may be given by its number."""
    return int(value) if name == "operation" and isinstance(value, str) and value.isdecimal() else value


@fault.command("list", help="List the faults that stand: what they are, how often each was hit and will be hit.")
@device_option
@json_option
def list_command(device: str, as_json: bool) -> None:
    """Run `ihsm fault list`."""
    with _connected(device) as client:
        found = client.faults()
    if as_json:
        print_json([_record(entry) for entry in found])
    elif not found:
        click.echo("no faults")
    else:
        print_table([_row(entry) for entry in found], ("ID", "FAULT", "HITS", "LEFT"))


def _record(entry: StandingFault) -> dict[str, Any]:
    return {
        "id": entry.number,
        "text": to_text(entry.fault),
        "fault": entry.fault.to_json(),
        "hits": entry.hits,
        "left": entry.left,
    }


def _row(entry: StandingFault) -> tuple[str, ...]:
    return str(entry.number), to_text(entry.fault), str(entry.hits), hits_left(entry.left)


@fault.command(
    help="""Clear the faults ID, or all of them: what they hold up goes on.

    Exit status 1: one of them was a command that must never be seen, and was.
    """
)
@click.argument("numbers", type=int, nargs=-1, metavar="[ID]...", shell_complete=_complete_faults)
@click.option("--all", "everything", is_flag=True, help="Clear all faults.")
@device_option
@json_option
def clear(numbers: tuple[int, ...], everything: bool, device: str, as_json: bool) -> None:
    """Run `ihsm fault clear`."""
    if bool(numbers) == everything:
        raise click.UsageError("give the faults to clear, or --all")
    with _connected(device) as client:
        seen: list[str] = []
        for number in numbers:
            try:
                client.clear_fault(number)
            except CommandSeenError as error:  # it has ended all the same, as the others shall
                seen.append(str(error))
        if seen:
            raise CommandSeenError("; ".join(seen))
        cleared = client.clear_faults() if everything else len(numbers)
    if as_json:
        print_json({"cleared": cleared})
    else:
        click.echo(f"{cleared} cleared")


@fault.command(
    help="""Wait until the fault ID has been hit, and print how often it has.

    Hits from before the command count. Exit status 124: not hit so often in time; 1: there is no such fault (any more),
    or a command came that must never be seen, whichever fault is waited for. Of such a command itself, wait for so long
    that it does not come.
    """
)
@click.argument("number", type=int, metavar="ID", shell_complete=_complete_faults)
@click.option("--hits", type=click.IntRange(1, MAX_COUNT), default=1, show_default=True, help="Number of hits.")
@click.option(
    "--timeout",
    "timeout_s",
    type=Number(min=0, max=MAX_FAULT_WAIT_S),
    metavar="SECONDS",
    default=DEFAULT_FAULT_WAIT_S,
    show_default=True,
    help="Longest wait.",
)
@device_option
@json_option
def wait(number: int, hits: int, timeout_s: float, device: str, as_json: bool) -> None:
    """Run `ihsm fault wait`."""
    with _connected(device) as client:
        seen = client.wait_fault(number, hits, timeout_s)
    if as_json:
        print_json({"id": number, "hits": seen})
    else:
        click.echo(f"fault {number}: {seen} hits")


@fault.command(
    help="""List what can go wrong, and the options that each action takes. Needs no device.

    What acts at `start` is for the file of `ihsm serve --faults`. With --json, what a driver must do about it, too.
    """
)
@json_option
def actions(as_json: bool) -> None:
    """Run `ihsm fault actions`."""
    if as_json:
        print_json([_declaration(spec) for spec in ACTIONS.values()])
    else:
        print_table([_action_row(spec) for spec in ACTIONS.values()], ("ACTION", "POINT", "OPTIONS", "MEANING"))


def _action_row(spec: ActionSpec) -> tuple[str, ...]:
    """Of those from the start alone, what their objects in the file have."""
    takes = " ".join(parameter.name for parameter in spec.parameters) if spec.at_start_only else ""
    return spec.action, spec.point, takes or " ".join(map(_option, places(spec))), spec.meaning


def _declaration(spec: ActionSpec) -> dict[str, Any]:
    parameters = [
        {
            "name": parameter.name,
            "meaning": parameter.meaning,
            "required": parameter.required,
            **(
                {"choices": parameter.choices}
                if parameter.choices
                else {"minimum": parameter.minimum, "maximum": parameter.maximum}
            ),
        }
        for parameter in spec.parameters
    ]
    return {
        "action": spec.action,
        "point": spec.point,
        "meaning": spec.meaning,
        "driver": spec.driver,
        "spec": spec.spec,
        "match": spec.matches,
        "when": spec.whens,
        "parameters": parameters,
    }

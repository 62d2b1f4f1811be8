# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm replay`: the driver's side of a recording, played against a device."""

from __future__ import annotations

import contextlib
from typing import Any, Final

import click

from ihsm.arguments import MAX_WAIT_S
from ihsm.bus import PciFunction, VfioUserFunction
from ihsm.cli.common import Number, json_option, print_json, wait_option
from ihsm.cli.recordings import RecordingFile, warn_of_cut
from ihsm.embedded import EmbeddedDevice
from ihsm.errors import DeviceNotFoundError
from ihsm.trace.files import Numbered, Recording
from ihsm.trace.records import RegisterRead
from ihsm.trace.replay import TIMEOUT_S, Audience, Played, Replay, resources_for
from ihsm.uri import AUTO, Scheme, named_device, open_uri
from ihsm_abi.registers import Register
from ihsm_abi.trace import NO_QUEUE

CUT: Final = 2


class _Notes(Audience):
    """What was different from the recording."""

    def __init__(self) -> None:
        self.reads: list[dict[str, Any]] = []
        self.answers: list[dict[str, Any]] = []

    def read(self, access: RegisterRead, value: int) -> None:
        if value != access.value:
            names = {int(register): register.name for register in Register}
            register = names.get(access.offset, f"{access.offset:#x}")
            self.reads.append({"register": register, "recorded": access.value, "value": value})

    def differs(self, command: Played, recorded: int) -> None:
        status = {"recorded": recorded, "status": command.status}
        self.answers.append({"queue": command.queue, "cid": command.cid, **status})


@click.command(
    help="""Play the driver's side of the recording FILE against a device, and say what it answers otherwise.

    FILE is pcapng of `ihsm trace --write`, or JSON lines; - is standard input. It must begin before the controller was
    enabled. Memory is at the recorded addresses; what no recording has, user data and secrets, is zeros, so commands
    that need them fail, which is no failure of the replay. Commands that the recorded device never answered are waited
    for. Exit status 1: the device does not answer in time, or answers what was not asked; 2: no such file, or one that
    cannot be read or lacks its end.
    """,
)
@click.argument("recording", type=RecordingFile(), metavar="FILE")
@click.option(
    "--device", "device", metavar="URI", default=AUTO, show_default=True,
    help="vfio-user:PATH, a function that is reset first; auto: $IHSM_DEVICE, else a private one for the duration.",
)  # fmt: skip
@wait_option
@click.option(
    "--function", "function", type=click.IntRange(0, NO_QUEUE - 1), metavar="N",
    help="Which function of the recording; needed if it has several.",
)  # fmt: skip
@click.option(
    "--timeout", "timeout_s", type=Number(min=0, max=MAX_WAIT_S), metavar="SECONDS", default=TIMEOUT_S,
    show_default=True, help="Longest wait for one answer.",
)  # fmt: skip
@json_option
@click.pass_context
def replay(
    context: click.Context,
    recording: Recording,
    device: str,
    wait_s: float,
    function: int | None,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Run `ihsm replay`."""
    warn_of_cut("replay", recording)
    records = _of_function(recording.records, function)
    notes = _Notes()
    with contextlib.ExitStack() as stack:
        opened = _opened(stack, device, wait_s, records)
        player = stack.enter_context(Replay(opened, opened.map_dma, records, audience=notes, timeout_s=timeout_s))
        answered = player.run()
    if as_json:
        print_json({"records": len(records), "commands": len(answered), "answers": notes.answers, "reads": notes.reads})
    else:
        _show(records, len(answered), notes)
    if recording.cut is not None:
        context.exit(CUT)


def _of_function(records: list[Numbered], function: int | None) -> list[Numbered]:
    """The records of one function."""
    found = sorted({record.function for _, record in records} - {NO_QUEUE})
    if function is None:
        if len(found) > 1:
            raise click.UsageError(f"the recording has several functions: --function, one of {found}")
        return records
    if function not in found:
        raise click.BadParameter(f"the recording has {found}", param_hint="--function")
    return [one for one in records if one.record.function in (function, NO_QUEUE)]


def _opened(stack: contextlib.ExitStack, device: str, wait_s: float, records: list[Numbered]) -> VfioUserFunction:
    """The function to play to: one that is named, else that of a private device with as many queues as are needed.

    Raises:
        DeviceNotFoundError: it has no memory at addresses of our choice.
    """
    uri = named_device(device)
    if uri is None:
        private = stack.enter_context(EmbeddedDevice(["--resources", str(resources_for(records))]))
        return stack.enter_context(VfioUserFunction(private.socket_path))
    if uri.scheme != Scheme.VFIO_USER:
        raise DeviceNotFoundError(f"{uri}: memory at the recorded addresses needs a served function, vfio-user:PATH")
    opened: PciFunction = stack.enter_context(open_uri(uri, wait_s=wait_s))
    assert isinstance(opened, VfioUserFunction)
    return opened


def _show(records: list[Numbered], commands: int, notes: _Notes) -> None:
    for one in notes.reads:
        click.echo(f"{one['register']} reads {one['value']:#x}, recorded {one['recorded']:#x}")
    for one in notes.answers:
        place = f"queue {one['queue']}, command {one['cid']}"
        click.echo(f"{place}: status {one['status']:#x}, recorded {one['recorded']:#x}")
    differing = len(notes.answers) + len(notes.reads)
    click.echo(f"{len(records)} records played, {commands} commands answered, {differing} answers not as recorded")

# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm qemu-args`: what to add to the command line of a virtual machine of one's own."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from ihsm.guest.machine import Accelerator, Iommu, device_arguments, iommu_arguments, machine_argument, memory_arguments
from ihsm_abi import json_text
from ihsm_abi.sockets import default_path, is_utf8


@click.command(
    "qemu-args",
    help="""Print the arguments that give a QEMU (10.1 or later) the device.

    The guest's memory must be shared, as in these arguments; start `ihsm serve` before QEMU.
    """,
)
@click.option(
    "--socket",
    "sockets",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Socket of a served function. [default: the first one of `ihsm serve`]",
)
@click.option("--memory", default="2G", show_default=True, help="Size of the guest's memory.")
@click.option(
    "--iommu",
    type=click.Choice([*map(str, Iommu)]),
    default="off",
    show_default=True,
    help="Other than off: a virtual IOMMU, which VFIO in the guest needs.",
)
@click.option("--json", "as_json", is_flag=True, help="A JSON array of words instead of shell text.")
def qemu_args(sockets: tuple[Path, ...], memory: str, iommu: str, as_json: bool) -> None:
    """Run `ihsm qemu-args`."""
    kind = Iommu(iommu)
    machine = machine_argument(Accelerator.KVM, kind)
    paths = [path.absolute() for path in sockets] or [default_path(0)]
    for path in paths:
        if not is_utf8(path):
            raise click.UsageError(f"{click.format_filename(path)!r}: not UTF-8, which QEMU's device options must be")
    words = ["-machine", machine, *memory_arguments(memory), *iommu_arguments(kind), *device_arguments(paths)]
    if as_json:
        click.echo(json_text.dump(words))
        return
    pairs = [shlex.join(words[index : index + 2]) for index in range(0, len(words), 2)]
    click.echo(" \\\n".join(pairs))

# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm guest`: a QEMU guest that has the device, for one command or a shell."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from ihsm.cli.common import Number
from ihsm.guest import Accelerator, GuestConfig, Iommu, Streams
from ihsm.guest.errors import system_errors
from ihsm.guest.kernel import find_kernel
from ihsm.guest.session import Finding, Session

COMPLAINED = 126
"""Exit status for a complaint of the guest's kernel."""
_EXISTING = click.Path(exists=True, path_type=Path)


def _words(text: str) -> tuple[str, ...]:
    """Type of an option that takes several words, quoted as for a shell."""
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: {error}") from None


@click.command(
    help="""Start the device and a QEMU guest that has it; run a command there and return its exit status.

    The guest sees the host's files at their own paths, read-only underneath: what it writes is lost with it, save
    below --share. What its kernel complained of meanwhile is named on standard error. Exit status: the command's; 125
    if the guest could not run it; 124 after a time limit; 126 for a complaint, with --fail-on-warn.
    """,
)
@click.option("--exec", "shell", metavar="CMD", help="Shell command to run in the guest; without it, a shell.")
@click.option(
    "--module",
    "modules",
    metavar="KO",
    multiple=True,
    help="Module to load: a .ko file or the name of one of the guest kernel's, then its parameters.",
)
@click.option(
    "--build",
    "sources",
    type=_EXISTING,
    multiple=True,
    help="Folder with a module's source to build for the guest's kernel and load.",
)
@click.option("--kernel", type=_EXISTING, help="Kernel image (bzImage), or a folder with boot/ and lib/modules/.")
@click.option(
    "--accel",
    type=click.Choice([*map(str, Accelerator)]),
    default="auto",
    show_default=True,
    help="auto takes KVM where a kernel really boots with it.",
)
@click.option(
    "--iommu",
    type=click.Choice([*map(str, Iommu)]),
    default="pt",
    show_default=True,
    help="Guest IOMMU: none, passed through by kernel drivers (VFIO works), mapping for all.",
)
@click.option("--memory", default="1G", show_default=True, help="Size of the guest's memory.")
@click.option("--cpus", type=click.IntRange(1, 64), default=2, show_default=True, help="Virtual CPUs.")
@click.option(
    "--gdb",
    "gdb_port",
    type=click.IntRange(1, 65535),
    metavar="PORT",
    help="Wait for a debugger on this port before the first instruction.",
)
@click.option(
    "--device-args", type=_words, default="", metavar="ARGS", help="Further arguments for the device's `ihsm serve`."
)
@click.option("--devices", type=click.IntRange(0, 16), help="Functions to start. [default: 1; 0 with --socket]")
@click.option("--socket", "sockets", type=_EXISTING, multiple=True, help="Attach a device that runs already.")
@click.option(
    "--share",
    "shares",
    type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path),
    multiple=True,
    help="Host folder that the guest may write to, at the same path.",
)
@click.option("--qemu-args", type=_words, default="", metavar="ARGS", help="Further arguments for QEMU.")
@click.option("--kernel-args", default="", metavar="ARGS", help="Further words for the kernel's command line.")
@click.option(
    "--timeout",
    type=Number(min=0),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="Time limit of the command; 0 for none.",
)
@click.option("--fail-on-warn", is_flag=True, help="Exit with status 126 if the guest's kernel complained of anything.")
@click.option("--progress/--quiet", default=None, help="Say what is going on. [default: on a terminal only]")
def guest(
    shell: str | None,
    modules: tuple[str, ...],
    sources: tuple[Path, ...],
    kernel: Path | None,
    accel: str,
    iommu: str,
    memory: str,
    cpus: int,
    gdb_port: int | None,
    device_args: tuple[str, ...],
    devices: int | None,
    sockets: tuple[Path, ...],
    shares: tuple[Path, ...],
    qemu_args: tuple[str, ...],
    kernel_args: str,
    timeout: float,
    fail_on_warn: bool,
    progress: bool | None,
) -> None:
    """Run `ihsm guest`."""
    show = sys.stderr.isatty() if progress is None else progress
    streams = Streams(sys.stdin.buffer, sys.stdout.buffer, sys.stderr.buffer) if shell is not None else None
    findings: list[Finding] = []

    def report(finding: Finding) -> None:
        findings.append(finding)
        click.echo(f"guest: kernel: {finding}", err=True)

    with system_errors():
        session = Session(
            config=GuestConfig(
                kernel=find_kernel(kernel),
                accelerator=Accelerator(accel),
                iommu=Iommu(iommu),
                memory=memory,
                cpus=cpus,
                sockets=sockets,
                shares=shares,
                gdb_port=gdb_port,
                extra=qemu_args,
                kernel_arguments=kernel_args,
                command_limit_s=(timeout or None) if shell is not None else None,
            ),
            shell=shell,
            modules=modules,
            build=sources,
            devices=(0 if sockets else 1) if devices is None else devices,
            device_arguments=device_args,
            progress=(lambda text: click.echo(text, err=True)) if show else (lambda text: None),
            report=report,
        )
        status = session.run(streams)
    sys.exit(COMPLAINED if findings and fail_on_warn else status)

# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm guest`: a QEMU guest that has the device, for one command or a shell."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ihsm.cli.common import Number
from ihsm.guest import Accelerator, GuestConfig, Iommu, Streams, keeping
from ihsm.guest.bench import Bench
from ihsm.guest.bench import watch as follow
from ihsm.guest.debug_kernel import DEBUG, debug_kernel
from ihsm.guest.errors import system_errors
from ihsm.guest.gdb import Debugger
from ihsm.guest.kernel import find_kernel
from ihsm.guest.session import Session

COMPLAINED = 126
"""Exit status for a complaint of the guest's kernel."""
_EXISTING = click.Path(exists=True, path_type=Path)


class _Kernel(click.Path):
    """A path that exists, or the word for the debug kernel."""

    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        return Path(DEBUG) if value == DEBUG else super().convert(value, param, ctx)


def _words(text: str) -> tuple[str, ...]:
    """Type of an option that takes several words, quoted as for a shell."""
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: {error}") from None


def _say(text: str) -> None:
    click.echo(text, err=True)


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
@click.option(
    "--kernel",
    type=_Kernel(exists=True, path_type=Path),
    metavar="PATH",
    help="Kernel image (bzImage), or a folder with boot/ and lib/modules/; 'debug' is one with KASAN, lockdep and "
    "other checks of drivers, built once.",
)
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
@click.option("--keep", "action", flag_value="keep", help="Leave the guest running after the command, for --again.")
@click.option(
    "--again", "action", flag_value="again", help="Build, load and run again in the kept guest; or another command."
)
@click.option("--end", "action", flag_value="end", help="End the kept guest and its device.")
@click.option(
    "--watch",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Build, load and run again whenever something below a folder has changed, until Ctrl-C.",
)
@click.option("--progress/--quiet", default=None, help="Say what is going on. [default: on a terminal only]")
@click.pass_context
def guest(
    context: click.Context,
    /,
    shell: str | None,
    fail_on_warn: bool,
    action: str | None,
    watch: Path | None,
    progress: bool | None,
    **options: Any,
) -> None:
    """Run `ihsm guest`."""
    show = sys.stderr.isatty() if progress is None else progress
    teller = _Teller(_say if show else (lambda text: None))
    _check(context, shell, action, watch)
    with system_errors(), contextlib.ExitStack() as stack:
        if action == "end":
            keeping.end()
            return
        if action == "again":
            status = _again(shell, teller)
        else:
            session = _session(shell, teller, stack, **options)
            if action == "keep":
                keeping.keep(session)
                status = _again(shell, teller)
            elif watch:
                streams = Streams(None, sys.stdout.buffer, sys.stderr.buffer)
                follow(stack.enter_context(Bench(session)), watch, streams, _say)
            else:
                streams = Streams(sys.stdin.buffer, sys.stdout.buffer, sys.stderr.buffer)
                status = session.run(streams if shell is not None else None)
    sys.exit(COMPLAINED if teller.findings and fail_on_warn else status)


class _Teller:
    """Says what happens on standard error, and counts the complaints."""

    def __init__(self, progress: Callable[[str], None]) -> None:
        self.progress = progress
        self.findings = 0

    def finding(self, finding: object) -> None:
        self.findings += 1
        _say(f"guest: kernel: {finding}")


def _check(context: click.Context, shell: str | None, action: str | None, watch: Path | None) -> None:
    """Refuse options that do not go together."""
    if watch and action:
        raise click.UsageError(f"--watch and --{action} do not go together")
    if action == "keep" and context.params["gdb_port"] is not None:
        raise click.UsageError("--keep and --gdb do not go together: a debugger may hold the guest for ever")
    if (watch or action == "keep") and shell is None:
        raise click.UsageError(f"{'--watch' if watch else '--keep'} needs --exec")
    if action in ("again", "end"):
        taken = {"shell", "fail_on_warn", "progress", "action"} if action == "again" else {"action", "progress"}
        for name in context.params:
            if name not in taken and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
                raise click.UsageError(f"--{action}: the guest is there, and has its options; it takes --exec alone")


def _again(shell: str | None, teller: _Teller) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    asker = keeping.Asker(teller.progress, teller.finding)
    return keeping.again(shell, asker, (sys.stdout.fileno(), sys.stderr.fileno()))


def _session(
    shell: str | None,
    teller: _Teller,
    stack: contextlib.ExitStack,
    *,
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
) -> Session:
    """What the options ask for."""
    config = GuestConfig(
        kernel=debug_kernel(_say) if kernel == Path(DEBUG) else find_kernel(kernel),
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
    )
    session = Session(
        config=config,
        shell=shell,
        modules=modules,
        build=sources,
        devices=(0 if sockets else 1) if devices is None else devices,
        device_arguments=device_args,
        progress=teller.progress,
        report=teller.finding,
    )
    if gdb_port is None:
        return session
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ihsm-gdb-")))
    return replace(session, loaded=Debugger(config.kernel, gdb_port, folder, _say).loaded)

# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm serve`: the device as a process."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from ihsm_abi import logs
from ihsm_abi.resources import MAX_CONTROLLER_ID, MAX_RESOURCES
from ihsm_device import serve_options
from ihsm_device.errors import DeviceError
from ihsm_device.log_writer import LogWriter
from ihsm_device.start_needs import StartError, claim_descriptors, require_memory

_log = logging.getLogger(__name__)

STDERR: Final = 2
LEVELS: Final = ("debug", "info", "warning", "error")
KINDS: Final = ("virtual", "physical")
PROFILES: Final = ("default", "firmware")
MAX_HSM_THREADS: Final = 64


@click.command(help="Run the HSM: one vfio-user socket per function, until SIGTERM or SIGINT.")
@click.option(
    "--socket", "path", type=click.Path(path_type=Path), callback=serve_options.socket_name,
    help="Socket of the first function; with --count the others get PATH.1, PATH.2, ... "
    "[default: the first free N of $XDG_RUNTIME_DIR/ihsm/N.sock, or /tmp/ihsm-UID/N.sock]",
)  # fmt: skip
@click.option("--count", type=click.IntRange(1, MAX_CONTROLLER_ID), default=1, show_default=True, help="Functions.")
@click.option(
    "--resources", type=click.IntRange(1, MAX_RESOURCES), default=1, show_default=True,
    help="Resources of each function: 1 HSM and 2 AES queue pairs each.",
)  # fmt: skip
@click.option(
    "--kind", type=click.Choice(KINDS), default="physical", show_default=True,
    help="How key material is encoded on the wire.",
)  # fmt: skip
@click.option(
    "--profile", type=click.Choice(PROFILES), default="default", show_default=True,
    help="Behaviour where the firmware and today's client software differ.",
)  # fmt: skip
@click.option(
    "--requester-id", "requester_ids", multiple=True, metavar="BB:DD.F", callback=serve_options.requester_ids,
    help="Bus, device and function of the first function, then of the next, for TDISP. [default: what a session names]",
)  # fmt: skip
@click.option(
    "--state", type=click.Path(path_type=Path, file_okay=False), callback=serve_options.folder,
    help="Directory that keeps the identity over restarts. [default: a new identity each time]",
)  # fmt: skip
@click.option("--fips", is_flag=True, help="Report the FIPS-approved state.")
@click.option("--validation-hooks", is_flag=True, help="Offer the firmware's validation operations; never in earnest.")
@click.option(
    "--express",
    type=click.Choice(["on", "off"]),
    default="on",
    show_default=True,
    envvar="IHSM_EXPRESS",
    help="Whether signatures, RSA, HMAC and AES-CBC are done without the interpreter where they succeed.",
)
@click.option(
    "--hsm-threads",
    type=click.IntRange(1, MAX_HSM_THREADS),
    help="Threads for HSM commands that take microseconds.  [default: as many as suit the processors]",
)
@click.option(
    "--doorbell",
    type=click.Choice(["trap", "page"]),
    default="trap",
    show_default=True,
    help="How doorbells reach the device: as messages, or through a page that clients map and a thread watches.",
)
@click.option(
    "--spin-us",
    type=click.FloatRange(0),
    callback=serve_options.refuse_nan,
    default=50.0,
    show_default=True,
    help="With --doorbell page: microseconds without work until the thread sleeps; inf: never.",
)
@click.option(
    "--faults", "fault_file", type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="JSON array of faults that each function has from its start, some of which it can have only so.",
)  # fmt: skip
@click.option(
    "--sandbox", type=click.Choice(["on", "off"]), default="on", show_default=True, envvar="IHSM_SANDBOX",
    help="Whether the process gives up what it does not need: privileges, files, system calls.",
)  # fmt: skip
@click.option(
    "--user", metavar="NAME|UID", callback=serve_options.user,
    help="Whom the process becomes if root starts it. [default: who owns --state, the user ihsm, or one of its own]",
)  # fmt: skip
@click.option(
    "--allow-uid", "allowed_uids", type=click.IntRange(0, serve_options.MAX_UID), multiple=True, metavar="UID",
    help="Another user that may use the device; can be repeated. [default: the process's own, and who started it]",
)  # fmt: skip
@click.option("--log-level", type=click.Choice(LEVELS), help="Least severe to log. [default: that of `ihsm`]")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="Form of log lines. [default: that of `ihsm`]")
@click.pass_context
def serve(
    context: click.Context,
    path: Path | None,
    count: int,
    resources: int,
    kind: str,
    profile: str,
    requester_ids: tuple[int, ...],
    state: Path | None,
    fips: bool,
    validation_hooks: bool,
    express: str,
    hsm_threads: int | None,
    doorbell: str,
    spin_us: float,
    fault_file: Path | None,
    sandbox: str,
    user: str | None,
    allowed_uids: tuple[int, ...],
    log_level: str | None,
    log_format: logs.LogFormat | None,
) -> None:
    """Run `ihsm serve`."""
    if len(requester_ids) > count:
        raise click.UsageError(f"--requester-id for {len(requester_ids)} functions, there are {count}", context)
    if sandbox == "off" and user is not None:
        raise click.UsageError("--user needs --sandbox on", context)
    defaults = context.find_root().params
    writer = LogWriter(STDERR)
    logs.configure(
        log_level or defaults["log_level"] or "warning", log_format or defaults["log_format"] or "text", writer
    )
    # Threads inherit the mask, so that only this one receives them. Libraries that start some are imported below;
    # numpy's would be for linear algebra, of which there is none here.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    with contextlib.ExitStack() as running:
        running.callback(writer.close)
        with _start_errors():
            claim_descriptors(count)
            require_memory(count)
            # imported now, so that `ihsm --help` and the errors above need neither native code nor cryptography
            from ihsm_abi.ddi import DeviceKind
            from ihsm_device.fault_file import read_faults
            from ihsm_device.hsm.device import DeviceOptions, HsmDevice
            from ihsm_device.hsm.module import SecurityModule
            from ihsm_device.hsm.profile import PROFILES as PROFILES_BY_NAME
            from ihsm_device.own_code import measure_code
            from ihsm_device.sandbox import Confinement, Lookout
            from ihsm_device.server import Server, chosen_paths, tune_process
            from ihsm_device.socket_paths import ROOT, Clients, require_free
            from ihsm_device.state_lock import StateLock
            from ihsm_device.trust.attestation import Attestation
            from ihsm_device.vfu import holes_are_watched

            faults = () if fault_file is None else read_faults(fault_file)
            tune_process()
            options = DeviceOptions(
                kind=DeviceKind[kind.capitalize()],
                profile=PROFILES_BY_NAME[profile],
                fips_approved=fips,
                state=state,
                validation_hooks=validation_hooks,
                express=express == "on",
            )
            files = measure_code()
            with chosen_paths(path, count) as paths:
                lookout = None
                if sandbox == "on":
                    # Forked before the state is locked: it would have part in the lock until it has closed what it
                    # inherits, and a device that is killed just then would leave its state in use.
                    lookout = Lookout(count)
                    running.callback(lookout.close)
                confinement = Confinement(lookout)
                for each in paths:
                    require_free(each)  # before anything is given away for it
                if sandbox == "on":
                    confinement.leave_root(state, paths, user)
                state_lock = None
                if state is not None:
                    state_lock = StateLock(state)
                    running.callback(state_lock.close)
                if sandbox == "on":
                    confinement.restrict(state, paths)
                writer.start()
                hsm = running.enter_context(HsmDevice(options, state_lock=state_lock))
                attestation = Attestation(hsm, files, requester_ids)
                server = Server(
                    paths,
                    lambda index: SecurityModule.open(hsm, index, resources),
                    make_objects=attestation.objects,
                    resources=resources,
                    doorbell_page=doorbell == "page",
                    spin_us=spin_us,
                    hsm_threads=hsm_threads,
                    faults=faults,
                    clients=Clients.of({ROOT, confinement.starter, os.getuid()}, allowed_uids),
                    confinement=confinement,
                    lost_lines=lambda: writer.lost,
                )
            running.callback(server.stop)
            server.start()
            if not holes_are_watched():
                confinement.is_weaker("memory: holes of clients' files may be filled without limit (no userfaultfd)")
            if sandbox == "on":
                confinement.filter_calls()
        click.echo("ready: " + " ".join(f"vfio-user:{path}" for path in server.paths))
        signal.sigwait(signals)


@contextlib.contextmanager
def _start_errors() -> Iterator[None]:
    """Whatever keeps the device from starting becomes one line; the whole story is in the log at level debug."""
    try:
        yield
    except DeviceError as error:
        raise click.ClickException(str(error)) from None
    except Exception as error:
        _log.debug("the start failed", exc_info=True)
        raise click.ClickException(str(StartError(error))) from None

# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Examination of the tool chain, part by part, by using it."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ihsm.embedded import EmbeddedDevice
from ihsm.errors import EmbeddedDeviceError, IhsmError
from ihsm.guest.accel import kvm_verdict
from ihsm.guest.errors import ToolchainError
from ihsm.guest.initramfs import BOOT_MODULES
from ihsm.guest.kernel import find_kernel
from ihsm.guest.runner import GuestConfig
from ihsm.guest.session import Session
from ihsm.guest.streams import Streams
from ihsm.guest.toolchain import find_busybox, find_qemu
from ihsm_abi.pci import DEVICE_ID, VENDOR_ID

SETUP = "run scripts/setup"


class Health(StrEnum):
    """How a part is; a note is no obstacle."""

    OK = "ok"
    NOTE = "note"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Finding:
    """One part of the tool chain. `mend` says what to do, empty where nothing is needed."""

    part: str
    health: Health
    detail: str
    mend: str = ""


def examine(*, boot: bool = False) -> Iterator[Finding]:
    """Findings in the order in which parts depend on each other; `boot` adds a guest's start (about 15 s with TCG)."""
    yield _tried("QEMU", _qemu, SETUP)
    yield _tried("guest kernel", _kernel, SETUP)
    yield _tried("kernel headers", _headers, SETUP)
    yield _tried("busybox", lambda: str(find_busybox()), SETUP)
    yield _kvm()
    yield from _device()
    if boot:
        yield _tried("guest", _boot, "look at the lines above; ihsm guest --progress shows more")


def _tried(part: str, check: Callable[[], str], mend: str) -> Finding:
    try:
        return Finding(part, Health.OK, check())
    except (IhsmError, OSError, subprocess.SubprocessError) as error:
        return Finding(part, Health.BROKEN, str(error), mend)


def _qemu() -> str:
    qemu = find_qemu()
    return f"{qemu.version_text} with vfio-user-pci, {qemu.program}"


def _kernel() -> str:
    kernel = find_kernel()
    count = len(kernel.load_order([*BOOT_MODULES, "vfio-pci"]))
    return f"{kernel.release} with the {count} modules a guest needs, {kernel.image}"


def _headers() -> str:
    kernel = find_kernel()
    for tool in ("make", "gcc"):
        if not shutil.which(tool):
            raise ToolchainError(f"{tool}: not found")
    return f"{kernel.headers}"


def _kvm() -> Finding:
    try:
        verdict = kvm_verdict(find_qemu(), find_kernel(), fresh=True)
    except (IhsmError, OSError) as error:
        return Finding("KVM", Health.NOTE, f"not examined: {error}")
    if verdict.works:
        return Finding("KVM", Health.OK, verdict.reason)
    return Finding("KVM", Health.NOTE, f"{verdict.reason}; guests run with TCG, which is slower")


def _device() -> Iterator[Finding]:
    """The device's native build (libvfio-user is linked in), then memory shared with it."""
    try:
        device = EmbeddedDevice()
    except EmbeddedDeviceError as error:
        yield Finding("libvfio-user", Health.BROKEN, f"the device does not start: {error}", SETUP)
        return
    with device:
        yield Finding("libvfio-user", Health.OK, "the device serves a function with it")
        yield _tried("memory sharing", lambda: _info(device.socket_path), "ihsm serve --log-level debug shows more")


def _info(socket: Path) -> str:
    """Let a driver of our own bring the controller up, whose rings lie in memory shared with the device."""
    program = Path(sys.executable).with_name("ihsm")
    done = subprocess.run(
        [program, "info", "--device", f"vfio-user:{socket}", "--json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=60,
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        raise ToolchainError(lines[-1] if lines else f"ihsm info ended with status {done.returncode}")
    json.loads(done.stdout)
    return "the device answered a driver through rings in a memfd"


def _boot() -> str:
    out, err = io.BytesIO(), io.BytesIO()
    command = "cat /sys/bus/pci/devices/*/vendor /sys/bus/pci/devices/*/device"
    status = Session(config=GuestConfig(), shell=command).run(Streams(None, out, err))
    words = out.getvalue().decode().split()
    if status != 0 or f"{VENDOR_ID:#06x}" not in words or f"{DEVICE_ID:#06x}" not in words:
        raise ToolchainError(f"a guest booted but does not see the device: {err.getvalue().decode().strip()}")
    return f"boots and sees {VENDOR_ID:04x}:{DEVICE_ID:04x}"

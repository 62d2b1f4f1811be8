# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Whether KVM really runs a guest here.

A /dev/kvm can be present and still boot nothing (nested virtualisation), so a kernel is booted once with it. The
answer is kept until the machine restarts or another QEMU or kernel is used.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ihsm.guest.errors import GuestError, ToolchainError
from ihsm.guest.initramfs import busybox_root, newc
from ihsm.guest.kernel import GuestKernel
from ihsm.guest.machine import Accelerator
from ihsm.guest.toolchain import Qemu, cache_root, keep

KVM_NODE = Path("/dev/kvm")
PROBE_LIMIT_S = 10.0
_TOKEN = "ihsm: kvm works"


@dataclass(frozen=True, slots=True)
class KvmVerdict:
    """Whether KVM works, and why not."""

    works: bool
    reason: str


def kvm_verdict(qemu: Qemu, kernel: GuestKernel, *, fresh: bool = False) -> KvmVerdict:
    """Find out, or recall, whether KVM boots this kernel. `fresh` forgets what is remembered."""
    if not KVM_NODE.exists():
        return KvmVerdict(False, f"{KVM_NODE} does not exist")
    if not os.access(KVM_NODE, os.R_OK | os.W_OK):
        return KvmVerdict(False, f"{KVM_NODE} is not accessible for this user")
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    key = f"{boot} {qemu.program} {qemu.version_text} {kernel.image}"
    memory = _memory()
    if not fresh and memory and (known := _recall(memory, key)):
        return known
    verdict = _boot(qemu, kernel)
    if memory:
        keep(memory, json.dumps({"key": key, "works": verdict.works, "reason": verdict.reason}).encode())
    return verdict


def choose(wanted: Accelerator, qemu: Qemu, kernel: GuestKernel) -> Accelerator:
    """The accelerator to use; raises GuestError if KVM is demanded and does not work."""
    if wanted is Accelerator.TCG:
        return wanted
    verdict = kvm_verdict(qemu, kernel)
    if verdict.works:
        return Accelerator.KVM
    if wanted is Accelerator.KVM:
        raise GuestError(f"KVM does not work here: {verdict.reason}; --accel tcg does without it")
    return Accelerator.TCG


def _memory() -> Path | None:
    """File in which the answer is kept; None for a user without a cache folder."""
    try:
        return cache_root() / "kvm.json"
    except ToolchainError:
        return None


def _recall(memory: Path, key: str) -> KvmVerdict | None:
    try:
        record = json.loads(memory.read_bytes())
        return KvmVerdict(bool(record["works"]), str(record["reason"])) if record["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _boot(qemu: Qemu, kernel: GuestKernel) -> KvmVerdict:
    init = f"#!/bin/sh\necho {_TOKEN}\n/bin/poweroff -f\n"
    archive = newc(busybox_root(init.encode()))
    with tempfile.NamedTemporaryFile(prefix="ihsm-probe-") as initramfs:
        initramfs.write(archive)
        initramfs.flush()
        words = ["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-machine", "q35", "-accel", "kvm"]
        words += ["-cpu", "host", "-m", "256M", "-serial", "stdio", "-kernel", str(kernel.bootable())]
        words += ["-initrd", initramfs.name, "-append", "console=ttyS0 quiet panic=-1"]
        try:
            done = subprocess.run(
                [qemu.program, *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=PROBE_LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return KvmVerdict(False, f"a kernel booted with it gave no sign of life within {PROBE_LIMIT_S:.0f} s")
    if _TOKEN.encode() in done.stdout:
        return KvmVerdict(True, "a kernel booted with it")
    detail = done.stderr.decode(errors="replace").strip().splitlines()
    return KvmVerdict(False, detail[-1] if detail else "a kernel booted with it ended at once")

# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What a figure must be read with: CPU, kernel, versions, and how quiet the machine was."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

VECTOR_AES: Final = frozenset({"avx512f", "vaes", "vpclmulqdq"})
"""CPU features that the targets assume."""


def cpu_flags() -> frozenset[str]:
    """Feature flags of the first CPU (x86 `flags`, Arm `Features`)."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def has_vector_aes() -> bool:
    """Whether this is a machine that the targets hold for."""
    return cpu_flags() >= VECTOR_AES


def cpu_model() -> str:
    """Name of the CPU."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def describe() -> dict[str, Any]:
    """The machine, without its name."""
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return {
        "cpu": cpu_model(),
        "cpus": os.cpu_count(),
        "usable_cpus": len(os.sched_getaffinity(0)),
        "vector_aes": has_vector_aes(),
        "governor": governor.read_text().strip() if governor.exists() else None,
        "hypervisor": "hypervisor" in cpu_flags(),
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", "") if os.path.exists("/etc/os-release") else "",
        "python": platform.python_version(),
        "ihsm": version("ihsm"),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load_average": os.getloadavg()[0],
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


class OtherLoad:
    """CPU time that others took, and the hypervisor stole, while the benchmark ran."""

    def __init__(self) -> None:
        """Start watching."""
        self._start = self._read()

    @staticmethod
    def _read() -> tuple[int, int]:
        fields = [int(value) for value in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
        user, nice, system, _, _, irq, softirq, steal = fields[:8]
        return user + nice + system + irq + softirq, steal

    def since_start(self, own_cpu_s: float, wall_s: float) -> dict[str, float]:
        """Shares of all CPUs' time: `other_load`, `steal`."""
        tick = os.sysconf("SC_CLK_TCK")
        busy, steal = (now - then for now, then in zip(self._read(), self._start, strict=True))
        total_s = wall_s * (os.cpu_count() or 1)
        return {"other_load": max(0.0, busy / tick - own_cpu_s) / total_s, "steal": steal / tick / total_s}

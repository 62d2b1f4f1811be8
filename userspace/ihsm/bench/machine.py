# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What a figure must be read with: CPU, kernel, versions, and how quiet the machine was."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

VECTOR_AES: Final = frozenset({"avx512f", "vaes", "vpclmulqdq"})
"""CPU features that the targets assume."""
FEATURES: Final = (
    "aes", "pclmulqdq", "vaes", "vpclmulqdq", "sha_ni", "bmi2", "adx", "avx", "avx2", "avx512f", "avx512bw", "avx512vl",
    "avx512ifma", "rdrand", "rdseed", "constant_tsc", "nonstop_tsc",
)  # fmt: skip
"""CPU features that cryptography and its measuring depend on, in the kernel's words."""
BUSY_SHARE: Final = 0.1
"""Share of all CPUs' time taken by others, or stolen, above which figures should not be trusted."""
_CPUS: Final = Path("/sys/devices/system/cpu")


def cpu_facts() -> dict[str, str]:
    """What /proc/cpuinfo says of the first CPU, by its own names."""
    facts: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, colon, value = line.partition(":")
        if not colon:
            break
        facts[name.strip()] = value.strip()
    return facts


def cpu_flags() -> frozenset[str]:
    """Feature flags of the first CPU (x86 `flags`, Arm `Features`)."""
    facts = cpu_facts()
    return frozenset(facts.get("flags", facts.get("Features", "")).split())


def has_vector_aes() -> bool:
    """Whether this is a machine that the targets hold for."""
    return cpu_flags() >= VECTOR_AES


def cpu_model() -> str:
    """Name of the CPU."""
    return cpu_facts().get("model name", platform.machine())


def cpu_family() -> dict[str, int | str | None]:
    """What tells CPUs of one name apart: vendor, family, model, stepping, microcode; None for what is not said."""
    facts = cpu_facts()

    def number(name: str) -> int | None:
        return int(facts[name]) if facts.get(name, "").isdecimal() else None

    return {
        "vendor": facts.get("vendor_id"),
        "family": number("cpu family"),
        "model": number("model"),
        "stepping": number("stepping"),
        "microcode": facts.get("microcode"),
    }


def smt_siblings(cpus: Iterable[int] | None = None, root: Path = _CPUS) -> list[list[int]]:
    """The usable CPUs (or those given), those together that are threads of one core."""
    wanted = set(os.sched_getaffinity(0) if cpus is None else cpus)
    groups: dict[str, list[int]] = {}
    for cpu in sorted(wanted):
        try:
            core = (root / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text().strip()
        except OSError:
            core = f"cpu{cpu}"  # a system that does not tell: each for itself
        groups.setdefault(core, []).append(cpu)
    return list(groups.values())


def describe() -> dict[str, Any]:
    """The machine, without its name."""
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return {
        "cpu": cpu_model(),
        "cpu_family": cpu_family(),
        "cpu_features": [name for name in FEATURES if name in cpu_flags()],
        "smt_siblings": smt_siblings(),
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
        total_s = max(wall_s * (os.cpu_count() or 1), 1 / tick)
        return {"other_load": max(0.0, busy / tick - own_cpu_s) / total_s, "steal": steal / tick / total_s}

# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A kernel module in guests, as a driver under test."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from ihsm.conformance.drivers import DriverOptions
from ihsm.conformance.guest_rig import GuestRig, NoModuleError
from ihsm.guest.kernel import find_kernel
from ihsm.guest.machine import Iommu
from ihsm.guest.runner import GuestConfig
from ihsm.guest.session import read_module


class ModuleDriver:
    """The module of a `.ko` file."""

    parallel = 2
    variants: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"iommu": "pt"},
        {"iommu": "pt", "kernel_arguments": "slub_debug=FZPU page_poison=1"},
        {"iommu": "on"},
    )

    def __init__(self, options: DriverOptions) -> None:
        """Of `options.module`.

        Raises:
            NoModuleError: none was named.
            GuestError: there is no kernel for guests, or the file is no module.
        """
        if options.module is None:
            raise NoModuleError("--driver module needs --module KO")
        self._file = options.module.resolve()
        self._exercise = options.exercise.resolve() if options.exercise else None
        self._kernel = find_kernel()
        self._modules = tuple(read_module(str(self._file), self._kernel))

    def properties(self) -> Mapping[str, str]:
        """Kernel, file and hash."""
        return {
            "driver": str(self._file), "kernel": f"Linux {self._kernel.release}",
            "module.sha256": hashlib.sha256(self._file.read_bytes()).hexdigest(),
        }  # fmt: skip

    def names(self) -> Sequence[str]:
        """By which the log calls it."""
        return (self._modules[-1].kernel_name,)

    def rig(self, variant: Mapping[str, Any], socket_path: Path) -> GuestRig:
        """Boot a guest that has the device; errors as `GuestRig`."""
        config = GuestConfig(
            kernel=self._kernel,
            iommu=Iommu(variant["iommu"]),
            sockets=(socket_path,),
            modules=self._modules,
            kernel_arguments=variant.get("kernel_arguments", ""),
            command_limit_s=None,
        )
        return GuestRig(config, self._modules[-1].kernel_name, self._exercise, socket_path)

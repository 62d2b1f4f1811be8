# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A guest for one test."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ihsm.closing import Closing
from ihsm.guest import Accelerator, GuestConfig, Iommu, Streams
from ihsm.guest.bench import Bench
from ihsm.guest.session import Finding, Session


@dataclass(frozen=True, slots=True)
class GuestRun:
    """What a command in the guest left behind."""

    status: int
    """Its exit status."""
    stdout: str
    stderr: str
    findings: tuple[Finding, ...]
    """What the guest's kernel complained of meanwhile (docs/guests.md); a text each."""


class GuestUnderTest(Closing):
    """A guest that boots with its first run and takes further ones."""

    def __init__(self, socket_path: Path, **config: Any) -> None:
        """`socket_path` is the device's; `config` are fields of `GuestConfig`.

        Raises:
            GuestError: QEMU or a kernel is missing.
            TypeError, ValueError: there is no such field, or it cannot have the value.
        """
        for name, kind in (("iommu", Iommu), ("accelerator", Accelerator)):
            if name in config:
                config[name] = kind(config[name])
        self._findings: list[Finding] = []
        self._bench = Bench(
            Session(
                config=GuestConfig(**config, sockets=(socket_path,)),
                shell=None,
                devices=0,
                report=self._findings.append,
            )
        )

    def run(self, shell: str, *, modules: Sequence[str] = (), build: Sequence[Path] = ()) -> GuestRun:
        """Run a shell command in the guest.

        Modules that an earlier run has loaded are unloaded, those of this run are built and loaded before the command.

        Args:
            shell: the command, which starts in the current folder and sees the host's files.
            modules: "KO [NAME=VALUE ...]" each, as `ihsm guest --module`.
            build: folders to build modules in, as `ihsm guest --build`.

        Raises:
            GuestError: a module cannot be built or loaded, the kernel panics, or a time limit is over.
        """
        self._findings.clear()
        out, err = io.BytesIO(), io.BytesIO()
        self._bench.session = replace(self._bench.session, shell=shell, modules=modules, build=build)
        status = self._bench.run(Streams(None, out, err))
        return GuestRun(
            status, out.getvalue().decode(errors="replace"), err.getvalue().decode(errors="replace"),
            tuple(self._findings),
        )  # fmt: skip

    def close(self) -> None:
        """End the guest."""
        self._bench.close()

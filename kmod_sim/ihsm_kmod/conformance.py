# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The driver model as a driver under test of `ihsm conformance` (its entry point `ihsm.drivers_under_test`)."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import inspect
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import ihsm_kmod.hsm
from ihsm.bus import VfioUserFunction
from ihsm.closing import Closing
from ihsm.errors import BusError
from ihsm_abi.uapi_names import DRIVER_NAME, HSM_NODE_PREFIX
from ihsm_kmod.hsm.module import HsmModule
from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.process import Process
from ihsm_kmod.kernel.report import UNKNOWN, Report, ReportKind
from ihsm_kmod.machine import Machine, StillClock, bdf_of_slot

REAL_LIMIT_S: Final = 300.0
"""Real seconds after which a call of the bus, or a task for which nobody moves the clock, is given up."""


class _Watched(VfioUserFunction):
    """The function, of which it is known whether its driver does nothing but read one register."""

    polls = 0

    def read_bar(self, bar: int, offset: int, width: int) -> int:
        """Read, and count."""
        self.polls += 1
        return super().read_bar(bar, offset, width)

    def write_bar(self, bar: int, offset: int, width: int, value: int, *, posted: bool = False) -> None:
        """Write, which ends a row of reads."""
        self.polls = 0
        super().write_bar(bar, offset, width, value, posted=posted)


class ModelMachine(Closing):
    """A machine with the driver, on a clock that stands still."""

    def __init__(self, module: type[HsmModule], dma: str, socket_path: Path) -> None:
        """Boot; the driver is loaded and has probed the function.

        Raises:
            IhsmError: the device cannot be reached.
        """
        self.socket_path = socket_path
        self._bdf = bdf_of_slot(4)
        self._clock = StillClock(REAL_LIMIT_S)
        with contextlib.ExitStack() as stack:
            self._function = self._connected()
            stack.callback(self._disconnect)
            settings: dict[str, Any] = {"dma": dma, "module_class": module}
            self._machine = stack.enter_context(
                Machine(self._function, clock=self._clock, bdfs=[self._bdf], **settings)
            )
            self._stack = stack.pop_all()

    def _connected(self) -> _Watched:
        return _Watched(self.socket_path, timeout_s=REAL_LIMIT_S)

    def _disconnect(self) -> None:
        self._function.close()

    @property
    def nodes(self) -> Sequence[str]:
        """Nodes of HSM functions."""
        names = self._machine.kernel.vfs.listdir("/dev")
        return [f"/dev/{name}" for name in names if name.removeprefix(HSM_NODE_PREFIX).isdigit()]

    def process(self) -> Process:
        """A new program."""
        return self._machine.process("conformance")

    def act(self, act: str) -> None:
        """What an administrator does.

        Raises:
            OSError: it failed.
            Oops: the kernel has crashed.
        """
        pci = self._machine.kernel.pci
        acts = {
            "bind": lambda: pci.bind(self._bdf),
            "unbind": lambda: pci.unbind(self._bdf),
            "function-reset": lambda: pci.reset(self._bdf),
            "remove": self._remove,
            "return": self._return,
            "shutdown": self._machine.kernel.power_off,
        }
        try:
            acts[act]()
        except Errno as error:
            raise OSError(error.errno, str(error)) from None

    def _remove(self) -> None:
        self._machine.kernel.pci.remove(self._bdf, surprise=False)
        self._function.close()

    def _return(self) -> None:
        try:
            self._function = self._connected()
        except BusError as error:
            raise OSError(errno.EIO, str(error)) from None
        self._machine.kernel.pci.add(self._function, self._bdf)
        if failure := self._machine.kernel.pci.probe_error(self._bdf):
            raise Errno(failure, "probe")

    def is_idle(self) -> bool:
        """Whether nothing of the kernel runs."""
        return self._machine.kernel.is_idle

    def polls(self) -> int:
        """Reads in a row."""
        return self._function.polls

    def now_s(self) -> float:
        """The clock's time."""
        return self._clock.now_ns() / 1e9

    def timers(self) -> Sequence[float]:
        """In how many seconds something is due."""
        return self._clock.timers

    def advance(self, seconds: float) -> None:
        """Move the clock."""
        self._function.polls = 0
        self._clock.advance(seconds)

    def log_lines(self) -> Sequence[str]:
        """The kernel's log."""
        return [str(record) for record in list(self._machine.kernel.log)]

    def resources(self) -> Mapping[str, int]:
        """What the kernel has given away."""
        kernel = self._machine.kernel
        return {
            "interrupts": kernel.interrupts.requested, "character devices": len(self.nodes),
            "delayed works": sum(len(list(queue.works())) for queue in tuple(kernel.workqueues)),
        }  # fmt: skip

    def crashed(self) -> str:
        """What the kernel has crashed of, or ended."""
        halted = self._machine.kernel.sched.halted
        return "" if halted is None else str(halted)

    def close(self) -> None:
        """End programs, kernel and device. Nothing is unloaded: a driver that waits would wait for the clock."""
        self._machine.kernel.sched.halt(Report(ReportKind.HALTED, "turned off", UNKNOWN, "conformance"))
        self._stack.close()


class ModelDriver:
    """The model, as the conformance run wants its drivers."""

    variants: ClassVar[Sequence[Mapping[str, Any]]] = ({"dma": "shared"}, {"dma": "strict"})

    def __init__(self, options: object = None, *, module: type[HsmModule] = HsmModule) -> None:
        """`options` say nothing to it; `module` is another build, or what was derived from it."""
        self._module = module

    def properties(self) -> Mapping[str, str]:
        """Kernel and hash, as of a driver with a file."""
        folder = Path(ihsm_kmod.hsm.__file__).parent
        files = sorted(folder.glob("*.py"))
        with contextlib.suppress(OSError, TypeError):  # of a class that has no file
            files.append(Path(inspect.getfile(self._module)))
        digest = hashlib.sha256(b"".join(file.read_bytes() for file in files))
        return {
            "driver": f"model of {DRIVER_NAME}", "kernel": f"ihsm_kmod, Python {platform.python_version()}",
            "module.sha256": digest.hexdigest(),
        }  # fmt: skip

    def names(self) -> Sequence[str]:
        """By which the log calls it."""
        return (self._module.name,)

    def machine(self, variant: Mapping[str, Any], socket_path: Path) -> ModelMachine:
        """Boot one that has the device; errors as `ModelMachine`."""
        return ModelMachine(self._module, variant.get("dma", "shared"), socket_path)

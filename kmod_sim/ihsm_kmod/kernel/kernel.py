# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""One kernel: what all its parts share, and the ways in for programs and tests."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable
from typing import Literal, TextIO, TypeVar

from ihsm_kmod.kernel.clock import Clock, SystemClock
from ihsm_kmod.kernel.entry import Tasks, run_as
from ihsm_kmod.kernel.errors import Errno, Oops
from ihsm_kmod.kernel.interrupt import Interrupts
from ihsm_kmod.kernel.kthread import KThread, Threads
from ihsm_kmod.kernel.module import Module
from ihsm_kmod.kernel.pci_bus import PciBus
from ihsm_kmod.kernel.printk import Log
from ihsm_kmod.kernel.report import UNKNOWN, Report, ReportKind, crash, warn
from ihsm_kmod.kernel.sched import Scheduler
from ihsm_kmod.kernel.task import Core, Program, Task, current
from ihsm_kmod.kernel.vfs import Vfs
from ihsm_kmod.kernel.workqueue import SystemWorkqueue, Workqueues

T = TypeVar("T")
M = TypeVar("M", bound=Module)

END_S = 60.0
"""Real seconds that `close` gives a thread that calls nothing of the kernel, which else would have ended it."""


class Kernel(Core):
    """A kernel. Nothing of it is shared with another one but the clock."""

    reports: list[Report]
    """What its checks have found, and what it crashed of."""
    pci: PciBus
    """Where devices are plugged in, bound, reset and pulled out."""
    vfs: Vfs
    """What programs see as files, in /dev and /sys."""

    def __init__(
        self,
        clock: Clock | None = None,
        *,
        dma: Literal["shared", "strict"] = "shared",
        panic_on_warn: bool = False,
        hung_task_s: float = 120,
        console: TextIO | None = None,
    ) -> None:
        """Boot.

        Args:
            clock: its time; None for the system's.
            dma: whether mappings share arenas, or each has its own, which a late access of the device does not find.
            panic_on_warn: whether every report is an oops.
            hung_task_s: seconds that a task may sleep uninterruptibly before it is an oops; 0 for ever.
            console: where the log's lines go at once; None for nowhere.
        """
        super().__init__(clock or SystemClock(), dma=dma, panic_on_warn=panic_on_warn)
        self.sched = Scheduler(self.clock, hung_task_s)
        self.log = self.part(Log).records
        self.part(Log).console = console
        self.modules: list[Module] = []
        self.tasks = self.part(Tasks).all
        self.threads = self.part(Threads).all
        self.workqueues = self.part(Workqueues).all
        self.interrupts = self.part(Interrupts)
        self.vfs = self.part(Vfs)
        self.pci = self.part(PciBus)
        self.system_wq = self.part(SystemWorkqueue)
        self._is_closed = False

    @property
    def crashed(self) -> Oops | None:
        """What it crashed of, None while it has not."""
        halted = self.sched.halted
        return None if halted is None or halted.kind is ReportKind.HALTED else Oops(halted)

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs, and nothing will before the device raises a vector, a program calls or time passes."""
        with self.sched.lock:
            return self.sched.asleep + self.interrupts.cpus >= len(self.tasks) and self.interrupts.is_idle

    def dmesg(self) -> str:
        """The log as text."""
        return "\n".join(map(str, self.log))

    def run(self, function: Callable[..., T], *args: object, comm: str = "init", process: Program | None = None) -> T:
        """Call kernel code in the calling thread, as a task of `process` or one of the kernel's own.

        Raises:
            Errno: from the code.
            Oops: the kernel had crashed, or does now: of an exception of the code, or of a check.
        """
        return run_as(Task(self, comm, process), function, *args)

    def thread(self, function: Callable[[], object], comm: str) -> KThread:
        """Start a thread that runs kernel code."""
        return KThread(self, function, comm)

    def load(self, module_class: type[M], **parameters: int | bool) -> M:
        """Load a module, as `modprobe NAME parameter=value` does.

        Raises:
            Errno: EINVAL for its parameters, or what its `init` failed with.
        """
        module = module_class(**parameters)
        self.run(module.load, comm="modprobe")
        self.modules.append(module)
        return module

    def unload(self, module: Module) -> None:
        """Unload a module, and report what it leaves behind.

        Raises:
            Errno: EBUSY, a file of its is open.
        """
        if self.vfs.is_using(module.has_code):
            raise Errno(errno.EBUSY, f"a file of module {module.name} is open")
        self.run(self._unload, module, comm="rmmod")

    def power_off(self) -> None:
        """Turn the machine off: drivers are told to quiet their devices, and nothing of this kernel runs any more."""
        self.pci.shutdown()
        self.sched.halt(Report(ReportKind.HALTED, "powered off", UNKNOWN, "shutdown"))

    def close(self) -> None:
        """Unload all modules, and end all threads and tasks; report what is left. Harmless after an oops, and twice."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            with contextlib.suppress(Oops):
                self.run(self._shut_down, comm="shutdown")
        finally:
            self._end()

    def _end(self) -> None:
        self.sched.halt(Report(ReportKind.HALTED, "closed", UNKNOWN, "shutdown"))
        with self.sched.lock:
            threads = tuple(self.threads)
        for thread in threads:
            if not thread.ends(END_S):
                self.reports.append(Report(ReportKind.TASK_LEAK, f"{thread} does not end", UNKNOWN, "shutdown"))
        self.interrupts.close()
        self.pci.power_off()
        self.clock.detach(self.sched)

    def _unload(self, module: Module) -> None:
        try:
            module.unload()
        except Errno as error:
            # In Linux `exit` returns nothing.
            crash(error)
        self.modules.remove(module)
        self._check_works(module.has_code)

    def _check_works(self, has_code: Callable[[str], bool]) -> None:
        for queue in tuple(self.workqueues):
            for work in queue.works():
                if has_code(work.module_name):
                    warn(ReportKind.WORK_PENDING, f"{work} in {queue}", work.queued_at)
                    queue.remove(work)

    def _shut_down(self) -> None:
        for module in reversed(self.modules):
            self._unload(module)
        self.pci.close()
        self.vfs.close()
        self._check_works(lambda name: True)
        with self.sched.lock:
            services = {thread.owner for thread in self.threads if thread.is_service}
            left = self.tasks - services - {current()}
        for task in left:
            warn(ReportKind.TASK_LEAK, f"{task}")

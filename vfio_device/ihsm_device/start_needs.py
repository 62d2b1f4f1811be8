# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What the device needs of the system to start: looked at before anything is done, and named where it is not there."""

from __future__ import annotations

import errno
import mmap
import resource
from typing import Final

from ihsm_device.errors import DeviceError
from ihsm_device.limits import MIB, needed_descriptors

DATA_BYTES: Final = 60 * MIB
"""What libraries and keys take besides stacks; 64 MiB were measured. With less OpenBLAS, as numpy loads it, and AWS-LC
end the process, in words of their own or without any."""
ADDRESS_BYTES: Final = 128 * MIB
"""The same of addresses."""
THREADS: Final = 3
"""That every device has: of the log, of control connections, of HSM commands."""
FUNCTION_THREADS: Final = 2
"""Of each function: its client's, and its data objects'."""
DEFAULT_STACK_BYTES: Final = 2 * MIB
"""Of a thread where `ulimit -s` says nothing (glibc's ARCH_STACK_DEFAULT_SIZE)."""
_PROT_NONE: Final = 0
_MAP_NORESERVE: Final = 0x4000
"""MAP_NORESERVE of mmap(2): looking takes nothing from what others may have."""
_MEMORY_LIMITS: Final = ((resource.RLIMIT_AS, "ulimit -v"), (resource.RLIMIT_DATA, "ulimit -d"))
_NO_FILES: Final = "raise the limit (ulimit -n) or serve fewer functions"


class StartError(DeviceError):
    """The process could not get what it needs from the system: threads, descriptors, memory."""

    def __init__(self, cause: Exception) -> None:
        """`cause` is what a call of Python or of the system failed with."""
        super().__init__(f"the device cannot start: {_explain(cause)}")


class TooFewDescriptors(DeviceError):
    """The process may not open as many files as its clients need."""

    def __init__(self, allowed: int, needed: int, functions: int) -> None:
        """Of so many functions, each with a client."""
        whose = "a function and its client need" if functions == 1 else f"{functions} functions and their clients need"
        super().__init__(f"the device cannot start: {allowed} open files are allowed, {whose} {needed}: {_NO_FILES}")


def claim_descriptors(functions: int) -> None:
    """Have as many open files as the system allows.

    Raises:
        TooFewDescriptors: a client of each function, which has all that a client may have, would not find enough.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    needed = needed_descriptors(functions)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise TooFewDescriptors(hard, needed, functions)


def least_memory(functions: int) -> tuple[int, int]:
    """Addresses, and of those memory, that a device takes in any case until it is ready, in bytes."""
    stacks = (THREADS + FUNCTION_THREADS * functions) * _stack_bytes()
    return ADDRESS_BYTES + stacks, DATA_BYTES + stacks


def require_memory(functions: int) -> None:
    """See that there is the least memory; MemoryError if not."""
    addresses, data = least_memory(functions)
    if not (_can_map(addresses, _PROT_NONE) and _can_map(data)):
        raise MemoryError


def _can_map(size_bytes: int, access: int = mmap.PROT_READ | mmap.PROT_WRITE) -> bool:
    try:
        mmap.mmap(-1, size_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE, access).close()
    except OSError:
        return False
    return True


def _stack_bytes() -> int:
    """Of a thread."""
    stack, _ = resource.getrlimit(resource.RLIMIT_STACK)
    return DEFAULT_STACK_BYTES if stack == resource.RLIM_INFINITY else max(stack, mmap.PAGESIZE)


def _no_memory() -> str:
    """The same with the limits that there are."""
    names = [name for kind, name in _MEMORY_LIMITS if resource.getrlimit(kind)[0] != resource.RLIM_INFINITY]
    return "not enough memory" + (f": raise the limit ({' or '.join(names)})" if names else "")


def _explain(cause: Exception) -> str:
    text = " ".join(str(cause).split())
    if isinstance(cause, OSError):
        match cause.errno:
            case errno.EMFILE:
                return f"too many open files: {_NO_FILES}"
            case errno.ENFILE:
                return "too many open files on this machine"
            case errno.ENOMEM:
                return _no_memory()
            case errno.EAGAIN:
                return "the system refused a thread or memory for now"
        return cause.strerror or text or type(cause).__name__
    # The dynamic linker's words are all that is left of the system's answer.
    if isinstance(cause, MemoryError) or (isinstance(cause, ImportError) and "failed to map segment" in text):
        return _no_memory()
    if "start new thread" in text:
        if not _can_map(_stack_bytes()):  # Python tells both in the same words
            return _no_memory()
        return "no more threads are allowed: raise the limit (ulimit -u, or the container's limit of processes)"
    return text or type(cause).__name__

# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Modules and their parameters (linux/module.h, linux/moduleparam.h)."""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar, Generic, TypeVar, overload

from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.sysfs import Sysfs, kobject_create_and_add, kobject_put, sysfs_create_file
from ihsm_kmod.kernel.task import current

T = TypeVar("T", int, bool)


class Param(Generic[T]):
    """A parameter of a module, declared as an attribute of its class; the attribute of the instance is its value."""

    def __init__(
        self, kind: type[T], default: T, mode: int, description: str, clamp: Callable[[T], T] | None = None
    ) -> None:
        """`mode` is that of its file in `/sys/module/NAME/parameters`; `clamp` makes of any value one that may be."""
        self.kind: type[T] = kind
        self.default: T = default
        self.mode = mode
        self.description = description
        self._clamp: Callable[[T], T] | None = clamp
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        """Its name is the attribute's."""
        self.name = name

    @overload
    def __get__(self, module: None, owner: type) -> Param[T]: ...

    @overload
    def __get__(self, module: Module, owner: type) -> T: ...

    def __get__(self, module: Module | None, owner: type) -> Param[T] | T:
        """The value, or of the class the parameter itself."""
        if module is None:
            return self
        value: T = module.values.get(self.name, self.default)
        return value

    def __set__(self, module: Module, value: T) -> None:
        """Clamp and keep a value.

        Raises:
            Errno: EINVAL, it is of another type.
        """
        if type(value) is not self.kind:
            raise Errno(errno.EINVAL, f"{self.name}: {value!r} is no {self.kind.__name__}")
        module.values[self.name] = self._clamp(value) if self._clamp else value

    def show(self, module: Module) -> str:
        """The value as its file has it."""
        value = self.__get__(module, type(module))
        return ("N\n", "Y\n")[value] if self.kind is bool else f"{value}\n"

    def store(self, module: Module, text: str) -> None:
        """Take a value from what was written to the file; errors as `parse`."""
        self.__set__(module, self.parse(text))

    def parse(self, text: str) -> T:
        """The value that a text means, in a file or on modprobe's command line.

        Raises:
            Errno: EINVAL, it means none.
        """
        word = text.strip()
        try:
            value = {"y": True, "1": True, "n": False, "0": False}[word.lower()] if self.kind is bool else int(word, 0)
        except (KeyError, ValueError):
            raise Errno(errno.EINVAL, f"{self.name}: {word!r}") from None
        return self.kind(value)


class Module:
    """A module: what a driver derives its one from. `init` and `exit` run as tasks of the kernel that loads it."""

    name: ClassVar[str] = "module"

    def __init__(self, **parameters: int | bool) -> None:
        """Not loaded.

        Raises:
            Errno: EINVAL, a parameter of another type, or one that the module has not.
        """
        self.values: dict[str, Any] = {}
        known = {param.name for param in self.parameters()}
        for name, value in parameters.items():
            if name not in known:
                raise Errno(errno.EINVAL, f"{self.name}: unknown parameter {name}")
            setattr(self, name, value)

    @classmethod
    def parameters(cls) -> Iterator[Param[Any]]:
        """All that it declares."""
        for name in dir(cls):
            declared = getattr(cls, name)
            if isinstance(declared, Param):
                yield declared

    def init(self) -> None:
        """Linux: module_init. An `Errno` means that it is not loaded."""

    def exit(self) -> None:
        """Linux: module_exit."""

    def load(self) -> None:
        """Show the parameters in /sys/module, and run `init`; what loading a module does (kernel/module/main.c)."""
        sysfs = current().kernel.part(Sysfs)
        self.kobj = kobject_create_and_add(self.name, sysfs.module)
        try:
            folder = kobject_create_and_add("parameters", self.kobj)
            for param in self.parameters():
                show, store = partial(param.show, self), partial(param.store, self)
                is_writable = param.mode & stat.S_IWUSR
                sysfs_create_file(folder, param.name, show, store if is_writable else None, param.mode)
            self.init()
        except Errno:
            kobject_put(self.kobj)
            raise

    def unload(self) -> None:
        """Run `exit`, and hide the parameters."""
        self.exit()
        kobject_put(self.kobj)

    def has_code(self, python_module: str) -> bool:
        """Whether what that Python module defines is this kernel module's: it lies in the same package, or below."""
        own = type(self).__module__
        package = own.rpartition(".")[0]
        return python_module == own or bool(package and python_module.startswith(package + "."))

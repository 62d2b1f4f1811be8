# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The guest kernel of `--kernel debug`: Debian's source with the kernel's checks of drivers, built once and kept.

KASAN, lockdep, DEBUG_ATOMIC_SLEEP, DMA_API_DEBUG, kmemleak, UBSAN and debug objects, all in one; `debug_kernel.config`
has them. The source comes from the archive that the machine's apt is set up for, which checks it against the signed
package lists, and is held to the pins (`ihsm.debian_packages`). So are the few programs that building a kernel needs
beyond those of set-up, unpacked beside the source.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from ihsm import debian_packages
from ihsm.guest.errors import ToolchainError
from ihsm.guest.kernel import GuestKernel, find_kernel
from ihsm.guest.toolchain import cache_root

DEBUG = "debug"
"""What `--kernel` calls it."""
ARGUMENTS = "kasan_multi_shot kmemleak=on"
_CONFIG = "debug_kernel.config"
_RECIPE = "1"
"""Another one, another kernel: what is below, apart from the configuration."""
_TOOLS = {"flex": "flex", "bison": "bison", "m4": "m4", "bc": "bc"}
"""Programs that building a kernel needs, and Debian's packages of them."""
_TREE_FILES = ("Makefile*", "Kconfig*", "Kbuild*", "Module.symvers", ".config")
_TREE_FOLDERS = ("include", "scripts", "arch/x86/include", "arch/x86/entry/syscalls", "tools/objtool")
_TAIL_LINES = 25


def debug_kernel(say: Callable[[str], None] = lambda text: None) -> GuestKernel:
    """The debug kernel, which the first call builds; `say` is told what takes so long.

    Raises ToolchainError.
    """
    parent = cache_root() / "debug-kernel"
    text = resources.files("ihsm.guest").joinpath(_CONFIG).read_bytes()
    stock = find_kernel().release
    settings = sorted(filter(_is_setting, text.decode().splitlines()))
    key = hashlib.sha256("\n".join([_RECIPE, _source_package(stock), *settings]).encode()).hexdigest()[:12]
    root = parent / key
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with _locked(parent / "lock", say):
            if not root.exists():
                _Build(parent, say).run(_source_package(stock), text, root)
    except OSError as error:
        raise ToolchainError(f"debug kernel: {error.filename or parent}: {error.strerror}") from error
    found = find_kernel(root)
    return GuestKernel(found.release, found.image, found.modules, ARGUMENTS, unpacks=True)


def _source_package(release: str) -> str:
    """Debian's package with the source of a kernel: '6.1.0-50-amd64' is of linux-source-6.1."""
    match = re.match(r"\d+\.\d+", release)
    if not match:
        raise ToolchainError(f"debug kernel: no source is known for kernel {release}")
    return f"linux-source-{match[0]}"


@contextmanager
def _locked(file: Path, say: Callable[[str], None]) -> Iterator[None]:
    with file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("debug kernel: another process is building it; waiting")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class _Build:
    """One build, in a folder beside the result that is gone afterwards."""

    def __init__(self, parent: Path, say: Callable[[str], None]) -> None:
        self._parent = parent
        self._say = say
        self._log = parent / "build.log"
        self._environment: dict[str, str] = {}

    def run(self, package: str, config: bytes, root: Path) -> None:
        """Make `root`, whole or not at all: boot/ and lib/modules/RELEASE, with what modules are built against."""
        self._log.write_bytes(b"")
        with tempfile.TemporaryDirectory(prefix=".build.", dir=self._parent) as work:
            folder = Path(work)
            self._say(f"debug kernel: fetching {package}")
            self._provide_tools(folder)
            tree = self._unpack_source(package, folder)
            self._say(
                f"debug kernel: building {tree.name}, once: about a quarter of an hour on two processors, and 4 GB of "
                f"disk meanwhile ({self._log})"
            )
            self._compile(tree, config)
            result = folder / "result"
            self._install(tree, result)
            result.rename(root)
        self._say("debug kernel: built")

    def _provide_tools(self, folder: Path) -> None:
        tools = folder / "tools"
        missing = [package for program, package in _TOOLS.items() if not shutil.which(program)]
        self._environment = _environment(tools)
        for deb in self._download(missing, folder) if missing else []:
            self._execute(["dpkg-deb", "-x", str(deb), str(tools)], folder)

    def _download(self, packages: Sequence[str], folder: Path) -> list[Path]:
        before = set(folder.glob("*.deb"))
        try:
            self._execute(["apt-get", "-q", "-oAPT::Sandbox::User=root", "download", *packages], folder)
        except ToolchainError as error:
            raise ToolchainError(f"{error}\nIf apt knows no such package, run 'apt-get update' as root") from None
        files = sorted(set(folder.glob("*.deb")) - before)
        try:
            beyond = debian_packages.check(files, platform.freedesktop_os_release().get("VERSION_CODENAME", ""))
        except debian_packages.RefusedPackageError as error:
            raise ToolchainError(f"debug kernel: {error}") from None
        if beyond:
            self._say(f"debug kernel: newer than the pins, Debian's signature alone vouches for {' '.join(beyond)}")
        return files

    def _unpack_source(self, package: str, folder: Path) -> Path:
        (deb,) = self._download([package], folder)
        unpacked = folder / "source"
        self._execute(["dpkg-deb", "-x", str(deb), str(unpacked)], folder)
        deb.unlink()
        (archive,) = unpacked.glob("usr/src/linux-source-*.tar.xz")
        self._execute(["tar", "-x", "-f", str(archive), "-C", str(folder)], folder)
        shutil.rmtree(unpacked)
        return folder / package

    def _compile(self, tree: Path, config: bytes) -> None:
        self._make(tree, "tinyconfig")
        with (tree / ".config").open("ab") as file:
            file.write(config)
        self._make(tree, "olddefconfig")
        written = (tree / ".config").read_text().splitlines()
        lost = [line for line in config.decode().splitlines() if _is_setting(line) and not _has(written, line)]
        if lost:
            raise ToolchainError(f"debug kernel: the source of {tree.name} does not take {', '.join(lost)}")
        self._make(tree, f"-j{len(os.sched_getaffinity(0))}", "bzImage", "modules", "scripts_gdb")

    def _install(self, tree: Path, root: Path) -> None:
        release = (tree / "include/config/kernel.release").read_text().strip()
        boot, modules = root / "boot", root / "lib/modules" / release
        boot.mkdir(parents=True)
        self._make(tree, "modules_install", f"INSTALL_MOD_PATH={root}")
        shutil.copy2(tree / "arch/x86/boot/bzImage", boot / f"vmlinuz-{release}")
        shutil.copy2(tree / "System.map", boot / f"System.map-{release}")
        for link in ("build", "source"):
            (modules / link).unlink(missing_ok=True)
        headers = modules / "build"
        for file in _tree_files(tree):
            target = headers / file.relative_to(tree)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, target, follow_symlinks=False)
        # For debuggers; building a module needs neither.
        shutil.copy2(tree / "vmlinux", headers / "vmlinux")
        shutil.copy2(tree / "scripts/gdb/vmlinux-gdb.py", headers / "vmlinux-gdb.py")

    def _make(self, tree: Path, *words: str) -> None:
        self._execute(["make", "-C", str(tree), *words], tree)

    def _execute(self, argv: Sequence[str], folder: Path) -> None:
        """Run a program, its output in the log; raises ToolchainError with the end of it."""
        with self._log.open("ab") as log:
            start = log.tell()
            try:
                done = subprocess.run(
                    argv,
                    cwd=folder,
                    env=self._environment or None,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    check=False,
                )
            except FileNotFoundError:
                raise ToolchainError(f"debug kernel: {argv[0]}: not found") from None
        if done.returncode != 0:
            text = self._log.read_bytes()[start:].decode(errors="replace")
            lines = [f"  | {line}" for line in text.splitlines()[-_TAIL_LINES:]]
            raise ToolchainError("\n".join([f"debug kernel: '{' '.join(argv[:4])}' failed:", *lines]))


def _environment(tools: Path) -> dict[str, str]:
    """Ours, with the unpacked programs last on PATH and told where they lie."""
    kept = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "ARCH", "CROSS_COMPILE")}
    usr = tools / "usr"
    extra = {"PATH": f"{os.environ.get('PATH', os.defpath)}:{usr}/bin", "LC_ALL": "C.UTF-8"}
    if not shutil.which("bison"):
        extra["BISON_PKGDATADIR"] = f"{usr}/share/bison"
    if not shutil.which("m4"):
        extra["M4"] = f"{usr}/bin/m4"
    return {**kept, **extra}


def _is_setting(line: str) -> bool:
    return line.startswith("CONFIG_") or line.endswith(" is not set")


def _has(written: Sequence[str], line: str) -> bool:
    """Whether a configuration has a setting; one that depends on what is off is off without a line."""
    if line.endswith(" is not set"):
        name = line.split()[1]
        return not any(other.startswith(f"{name}=") for other in written)
    return line in written


def _tree_files(tree: Path) -> Iterator[Path]:
    """Files of a built kernel tree that building modules needs."""
    wanted = {file for pattern in _TREE_FILES for file in tree.glob(pattern)}
    for name in ("arch", "arch/x86"):
        wanted |= {file for file in (tree / name).glob("*") if file.name.startswith(("Makefile", "Kconfig", "Kbuild"))}
    for name in _TREE_FOLDERS:
        wanted |= set((tree / name).rglob("*"))
    yield from sorted(
        file for file in wanted if file.is_symlink() or (file.is_file() and file.suffix not in (".o", ".cmd", ".a"))
    )

# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A copy of the checkout in which mutants live: kept between runs, so that a mutant costs only what it touches."""

from __future__ import annotations

import filecmp
import hashlib
import json
import os
import runpy
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bootstrap.layout import cache_root
from mutation.patches import Mutant, git_apply

NATIVE: Final = Path("vfio_device") / "native"
BUILD: Final = Path("build") / "native"
OPTIONS: Final = ("libvfio_user_src", "aws_lc")
"""Options of the native build that say where third-party libraries are."""


class BuildError(Exception):
    """The native modules cannot be built; the text is the end of what the compiler says."""


def default_place(root: Path) -> Path:
    """Where the copy of a checkout is kept."""
    return cache_root() / "mutants" / hashlib.sha256(os.fsencode(root)).hexdigest()[:12]


class ScratchTree:
    """The copy."""

    def __init__(self, root: Path, place: Path) -> None:
        """Of the checkout at `root`, at `place`, which is made with the first `sync`."""
        self.root = root
        self.place = place

    def sync(self) -> None:
        """Make it equal to the checkout as it stands, changes that are not committed included.

        A file that is equal already keeps its time, so that it is not built again.
        """
        self.place.mkdir(parents=True, exist_ok=True)
        wanted = set(self._files())
        for name in self._copied() - wanted:
            (self.place / name).unlink(missing_ok=True)
        for name in sorted(wanted):
            source, target = self.root / name, self.place / name
            if not (target.is_file() and filecmp.cmp(source, target, shallow=False)):
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
                target.chmod(source.stat().st_mode)
        self._manifest.write_text(json.dumps(sorted(wanted)))
        self._follow_libraries()
        environment = self.place / ".venv"
        if not environment.is_symlink() and (self.root / ".venv").exists():
            environment.symlink_to(self.root / ".venv")

    @contextmanager
    def mutated(self, mutant: Mutant) -> Iterator[None]:
        """With a mutant applied and built; then the sources as before, and the build for the next to bring up to date.

        Raises:
            PatchError: it does not apply.
            BuildError: it does not build.
        """
        git_apply(self.place, mutant, "--check")
        before = {name: _content(self.place / name) for name in mutant.files}
        try:
            git_apply(self.place, mutant)
            self.build()
            yield
        finally:
            for name, content in before.items():
                _restore(self.place / name, content)

    def build(self) -> None:
        """Bring the native modules up to date and link them into their packages; raises BuildError."""
        if not (self.root / BUILD / "build.ninja").exists():
            return
        if not (self.place / BUILD / "build.ninja").exists():
            self._meson(self.place, "setup", str(BUILD), str(NATIVE), *self._libraries.read_text().splitlines())
        self._meson(self.place, "compile", "-C", str(BUILD))
        for built, place in runpy.run_path(str(self.place / NATIVE / "hatch_build.py"))["places"]().items():
            link = self.place / place
            link.unlink(missing_ok=True)
            link.symlink_to(self.place / BUILD / built)

    @property
    def environment(self) -> dict[str, str]:
        """Environment of a process that uses the copy's code, whatever is installed.

        No byte code is written: that of a mutant could pass for its successor's, of equal size in the same second.
        """
        project = tomllib.loads((self.place / "pyproject.toml").read_text())
        folders = [str(self.place / name) for name in project["tool"]["hatch"]["build"]["dev-mode-dirs"]]
        return os.environ | {"PYTHONPATH": os.pathsep.join(folders), "PYTHONDONTWRITEBYTECODE": "1"}

    @property
    def _manifest(self) -> Path:
        return self.place / ".copied.json"

    @property
    def _libraries(self) -> Path:
        """Options of the copy's builds, a line each."""
        return self.place / ".libraries"

    def _follow_libraries(self) -> None:
        """Begin the builds anew if those of the checkout link other libraries than before."""
        if not (self.root / BUILD / "build.ninja").exists():
            return
        found = json.loads(self._meson(self.root, "introspect", "--buildoptions", str(BUILD)))
        options = "\n".join(f"-D{option['name']}={option['value']}" for option in found if option["name"] in OPTIONS)
        if not self._libraries.exists() or self._libraries.read_text() != options:
            shutil.rmtree(self.place / BUILD.parent, ignore_errors=True)
            self._libraries.write_text(options)

    def _copied(self) -> set[str]:
        return set(json.loads(self._manifest.read_text())) if self._manifest.exists() else set()

    def _files(self) -> Iterator[str]:
        """What is tracked, and what is new and not ignored."""
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=self.root, capture_output=True, check=True).stdout
        return (name for name in listed.decode().split("\0") if name and (self.root / name).is_file())

    def _meson(self, folder: Path, *arguments: str) -> str:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["meson", *arguments], cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True
        )
        if done.returncode:
            raise BuildError("\n".join((done.stdout + done.stderr).splitlines()[-25:]))
        return done.stdout


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _restore(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink(missing_ok=True)
    elif _content(path) != content:
        path.write_bytes(content)

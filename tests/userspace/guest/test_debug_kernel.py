# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The debug kernel's build where it fails, with stand-ins for the programs it runs; guests boot the real one."""

from __future__ import annotations

import os
import re
from importlib import resources
from pathlib import Path

import pytest

from ihsm.guest import debug_kernel
from ihsm.guest.errors import ToolchainError

PACKAGE = "linux-source-6.1"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The first folder on PATH; the programs that a build looks for are there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in debug_kernel._TOOLS:
        stand_in(folder, name, "exit 0")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def stand_in(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def build(tmp_path: Path, config: bytes = b"") -> str:
    """What a build that fails says; nothing of it stays but its log."""
    parent = tmp_path / "cache"
    parent.mkdir()
    said: list[str] = []
    with pytest.raises(ToolchainError) as caught:
        debug_kernel._Build(parent, said.append).run(PACKAGE, config, parent / "kernel")
    assert [path.name for path in parent.iterdir()] == ["build.log"]
    assert said[0] == f"debug kernel: fetching {PACKAGE}"
    return str(caught.value)


def test_a_source_that_cannot_be_fetched(tmp_path: Path, programs: Path) -> None:
    stand_in(programs, "apt-get", "echo 'E: Unable to locate package' >&2; exit 100")
    message = build(tmp_path)
    assert "  | E: Unable to locate package" in message
    assert "run 'apt-get update' as root" in message


def with_source(programs: Path) -> None:
    """An archive whose package unpacks to an empty tree."""
    stand_in(programs, "apt-get", "for last; do :; done; touch ${last}_99-1_all.deb")
    unpack = f"mkdir -p $3/usr/src; touch $3/usr/src/{PACKAGE}.tar.xz"
    stand_in(programs, "dpkg-deb", unpack)
    stand_in(programs, "tar", f'mkdir "$5/{PACKAGE}"')


def test_a_spoiled_source_is_refused(tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pins = debug_kernel.debian_packages.read(debug_kernel.debian_packages.TABLE)
    (file,) = (file for suite, file in pins if suite == "bookworm" and file.startswith(f"{PACKAGE}_"))
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: {"VERSION_CODENAME": "bookworm"})
    stand_in(programs, "apt-get", f"echo spoiled > {file}")
    assert build(tmp_path).startswith(f"debug kernel: {file}: SHA-256 ")


def test_a_build_that_fails_shows_its_end(tmp_path: Path, programs: Path) -> None:
    with_source(programs)
    stand_in(programs, "make", "echo cc: no such option; exit 2")
    assert "  | cc: no such option" in build(tmp_path)


def test_a_source_that_does_not_take_a_setting(tmp_path: Path, programs: Path) -> None:
    with_source(programs)
    stand_in(programs, "make", "cd $2; echo CONFIG_A=y > .config; echo CONFIG_B=m >> .config")
    message = build(tmp_path, b"# About\nCONFIG_A=y\nCONFIG_KASAN=y\n# CONFIG_B is not set\n# CONFIG_C is not set\n")
    assert message.endswith("does not take CONFIG_KASAN=y, # CONFIG_B is not set")


def test_a_program_that_is_not_there(tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(programs))
    assert build(tmp_path).startswith("debug kernel: apt-get: not found")


def test_the_configuration_is_settings_and_comments_and_has_the_checks() -> None:
    lines = resources.files("ihsm.guest").joinpath("debug_kernel.config").read_text().splitlines()
    settings = [line for line in lines if debug_kernel._is_setting(line)]
    assert all(not line or line.startswith("#") or line in settings for line in lines)
    assert len({re.sub(r"^# |=.*| is not set$", "", line) for line in settings}) == len(settings)
    for name in ("KASAN", "PROVE_LOCKING", "DEBUG_ATOMIC_SLEEP", "DMA_API_DEBUG", "DEBUG_KMEMLEAK", "UBSAN"):
        assert f"CONFIG_{name}=y" in settings


def test_the_source_is_that_of_the_guests_release() -> None:
    assert debug_kernel._source_package("6.1.0-50-amd64") == PACKAGE
    assert debug_kernel._source_package("6.12.43+deb13-amd64") == "linux-source-6.12"
    with pytest.raises(ToolchainError):
        debug_kernel._source_package("custom")

# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Set-up: what is skipped, what is checked, and what is said when a part is missing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from bootstrap import apt, aws_lc, golang, kernel, libvfio_user, qemu, tshark
from bootstrap.layout import existing, locked, published
from bootstrap.process import SetupError, output, run
from support.waiting import HANG_S


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of its own for each test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ihsm"


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "target"
    with pytest.raises(FileNotFoundError), published(target) as folder:
        (folder / "half").rename(folder / "absent")
    assert list(target.parent.iterdir()) == []
    for content in ("first", "second"):
        with published(target) as folder:
            (folder / content).touch()
    assert [path.name for path in target.iterdir()] == ["second"]


def test_unfinished_folders_are_not_taken_for_results(tmp_path: Path) -> None:
    for name in (".1.0.staging", "2.0"):
        (tmp_path / name / "bin").mkdir(parents=True)
        (tmp_path / name / "bin/tool").touch()
    (tmp_path / "3.0").mkdir()
    assert existing(tmp_path, "bin/tool") == tmp_path / "2.0"
    assert existing(tmp_path, "bin/other") is None
    assert existing(tmp_path / "absent", "bin/tool") is None


def test_a_second_set_up_waits_for_the_first(tmp_path: Path) -> None:
    code = "import sys; from bootstrap.layout import *\nwith locked(Path(sys.argv[1])): print('in')"
    with locked(tmp_path / "lock"):
        other = subprocess.Popen(
            ["/usr/bin/python3", "-c", code, tmp_path / "lock"],
            env={**os.environ, "PYTHONPATH": str(Path(apt.__file__).parents[1])},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert other.stdout is not None
        assert "waiting for another process" in other.stdout.readline()
        assert other.poll() is None
    assert other.communicate(timeout=HANG_S)[0] == "in\n"


def test_a_tool_that_fails_is_shown_with_the_end_of_its_output(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SetupError, match="status 3") as caught:
        run(["sh", "-c", "echo the reason; exit 3"])
    assert str(cache / "setup.log") in str(caught.value)
    assert "the reason" in capsys.readouterr().err
    with pytest.raises(SetupError, match="no-such-tool: not found"):
        run(["no-such-tool"])
    with pytest.raises(SetupError, match="oh no"):
        output(["sh", "-c", "echo oh no >&2; exit 1"])


def test_missing_packages_without_root_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert apt.missing(["bash", "no-such-package-of-debian"]) == ["no-such-package-of-debian"]
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(SetupError, match=r"needs root: run 'apt-get install one two'") as caught:
        apt.install(["one", "two"])
    assert caught.value.exit_code == 77


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("1:10.0.13+ds-0+deb13u1", (10, 0, 13)),
        ("qemu-system-x86_1:11.1.3+ds-1~bpo13+1_amd64.deb", (11, 1, 3)),
        ("QEMU emulator version 10.1.0 (Debian)", (10, 1, 0)),
        ("(none)", ()),
    ],
)
def test_versions(text: str, version: tuple[int, ...]) -> None:
    assert qemu.version_of(text) == version


def test_a_named_qemu_without_vfio_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "qemu"
    old.write_text("#!/bin/sh\necho 'name \"vfio-pci\", bus PCI'\n")
    old.chmod(0o755)
    monkeypatch.setenv("IHSM_QEMU", str(old))
    with pytest.raises(SetupError, match=r"no vfio-user-pci device; QEMU 10\.1 or later"):
        qemu.provide()


def test_no_qemu_new_enough_in_the_archive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    deb = tmp_path / "qemu-system-x86_1%3a9.2.0+ds-1_amd64.deb"
    monkeypatch.delenv("IHSM_QEMU", raising=False)
    monkeypatch.setattr(qemu, "usable_on_path", lambda: None)
    monkeypatch.setattr(qemu, "distribution_candidate", lambda: (9, 2))
    monkeypatch.setattr(apt.PrivateApt, "update", lambda self: None)
    monkeypatch.setattr(apt.PrivateApt, "download_with_dependencies", lambda self, package, suite: [deb])
    with pytest.raises(SetupError, match=r"has QEMU 9\.2\.0, vfio-user-pci came with 10\.1"):
        qemu.provide()


def test_no_libvfio_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    archive = apt.PrivateApt("test", [])
    monkeypatch.setenv("IHSM_LIBVFIO_USER", str(tmp_path))
    with pytest.raises(SetupError, match="not a libvfio-user source tree"):
        libvfio_user.provide(archive)
    monkeypatch.delenv("IHSM_LIBVFIO_USER")
    monkeypatch.setattr(apt.PrivateApt, "update", lambda self: None)
    monkeypatch.setattr(apt.PrivateApt, "source", lambda self, package: [empty_archive(tmp_path)])
    with pytest.raises(SetupError):
        libvfio_user.provide(archive)
    assert libvfio_user.pristine() is None


def empty_archive(folder: Path) -> Path:
    """An upstream archive of qemu without the library."""
    (folder / "qemu-1/docs").mkdir(parents=True)
    path = folder / "qemu_1.orig.tar.xz"
    subprocess.run(["tar", "-cJf", path, "-C", folder, "qemu-1"], check=True)
    return path


def test_a_source_is_patched_and_found_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path) -> None:
    monkeypatch.delenv("IHSM_LIBVFIO_USER", raising=False)
    pristine = cache / "libvfio-user/pristine/7.2"
    (pristine / "include").mkdir(parents=True)
    (pristine / libvfio_user.MARKER).write_text("#define LIMIT 16\n")
    patches = tmp_path / "patches"
    patches.mkdir()
    name = libvfio_user.MARKER
    pin = tmp_path / "pin.txt"
    pin.write_text(f"--hash=sha256:{libvfio_user.digest(pristine)}\n")
    monkeypatch.setattr(libvfio_user, "PIN", pin)
    diff = f"--- a/{name}\n+++ b/{name}\n@@ -1 +1 @@\n-#define LIMIT 16\n+#define LIMIT 99\n"
    (patches / "0001.patch").write_text(diff)
    monkeypatch.setattr(libvfio_user, "PATCHES", patches)
    archive = apt.PrivateApt("test", [])
    source = libvfio_user.provide(archive)
    assert (source / libvfio_user.MARKER).read_text() == "#define LIMIT 99\n"
    assert (pristine / libvfio_user.MARKER).read_text() == "#define LIMIT 16\n"
    assert libvfio_user.provide(archive) == source
    (patches / "0001.patch").write_text(diff.replace("LIMIT 16\n+", "LIMIT 17\n+"))
    with pytest.raises(SetupError, match="patch"):
        libvfio_user.provide(archive)


def test_a_named_aws_lc_must_be_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("IHSM_AWS_LC", str(tmp_path))
    with pytest.raises(SetupError, match="no AWS-LC there"):
        aws_lc.provide(tmp_path)


def test_unpacked_headers_refer_to_where_they_lie(tmp_path: Path) -> None:
    headers = tmp_path / "usr/src/linux-headers-6.1-amd64"
    headers.mkdir(parents=True)
    (headers / "Makefile").write_text("include /usr/src/linux-headers-6.1-common/Makefile\n")
    modules = tmp_path / "lib/modules/6.1-amd64"
    modules.mkdir(parents=True)
    (modules / "build").symlink_to("/usr/src/linux-headers-6.1-amd64")
    (modules / "source").symlink_to("../../../src/linux-headers-6.1-common")
    kernel.relocate_headers(tmp_path, Path("/final"))
    assert (headers / "Makefile").read_text() == "include /final/usr/src/linux-headers-6.1-common/Makefile\n"
    assert (modules / "build").readlink() == Path("/final/usr/src/linux-headers-6.1-amd64")
    assert (modules / "source").readlink() == Path("../../../src/linux-headers-6.1-common")


@pytest.fixture
def no_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a Go compiler."""
    monkeypatch.setenv("PATH", str(tmp_path))


def test_a_go_compiler_of_the_machine_is_taken(tmp_path: Path, no_go: None) -> None:
    compiler = tmp_path / "go"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    assert golang.provide() == compiler


def test_an_unpacked_go_compiler_is_taken(cache: Path, no_go: None) -> None:
    compiler = cache / "go" / "1.19" / "usr/lib/go-1.19/bin/go"
    compiler.parent.mkdir(parents=True)
    compiler.touch()
    assert golang.provide() == compiler


def test_no_go_compiler_to_be_had_is_said(tmp_path: Path, no_go: None) -> None:
    (tmp_path / "apt-get").write_text("#!/bin/sh\necho no network >&2\nexit 100\n")
    (tmp_path / "apt-get").chmod(0o755)
    with pytest.raises(SetupError, match="no network"):
        golang.provide()


def test_a_tshark_on_path_is_taken_and_one_that_was_unpacked(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    unpacked = cache / "tshark" / "bookworm" / "bin" / "tshark"
    unpacked.parent.mkdir(parents=True)
    unpacked.touch()
    unpacked.with_name("ordinary_user.so").touch()
    assert tshark.provide() == unpacked
    program = tmp_path / "tshark"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert tshark.provide() == program


def test_no_tshark_to_be_had_is_said(tmp_path: Path, no_go: None) -> None:
    (tmp_path / "apt-get").write_text("#!/bin/sh\necho no network >&2\nexit 100\n")
    (tmp_path / "apt-get").chmod(0o755)
    with pytest.raises(SetupError, match="no network"):
        tshark.provide()

# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What set-up fetches is what is pinned by hash, or it is refused with one line: apt and pip bring others here."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from bootstrap import apt, aws_lc, kernel, libvfio_user, pins, qemu
from bootstrap.process import SetupError
from ihsm import debian_packages

LIBRARY = "libc6_2.41-12_amd64.deb"
KERNEL = "linux-image-6.1.0-50-amd64_6.1.176-1_amd64.deb"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of its own for each test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ihsm"


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table that has a library and a kernel."""
    path = tmp_path / "table.txt"
    rows = [f"{hashlib.sha256(name.encode()).hexdigest()}  trixie/{name}\n" for name in (LIBRARY, KERNEL)]
    path.write_text("# a table\n" + "".join(rows))
    monkeypatch.setattr(debian_packages, "TABLE", path)
    return path


def fetched(folder: Path, name: str, content: str | None = None) -> Path:
    path = folder / name
    path.write_text(name if content is None else content)
    return path


def test_what_the_table_has_is_taken(table: Path, tmp_path: Path) -> None:
    files = [fetched(tmp_path, LIBRARY), fetched(tmp_path, KERNEL)]
    assert debian_packages.check(files, "trixie") == []


def test_a_spoiled_package_is_refused(table: Path, tmp_path: Path) -> None:
    spoiled = fetched(tmp_path, LIBRARY, f"{LIBRARY}\0")
    with pytest.raises(debian_packages.RefusedPackageError) as caught:
        debian_packages.check([spoiled], "trixie")
    got = hashlib.sha256(spoiled.read_bytes()).hexdigest()
    wanted = hashlib.sha256(LIBRARY.encode()).hexdigest()
    assert str(caught.value) == f"{LIBRARY}: SHA-256 {got} is not the pinned {wanted}; it is not used"


@pytest.mark.parametrize(
    "name", ["libc6_2.41-9_amd64.deb", "libc6_2.41-12~bpo1_amd64.deb", "linux-image-6.1.0-9-amd64_6.1.27-1_amd64.deb"]
)
def test_an_older_package_is_refused_however_well_it_is_signed(table: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(debian_packages.RefusedPackageError, match=r"older than the pinned version .* of trixie"):
        debian_packages.check([fetched(tmp_path, name)], "trixie")


@pytest.mark.parametrize(
    ("name", "suite"),
    [
        ("libc6_2.41-12+deb13u1_amd64.deb", "trixie"),
        ("libc6_1%3a1-1_amd64.deb", "trixie"),
        ("linux-image-6.1.0-51-amd64_6.1.180-1_amd64.deb", "trixie"),
        ("libother_1_all.deb", "trixie"),
        ("libc6_2.36-9_amd64.deb", "bookworm"),
    ],
)
def test_for_newer_and_unknown_ones_the_signature_must_do(table: Path, tmp_path: Path, name: str, suite: str) -> None:
    assert debian_packages.check([fetched(tmp_path, name)], suite) == [name.replace("%3a", ":")]


def test_a_file_of_another_name_is_refused(table: Path, tmp_path: Path) -> None:
    with pytest.raises(debian_packages.RefusedPackageError, match=r"^libc6\.deb: not named as apt names packages"):
        debian_packages.check([fetched(tmp_path, "libc6.deb")], "trixie")


@pytest.mark.parametrize("line", ["00  trixie/libc6_1_amd64.deb", f"{'0' * 64}  libc6_1_amd64.deb", "#\nx"])
def test_a_table_that_is_none_is_an_error(table: Path, line: str) -> None:
    table.write_text(f"{table.read_text()}{line}\n")
    with pytest.raises(ValueError, match=r"table\.txt, line [45]: not "):
        debian_packages.read(table)


def test_no_file_is_pinned_twice(table: Path) -> None:
    table.write_text(f"{table.read_text()}{'0' * 64}  trixie/{LIBRARY}\n")
    with pytest.raises(ValueError, match="a second time"):
        debian_packages.read(table)


def test_the_table_has_kernels_of_both_suites_and_the_qemu_of_guests() -> None:
    families = {(suite, debian_packages.Package.of(file).family) for suite, file in debian_packages.read(pins.TABLE)}
    for suite in pins.SUITES:
        assert {(suite, f"linux-image-{part}") for part in ("*-amd64",)} <= families
        assert {(suite, name) for name in ("tshark", "flex", "linux-headers-*-amd64")} <= families
        assert any(of == suite and name.startswith("linux-source-") for of, name in families)
    assert {(qemu.SUITES[-1], name) for name in (qemu.PACKAGE, "libc6", "seabios")} <= families


def stub(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}")
    (folder / name).chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for an apt that serves what a test wants, in front of the machine's programs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(apt, "archive", lambda: "http://archive.invalid")
    return folder


def test_set_up_unpacks_no_spoiled_kernel(machine: Path, cache: Path, table: Path) -> None:
    depends = """case "$*" in
*linux-image-amd64) echo "  Depends: linux-image-6.1.0-50-amd64" ;;
*linux-headers-amd64) echo "  Depends: linux-headers-6.1.0-50-amd64" ;;
esac
"""
    stub(machine, "apt-cache", depends)
    stub(machine, "apt-get", f'case "$*" in *" download "*) echo spoiled > {KERNEL} ;; esac\n')
    with pytest.raises(SetupError, match=rf"^{KERNEL}: SHA-256 [0-9a-f]+ is not the pinned [0-9a-f]+; it is not used$"):
        kernel.provide(apt.PrivateApt("test", ["deb trixie main"]))
    assert list((cache / "kernel").iterdir()) == []


def test_set_up_unpacks_no_spoiled_qemu(
    machine: Path, cache: Path, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "qemu-system-x86_1%3a11.1.3+ds-2_amd64.deb"
    table.write_text(f"{'0' * 64}  {qemu.SUITES[-1]}/{name}\n")
    monkeypatch.delenv("IHSM_QEMU", raising=False)
    monkeypatch.setattr(qemu, "usable_on_path", lambda: None)
    monkeypatch.setattr(qemu, "distribution_candidate", lambda: ())
    folder = cache / "apt" / "qemu" / "archives"
    stub(machine, "apt-get", f'case "$*" in *--download-only*) echo spoiled > {folder}/{name} ;; esac\n')
    with pytest.raises(SetupError, match=r"^qemu-system-x86_1:11.*: SHA-256 .* is not the pinned 0+; it is not used$"):
        qemu.provide()
    assert not (cache / "qemu").exists()


def source_of(folder: Path, text: str) -> Path:
    """A source archive of QEMU that carries a libvfio-user."""
    path = folder / "qemu_9.orig.tar"
    with tarfile.open(path, "w") as archive:
        for name in (libvfio_user.MARKER, "lib/libvfio-user.c"):
            entry = tarfile.TarInfo(f"qemu-9/subprojects/libvfio-user/{name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return path


def test_another_libvfio_user_is_refused_and_the_pinned_one_taken(
    machine: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("IHSM_LIBVFIO_USER", raising=False)
    monkeypatch.setattr(libvfio_user, "PATCHES", tmp_path / "no patches")
    archive = source_of(tmp_path, "int good;\n")
    stub(machine, "apt-get", f'case "$*" in *" source "*) cp {archive} . ;; esac\n')
    lists = apt.PrivateApt("test", ["deb-src trixie main"])
    with pytest.raises(SetupError, match=r"^qemu_9\.orig\.tar: its libvfio-user has SHA-256 .*; it is not used$"):
        libvfio_user.provide(lists)
    assert list((cache / "libvfio-user").rglob("*.c")) == []

    file = hashlib.sha256(b"int good;\n").hexdigest()
    lines = f"{file}  {libvfio_user.MARKER}\n{file}  lib/libvfio-user.c\n"
    pin = tmp_path / "pin.txt"
    pin.write_text(f"library \\\n    --hash=sha256:{hashlib.sha256(lines.encode()).hexdigest()}\n")
    monkeypatch.setattr(libvfio_user, "PIN", pin)
    assert (libvfio_user.provide(lists) / "lib/libvfio-user.c").read_text() == "int good;\n"
    pristine = libvfio_user.pristine()
    assert pristine
    (pristine / "lib/libvfio-user.c").write_text("int bad;\n")
    assert libvfio_user.pristine() is None


def test_the_digest_is_the_one_that_the_pin_tells_how_to_make(tmp_path: Path) -> None:
    for name in ("include/a.h", "lib/a/b.c", "lib/a.c", "lib/Z.c"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    command = libvfio_user.PIN.read_text().partition("The hash is that of: ")[2].splitlines()[0]
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == libvfio_user.digest(tmp_path)


def test_another_aws_lc_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip is given a source distribution of the pinned version that has other content."""
    version = aws_lc.PIN.read_text().partition("awscrt==")[2].split()[0]
    offered = tmp_path / "offered"
    offered.mkdir()
    (offered / f"awscrt-{version}.tar.gz").write_bytes(b"other content")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(offered))
    venv = Path(sys.executable).parents[1]
    with pytest.raises(SetupError, match="failed with status 1"):
        aws_lc.fetch(venv, tmp_path)
    assert "DO NOT MATCH THE HASHES" in (tmp_path / "cache/ihsm/setup.log").read_text()

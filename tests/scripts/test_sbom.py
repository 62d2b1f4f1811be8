# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The bill of materials that is installed: valid, and no more and no less than what is linked in and installed."""

from __future__ import annotations

import ctypes
import hashlib
import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import lock_file
import sbom

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "native"
SYSTEM = {"libc", "ld-linux-x86-64", "libm", "libdl", "libpthread", "librt"}
"""Parts of the C library, which is no component."""


@pytest.fixture(scope="module")
def text() -> str:
    """The bill beside the metadata of the installed project (PEP 770)."""
    files = distribution("ihsm").files
    assert files
    (file,) = (file for file in files if file.match("ihsm-*.dist-info/sboms/*"))
    assert file.name == "ihsm.cdx.json"
    return file.read_text()


@pytest.fixture(scope="module")
def components(text: str) -> dict[str, dict[str, Any]]:
    """Its components by name."""
    listed = json.loads(text)["components"]
    by_name = {component["name"]: component for component in listed}
    assert len(by_name) == len(listed)
    return by_name


def packages(components: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: part["version"] for name, part in components.items() if part["purl"].startswith("pkg:pypi/")}


def test_it_is_valid_by_the_schema(text: str) -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    broken = json.loads(text) | {"components": [{"name": "without a type"}]}
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(broken)) is not None


def test_its_packages_are_those_that_the_installed_project_requires(components: dict[str, dict[str, Any]]) -> None:
    installed: dict[str, str] = {}
    waiting = ["ihsm"]
    while waiting:
        for line in distribution(waiting.pop()).requires or []:
            requirement = Requirement(line)
            name = canonicalize_name(requirement.name)
            if name in installed or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
                continue
            installed[name] = distribution(name).version
            waiting.append(name)
    assert packages(components) == installed


def test_their_hashes_are_those_of_the_lock(components: dict[str, dict[str, Any]]) -> None:
    lock = (ROOT / "requirements/lock.txt").read_text()
    for name, version in packages(components).items():
        _, _, rest = lock.partition(f"\n{name}=={version} ")
        pinned = re.findall(r"sha256:(\w+)", re.split(r"^[a-z]", rest, maxsplit=1, flags=re.MULTILINE)[0])
        (reference,) = components[name]["externalReferences"]
        assert [digest["content"] for digest in reference["hashes"]] == pinned
        assert pinned


def test_the_linked_aws_lc_is_the_listed_one(components: dict[str, dict[str, Any]]) -> None:
    part = components["aws-lc"]
    for module in BUILD.glob("_*native.*.so"):
        assert (b"AWS-LC " in (content := module.read_bytes())) == (module.name.split(".")[0] != "_user_native")
        assert b"AWS-LC " not in content or f"AWS-LC {part['version']}\0".encode() in content
    ninja = (BUILD / "build.ninja").read_text()
    archives = {Path(word) for word in re.findall(r"(?<=[\s=])/\S+\.a(?=\s)", ninja)}
    hashes = {hashlib.sha256(archive.read_bytes()).hexdigest() for archive in archives if archive.stem not in SYSTEM}
    assert hashes == {digest["content"] for digest in part["hashes"]}


def test_shared_libraries_are_listed_with_their_version(components: dict[str, dict[str, Any]]) -> None:
    needed = set()
    for module in BUILD.glob("*.so"):
        dynamic = subprocess.run(["readelf", "-d", module], capture_output=True, text=True, check=True).stdout
        needed |= set(re.findall(r"\(NEEDED\).*\[([^]]+)\]", dynamic))
    others = {name for name in needed if name.split(".")[0] not in SYSTEM}
    assert {name.split(".")[0] for name in others} == {"libjson-c"}
    version = ctypes.CDLL(others.pop()).json_c_version
    version.restype = ctypes.c_char_p
    assert components["json-c"]["version"] == version().decode()


def test_the_compiled_libvfio_user_is_the_pinned_one_with_the_listed_patches(
    components: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    sources = set(re.findall(r"c_COMPILER (/\S+)/lib/\w+\.c$", (BUILD / "build.ninja").read_text(), re.MULTILINE))
    (tree,) = sources
    for folder in ("include", "lib"):
        shutil.copytree(Path(tree, folder), tmp_path / folder)
    part = components["libvfio-user"]
    listed = [ROOT / patch["diff"]["url"] for patch in part["pedigree"]["patches"]]
    assert listed == sorted((ROOT / "vfio_device/native/patches").glob("*.patch"))
    digests = {entry["name"].rpartition(":")[2]: entry["value"] for entry in part["properties"]}
    for patch in reversed(listed):
        assert digests[patch.name] == hashlib.sha256(patch.read_bytes()).hexdigest()
        subprocess.run(["patch", "-R", "-s", "--no-backup-if-mismatch", "-p1", "-i", patch], cwd=tmp_path, check=True)
    command = "find include lib -type f | LC_ALL=C sort | xargs sha256sum | sha256sum"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True)
    (source,) = part["externalReferences"]
    assert [digest["content"] for digest in source["hashes"]] == [done.stdout.split()[0]]
    assert f"hash of '{command}'" in source["comment"]


def test_the_same_build_has_the_same_bill(text: str) -> None:
    assert json.loads(json.dumps(sbom.bill(BUILD))) == json.loads(text)


def library(folder: Path, header: str) -> Path:
    (folder / "include/openssl").mkdir(parents=True)
    (folder / "include/openssl/base.h").write_text(header)
    (folder / "lib").mkdir()
    (folder / "lib/libcrypto.a").write_bytes(b"")
    return folder


def test_libraries_that_were_named_are_listed_without_an_origin(tmp_path: Path) -> None:
    part = sbom.aws_lc(library(tmp_path, '#define AWSLC_VERSION_NUMBER_STRING "9.8.7"\n'))
    assert part["version"] == "9.8.7"
    assert part["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(b"").hexdigest()}]
    assert "externalReferences" not in part
    (tmp_path / "meson.build").write_text("project('vfio-user', 'c',\n    version: '1.2.3',\n")
    assert sbom.libvfio_user(tmp_path)["purl"] == "pkg:generic/libvfio-user@1.2.3"


def test_a_library_without_a_version_ends_the_build_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^ihsm cannot be built: .*base\.h does not tell what the bill"):
        sbom.aws_lc(library(tmp_path, "nothing"))


@pytest.mark.parametrize(
    "line",
    ["numpy", "numpy>=2 \\", "-r other.txt", "--index-url https://example.com/", "cffi @ https://example.com/c.whl"],
)
def test_a_lock_that_pins_not_everything_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "lock.txt"
    digest = f"    --hash=sha256:{'0' * 64}\n"
    path.write_text(f"# by a program\nclick==8.1 \\\n{digest}{line}\n{digest}")
    with pytest.raises(lock_file.NotPinnedError, match=r"^lock\.txt, line 4: not NAME==VERSION with --hash"):
        lock_file.read(path)
    path.write_text(f"click==8.1 \\\n    # via\n    #   cffi\n    #   ihsm\ncffi==2.0 \\\n{digest}")
    with pytest.raises(lock_file.NotPinnedError, match=r"^lock\.txt: no hash for click$"):
        lock_file.read(path)


def test_nothing_that_only_development_needs_is_listed(components: dict[str, dict[str, Any]]) -> None:
    with pytest.raises(PackageNotFoundError):
        distribution("no-such-package")
    for name in ("pytest", "mypy", "meson", "pip-audit", "cyclonedx-python-lib"):
        assert distribution(name).version
        assert name not in components
    assert sys.prefix != sys.base_prefix

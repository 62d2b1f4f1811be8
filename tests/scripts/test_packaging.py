# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The source distribution: it holds all that a build needs, says what it lacks, and installs with pip's isolation."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import hatch_build

ROOT = Path(__file__).parents[2]
VARIABLES = tuple(hatch_build.OPTIONS)


def run(*command: str | Path, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program of this interpreter's environment, without the variables that name libraries unless given."""
    inherited = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command, cwd=folder, env=inherited | {"PATH": path} | environment, capture_output=True, text=True, check=False
    )


def libraries() -> dict[str, str]:
    """The variables as set-up had them when it built this checkout."""
    done = run("meson", "introspect", "--buildoptions", "build/native", folder=ROOT)
    values = {option["name"]: option["value"] for option in json.loads(done.stdout)}
    return {variable: values[option] for variable, option in hatch_build.OPTIONS.items()}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution of this checkout."""
    folder = tmp_path_factory.mktemp("sdist")
    done = run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder, folder=ROOT)
    assert done.returncode == 0, done.stderr
    (archive,) = folder.iterdir()
    return archive


@pytest.fixture(scope="module")
def unpacked(archive: Path) -> Path:
    """Its contents."""
    subprocess.run(["tar", "-xf", archive], cwd=archive.parent, check=True)
    return archive.parent / archive.name.removesuffix(".tar.gz")


def test_the_source_distribution_holds_every_file_of_the_project_and_nothing_built(unpacked: Path) -> None:
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", folder=ROOT).stdout.split("\n")
    project = {name for name in listed if name and (ROOT / name).is_file()}
    packed = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    assert packed == project | {"PKG-INFO"}


def test_a_build_without_the_libraries_says_in_one_sentence_what_is_missing(unpacked: Path, tmp_path: Path) -> None:
    done = run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", folder=unpacked, XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("ihsm cannot be built: ")
    assert sentence.endswith("; scripts/setup makes both and a later build finds them.")
    assert "AWS-LC is missing (IHSM_AWS_LC names a static build of it)" in sentence


def test_a_library_is_missing_where_it_is_named_and_where_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hatch_build.missing_libraries(libraries()) == []
    for variable in VARIABLES:
        (text,) = hatch_build.missing_libraries(libraries() | {variable: str(tmp_path)})
        assert text.startswith(f"{variable}={tmp_path} is not a ")
    monkeypatch.setattr(hatch_build, "find_library", lambda name: f"lib{name}.so.0")
    assert hatch_build.missing_libraries({"IHSM_AWS_LC": libraries()["IHSM_AWS_LC"]}) == []
    monkeypatch.setattr(hatch_build, "find_library", lambda name: None)
    assert hatch_build.missing_libraries({}) == [
        "libvfio-user is missing (IHSM_LIBVFIO_USER names its source tree)",
        "AWS-LC is missing (IHSM_AWS_LC names a static build of it)",
    ]


def test_what_no_variable_names_is_what_set_up_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert hatch_build.named_libraries() == {}
    record = tmp_path / "ihsm" / hatch_build.RECORD
    record.parent.mkdir()
    record.write_text("no JSON")
    assert hatch_build.named_libraries() == {}
    record.write_text(json.dumps(dict.fromkeys(VARIABLES, "/made")))
    monkeypatch.setenv("IHSM_AWS_LC", "/mine")
    assert hatch_build.named_libraries() == {"IHSM_LIBVFIO_USER": "/made", "IHSM_AWS_LC": "/mine"}


def test_a_build_that_fails_ends_with_a_sentence(unpacked: Path, tmp_path: Path) -> None:
    failing = tmp_path / "meson"
    failing.write_text("#!/bin/sh\necho reason\nexit 1\n")
    failing.chmod(0o755)
    environment = libraries() | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", folder=unpacked, **environment)
    assert done.returncode == 1
    assert "reason\n" in done.stdout
    assert done.stderr == (
        "ihsm cannot be built: 'meson setup' failed as said above; scripts/setup installs what it needs.\n"
    )


def test_a_build_folder_of_other_tools_is_not_used(tmp_path: Path) -> None:
    build = tmp_path / "build" / "wheel"
    hatch_build.discard_unless_made_by(build, ["a", "b"])
    (build / "result").touch()
    hatch_build.discard_unless_made_by(build, ["a", "b"])
    assert (build / "result").exists()
    hatch_build.discard_unless_made_by(build, ["a", "c"])
    assert not (build / "result").exists()


@pytest.mark.long
def test_pip_builds_in_isolation_and_the_result_works(archive: Path, tmp_path: Path) -> None:
    done = run(sys.executable, "-m", "venv", "venv", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    python = tmp_path / "venv/bin/python"
    done = run(python, "-m", "pip", "install", archive, folder=tmp_path, **libraries())
    assert done.returncode == 0, done.stdout + done.stderr
    done = run(tmp_path / "venv/bin/ihsm", "info", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["pci"]["id"] == "1414:c003"
    installed = {path.name for path in (tmp_path / "venv/share/man/man1").iterdir()}
    assert installed == {path.name for path in (ROOT / "docs/man").iterdir()}
    done = run(python, "-c", "import ihsm_device; print(ihsm_device.__file__)", folder=tmp_path)
    assert done.stdout.startswith(str(tmp_path))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this checkout, built in isolation with the libraries that set-up has made.

    The pip is that of the environment in which the checkout is installed, and drops that from what the build sees.
    What is on PATH is what set-up installs of the system's: not CMake and pkg-config, which a developer's machine has.
    """
    tools = tmp_path_factory.mktemp("bin")
    for tool in Path("/usr/bin").iterdir():
        if not re.search("cmake|pkg-?conf", tool.name):
            (tools / tool.name).symlink_to(tool)
    folder = tmp_path_factory.mktemp("wheels")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", folder, "."]
    done = run(*command, folder=ROOT, PATH=str(tools))
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.iterdir()
    return wheel


@pytest.mark.long
def test_pip_makes_a_wheel_of_a_checkout_in_isolation(wheel: Path, tmp_path: Path) -> None:
    names = run(sys.executable, "-m", "zipfile", "-l", wheel, folder=tmp_path).stdout
    for module in ("ihsm_device", "ihsm", "ihsm/bench"):
        assert f"{module}/_native.cpython" in names
        assert f"{module}/_native.pyi" in names
    assert "ihsm_kmod/host/libihsm_preload.so" in names
    assert re.search(r"^ihsm-[\d.]+\.dist-info/sboms/ihsm\.cdx\.json ", names, re.MULTILINE)


@pytest.mark.long
def test_the_wheel_alone_keeps_keys_for_an_application(wheel: Path, tmp_path: Path) -> None:
    """README's lines in an empty environment, where nothing leads to a checkout; then another program finds the key."""
    done = run(sys.executable, "-m", "venv", "venv", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    python = tmp_path / "venv/bin/python"
    done = run(python, "-m", "pip", "install", wheel, "PyJWT", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr

    def alone(program: str) -> str:
        environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
        done = subprocess.run([python, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    first = re.search(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert first is not None
    assert 'hsm.generate("web"' in first[1]
    alone("from ihsm import Hsm; Hsm.create().close()")
    token = alone(f"{first[1]}\nprint(token)").strip()
    verify = f"""
import ihsm, jwt
with ihsm.Hsm.open() as hsm:
    key = hsm["web"]
    print(jwt.decode({token!r}, key.public_key(), algorithms=["ES256"]), key.facts.origin, ihsm.__file__)
    assert jwt.encode({{}}, key, algorithm="ES256")
"""
    assert alone(verify).startswith(f"{{'sub': 'alice'}} device {tmp_path}/venv/")


@pytest.mark.long
def test_the_wheel_and_pytest_alone_run_the_project_of_driver_tests(wheel: Path, tmp_path: Path) -> None:
    """docs/examples/driver_tests in an empty environment, where nothing leads to a checkout."""
    done = run(sys.executable, "-m", "venv", "venv", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    done = run(tmp_path / "venv/bin/python", "-m", "pip", "install", wheel, "pytest", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    project = tmp_path / "driver_tests"
    shutil.copytree(ROOT / "docs/examples/driver_tests", project, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [tmp_path / "venv/bin/pytest", "-v"], cwd=project, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^=+ 7 passed, 1 deselected in ", done.stdout, re.MULTILINE), done.stdout

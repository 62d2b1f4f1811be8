# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Images of the Python environment: what is in them, when another one is made, what a guest is told of changes."""

from __future__ import annotations

import marshal
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ihsm.guest import environment, images
from ihsm.guest.byte_code import byte_code, cached_name
from ihsm.guest.environment import Part
from ihsm.guest.freshness import SHORTEST_S, Freshness
from ihsm.guest.kernel import GuestKernel, find_kernel
from support.erofs import Found, Reader


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder that is being worked on, beside next to nothing installed; the cache is empty."""
    folder = tmp_path / "project"
    (folder / "package").mkdir(parents=True)
    (folder / "package" / "__init__.py").write_text("VALUE = 1\n")
    (folder / "package" / "data.txt").write_text("some\n")
    (folder / "alias.py").symlink_to("package/__init__.py")
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed" / "broken.py").write_text("def (:\n")
    (tmp_path / "installed" / "large.bin").write_bytes(bytes(environment.MAX_DATA_BYTES + 1))
    (tmp_path / "installed" / "large.so").write_bytes(bytes(environment.MAX_DATA_BYTES + 1))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(environment, "project_roots", lambda: [folder])
    monkeypatch.setattr(environment, "python_roots", lambda: [tmp_path / "installed"])
    return folder


def content(image: images.Image) -> dict[str, Found]:
    return {f"/{os.fsdecode(path)}": found for path, found in Reader(image.path.read_bytes()).walk().items()}


def test_files_lie_at_their_paths_with_their_byte_code(project: Path) -> None:
    python, mine = images.provide()
    found = content(mine)
    source = project / "package" / "__init__.py"
    status = source.stat()
    assert found[str(source)].content == b"VALUE = 1\n"
    assert found[str(source)].mtime_ns == status.st_mtime_ns
    assert found[str(project / "alias.py")].content == b"package/__init__.py"
    assert found[str(project / "package")].mode == (project / "package").stat().st_mode
    code = found[str(cached_name(source))].content
    assert code == byte_code(source, status)
    names: dict[str, int] = {}
    exec(marshal.loads(code[16:]), names)
    assert names["VALUE"] == 1
    installed = content(python)
    assert os.path.realpath(sys.executable) in installed
    assert any(path.endswith("/libc.so.6") for path in installed)
    folder = project.parent / "installed"
    assert str(folder / "large.so") in installed
    assert str(folder / "large.bin") not in installed
    assert str(folder / "broken.py") in installed
    assert str(cached_name(folder / "broken.py")) not in installed


def test_the_interpreter_takes_the_byte_code(project: Path) -> None:
    source = project / "package" / "__init__.py"
    code = byte_code(source, source.stat())
    assert code is not None
    cached_name(source).parent.mkdir(exist_ok=True)
    cached_name(source).write_bytes(code)
    words = [sys.executable, "-v", "-c", "import package"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=project)
    assert f"# {cached_name(source)} matches {source}" in done.stderr


def test_an_image_is_kept_until_a_file_changes_however(project: Path) -> None:
    first = images.provide()
    assert [image.path for image in images.provide()] == [image.path for image in first]
    source = project / "package" / "__init__.py"
    status = source.stat()
    # Of the same size, and with the old time of change: an editor's doing, or that of a careful test.
    source.write_text("VALUE = 2\n")
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
    python, mine = images.provide()
    assert python.path == first[0].path
    assert mine.path != first[1].path
    assert content(mine)[str(source)].content == b"VALUE = 2\n"
    (project / "more.py").write_text("")
    assert str(project / "more.py") in content(images.provide()[1])


def test_byte_code_beside_a_source_is_no_change_and_is_used_if_it_fits(project: Path) -> None:
    source = project / "package" / "__init__.py"
    before = images.provide()[1].path
    cached_name(source).parent.mkdir()
    cached_name(source).write_bytes(b"of another interpreter")
    assert images.provide()[1].path == before
    assert byte_code(source, source.stat()) != b"of another interpreter"
    fitting = byte_code(source, source.stat())
    assert fitting is not None
    cached_name(source).write_bytes(fitting + b"kept")
    assert byte_code(source, source.stat()) == fitting + b"kept"


def test_old_images_go_when_another_is_made(project: Path) -> None:
    made = []
    for number in range(images.KEPT_IMAGES + 2):
        (project / "more.py").write_text(f"{number}\n")
        made.append(images.provide()[1].path)
        old = time.time() - 2 * images.YOUNG_S
        os.utime(made[-1], (old + number, old + number))
    there = [path.exists() for path in made]
    assert there == [False] * 2 + [True] * images.KEPT_IMAGES
    assert images.provide()[0].path.exists()


def test_what_changes_is_told_once_but_not_of_shared_folders(project: Path) -> None:
    shared = project / "shared"
    shared.mkdir()
    (shared / "mine.py").write_text("")
    (project / "gone.py").write_text("")
    look = Freshness(images.provide(), [project.parent / "project" / "package" / ".." / "shared"])
    assert look.look() == []
    (project / "gone.py").unlink()
    (project / "new.py").write_text("")
    (project / "package" / "data.txt").write_text("other\n")
    (project / "two\nlines.py").write_text("")
    (shared / "mine.py").write_text("1\n")
    told = [str(project / name) for name in ("gone.py", "new.py", "package/data.txt")]
    assert look.look() == told
    assert look.look() == []


def test_nobody_looks_all_the_time(project: Path) -> None:
    now_s = 100.0
    look = Freshness(images.provide(), now_s=lambda: now_s)
    assert look.look_if_due() == []
    (project / "new.py").write_text("")
    assert look.look_if_due() == []  # the first look is not due at once
    now_s += SHORTEST_S
    assert look.look_if_due() == [str(project / "new.py")]
    (project / "new.py").write_text("1")
    assert look.look_if_due() == []
    now_s += SHORTEST_S
    assert look.look_if_due() == [str(project / "new.py")]


def test_without_a_cache_there_are_no_images_and_it_is_said(
    project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    said: list[str] = []
    assert images.provide(said.append) == []
    assert [text.partition(":")[0] for text in said] == ["guest"] * len(Part)
    assert "files come over 9p" in said[0]


def test_a_failure_leaves_nothing_half_made(project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*arguments: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(images, "write_image", fail)
    assert images.provide() == []
    assert list((tmp_path / "cache").rglob(f"*{images.SUFFIX}*")) == []


def test_which_kernels_mount_images(tmp_path: Path) -> None:
    assert images.boot_modules(find_kernel()) is not None
    assert images.boot_modules(GuestKernel("6.1", tmp_path / "image", None)) is not None
    (tmp_path / "modules.dep").write_text("kernel/drivers/block/virtio_blk.ko:\n")
    assert images.boot_modules(GuestKernel("6.1", tmp_path / "image", tmp_path)) is None
    (tmp_path / "modules.builtin").write_text("kernel/fs/erofs/erofs.ko\n")
    assert images.boot_modules(GuestKernel("6.1", tmp_path / "image", tmp_path)) == images.MODULES


def test_the_roots_are_those_of_this_interpreter() -> None:
    stamps = environment.scan(Part.PROJECT) | environment.scan(Part.PYTHON)
    assert os.path.realpath(os.__file__) in stamps
    assert os.path.realpath(environment.__file__) in stamps  # editable or installed
    assert os.path.realpath(pytest.__file__) in stamps

# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""References: made, read back, refused, and what they say of a device that is another one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ihsm.attest import Difference, Evidence, Reference, ReferenceFileError, attest
from ihsm.attest.blocks import MeasuredBlock
from ihsm_abi.spdm import manifest
from ihsm_abi.spdm.manifest import MeasuredFile
from support.spdm_exchange import FILES, attested_device

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def evidence() -> Iterator[Evidence]:
    with attested_device() as device:
        yield attest(device.exchange())


@pytest.fixture
def reference(evidence: Evidence) -> Reference:
    """As it is made where the package is."""
    return Reference(evidence.blocks, FILES)


def with_block(evidence: Evidence, index: int, content: bytes) -> Evidence:
    """Evidence of a device that has measured something else in a block."""
    return replace(
        evidence,
        blocks=tuple(
            replace(block, data=block.data[: len(block.data) - len(block.content)] + content)
            if block.index == index
            else block
            for block in evidence.blocks
        ),
    )


def with_files(evidence: Evidence, *files: MeasuredFile) -> Evidence:
    """Evidence of a device that runs these files."""
    for index in (manifest.TRUST_BLOCK, manifest.CONTROL_BLOCK, manifest.FAST_BLOCK):
        evidence = with_block(evidence, index, manifest.image_digest(files, index))
    evidence = with_block(evidence, manifest.FILES_BLOCK, manifest.short_digests(files))
    return with_block(evidence, 31, len(files).to_bytes(4, "little"))


def changed(*numbers: int) -> list[MeasuredFile]:
    """The files, some of which are others."""
    return [file._replace(digest=bytes(48)) if at in numbers else file for at, file in enumerate(FILES)]


def test_what_is_written_is_read(reference: Reference, evidence: Evidence) -> None:
    for each in (reference, Reference.of(evidence)):
        assert Reference.parse(each.encode(), "it") == each
        assert each.differences(evidence) == ()
    assert Reference.of(evidence).files == (), "the package here is not what that device runs"


def test_files_of_the_package_that_is_installed_here(evidence: Evidence) -> None:
    files = manifest.measure(manifest.installed())
    made = Reference.of(with_files(evidence, *files))
    assert made.files == files


def test_no_package_here(evidence: Evidence, monkeypatch: pytest.MonkeyPatch) -> None:
    def find() -> None:
        raise ModuleNotFoundError("ihsm_device is not installed")

    monkeypatch.setattr(manifest, "installed", find)
    assert Reference.of(evidence).files == ()


@pytest.mark.parametrize(
    ("numbers", "block"),
    [((0,), manifest.CONTROL_BLOCK), ((1,), manifest.FAST_BLOCK), ((2,), manifest.TRUST_BLOCK)],
)
def test_a_changed_file_is_named(
    reference: Reference, evidence: Evidence, numbers: tuple[int, ...], block: int
) -> None:
    path = FILES[numbers[0]].path
    assert reference.differences(with_files(evidence, *changed(*numbers))) == (
        Difference(block, f"other or missing: {path}", (path,)),
        Difference(manifest.FILES_BLOCK, "1 of the reference's 3 files not there, 1 that it does not have"),
    )


def test_a_file_that_is_missing(reference: Reference, evidence: Evidence) -> None:
    found = reference.differences(with_files(evidence, *FILES[:2]))
    assert [each.block for each in found] == [manifest.TRUST_BLOCK, manifest.FILES_BLOCK, 31]
    assert found[0].files == ("ihsm_device/trust/session.py",)
    assert found[2].detail == "2, the reference has 3"


def test_a_file_that_is_new(reference: Reference, evidence: Evidence) -> None:
    new = MeasuredFile("ihsm_device/trust/zero.py", bytes(48))
    found = reference.differences(with_files(evidence, *FILES, new))
    assert found[0] == Difference(manifest.TRUST_BLOCK, "no file of the reference differs; 1 more in the device")
    assert [each.block for each in found] == [manifest.TRUST_BLOCK, manifest.FILES_BLOCK, 31]


def test_a_device_that_lies_about_its_list(reference: Reference, evidence: Evidence) -> None:
    found = reference.differences(with_block(evidence, manifest.FAST_BLOCK, bytes(48)))
    assert [each.block for each in found] == [manifest.FAST_BLOCK]
    assert found[0].detail.endswith("the device's list of files does not say which")


def test_without_a_list(evidence: Evidence) -> None:
    found = Reference(evidence.blocks).differences(with_files(evidence, *changed(2)))
    assert [each.block for each in found] == [manifest.TRUST_BLOCK, manifest.FILES_BLOCK]
    assert all("no list of files" in each.detail and not each.files for each in found)


@pytest.mark.parametrize(
    ("index", "content", "says"),
    [
        (34, b"firmware", "'firmware', the reference has 'default'"),
        (34, b"\x1b[2J", "1b5b324a, the reference has 'default'"),
        (34, b"", "nothing, the reference has 'default'"),
        (10, b"\xff" * 40, "ff" * 16 + "… (40 bytes, SHA-384 "),
        (33, b'{"kind":', "'{\"kind\":', the reference has 7b2265"),
        (33, b"[]", "'[]', the reference has "),
    ],
)
def test_other_data(reference: Reference, evidence: Evidence, index: int, content: bytes, says: str) -> None:
    (found,) = reference.differences(with_block(evidence, index, content))
    assert found.block == index
    assert found.detail.startswith(says)


def test_settings_are_named(reference: Reference, evidence: Evidence) -> None:
    settings = json.loads(evidence.block(33).data)
    settings["versions"]["python"] = "\x1b[2J"
    del settings["express"]
    settings["\x1b"] = {}
    (found,) = reference.differences(with_block(evidence, 33, json.dumps(settings).encode()))
    python = json.loads(evidence.block(33).data)["versions"]["python"]
    assert found.detail == (
        "\\x1b {}, the reference has nothing; express nothing, the reference has true; "
        f'versions.python "\\u001b[2J", the reference has "{python}"'
    )


def test_many_files_are_a_line(evidence: Evidence) -> None:
    files = tuple(MeasuredFile(f"ihsm_abi/{number:02}.py", bytes([number]) * 48) for number in range(20))
    reference = Reference(with_files(evidence, *files).blocks, files)
    found = reference.differences(with_files(evidence, *(file._replace(digest=b"x" * 48) for file in files)))
    assert found[0].detail.endswith("ihsm_abi/07.py, and 12 more")
    assert len(found[0].files) == 20


def test_another_type(reference: Reference, evidence: Evidence) -> None:
    blocks = tuple(replace(block, type=0) if block.index == 34 else block for block in evidence.blocks)
    assert reference.differences(replace(evidence, blocks=blocks)) == (Difference(34, "type 0, the reference has 3"),)


def test_another_type_of_an_image_is_not_taken_for_other_code(reference: Reference, evidence: Evidence) -> None:
    blocks = tuple(replace(block, type=99) if block.index == 24 else block for block in reference.blocks)
    assert Reference(blocks, FILES).differences(evidence) == (Difference(24, "type 1, the reference has 99"),)


def test_no_setting_hides_among_others(reference: Reference, evidence: Evidence) -> None:
    settings = json.loads(evidence.block(33).data)
    settings |= {f"added{number}": number for number in range(40)}
    (found,) = reference.differences(with_block(evidence, 33, json.dumps(settings).encode()))
    assert found.detail.count("the reference has nothing") == 40


def test_a_name_that_is_there_twice(reference: Reference) -> None:
    """Who reads the file would see one value, and its parser take the other."""
    data = reference.encode().rstrip()[:-1] + b', "blocks": []}'
    with pytest.raises(ReferenceFileError, match="an object has a name twice"):
        Reference.parse(data, "it")


def test_blocks_can_be_left_out(reference: Reference, evidence: Evidence) -> None:
    some = Reference(tuple(block for block in reference.blocks if block.index not in (29, 34)), FILES)
    assert Reference.parse(some.encode(), "it") == some
    assert some.differences(with_block(evidence, 34, b"other")) == ()


def edit(**values: object) -> Change:
    return lambda plain: plain.update(values)


def edit_block(**values: object) -> Change:
    return lambda plain: plain["blocks"][3].update(values)


def edit_file(**values: object) -> Change:
    return lambda plain: plain["files"][1].update(values)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (edit(kind="other"), "not made by ihsm attest --write-reference"),
        (edit(format=2), "format: must be a whole number, 1 to 1"),
        (edit(more=1), "field that this format does not have"),
        (edit(blocks=[]), "blocks: there is none"),
        (edit(blocks={}), "blocks: must be a list"),
        (edit(blocks=[1]), "blocks.0: must be an object"),
        (edit(files=None), "files: must be a list"),
        (lambda plain: plain.pop("files"), "files: missing"),
        (lambda plain: plain["blocks"].append(plain["blocks"][0]), "blocks: must be a list of at most 36"),
        (lambda plain: plain["blocks"].reverse(), "blocks: not in order"),
        (lambda plain: plain["files"].append(plain["files"][0]), "files: not in order"),
        (lambda plain: plain["files"].pop(), "files: not those of block 16"),
        (edit_block(block=0), "blocks.3.block: must be a whole number, 1 to 36"),
        (edit_block(block=True), "blocks.3.block: must be a whole number"),
        (edit_block(type=128), "blocks.3.type: must be a whole number, 0 to 127"),
        (edit_block(data="0"), "blocks.3.data: must be hexadecimal"),
        (edit_block(data="00" * 0x10000), "blocks.3.data: must be hexadecimal"),
        (edit_block(data=None), "blocks.3.data: must be hexadecimal"),
        (edit_block(more=0), "blocks.3: it has a field"),
        (edit_block(name="policy"), "blocks.3: name: block 4 is 'tenancy counter'"),
        (edit_block(name=None), "blocks.3: name: block 4 is 'tenancy counter'"),
        (edit_file(path=""), "files.1.path: must be a path"),
        (edit_file(path="a\x1b[2J"), "files.1.path: must be a path"),
        (edit_file(path="a" * 513), "files.1.path: must be a path"),
        (edit_file(path=1), "files.1.path: must be a text"),
        (edit_file(sha384="00"), "files.1.sha384: must be 96 hexadecimal digits"),
        (edit_file(sha384="0" * 96), "files: not those of block 25"),
    ],
)
def test_what_is_no_reference(reference: Reference, change: Change, says: str) -> None:
    plain = json.loads(reference.encode())
    change(plain)
    with pytest.raises(ReferenceFileError) as caught:
        Reference.parse(json.dumps(plain).encode(), "it")
    assert str(caught.value).startswith("it: no reference: ")
    assert says in str(caught.value)


def json_values() -> st.SearchStrategy[Any]:
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    return st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner))


@given(st.binary(max_size=64) | json_values().map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_reference_or_an_error(data: bytes) -> None:
    with pytest.raises(ReferenceFileError):
        Reference.parse(data, "it")


PLAIN = json.loads(
    Reference(
        (MeasuredBlock(16, 1, bytes(5) + manifest.image_digest(FILES, 16)), MeasuredBlock(34, 3, b"default")), FILES
    ).encode()
)


@given(st.data())
def test_a_reference_with_anything_in_a_place_is_one_or_an_error(data: st.DataObject) -> None:
    """And one that is taken says of itself what it was read from."""
    plain = json.loads(json.dumps(PLAIN))
    record = data.draw(st.sampled_from([plain, *plain["blocks"], *plain["files"]]))
    record[data.draw(st.sampled_from([*record]))] = data.draw(json_values())
    reference, refusal = None, ""
    try:
        reference = Reference.parse(json.dumps(plain).encode(), "it")
    except ReferenceFileError as error:
        refusal = str(error)
    assert len(refusal.splitlines()) == (reference is None)
    if reference is not None:
        assert Reference.parse(reference.encode(), "it") == reference

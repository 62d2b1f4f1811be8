# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The state directory: what a restart keeps, who may use it, what a killed process leaves behind."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ihsm.ddi.errors import StatusError
from ihsm.ddi.keys import KeyRequest
from ihsm_abi.ddi import AesKeySize, DdiStatus, DeviceKind, KeyUsage
from ihsm_device.hsm.device import DeviceOptions, HsmDevice, PartitionRecord, RecordFile, StateError
from ihsm_device.hsm.device.records import DeviceRecord
from ihsm_device.hsm.device.state import StateDirectory
from ihsm_device.hsm.keystore import StateFileError
from ihsm_device.hsm.profile import DEFAULT
from support.hsm import Scene

SEALED = bytes(range(100))


@pytest.fixture
def options(tmp_path: Path) -> DeviceOptions:
    return DeviceOptions(kind=DeviceKind.Virtual, state=tmp_path / "state")


def sealed(data: bytes) -> bytes:
    """Seal of record files that no device opens."""
    return hashlib.sha256(data).digest()


def files(options: DeviceOptions) -> dict[str, bytes]:
    assert options.state is not None
    return {path.name: path.read_bytes() for path in options.state.iterdir()}


def test_a_restart_keeps_identity_bk_boot_and_sealed_bk3(options: DeviceOptions) -> None:
    with HsmDevice(options) as device:
        scene = Scene(device.function())
        chain = [certificate.tbs_certificate_bytes for certificate in scene.client.certificate_chain().certificates]
        bmk = scene.provision()
        masked_bk3 = scene.masked_bk3
        scene.client.set_sealed_bk3(SEALED)
        session = scene.open_session()
        key = session.generate_aes_key(AesKeySize.Aes256, KeyRequest(KeyUsage.EncryptDecrypt))
        unwrapping = scene.unwrapping_key(session)
        serial = scene.module.serial
    with HsmDevice(options) as device:
        scene = Scene(device.function())
        assert scene.module.status()["sessions"] == {}, "session ids go with the process"
        assert scene.module.serial == serial
        assert scene.client.sealed_bk3() == SEALED
        again = [certificate.tbs_certificate_bytes for certificate in scene.client.certificate_chain().certificates]
        assert again == chain
        assert scene.client.establish_credential(scene.credential, masked_bk3, scene.anchor, bmk=bmk) == bmk
        session = scene.open_session()
        session.unmask(key.masked_key)
        assert scene.unwrapping_key(session).pub_key != unwrapping.pub_key, "the unwrapping key is not stored"
        scene.module.nssr()
        scene.client.establish_credential(
            scene.credential, masked_bk3, scene.anchor, bmk=bmk, masked_unwrapping_key=unwrapping.masked_key
        )
        assert scene.unwrapping_key(scene.open_session()).pub_key == unwrapping.pub_key
        scene.module.partition_reset()
    with HsmDevice(options) as device:
        scene = Scene(device.function())
        assert scene.client.sealed_bk3() is None
        renewed = [certificate.tbs_certificate_bytes for certificate in scene.client.certificate_chain().certificates]
        assert (renewed[:2], renewed[2] == chain[2]) == (chain[:2], False)
        with pytest.raises(StatusError) as caught:
            scene.client.establish_credential(scene.credential, masked_bk3, scene.anchor)
        assert caught.value.status == DdiStatus.MaskedBkBootNotPresent


def test_without_a_directory_every_device_is_another() -> None:
    serials, roots = set(), set()
    for _ in range(2):
        with HsmDevice() as device:
            serials.add(device.function().serial)
            roots.add(device.record.certificates[0])
    assert len(serials) == len(roots) == 2


def test_a_profile_may_keep_nothing_but_the_device(options: DeviceOptions) -> None:
    exact = replace(options, profile=replace(DEFAULT, restart_keeps_identity=False))
    for expected in (None, None):
        with HsmDevice(exact) as device:
            scene = Scene(device.function())
            assert scene.client.sealed_bk3() == expected
            scene.client.set_sealed_bk3(SEALED)


def test_functions_have_files_and_serials_of_their_own(options: DeviceOptions) -> None:
    with HsmDevice(options) as device:
        modules = [device.function(index) for index in range(3)]
        assert len({module.serial for module in modules}) == 3
        assert len({module.partition.kept.identity.partition_id for module in modules}) == 3
    assert {f"partition-{index}.json" for index in range(3)} <= set(files(options))


def test_modes_and_content(options: DeviceOptions) -> None:
    with HsmDevice(options) as device:
        scene = Scene(device.function())
        scene.provision()
        scene.client.set_sealed_bk3(SEALED)
    assert options.state is not None
    assert options.state.stat().st_mode & 0o777 == 0o700
    names = {"lock", "device.secret", "device.json", "partition-0.json"}
    assert set(files(options)) == names
    for name in names:
        assert (options.state / name).stat().st_mode & 0o777 == 0o600, name
    stored = json.loads(files(options)["partition-0.json"])
    assert bytes.fromhex(stored["sealed_bk3"]) == SEALED
    assert len(bytes.fromhex(stored["bk_boot"])) == 296, "BK_BOOT, masked"


@pytest.mark.parametrize("name", [".", "device.secret", "device.json", "partition-0.json"])
def test_wider_permissions_are_refused(options: DeviceOptions, name: str) -> None:
    with HsmDevice(options) as device:
        device.function()
    assert options.state is not None
    path = options.state / name
    path.chmod(path.stat().st_mode | 0o040)
    before = files(options)
    with pytest.raises(StateError, match=str(options.state)), HsmDevice(options) as device:
        device.function()
    assert files(options) == before
    path.chmod(path.stat().st_mode & ~0o040)
    with HsmDevice(options) as device:
        device.function()


def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(folder, 12345, 0)
    else:
        folder = Path("/")
    owner = folder.stat().st_uid
    with pytest.raises(StateError, match=f"^{folder}: belongs to user {owner}, not to {os.geteuid()}$"):
        HsmDevice(DeviceOptions(state=folder))
    assert not (folder / "device.secret").exists()


def test_one_process_at_a_time(options: DeviceOptions) -> None:
    with HsmDevice(options), pytest.raises(StateError, match="in use by another process"):
        StateDirectory(options.state)
    StateDirectory(options.state).close()


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("device.secret", lambda data: data[:-1]),
        ("device.secret", lambda data: data + b"\0"),
        ("device.secret", lambda data: b""),
        ("device.secret", lambda data: bytes([data[0] ^ 1]) + data[1:]),
        ("device.secret", lambda data: data[:-1] + bytes([data[-1] ^ 0x80])),
    ],
)
def test_a_damaged_secret_is_refused(options: DeviceOptions, name: str, spoil: Callable[[bytes], bytes]) -> None:
    with HsmDevice(options) as device:
        Scene(device.function()).provision()
    assert options.state is not None
    path = options.state / name
    path.write_bytes(spoil(path.read_bytes()))
    before = files(options)
    with pytest.raises(StateError, match=str(path)), HsmDevice(options) as device:
        device.function()
    assert files(options) == before


def test_a_lost_secret_is_not_replaced(options: DeviceOptions) -> None:
    with HsmDevice(options) as device:
        device.function()
    assert options.state is not None
    (options.state / "device.secret").unlink()
    with pytest.raises(StateError, match="missing"):
        HsmDevice(options)
    assert not (options.state / "device.secret").exists()


def test_a_secret_of_another_device_is_noticed(options: DeviceOptions, tmp_path: Path) -> None:
    other = replace(options, state=tmp_path / "other")
    for each in (options, other):
        with HsmDevice(each) as device:
            Scene(device.function()).provision()
    assert options.state is not None
    assert other.state is not None
    (options.state / "device.secret").write_bytes((other.state / "device.secret").read_bytes())
    with pytest.raises(StateError, match=r"device\.json: .*of another device"), HsmDevice(options) as device:
        device.function()


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot be used"):
        StateDirectory(tmp_path / "file" / "state")


@pytest.mark.parametrize(
    "record",
    [
        DeviceRecord(2**64 - 1, (b"\x30\x00", b"\x30")),
        PartitionRecord(bytes(16)),
        PartitionRecord(bytes(16), b"leaf", b"boot", b""),
    ],
)
def test_records_round_trip(tmp_path: Path, record: DeviceRecord | PartitionRecord) -> None:
    file: RecordFile = RecordFile(tmp_path / "record.json", type(record), sealed)  # type: ignore[type-arg]
    assert file.read() is None
    file.write(record)
    assert file.read() == record
    (tmp_path / "record.json.new").write_text("left behind by a killed process")
    file.write(record)
    assert file.read() == record


def test_a_full_disk_leaves_the_old_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = RecordFile(tmp_path / "record.json", PartitionRecord, sealed)
    old = PartitionRecord(bytes(16))
    file.write(old)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StateError, match="No space left"):
        file.write(PartitionRecord(b"1" * 16))
    monkeypatch.undo()
    assert file.read() == old
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"], "room for nothing that nobody wants"


def test_a_new_record_is_on_the_disk_before_its_name_and_its_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a power failure leaves: the content is synced under another name, the folder after the rename."""
    path = tmp_path / "record.json"
    file = RecordFile(path, PartitionRecord, sealed)
    old, new = PartitionRecord(bytes(16)), PartitionRecord(b"1" * 16)
    file.write(old)

    def stored(target: Path) -> PartitionRecord | None:
        """What a file will hold once it has its name, which the seal covers."""
        named = tmp_path / "seen" / path.name
        named.parent.mkdir(exist_ok=True)
        named.write_bytes(target.read_bytes())
        named.chmod(0o600)
        return RecordFile(named, PartitionRecord, sealed).read()

    synced: list[tuple[str, PartitionRecord | None, PartitionRecord | None]] = []
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        target = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        content = None if target.is_dir() else stored(target)
        synced.append((target.name, content, file.read()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    file.write(new)
    assert synced == [("record.json.new", new, old), (tmp_path.name, None, new)]


@pytest.mark.parametrize("old", [None, PartitionRecord(bytes(16))], ids=["new", "replaced"])
def test_a_record_whose_folder_cannot_be_put_on_the_disk_is_not_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: PartitionRecord | None
) -> None:
    """It has its name already when that fails: the next start would find what was refused."""
    file = RecordFile(tmp_path / "record.json", PartitionRecord, sealed)
    if old is not None:
        file.write(old)
        file = RecordFile(tmp_path / "record.json", PartitionRecord, sealed)
        assert file.read() == old
    sync = os.fsync

    def fail(descriptor: int) -> None:
        if Path(os.readlink(f"/proc/self/fd/{descriptor}")).is_dir():
            raise OSError(5, "Input/output error")
        sync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(StateError, match=r"cannot be written \(Input/output error\)"):
            file.write(PartitionRecord(b"1" * 16))
    assert RecordFile(tmp_path / "record.json", PartitionRecord, sealed).read() == old
    assert {path.name for path in tmp_path.iterdir()} == ({"record.json"} if old else set())
    file.write(PartitionRecord(b"2" * 16))
    assert file.read() == PartitionRecord(b"2" * 16)


def test_what_cannot_be_stored_has_not_happened(
    options: DeviceOptions, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with HsmDevice(options) as device:
        scene = Scene(device.function())
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(StatusError) as caught:
            scene.client.set_sealed_bk3(SEALED)
        monkeypatch.undo()
        assert caught.value.status == DdiStatus.InternalError
        assert [(record.exc_info, "partition-0.json" in record.getMessage()) for record in caplog.records] == [
            (None, True)
        ], "one line that names the file"
        assert scene.client.sealed_bk3() is None
        scene.client.set_sealed_bk3(SEALED)


WORKER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from support.hsm import Scene
from ihsm_device.hsm.device import DeviceOptions, HsmDevice
with HsmDevice(DeviceOptions(state=Path(sys.argv[1]))) as device:
    scene = Scene(device.function())
    print("ready", flush=True)
    while True:
        scene.client.certificate_chain()
        scene.client.init_bk3(bytes(48))
        if scene.client.sealed_bk3() is None:
            scene.client.set_sealed_bk3(b"sealed")
        scene.module.partition_reset()
"""


def test_a_kill_at_any_moment_leaves_the_old_state_or_the_new(options: DeviceOptions) -> None:
    dice = random.Random(7)
    for _ in range(8):
        worker = [sys.executable, "-c", WORKER, str(options.state), str(Path(__file__).parents[3])]
        with subprocess.Popen(worker, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(dice.uniform(0.0, 0.05))
            process.send_signal(signal.SIGKILL)
        with HsmDevice(options) as device:
            record = device.function().partition.kept.record
            # The worker sets these in this order and clears them together.
            present = [record.leaf is not None, record.bk_boot is not None, record.sealed_bk3 is not None]
            assert present == sorted(present, reverse=True)


def test_state_file_errors_of_the_key_store_become_state_errors(tmp_path: Path) -> None:
    assert not issubclass(StateFileError, StateError)
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state" / "device.secret").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StateError):
        HsmDevice(DeviceOptions(state=tmp_path / "state"))

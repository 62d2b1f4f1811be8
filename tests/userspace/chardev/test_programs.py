# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Keys by name, and commands, on a device behind a driver's node: they are the same as on any other."""

from __future__ import annotations

import asyncio
import functools
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from ihsm import Hsm
from ihsm.api.files import decrypt_stream, encrypt_stream
from ihsm.chardev import NodeDevice
from ihsm.ddi import Partition
from ihsm.driver import DriverOptions
from ihsm.errors import QueueClosedError, UriError
from ihsm.testing import DeviceFaults
from ihsm.uri import open_controller, open_device, open_function
from ihsm_kmod.kernel.process import Process
from support.commands import refused, run_json, succeed
from support.hsm_driver import Driver
from support.nodes import another, calls_of, node_of, open_files

URI = "chardev:/dev/azihsm0"
ECDSA = ec.ECDSA(hashes.SHA256())


@pytest.fixture
def root(tmp_path: Path, process: Process, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This program is one of the model's; where its stores are."""
    opened = functools.partial(NodeDevice, calls=calls_of(process))
    monkeypatch.setattr("ihsm.chardev.NodeDevice", opened)
    monkeypatch.setenv("XDG_DATA_HOME", os.fspath(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", os.fspath(tmp_path))
    monkeypatch.delenv("IHSM_DEVICE", raising=False)
    monkeypatch.delenv("IHSM_STORE", raising=False)
    return tmp_path / "ihsm"


@pytest.fixture
def hsm(root: Path) -> Iterator[Hsm]:
    with Hsm.create(device=URI) as hsm:
        yield hsm


def check(key: Any, message: bytes = b"message") -> None:
    key.public_key().verify(key.sign(message, ECDSA), message, ECDSA)


def test_keys_by_name(hsm: Hsm, process: Process, driver: Driver) -> None:
    check(hsm.generate("web", "p256"))
    key: Any = hsm.generate("box", "aes256-gcm")
    for text in (b"", b"text", bytes(100_000)):
        nonce = os.urandom(12)
        for aad in (b"", b"aad", bytes(32)):
            assert key.decrypt(nonce, key.encrypt(nonce, text, aad), aad) == text
    disk: Any = hsm.generate("disk", "aes256-xts")
    assert disk.decrypt(bytes(16), disk.encrypt(bytes(16), bytes(8192), 512), 512) == bytes(8192)
    messages = np.arange(100 * 50, dtype=np.uint8).reshape(100, 50)
    nonces = np.frombuffer(os.urandom(1200), np.uint8).reshape(100, 12)
    assert (key.decrypt_many(nonces, key.encrypt_many(nonces, messages, b"aad"), b"aad") == messages).all()
    asyncio.run(coroutines(key, messages, nonces))
    hsm.close()
    assert open_files(process) == 0


async def coroutines(key: Any, messages: Any, nonces: Any) -> None:
    nonce = os.urandom(12)
    assert await key.decrypt_async(nonce, await key.encrypt_async(nonce, b"text")) == b"text"
    sealed = await key.encrypt_many_async(nonces, messages)
    assert (await key.decrypt_many_async(nonces, sealed) == messages).all()


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 9_000_000])
def test_files(hsm: Hsm, size: int) -> None:
    key: Any = hsm.generate("box", "aes256-gcm")
    text, sealed, opened = os.urandom(size), io.BytesIO(), io.BytesIO()
    assert encrypt_stream(key, io.BytesIO(text), sealed) == size
    assert decrypt_stream(key, io.BytesIO(sealed.getvalue()), opened) == size
    assert opened.getvalue() == text


def test_a_device_that_stays_provisioned(hsm: Hsm, root: Path, driver: Driver) -> None:
    """The partition is as it was when the next program comes; keys of the last one do not fill it up."""
    hsm.generate("web", "p256")
    hsm.close()
    for _ in range(3):
        with Hsm.open() as again:
            check(again["web"])
            assert again.connection.link.device.outlives_us
    with node_of(driver) as node:
        assert node.information()


def test_keys_leave_with_their_program(hsm: Hsm, driver: Driver) -> None:
    """Of P-256 a table has 110."""
    hsm.generate("web", "p256")
    hsm.close()
    for _ in range(4):
        with Hsm.open() as again:
            link = again.connection.link
            check(again["web"])
            assert len(link.residents) == 1
        assert len(link.residents) == 0


@pytest.mark.parametrize("subsystem", [False, True])
def test_another_program_resets_the_device(hsm: Hsm, driver: Driver, subsystem: bool) -> None:
    web, box = hsm.generate("web", "p256"), hsm.generate("box", "aes256-gcm")
    check(web)
    with another(driver) as other:
        other.reset(subsystem=subsystem)
    nonce = os.urandom(12)
    assert box.decrypt(nonce, box.encrypt(nonce, b"text")) == b"text"  # type: ignore[union-attr]
    check(web)
    with another(driver) as other:
        other.reset(subsystem=subsystem)
    check(web)


def test_a_lost_command_is_repeated(hsm: Hsm) -> None:
    web = hsm.generate("web", "p256")
    hsm.connection._replace(hsm.connection.link, QueueClosedError("as if the driver had given it up"))
    check(web)


def test_two_programs(hsm: Hsm, driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    check(hsm.generate("web", "p256"))
    other = driver.machine.process()
    monkeypatch.setattr("ihsm.chardev.NodeDevice", functools.partial(NodeDevice, calls=calls_of(other)))
    with Hsm.open() as second:
        check(second["web"])
        check(hsm["web"])


def test_two_programs_bring_the_device_back(hsm: Hsm, driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have found it empty; the second is told that there is a credential already."""
    check(hsm.generate("web", "p256"))
    looks, look = iter([False]), Partition.is_provisioned
    monkeypatch.setattr(Partition, "is_provisioned", lambda partition: next(looks, True) and look(partition))
    other = driver.machine.process()
    monkeypatch.setattr("ihsm.chardev.NodeDevice", functools.partial(NodeDevice, calls=calls_of(other)))
    with Hsm.open() as second:
        check(second["web"])
        check(hsm["web"])


def test_no_aes_queues_are_wanted(root: Path) -> None:
    with (
        Hsm.create(device=URI, options=DriverOptions(aes_queues=0)) as hsm,
        pytest.raises(Exception, match="AES queue"),
    ):
        hsm.generate("box", "aes256-gcm").encrypt(bytes(12), b"text")  # type: ignore[union-attr]


# -- commands ----------------------------------------------------------------------------------------------------------


def test_info(root: Path, tmp_path: Path) -> None:
    record = run_json("info", "--device", URI)
    assert set(record) == {"uri", "driver", "hsm"}
    assert record["uri"] == URI
    assert record["driver"]["version"] == "3.2.0"
    assert record["driver"]["pci_address"] == "0000:00:04.0"
    assert record["driver"]["entropy_bytes"] == 32
    table = succeed("info", "--device", URI, "--chain", tmp_path / "chain.pem").decode()
    assert "driver.firmware_revision" in table
    assert (tmp_path / "chain.pem").read_text().startswith("-----BEGIN CERTIFICATE")


def test_the_variable_names_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IHSM_DEVICE", URI)
    assert run_json("status") == run_json("status", "--device", URI)
    assert run_json("status")["module"]["state"] == "not provisioned"


def test_a_store_and_its_commands(root: Path, tmp_path: Path, process: Process) -> None:
    assert run_json("init", "--device", URI)["uri"] == URI
    succeed("key", "generate", "web")
    succeed("key", "generate", "box", "--kind", "aes256-gcm")
    message, signature = tmp_path / "m", tmp_path / "m.sig"
    message.write_bytes(b"message" * 10_000)
    succeed("sign", "web", message, "-o", signature)
    succeed("verify", "web", message, "--signature", signature)
    succeed("encrypt", "box", message, "-o", tmp_path / "m.sealed")
    assert succeed("decrypt", "box", tmp_path / "m.sealed", "-o", "-") == message.read_bytes()
    succeed("cert", "selfsign", "web", "--subject", "CN=web", "-o", tmp_path / "web.pem")
    assert run_json("status", "--device", URI)["module"]["state"] == "ready"
    assert open_files(process) == 0


def test_selftest(root: Path, driver: Driver) -> None:
    output = succeed("selftest", "--device", URI).decode()
    assert output.endswith(" passed, 0 failed\n")


def test_what_needs_the_function_itself(root: Path) -> None:
    assert "rings are measured" in refused(2, "bench", "ring", "--device", URI)
    assert "no control socket" in refused(3, "fault", "list", "--device", URI)
    for opened in (open_function(URI), open_controller(URI)):
        with pytest.raises(UriError, match="its driver has it"), opened:
            pass
    with open_device(URI) as device, pytest.raises(Exception, match="no control socket"):
        DeviceFaults(device.uri)


def test_what_is_no_node(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("ihsm.chardev.NodeDevice", NodeDevice)
    plain = tmp_path / "plain"
    plain.touch()
    assert "no such node" in refused(3, "info", "--device", f"chardev:{tmp_path}/azihsm0")
    assert "no character device" in refused(5, "info", "--device", f"chardev:{plain}")
    assert "no HSM node" in refused(5, "info", "--device", "chardev:/dev/null")
    assert "path is missing" in refused(2, "info", "--device", "chardev:")

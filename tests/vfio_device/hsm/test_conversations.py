# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The recorded life-cycle conversations, led with the device: every status as the file says for the default profile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ihsm_abi import mbor
from ihsm_abi.ddi import (
    DdiOp,
    DdiStatus,
    DeviceKind,
    KeyAttributeFlags,
    decode_request,
    decode_request_header,
)
from ihsm_abi.ddi.masked_key import MaskedKey, MaskedKeyMetadata
from ihsm_abi.hsm_queue import ControlKind
from ihsm_device.hsm.command import HsmCommand
from ihsm_device.hsm.device import DeviceOptions, HsmDevice
from ihsm_device.hsm.keystore import Curve, Hash, KeyStore, Owner
from ihsm_device.hsm.partition import EncryptionPurpose
from support import oracle
from support.conversations import Translator, conversations
from support.hsm import ModuleReply, Scene, Stage

CONVERSATIONS = conversations()
SIMULATOR_SESSION, SIMULATOR_MK, SIMULATOR_K_ATT, SIMULATOR_K_SESS = 4, 3, 2, 1
UNUSED_KEY_ID = 0xF0


@pytest.fixture(scope="module")
def virtual() -> Iterator[Stage]:
    """The recordings are of kind Virtual."""
    with HsmDevice(DeviceOptions(kind=DeviceKind.Virtual, validation_hooks=True)) as device:
        yield Stage(device)


def lead_event(scene: Scene, step: dict[str, Any], translator: Translator) -> None:
    match step["event"]:
        case "nssr":
            scene.module.nssr()
        case "power-cycle":
            scene.module.partition_reset()
            translator.identity = scene.client.identity_key() if step["conv"] != "sealed-bk3" else None
        case "flush":
            completion = scene.module.flush(HsmCommand(b"", ControlKind.CLOSE, True, step["sid"]))
            assert completion.sc == 0
            assert completion.session_id == step["sid"]
            assert completion.flags in (0x16, 0x00)
    translator.scalars = step.get("device", translator.scalars)


def internal_key_ids(scene: Scene) -> dict[int, int]:
    """Our numbers for the internal objects that the simulator has fixed numbers for."""
    state = scene.state
    session = scene.live(0)
    (entry,) = (entry for entry in state.vault.of_session(session) if entry.content.type is None)
    return {
        0: state.provisioned.unwrapping_entry.key_id,
        SIMULATOR_K_SESS: state.encryption_keys[EncryptionPurpose.SESSION].entry.key_id,
        SIMULATOR_K_ATT: UNUSED_KEY_ID,
        SIMULATOR_MK: state.provisioned.masking_entry.key_id,
        SIMULATOR_SESSION: entry.key_id,
    }


def expected_status(step: dict[str, Any]) -> str:
    return str(step.get("profile", {}).get("status", step.get("status")))


def check_completion(step: dict[str, Any], reply: ModuleReply, op: DdiOp) -> None:
    """Session fields: those of the recording, and the short application id wherever a session is opened."""
    kind, session_id, _ = step["cqe"]
    completion = reply.completion
    assert completion.flags.kind == kind
    assert reply.session_id == session_id
    assert reply.short_app_id == (0 if op in (DdiOp.OpenSession, DdiOp.ReopenSession) else None)
    assert reply.session_closed == (op == DdiOp.CloseSession)


def check_masked_key(scene: Scene, data: Any, session_id: int | None) -> None:
    """The masked key of a response opens under the key that its flags name, and holds what the vault holds."""
    if not hasattr(data, "masked_key") or session_id is None:
        return
    reveal, state = scene.module.partition.device.store.hook_reveal, scene.state
    metadata, _ = mbor.decode(MaskedKeyMetadata, MaskedKey.parse(data.masked_key).metadata)
    of_session = metadata.key_attributes.flags & KeyAttributeFlags.SESSION
    masking_key = scene.live(session_id).masking_key if of_session else state.provisioned.masking_key
    opened = oracle.open_masked(data.masked_key, reveal(masking_key))
    key_id = data.private_key_id if hasattr(data, "private_key_id") else data.key_id
    stored = reveal(state.vault.get(key_id).content.handle)
    assert opened.plaintext[: len(stored)] == stored
    assert 1 <= len(opened.plaintext) - len(stored) <= 16
    assert not any(opened.plaintext[len(stored) :])


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_conversation(virtual: Stage, name: str) -> None:
    steps = CONVERSATIONS[name]
    scene = virtual.fresh(tables=4 if name == "tables-4" else 1)
    translator = Translator.of(steps[0])
    if name != "certificates":
        translator.identity = scene.client.identity_key()
    for step in steps[1:]:
        where = f"step {step['n']}: {step.get('step') or step['event']}"
        if "event" in step:
            lead_event(scene, step, translator)
            continue
        if step["req"] == "":
            continue  # an empty request never reaches the module
        if name == "internal-keys" and step["n"] == 6:
            translator.key_ids |= internal_key_ids(scene)
        message = translator.request(step)
        reply = scene.send(message, ControlKind(step["kind"]), step["sid"])
        assert reply.status.name == expected_status(step), where
        if reply.status != DdiStatus.Success:
            assert not reply.completion.flags.session_closed
        elif "status" in step and step["status"] == "Success":
            header, _ = decode_request_header(message)
            _, ours = translator.learn(step, header.op, reply.message)
            check_completion(step, reply, header.op)
            check_masked_key(scene, ours, step["sid"])
    assert_accounting(scene)


def assert_accounting(scene: Scene) -> None:
    """After all sessions are closed and all keys deleted only the partition's own objects are left."""
    partition = scene.module.partition
    for session_id, state in partition.sessions.snapshot().items():
        if state == "live":
            with partition.lock:
                session = partition.sessions.live(session_id)
                assert session is not None
                partition.close_session(session)
    scene.module.nssr()
    assert scene.module.status()["vault"]["bytes"] == 0
    assert scene.module.status()["vault"]["bulk_keys"] == 0


@pytest.mark.parametrize(
    "step",
    [
        step
        for steps in CONVERSATIONS.values()
        for step in steps
        if "AES_K" in step.get("device", {}) and step["status"] == "Success"
    ],
    ids=lambda step: f"{step['conv']}-{step['n']}",
)
def test_recorded_channel_keys(virtual: Stage, step: dict[str, Any]) -> None:
    """Agreement and derivation of the device, on the recorded scalars, give the recorded keys."""
    store: KeyStore = virtual.device.store
    event = next(s for s in reversed(CONVERSATIONS[step["conv"]][: step["n"]]) if "event" in s)
    _, data = decode_request(bytes.fromhex(step["req"]))
    sealed = getattr(data, "encrypted_credential", None) or data.new_pin  # type: ignore[attr-defined]
    device_key = "K_est" if step["step"] == "EstablishCredential" else "K_sess"
    scalar = store.import_secret(bytes.fromhex(event["device"][device_key]), Owner())
    key = store.ec_import_scalar(Curve.P384, scalar, Owner())
    channel = store.credential_channel(key, data.pub_key.der[-97:], sealed.nonce, Owner())  # type: ignore[attr-defined]
    assert store.hook_reveal(channel).hex() == step["device"]["AES_K"] + step["device"]["MAC_K"]
    for handle in (scalar, key, channel):
        store.destroy(handle)


SIMULATOR_BKS1 = bytes.fromhex("9b4e4eb7adabdcd6b4d507eb68eb26992abbcab55cfb773bc4d0a88c2102b0ac")
SIMULATOR_BKS2 = bytes.fromhex("ad1a17e9ed38275e8b305db8190f82b62da25ac6f070a3e1759c6192ccf419a3")
DERIVATIONS = [
    step
    for steps in CONVERSATIONS.values()
    for step in steps
    if {"BK_partition", "BK_session"} & set(step.get("device", {}))
]


@pytest.mark.parametrize("step", DERIVATIONS, ids=lambda step: f"{step['conv']}-{step['n']}")
def test_recorded_backup_keys(virtual: Stage, step: dict[str, Any]) -> None:
    """The derivation function, given the simulator's inputs (spec 04 §6.2, column S), gives the recorded keys."""
    store: KeyStore = virtual.device.store
    conversation = CONVERSATIONS[step["conv"]]
    if "BK_partition" in step["device"]:
        _, data = decode_request(bytes.fromhex(step["req"]))
        pota = data.pota_pub_key.der  # type: ignore[attr-defined]
        key = store.import_secret(bytes.fromhex(conversation[0]["client"]["bk3"]), Owner())
        label, context, offset = (b"PARTITION_BK" + pota).ljust(256, b"\0"), SIMULATOR_BKS1 + SIMULATOR_BKS2, 0
        expected = step["device"]["BK_partition"]
    else:
        earlier = (one.get("device", {}) for one in reversed(conversation[: step["n"]]))
        backup_key = next(device["BK_partition"] for device in earlier if "BK_partition" in device)
        key = store.import_secret(bytes.fromhex(backup_key), Owner())
        label, context, offset = b"SESSION_BK", bytes.fromhex(step["client"]["seed"]), 32
        expected = step["device"]["BK_session"]
    derived = store.kbkdf(key, Hash.SHA384, label, [context], 80, Owner(), key_offset=offset)
    assert store.hook_reveal(derived).hex() == expected
    store.destroy(key)
    store.destroy(derived)

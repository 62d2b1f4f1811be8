# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The golden path of spec 04 over a vfio-user socket: power-on to open session, migration, restart, dead clients."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any, Final

import pytest

from ihsm.bus import VfioUserFunction
from ihsm.ddi import Partition
from ihsm.ddi.errors import StatusError
from ihsm.ddi.keys import KeyRequest
from ihsm.driver import Controller
from ihsm_abi.ddi import AesKeySize, AesOp, DdiStatus, KeyUsage
from ihsm_abi.ddi.limits import MAX_SESSIONS
from support.hsm import BK3, CREDENTIAL, SEED
from support.occupant import ANCHOR, occupy, open_all
from support.process import ServeProcess, serve

KILLED_CLIENTS: Final = 20
SESSION_AES: Final = KeyRequest(KeyUsage.EncryptDecrypt, session=True)


def module_status(server: ServeProcess) -> dict[str, Any]:
    status: dict[str, Any] = server.status()["module"]
    return status


@pytest.mark.parametrize("kind", ["virtual", "physical"])
def test_from_power_on_to_reopened_session(socket_folder: Path, kind: str) -> None:
    with serve("--socket", str(socket_folder / "a.sock"), "--kind", kind) as server:
        with Controller(VfioUserFunction(server.paths[0])) as controller:
            client = Partition(controller)
            assert client.info().kind.name.lower() == kind
            client.certificate_chain().verify()
            masked_bk3 = client.init_bk3(BK3).masked_bk3
            bmk = client.establish_credential(CREDENTIAL, masked_bk3, ANCHOR)
            session = client.open_session(CREDENTIAL, seed=SEED)
            assert (session.session_id, session.short_app_id) == (0, 0)
            key = session.generate_aes_key(AesKeySize.Aes256, SESSION_AES)
            ciphertext, _ = session.aes_cbc(key, AesOp.Encrypt, bytes(range(64)), bytes(16))
            assert module_status(server)["sessions"] == {"0": "live"}

            controller.reset(subsystem=True)
            assert module_status(server)["sessions"] == {"0": "renegotiation"}
            with pytest.raises(StatusError) as caught:
                session.delete_key(key)
            assert caught.value.status == DdiStatus.SessionNeedsRenegotiation
            assert client.establish_credential(CREDENTIAL, masked_bk3, ANCHOR, bmk=bmk) == bmk
            reopened = client.reopen_session(CREDENTIAL, session.ticket)
            again = reopened.unmask(key.masked_key)
            plaintext, _ = reopened.aes_cbc(again, AesOp.Decrypt, ciphertext, bytes(16))
            assert plaintext == bytes(range(64))
            reopened.close()
        assert module_status(server)["state"] == "fresh"
        assert module_status(server)["vault"]["entries"] == 0


def test_killed_clients_leave_no_session_behind(socket_folder: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["support.occupant"])
    with serve("--socket", str(socket_folder / "a.sock")) as server:
        for _ in range(KILLED_CLIENTS):
            ours, theirs = context.Pipe()
            client = context.Process(target=occupy, args=(str(server.paths[0]), theirs), daemon=True)
            client.start()
            theirs.close()
            assert ours.recv() == MAX_SESSIONS
            client.kill()
            client.join()
            client.close()
        with Controller(VfioUserFunction(server.paths[0])) as controller:
            sessions = open_all(Partition(controller))
            assert [session.session_id for session in sessions] == list(range(MAX_SESSIONS))


def test_a_restart_with_a_state_directory(socket_folder: Path) -> None:
    options = ("--socket", str(socket_folder / "a.sock"), "--state", str(socket_folder / "state"))
    with serve(*options) as server:
        with Controller(VfioUserFunction(server.paths[0])) as controller:
            client = Partition(controller)
            chain = client.certificate_chain().thumbprint
            masked_bk3 = client.init_bk3(BK3).masked_bk3
            client.set_sealed_bk3(masked_bk3)
        assert server.stop() == 0
    with serve(*options) as server, Controller(VfioUserFunction(server.paths[0])) as controller:
        client = Partition(controller)
        assert client.certificate_chain().thumbprint == chain
        assert client.sealed_bk3() == masked_bk3
        client.establish_credential(CREDENTIAL, masked_bk3, ANCHOR)
        client.open_session(CREDENTIAL)

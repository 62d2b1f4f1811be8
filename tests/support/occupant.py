# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A client that holds every session: in a module of its own, since its process imports it by name."""

from __future__ import annotations

from multiprocessing.connection import Connection
from typing import Final

from ihsm.bus import VfioUserFunction
from ihsm.ddi import Partition, SoftwareTrustAnchor
from ihsm.ddi.session import Session
from ihsm.driver import Controller
from ihsm_abi.ddi.limits import MAX_SESSIONS
from support.hsm import BK3, CREDENTIAL, POTA_KEY

ANCHOR: Final = SoftwareTrustAnchor(POTA_KEY)


def open_all(client: Partition) -> list[Session]:
    """Provision, and open as many sessions as there can be."""
    masked_bk3 = client.init_bk3(BK3).masked_bk3
    client.establish_credential(CREDENTIAL, masked_bk3, ANCHOR)
    return [client.open_session(CREDENTIAL) for _ in range(MAX_SESSIONS)]


def occupy(path: str, ready: Connection) -> None:
    """A client that opens every session and is killed with them open."""
    controller = Controller(VfioUserFunction(path))
    sessions = open_all(Partition(controller))
    ready.send(len(sessions))
    ready.recv()

# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What an operation works with ends with its command."""

from __future__ import annotations

from ihsm.ddi.keys import KeyRequest
from ihsm_abi.ddi import AesKeySize, KeyUsage
from ihsm_device.hsm.operations.context import Context
from ihsm_device.hsm.partition import Volatile
from support.hsm import Scene
from support.objects import without_collector


def test_a_command_that_makes_something_leaves_no_circle(scene: Scene) -> None:
    """One that had the state of its partition kept all of it until the collector came, after resets and clients."""
    scene.provision()
    with without_collector() as left:
        contexts, states = left(Context), left(Volatile)
        session = scene.open_session()
        session.generate_aes_key(AesKeySize.Aes256, KeyRequest(KeyUsage.EncryptDecrypt))
        assert left(Context) == contexts
        scene.module.nssr()
        assert left(Volatile) == states

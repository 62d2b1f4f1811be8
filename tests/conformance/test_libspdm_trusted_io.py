# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""IDE_KM and TDISP are judged by DMTF's libspdm, in this process: its sessions, and its structures."""

from __future__ import annotations

import pytest

from ihsm_device.tdi import DeviceInterface
from support.libspdm import LibspdmRequester
from support.libspdm_tsm import STREAM, Tsm, lock_run_and_stop
from support.spdm_exchange import attested_device
from support.trusted_io import Config, control

pytestmark = pytest.mark.long


def test_keys_lock_run_and_stop() -> None:
    with attested_device() as device:
        interface = DeviceInterface()
        Config(interface).controls(selective=control(STREAM))
        requester = LibspdmRequester(device.trusted(interface), root=device.root)
        requester.connect()
        requester.digests()
        requester.certificate()
        lock_run_and_stop(Tsm(requester))
        assert set(interface.status().values()) == {"CONFIG_UNLOCKED", "INSECURE"}
        requester.close()

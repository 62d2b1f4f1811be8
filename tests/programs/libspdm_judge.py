# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""DMTF's libspdm asks functions through their mailboxes, on a host or in a guest; a line for each.

libspdm_judge.py URI [URI ...]
"""

from __future__ import annotations

import sys

from cryptography.hazmat.primitives.serialization import Encoding

from ihsm.attest import attest
from ihsm.bus import Mailbox
from ihsm.uri import open_config
from ihsm_abi.ide import IDE_SELECTIVE_CONTROL_OFFSET
from ihsm_abi.spdm.codes import SummaryType
from ihsm_abi.spdm.measurements import decode_record
from ihsm_device import pci
from support.libspdm import LibspdmRequester
from support.libspdm_tsm import STREAM, Tsm, lock_run_and_stop
from support.trusted_io import control


def judge(uri: str) -> str:
    """Discovery, chain, challenge, measurements, sessions, keys of a stream, an interface's life; the root's hash."""
    with open_config(uri) as function:
        mailbox = Mailbox(function)
        evidence = attest(mailbox)
        requester = LibspdmRequester(mailbox, root=evidence.certificates[0].public_bytes(Encoding.DER))
        requester.connect()
        requester.digests()
        requester.certificate()
        summary = requester.challenge(SummaryType.ALL)
        assert summary == evidence.summary
        count, record = requester.measurements(raw=True)
        assert len(decode_record(record, count)) == len(evidence.blocks)
        assert requester.start_session(SummaryType.ALL) == summary
        requester.measurements()
        requester.end_session()
        stream = control(STREAM).to_bytes(4, "little")
        function.write_config(pci.IDE_POSITION + IDE_SELECTIVE_CONTROL_OFFSET, stream)
        lock_run_and_stop(Tsm(requester))
        requester.close()
    return evidence.root_fingerprint.hex()


if __name__ == "__main__":
    for each in sys.argv[1:]:
        print("judged", judge(each), flush=True)

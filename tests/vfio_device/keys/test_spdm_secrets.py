# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Secrets of a secured session: in the arena while they are needed, nowhere else, and gone with the session.

The requester, in this process, knows every one of them; the responder's process is searched for them, and for what
gives a key away: schedules, GHASH keys, states of HMAC.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from support import key_forms
from support.commanded import Commander
from support.memory_index import Index, Place, names
from support.spdm_requester import Requester
from support.trusted_io import STREAM, TrustedIo, key_prog

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root reads the memory of a process that may not be dumped"
)
KEEPS_IN_HANDSHAKE = {
    "handshake",
    "request finished",
    "response finished",
    *(f"{way} handshake {what}" for way in ("request", "response") for what in ("key", "iv")),
}
KEEPS = {f"{way} data {what}" for way in ("request", "response") for what in ("key", "iv")}


@pytest.fixture
def life() -> Iterator[Commander]:
    life = Commander("support.spdm_life")
    yield life
    life.end()


def forms(secrets: dict[str, bytes]) -> dict[str, list[bytes]]:
    """The secrets, and what follows from the keys."""
    found = {name: [value] for name, value in secrets.items()}
    for name, value in secrets.items():
        if name.endswith(" key"):
            found[f"schedule of {name}"] = key_forms.round_keys(value)[2:]  # the first two are the key
            found[f"ghash of {name}"] = key_forms.ghash_keys(value)
        elif not name.endswith(" iv"):
            found[f"hmac of {name}"] = key_forms.hmac_states(value, "sha384")
    return found


def other_end(data: bytes) -> bytes:
    """The same with another last byte."""
    return data[:-1] + bytes([data[-1] ^ 1])


class Watch:
    """A requester, and a look into the responder's memory."""

    def __init__(self, life: Commander) -> None:
        self.life = life
        self.requester = Requester(
            lambda message: bytes.fromhex(life("ask", message.hex())),
            lambda record: bytes.fromhex(life("ask_secured", record.hex())),
        )
        self.requester.negotiate()
        self.requester.read_chain()

    def expect(self, kept: set[str], outside: frozenset[str] = frozenset()) -> None:
        found = Index(forms(self.requester.secrets)).in_process(self.life.process.pid)
        assert names(found, Place.OUTSIDE) == outside, [str(hit) for hit in found if hit.place is Place.OUTSIDE]
        assert names(found, Place.ARENA) == kept
        assert names(found, Place.SHARED) == set()


def test_secrets_are_where_and_when_they_are_needed(life: Commander) -> None:
    watch = Watch(life)
    requester = watch.requester
    requester.key_exchange()
    watch.expect(KEEPS_IN_HANDSHAKE)
    requester.finish()
    watch.expect(KEEPS)
    requester.blocks()
    requester.read_chain()
    watch.expect(KEEPS)
    requester.end_session()
    watch.expect(set())
    life("plant", requester.secrets["master"].hex())
    watch.expect(set(), frozenset({"master"}))


@pytest.mark.parametrize("end", ["a reset", "a spoilt record", "a wrong proof", "a new negotiation"])
def test_secrets_go_with_their_session(life: Commander, end: str) -> None:
    watch = Watch(life)
    requester = watch.requester
    requester.key_exchange()
    if end == "a wrong proof":
        requester.secured(other_end(requester.finish_request()))
    else:
        requester.finish()
    if end == "a reset":
        life("forget")
    elif end == "a spoilt record":
        life("ask_secured", other_end(requester.seal(bytes(4))).hex())
    elif end == "a new negotiation":
        requester.version()
    watch.expect(set())


@pytest.mark.parametrize("spoil", ["nothing", "length", "version", "port"])
def test_keys_of_ide_are_nowhere(life: Commander, spoil: str) -> None:
    """They are withheld as soon as their record is open, whatever else is wrong with it; nothing keeps them."""
    watch = Watch(life)
    requester = watch.requester
    requester.open_session()
    tsm = TrustedIo(requester.secured)
    for slot in (0, 2, 0x10):
        key = os.urandom(32)
        requester.secrets[f"ide {slot} key"] = key
        request = key_prog(STREAM, slot, port=int(spoil == "port"), key=key)
        if spoil == "version":
            requester.secured(bytes([0x13]) + bytes.fromhex("fe0000 0300 02 0100 3400 00") + request)
        else:
            tsm.ide(request + bytes(spoil == "length"))
    watch.expect(KEEPS)
    life("plant", key.hex())
    watch.expect(KEEPS, frozenset({"ide 16 key"}))

# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Decoders of device-interface messages: whatever comes is refused by their own exception, or is read and written.

An input is the number of a message type, where its map begins, and the bytes of the map; or a whole request or
response.
"""

import contextlib

from harness import Values, instrument, instrumented, main

with instrumented():
    from ihsm_abi import mbor
    from ihsm_abi.ddi import decode_request, decode_request_header, decode_response_header
    from ihsm_abi.ddi.registry import OPERATIONS

MAPS = [kind for operation in OPERATIONS.values() for kind in (operation.request, operation.response)]
for _kind in MAPS:  # their codecs are made at run time
    _kind.mbor_compile()
    _kind.mbor_decoder = staticmethod(instrument(_kind.mbor_decoder))


def one_input(data: bytes) -> None:
    """One message or map."""
    values = Values(data)
    which = values.number()
    if which < 3:
        decoder = (decode_request, decode_request_header, decode_response_header)[which]
        with contextlib.suppress(mbor.MborDecodeError):
            decoder(values.rest())
        return
    kind = MAPS[(which - 3) % len(MAPS)]
    offset = values.number() % 8
    message = bytes(offset) + values.rest()
    try:
        found, end = mbor.decode(kind, message, offset)
    except mbor.MborDecodeError:
        return
    assert offset <= end <= len(message)
    # What was read is written in the canonical form, which is read as the same.
    try:
        written = mbor.encode(found, position=offset)
    except mbor.MborEncodeError:
        return
    again, size = mbor.decode(kind, bytes(offset) + written, offset)
    assert again == found
    assert size == offset + len(written)


if __name__ == "__main__":
    main(one_input)

# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A libvfio-user context with a thread that owns it, where a test needs no function behind it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

from ihsm_device import vfu
from support.waiting import ended


@contextlib.contextmanager
def owned(context: vfu.Context) -> Iterator[vfu.Context]:
    """Serve one client after the other on a thread; it ends and the context is closed behind the block."""
    stop = os.eventfd(0)

    def own() -> None:
        while context.attach(stop):
            context.run(stop)

    owner = threading.Thread(target=own, daemon=True)
    owner.start()
    yield context
    os.eventfd_write(stop, 1)
    ended(owner)
    context.close()
    os.close(stop)

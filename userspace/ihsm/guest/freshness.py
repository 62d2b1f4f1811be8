# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What a guest that lives long has to be told: which files of its images are others on the host by now."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from ihsm.guest.images import Image

SHARE_OF_TIME: Final = 50
"""After a look, nobody looks again for so many times as long: looking shall take 2 % of a processor at most."""
SHORTEST_S: Final = 1.0


class Freshness:
    """The images of one guest."""

    def __init__(
        self,
        images: Sequence[Image],
        shares: Sequence[Path] = (),
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`shares` are the host's folders that the guest has as they are: there it would write to the host's files.

        `now_s` says what time it is, in seconds.
        """
        self._images = images
        self._shares = [Path(os.path.realpath(share)) for share in shares]
        self._now_s = now_s
        self._due: dict[str, float] = {}

    @property
    def disks(self) -> tuple[tuple[str, Path], ...]:
        """Serial number and file of each."""
        return tuple((image.part.value, image.path) for image in self._images)

    def look(self) -> list[str]:
        """Files that have changed since the last look."""
        return [path for image in self._images for path in self._changed(image)]

    def look_if_due(self) -> list[str]:
        """The same, of images that nobody has looked at for a while."""
        now = self._now_s()
        due = [image for image in self._images if now >= self._due.setdefault(image.part, now + SHORTEST_S)]
        return [path for image in due for path in self._changed(image)]

    def _changed(self, image: Image) -> list[str]:
        began = self._now_s()
        # A line for each goes to the guest.
        paths = [path for path in image.changed(self._shares) if "\n" not in path]
        now = self._now_s()
        self._due[image.part] = now + max(SHORTEST_S, SHARE_OF_TIME * (now - began))
        return paths

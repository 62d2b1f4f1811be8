# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What the driver does that it had better not do, each in one row: name, section, class, default, text.

Whoever reads the driver finds `quirks.NAME` where the behaviour is. With the quirk off the model does the sane thing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class QuirkClass(StrEnum):
    """What a quirk costs."""

    VISIBLE = "visible"
    """A program or the device can see it."""
    LEAK = "leak"
    """Something is never given back."""
    FATAL = "fatal"
    """The kernel crashes; off by default."""


@dataclass(frozen=True)
class Quirk:
    """One row of the table."""

    name: str
    section: str
    """Of the specification."""
    kind: QuirkClass
    text: str

    @property
    def default(self) -> bool:
        """Fatal ones are off, all others are on."""
        return self.kind is not QuirkClass.FATAL


VISIBLE, LEAK, FATAL = QuirkClass.VISIBLE, QuirkClass.LEAK, QuirkClass.FATAL

QUIRKS: Final = (
    Quirk(
        "en_stays_after_failed_enable", "01 §4.3", VISIBLE,
        "an enable that fails while it waits for RDY leaves CC.EN at 1 and frees the admin rings",
    ),
    Quirk(
        "monitor_ends_after_failed_recovery", "01 §8.4", VISIBLE,
        "the health monitor does not run again after a recovery that failed",
    ),
    Quirk(
        "ready_before_fw_caps", "01 §8.3", VISIBLE,
        "the controller is READY before GET_FEAT 0xC2, so commands can arrive while that one is outstanding",
    ),
    Quirk(
        "full_queue_sleeps_locked", "01 §5.1", VISIBLE,
        "who finds no free tag sleeps with the submit lock held: neither the picker nor a level-1 abort gets past",
    ),
    Quirk(
        "queues_left_after_failed_create", "01 §7", VISIBLE,
        "queues that a pool had created before one failed are not deleted on the device",
    ),
    Quirk(
        "late_answer_is_no_answer", "02 A.8", VISIBLE,
        "a command that completes after its time-out, while the abort begins, has failed all the same",
    ),
    Quirk(
        "level_2_off_is_success", "02 A.10", VISIBLE,
        "a reset of a PF that may do no level 2 does nothing, and reports success",
    ),
    Quirk(
        "minor_leaks_at_level_2", "02 A.1", LEAK,
        "a level-2 abort takes another minor number and forgets the old one",
    ),
    Quirk(
        "short_header_wipes", "02 A.6", VISIBLE,
        "a session ioctl with a header that is too short writes 112 zero bytes at the caller's pointer",
    ),
    Quirk(
        "slot_check_unlocked", "02 A.3", VISIBLE,
        "two threads that open a session on one file both find its slot free; the second session is lost in the device",
    ),
    Quirk(
        "aes_returns_uncopied", "02 A.7", VISIBLE,
        "an AES ioctl that has passed its checks returns what could not be copied back, whatever became of the command",
    ),
    Quirk(
        "aes_shows_internal_code", "02 A.8", VISIBLE,
        "the extended status of an AES command that did not complete is the internal code, not the composite one",
    ),
    Quirk(
        "aes_returns_trimmed_input", "02 A.7", VISIBLE,
        "after such a failure the caller finds lengths without the tail, and no pointers where nothing else was left",
    ),
    Quirk(
        "tail_at_source_offset", "02 C.6", VISIBLE,
        "the tail goes where it stands in the source, which can be past the end of a destination that was let through",
    ),
    Quirk(
        "session_survives_reset", "02 A.10", VISIBLE,
        "a reset of the controller leaves sessions of open files as they were, and flushes them when they are closed",
    ),
    Quirk(
        "foreign_release_leaks", "02 A.3", LEAK,
        "the last close by another process than the opener's flushes no session and frees no context",
    ),
    Quirk(
        "source_pages_freed_twice", "02 A.6", LEAK,
        "a request that cannot be copied in has its pages freed twice, and those for the answer never",
    ),
    Quirk(
        "flush_deadlocks", "02 A.3", FATAL,
        "a flush that times out waits for the abort mutex, which its own release holds",
    ),
    Quirk(
        "late_completion_divides", "01 §8.3", FATAL,
        "a command that completes while level 2 frees its queue divides by a submission count that is 0 again",
    ),
    Quirk(
        "double_free_after_failed_recovery", "01 §8.3", FATAL,
        "an unbind after a failed re-initialisation frees queues and rings a second time",
    ),
    Quirk(
        "null_queue", "01 §5.3", FATAL,
        "the picker's last resort is a disabled queue: the caller follows a null pointer",
    ),
    Quirk(
        "registers_null_in_level_2", "01 §8.3", FATAL,
        "between free and re-initialisation the register pointer is null: a monitor run in that window crashes",
    ),
    Quirk(
        "tasklets_outlive_vectors", "01 §5.2", FATAL,
        "interrupt contexts are freed without stopping their tasklets: a late message makes one run over freed memory",
    ),
)  # fmt: skip


class Quirks:
    """The quirks of one build of the driver: each is an attribute, true where the model shows the behaviour."""

    def __init__(self, changes: Mapping[str, bool] | None = None) -> None:
        """Take the defaults, and what `changes` says otherwise; KeyError for a name that no quirk has."""
        self._on = {quirk.name: quirk.default for quirk in QUIRKS}
        for name, on in (changes or {}).items():
            if name not in self._on:
                raise KeyError(f"no quirk is called {name}; there are {', '.join(self._on)}")
            self._on[name] = on

    def __getattr__(self, name: str) -> bool:
        """Whether a quirk is on."""
        try:
            return self.__dict__["_on"][name]  # type: ignore[no-any-return]
        except KeyError:
            raise AttributeError(f"no quirk is called {name}") from None

# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What a guest's kernel complains of: lines of its log in, typed complaints out.

Nothing here touches a guest, so whoever has lines can ask: of /dev/kmsg (`parse_kmsg`), which says which of them are
new, or of dmesg (`parse_dmesg`). A report of many lines, such as an oops with its call trace, is one complaint. Stock
kernels print words such as "error" and "bug" on every boot; outside reports they count only in lines that name a driver
under test.

Formats: Linux, Documentation/ABI/testing/dev-kmsg, admin-guide/bug-hunting.rst, admin-guide/tainted-kernels.rst,
dev-tools/kasan.rst, dev-tools/kmemleak.rst, mm/slub.rst.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

_REPORT_LINES = 160
"""Longest report that is taken together; none of the kernel's own is longer by much."""


class Kind(StrEnum):
    """What a complaint is about."""

    PANIC = "panic"
    OOPS = "oops"
    LOCKUP = "lockup"
    HUNG_TASK = "hung task"
    ATOMIC_SLEEP = "sleep in atomic context"
    MEMORY = "memory misuse"
    SLAB = "slab corruption"
    LEAK = "memory leak"
    DMA = "DMA misuse"
    INTERRUPT = "interrupt"
    LOCKING = "locking"
    UNDEFINED = "undefined behaviour"
    BUG = "bug"
    WARNING = "warning"
    TAINT = "taint"
    DRIVER = "driver's own"


class LogLine(NamedTuple):
    """One line of the kernel's log. `level` 0 (emergency) to 7 (debug); what a source does not tell is None."""

    text: str
    sequence: int | None = None
    level: int | None = None
    time_s: float | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    """A place in code as the kernel prints it: FUNCTION+0xOFFSET/0xSIZE [MODULE].

    `returns`: the address is that of the instruction after a call, as in a call trace; not so in RIP and in headings.
    """

    function: str
    offset: int
    size: int
    module: str | None
    returns: bool

    def __str__(self) -> str:
        """As the kernel prints it."""
        return f"{self.function}+{self.offset:#x}/{self.size:#x}" + (f" [{self.module}]" if self.module else "")


@dataclass(frozen=True, slots=True)
class Complaint:
    """One thing the kernel complained of.

    `title` is the line that says it, or the message of a warning that has one, `place` the source line where the kernel
    names one itself, `frames` the reliable places in code of the report, the innermost first, `lines` the whole report.
    """

    kind: Kind
    title: str
    place: str | None = None
    frames: tuple[Frame, ...] = ()
    lines: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line."""
        return f"{self.kind}: {self.title}"

    @property
    def in_gone_code(self) -> bool:
        """Whether it has a place that the kernel knows no name of any more: a module's that was unloaded since."""
        return any(_GONE.fullmatch(line.strip()) for line in self.lines)

    def first_in(self, modules: Iterable[str]) -> Frame | None:
        """The innermost place that lies in one of the named modules."""
        names = {_canonical(name) for name in modules}
        return next((frame for frame in self.frames if frame.module and _canonical(frame.module) in names), None)


_KMSG = re.compile(r"(\d+),(\d+),(\d+),[^;]*;(.*)", re.ASCII)
_DMESG = re.compile(r"(?:<(\d+)>)?(?:\[ *(\d+\.\d+)\](?:\[ *[TC]\d+\])? ?)?(.*)", re.ASCII)
_ESCAPE = re.compile(r"\\x([0-9a-f]{2})")


def parse_kmsg(text: str) -> list[LogLine]:
    """Lines of what was read from /dev/kmsg, in order of their numbers, each once however often it was read.

    A record that was cut, and what belongs to a record but is no text, are left out.
    """
    found: dict[int, list[LogLine]] = {}
    for record in text.split("\n"):
        if not (match := _KMSG.fullmatch(record)):
            continue
        priority, sequence, micros = map(int, match.group(1, 2, 3))
        parts = _unescaped(match[4]).split("\n")
        found[sequence] = [LogLine(part, sequence, priority & 7, micros / 1e6) for part in parts]
    return [line for sequence in sorted(found) for line in found[sequence]]


def _unescaped(text: str) -> str:
    """The text of a record, in which the kernel escapes what is not printable ASCII, byte by byte."""
    if "\\x" not in text:
        return text
    parts = _ESCAPE.split(text)
    parts[1::2] = [chr(int(number, 16)) for number in parts[1::2]]
    return "".join(parts).encode("latin-1", errors="replace").decode(errors="replace")


def parse_dmesg(text: str) -> list[LogLine]:
    """Lines of a console or of `dmesg`, with or without levels (`-r`) and times."""
    lines = []
    for raw in text.splitlines():
        match = _DMESG.fullmatch(raw.rstrip("\r\n"))
        if match and match[3].strip():
            priority, time = match[1], match[2]
            lines.append(
                LogLine(match[3], None, int(priority) & 7 if priority else None, float(time) if time else None)
            )
    return lines


class Taint(NamedTuple):
    """One bit of /proc/sys/kernel/tainted; `matters` is False where it tells of what was loaded, not of a mishap."""

    letter: str
    what: str
    matters: bool


TAINTS = (
    Taint("P", "a proprietary module was loaded", False),
    Taint("F", "a module was force loaded", True),
    Taint("S", "kernel running on an out of specification system", False),
    Taint("R", "a module was force unloaded", True),
    Taint("M", "the processor reported a machine check", True),
    Taint("B", "bad page referenced, or unexpected page flags", True),
    Taint("U", "taint requested by a program", False),
    Taint("D", "the kernel died: oops or BUG", True),
    Taint("A", "an ACPI table was overridden", False),
    Taint("W", "the kernel issued a warning", True),
    Taint("C", "a staging driver was loaded", False),
    Taint("I", "workaround for a bug in the platform's firmware", False),
    Taint("O", "an out-of-tree module was loaded", False),
    Taint("E", "an unsigned module was loaded", False),
    Taint("L", "a soft lockup occurred", True),
    Taint("K", "the kernel was live patched", False),
    Taint("X", "auxiliary taint, defined by the distribution", False),
    Taint("T", "the kernel was built with struct randomisation", False),
    Taint("N", "an in-kernel test ran", False),
)


def taint_complaints(before: int, after: int) -> list[Complaint]:
    """Bits of /proc/sys/kernel/tainted that came meanwhile and tell of a mishap."""
    return [
        Complaint(Kind.TAINT, f"{taint.letter} ({taint.what})")
        for bit, taint in enumerate(TAINTS)
        if taint.matters and (after & ~before) >> bit & 1
    ]


class _Head(NamedTuple):
    """How a report begins; `end` is its last line, without one it lasts as long as lines look like a report's."""

    kind: Kind
    begins: re.Pattern[str]
    end: re.Pattern[str] | None = None


_END_TRACE = re.compile(r"---\[ end trace [0-9a-f]+ \]---")
_RULE = re.compile(r"=={19,}")
_CUT_HERE = re.compile(r"-+\[ cut here \]-+")


def _head(kind: Kind, begins: str, end: re.Pattern[str] | None = None) -> _Head:
    return _Head(kind, re.compile(begins), end)


# The first that fits decides. A prefix such as "watchdog: " is named where the kernel prints one.
_HEADS = (
    _head(Kind.PANIC, r"Kernel panic - not syncing"),
    _head(Kind.MEMORY, r"BUG: K(?:ASAN|FENCE|MSAN|CSAN): ", _RULE),
    _head(
        Kind.ATOMIC_SLEEP,
        r"BUG: (?:sleeping function called from invalid context|scheduling while atomic"
        r"|using \w+\(\) in preemptible|workqueue leaked lock or atomic)",
    ),
    _head(Kind.LOCKUP, r"(?:\w+: )?(?:BUG: soft lockup|Watchdog detected hard LOCKUP|BUG: workqueue lockup)"),
    _head(Kind.LOCKUP, r"(?:rcu: )?INFO: rcu\w* (?:self-)?detected .*stall"),
    _head(
        Kind.OOPS,
        r"(?:\w+: )?(?:BUG: (?:unable to handle|kernel NULL pointer dereference|stack guard page|TASK stack guard)"
        r"|general protection fault|kernel BUG at |Oops: |Internal error: |divide error: |invalid opcode: "
        r"|int3: |stack segment: |kernel tried to execute)",
        _END_TRACE,
    ),
    _head(Kind.SLAB, r"BUG [\w:.-]+ \([^)]*\): ", re.compile(r"FIX [\w:.-]+: |Object at .* not freed")),
    _head(Kind.SLAB, r"(?:BUG: Bad (?:page|rss-counter)|pagealloc: |Slab corruption|slab error in )"),
    _head(
        Kind.LOCKING,
        r"(?:\[ )?(?:WARNING: (?:possible |inconsistent lock state|bad (?:un|con)lock|suspicious RCU|Nested lock|"
        r"held lock freed|lock held when|[\w/: .-]+ still has locks held)"
        r"|BUG: (?:Invalid wait context|held lock freed|[\w/: .-]+ still has locks held|spinlock |rwlock )"
        r"|INFO: (?:trying to register non-static key|possible ))",
    ),
    _head(Kind.HUNG_TASK, r"INFO: task \S.*:\d+ (?:<[^>]*> )?blocked (?:for more than|in I/O wait for more than)"),
    _head(Kind.UNDEFINED, r"UBSAN: "),
    _head(Kind.LEAK, r"kmemleak: \d+ new suspected memory leaks"),
    _head(Kind.DMA, r"DMA-API: "),
    _head(Kind.DMA, r"(?:DMAR: )?\[(?:DMA|INTR)[\w -]*\] Request device|AMD-Vi: Event logged \[IO_PAGE_FAULT"),
    _head(Kind.INTERRUPT, r"(?:irq \d+: nobody cared|genirq: Flags mismatch irq|Disabling IRQ #\d)"),
    _head(Kind.WARNING, r"sysfs: cannot create duplicate filename"),
    _head(Kind.WARNING, r"WARNING: CPU: \d+ ", _END_TRACE),
    _head(Kind.WARNING, r"WARNING: .* at [\w./-]+\.[ch]:\d+", _END_TRACE),
    _head(Kind.BUG, r"(?:list_(?:add|del) corruption|BUG: )"),
)

# In a WARN() with a message it stands between the line that says "cut here" and the one that says WARNING.
_MESSAGES = ((Kind.DMA, "DMA-API: "), (Kind.MEMORY, "ODEBUG: "), (Kind.INTERRUPT, "Trying to free already-free IRQ"))

_FRAME = re.compile(r"(?<![\w.+$])([A-Za-z_][\w.$]*)\+0x([0-9a-f]+)/0x([0-9a-f]+)(?: \[(\w+)[^\]]*\])?", re.ASCII)
_AT = re.compile(r"\b(?:at|in) ([\w./+-]+\.[chS]:\d+)", re.ASCII)
_BODY = re.compile(
    r"\s|(?:CPU|Hardware name|Call Trace|Call trace|RIP|RSP|RAX|RBX|RDX|RBP|R[0-9]+|FS|CS|CR2|CR3|DR[0-9]|PKRU|Code"
    r"|EFLAGS|Modules linked in|Workqueue|Stack|Preemption disabled at|in_atomic\(\)|preempt_count|RCU nest depth"
    r"|INFO: lockdep|irq event stamp|hardirqs last|softirqs last|task:|\d+ locks? held by|no locks held by|but |which "
    r"|and |the |other |locks held|stack backtrace|Possible |Chain exists|page:|flags:|raw:|Comm|handlers:|Sending NMI"
    r"|Mem abort|Allocated by|Freed by|Last potentially|Slab |Object |Redzone |Padding |Bytes b4|Read of|Write of"
    r"|Allocated in|Freed in|\"echo 0 >|Memory state|The buggy|Disabled at|note:|#PF: |PGD |Oops|SMP|PREEMPT"
    r"|sq |irq |\[<|0x[0-9a-f]+|>|<|---|={10}|\* |- |-> |#[0-9])"
)

_BRACKETS = re.compile(r"\[ (.*) \]")
_HARMLESS = re.compile(r"\w+: module verification failed: signature and/or required key missing")
"""What the kernel says of every module that its distribution has not built."""
_DRIVER_WORDS = re.compile(r"(?<![A-Za-z])(?:error|fail|panic|oops|bug)", re.IGNORECASE)


def find_complaints(lines: Sequence[LogLine], drivers: Iterable[str] = ()) -> list[Complaint]:
    """What the kernel complains of in `lines`, in order; `drivers` are names of modules or drivers under test."""
    names = [re.compile(rf"(?<![A-Za-z0-9])(?:{_either(name)})(?![A-Za-z])") for name in drivers if name]
    found: list[Complaint] = []
    texts = [line.text.rstrip() for line in lines]
    index = 0
    while index < len(texts):
        if heading := _heading(texts, index):
            report, length = heading
            found.append(report)
            index += length
            continue
        text = texts[index]
        if not _HARMLESS.match(text) and any(_says_it(text, name) for name in names):
            found.append(Complaint(Kind.DRIVER, text.strip(), _place(text), (), (text,)))
        index += 1
    return found


def _says_it(text: str, name: re.Pattern[str]) -> bool:
    """Whether a line names the driver, and says one of the words besides: they may be part of the name."""
    rest, count = name.subn(" ", text)
    return count > 0 and _DRIVER_WORDS.search(rest) is not None


def _either(name: str) -> str:
    """A module's name, whose dashes the kernel writes as underscores, in either way."""
    return "[-_]".join(map(re.escape, re.split(r"[-_]", name)))


def _canonical(module: str) -> str:
    return module.replace("-", "_")


def _heading(texts: Sequence[str], index: int) -> tuple[Complaint, int] | None:
    """The report that begins at `index`, and how many lines it has."""
    start, message = index, ""
    if _CUT_HERE.fullmatch(texts[index].strip()):
        # A message of several lines is rare; its first says it.
        for ahead in range(index + 1, min(index + 6, len(texts))):
            if head := _which(texts[ahead]):
                if head.end is not _END_TRACE:
                    continue
                message = texts[index + 1].strip() if ahead > index + 1 else ""
                return _report(texts, start, ahead, head, message)
        return None
    head = _which(texts[index])
    return _report(texts, start, index, head, message) if head else None


def _which(text: str) -> _Head | None:
    stripped = text.strip()
    return next((head for head in _HEADS if head.begins.match(stripped)), None)


def _report(texts: Sequence[str], start: int, at: int, head: _Head, message: str) -> tuple[Complaint, int]:
    end = _end(texts, at, head)
    lines = tuple(texts[start:end])
    kind = next((kind for kind, sign in _MESSAGES if message.startswith(sign)), head.kind)
    title = _BRACKETS.sub(r"\1", texts[at].strip())
    return Complaint(kind, message or title, _place(texts[at]), tuple(_frames(lines)), lines), end - start


def _end(texts: Sequence[str], at: int, head: _Head) -> int:
    """Index after the report's last line."""
    limit = min(len(texts), at + _REPORT_LINES)
    if head.end is not None:
        for index in range(at + 1, limit):
            if head.end.match(texts[index].strip()):
                return index + 1
            if _CUT_HERE.fullmatch(texts[index].strip()):
                break
    index = at + 1
    while index < limit and _BODY.match(texts[index] or " ") and not _begins_another(texts[index], head):
        index += 1
    return index


def _begins_another(text: str, head: _Head) -> bool:
    """Whether a line among what looks like a report's is the heading of the next one."""
    other = _which(text)
    return bool(_CUT_HERE.fullmatch(text.strip())) or (
        other is not None and not (head.kind is Kind.OOPS and other.kind is Kind.OOPS)
    )


def _place(text: str) -> str | None:
    match = _AT.search(text)
    return match[1] if match else None


def _frames(lines: Iterable[str]) -> Iterator[Frame]:
    """Reliable places in code: what a call trace marks with '?' was only lying on the stack.

    Where the locks that are held were taken is no part of how the code came here.
    """
    for line in lines:
        if _HELD.match(line.strip()):
            continue
        for match in _FRAME.finditer(line):
            if line[: match.start()].rstrip().endswith("?"):
                continue
            ahead = line[: match.start()].strip()
            returns = not ahead or ahead.endswith("]")
            yield Frame(match[1], int(match[2], 16), int(match[3], 16), match[4], returns)


_HELD = re.compile(r"#\d+: ")
_GONE = re.compile(r"\[<[0-9a-f]+>\] 0x[0-9a-f]+", re.ASCII)
_LEAK = re.compile(r"unreferenced object (0x[0-9a-f]+) \(size (\d+)\)")


def parse_kmemleak(text: str) -> list[Complaint]:
    """Objects that /sys/kernel/debug/kmemleak lists, each a complaint."""
    found: list[Complaint] = []
    lines = text.splitlines()
    starts = [index for index, line in enumerate(lines) if _LEAK.match(line)]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=False):
        match = _LEAK.match(lines[start])
        assert match
        report = tuple(line for line in lines[start:end] if line.strip())
        frames = tuple(frame for line in report if "+0x" in line for frame in _frames([line.split("] ", 1)[-1]]))
        found.append(Complaint(Kind.LEAK, f"unreferenced object of {match[2]} bytes", None, frames, report))
    return found

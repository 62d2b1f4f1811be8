# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What a driver knows of its function at a point of a recording: rules look at it, records move it on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from ihsm.trace.commands import AdminCommand, Answer, admin_command, answer, command_id
from ihsm.trace.records import (
    Completion,
    Connect,
    Disconnect,
    DmaMap,
    DmaUnmap,
    Doorbell,
    Entry,
    FaultHit,
    Interrupt,
    Lost,
    Queue,
    RegisterAccess,
    RegisterRead,
    RegisterWrite,
    Reset,
    Start,
)
from ihsm.trace.rules.memory import Extent, Mapping, Mappings, named_by
from ihsm.trace.rules.queues import Completions, Pair, Submission, ahead, pair_of
from ihsm.trace.rules.seen import Limits, Seen, added_by
from ihsm_abi.admin import ADMIN_CQE, AdminOpcode, CreateCqDw11, FeatureDw10, QueueCounts
from ihsm_abi.pci import ADMIN_VECTOR, Bar
from ihsm_abi.registers import GONE, NSSR_MAGIC, Aqa, Cc, Csts, Register
from ihsm_abi.resources import ADMIN_QUEUE_ID
from ihsm_abi.trace import DoorbellKind, LostWhere, TraceReset

DELETES: Final = (AdminOpcode.DELETE_SQ, AdminOpcode.DELETE_CQ)
RING_REGISTERS: Final = (Register.AQA, Register.ASQ, Register.ACQ)


@dataclass(frozen=True, slots=True)
class Suspect:
    """Memory that was unmapped while the device could use it.

    Of a command it is permitted if that ends by a disable at once; and a client that goes away unmaps all it has.
    """

    unmap: Seen
    given: Seen
    """What gave it to the device."""
    extent: Extent


class FunctionState:
    """One function; what is not known is None. Rules look at it before it takes the record that they judge."""

    def __init__(self, limits: Limits) -> None:
        """Before the first record: of a controller that nobody has enabled."""
        self.limits = limits
        self.certain = True
        """All that the function went through since it was last reset or disabled is in the recording."""
        self.began_late = False
        """The controller was enabled before the recording began: how it was brought up is not known."""
        self.mappings_known = False
        """All that is reachable has been mapped in the recording."""
        self.mappings = Mappings()
        self.shared_mappings = False
        """Rings share mappings, so that nothing can be said of single ones."""
        self.pairs: dict[int, Pair] = {}
        self.gone: dict[int, Pair] = {}
        """Pairs that ended with the last disable, until CSTS was read: whether the device is done with them is not
        known before; what one that does not become ready still does is not the driver's fault."""
        self.alive = False
        """CC.EN is set, and nothing has taken that back."""
        self.changed: Seen | None = None
        """What made it so."""
        self.reset_unseen = False
        """It was reset by somebody else, of which the driver need not have been told."""
        self.settled = False
        """CSTS.RDY has been read as it must be since then."""
        self.csts: Seen | None = None
        """The last read of CSTS since then."""
        self.has_gone = False
        """CC or CSTS was read as all ones, and not otherwise since."""
        self.fatal: Seen | None = None
        """The first read of CSTS.CFS of a controller that had become ready."""
        self.cc: int | None = None
        """As last written or read."""
        self.written: dict[Register, int] = {}
        """Registers of the admin rings as written since the last enable, or known from then."""
        self.fresh: dict[Register, Seen] = {}
        """Those written since the last enable."""
        self.identified: Seen | None = None
        self.granted: dict[int, int] = {}
        """Queue pairs that there are, by feature; once told, it is known until the client goes."""
        self.commands: dict[int, tuple[Seen, AdminCommand]] = {}
        """Admin commands that were fetched and not answered, by command id."""
        self.moved: Seen | None = None
        """The last mark that added time: the driver has a clock that somebody moves."""
        self.deleting: Seen | None = None
        """When a DELETE_SQ or DELETE_CQ was last sent or answered."""
        self.driven = False
        """A register has been read since the client came: the driver works."""
        self.deleted = False
        """All I/O queues there were have been deleted, as they are when a driver leaves."""
        self.torn_down: Seen | None = None
        """The disable of a controller whose queues had all been deleted."""
        self.suspects: list[Suspect] = []
        """Of commands."""
        self.ring_suspects: list[Suspect] = []

    # What rules ask for.

    def pair(self, queue: int) -> Pair | None:
        """A pair of which the driver was told that it is there."""
        return self.pairs.get(queue)

    def live_rings(self) -> list[tuple[Extent, Seen]]:
        """Ring memory that the device may use, with what gave it to it."""
        pairs = (*self.pairs.values(), *self.gone.values())
        return [(Extent(name, iova, size), seen) for pair in pairs for name, iova, size, seen in pair.rings()]

    def memory_in_use(self) -> list[tuple[Extent, Seen]]:
        """Memory that commands name which were not answered."""
        found = []
        for pair in self.pairs.values():
            for seen in pair.outstanding.values():
                assert isinstance(seen.record, Entry)
                found += [(extent, seen) for extent in named_by(pair.id, seen.record.data)]
        return found

    def passed_s(self, since: Seen, until: Seen) -> float:
        """Seconds between two records that have certainly passed for the driver between them.

        A mark and what a driver does come to the device by two ways: what it did before its clock was moved may be
        recorded behind the mark, so the last one does not count.
        """
        is_between = self.moved is not None and since.number < self.moved.number <= until.number
        return until.at_s - since.at_s - (added_by(self.moved.record) if self.moved and is_between else 0.0)

    # What records do.

    def follow(self, seen: Seen) -> None:
        """Take a record."""
        match seen.record:
            case RegisterAccess(region=Bar.REGISTERS):
                self._accessed(seen, seen.record)
            case Doorbell():
                self._rung(seen, seen.record)
            case Entry():
                self._fetched(seen, seen.record)
            case Completion():
                self._answered(seen)
            case Interrupt():
                self._interrupted(seen, seen.record)
            case DmaMap(iova=iova, size=size):
                self.mappings.add(Mapping(iova, size, seen, own=self.driven))
            case DmaUnmap(iova=iova, size=size):
                self._unmapped(seen, iova, size)
            case Reset():
                self._reset(seen, seen.record)
            case Connect() | Disconnect():
                self._connection(seen)
            case FaultHit(queue=int(queue)) if queue == ADMIN_QUEUE_ID and queue in self.pairs:
                self.pairs[queue].faulty.update(self.pairs[queue].outstanding)
            case Lost(where=LostWhere()):
                self.certain = self.mappings_known = False
            case Start(ready=ready):
                self._started(seen, ready)
            case Queue():
                self.pairs[seen.record.queue] = pair_of(seen, seen.record)

    def _started(self, seen: Seen, ready: int) -> None:
        """Recording begins: queues that there are follow."""
        self._end(seen)
        self.alive = self.settled = self.began_late = bool(ready)
        self.mappings_known = False
        self.mappings.clear()

    def _accessed(self, seen: Seen, access: RegisterAccess) -> None:
        if isinstance(access, RegisterRead):
            self.driven = True
            self._read(seen, access)
        elif isinstance(access, RegisterWrite) and not self.has_gone:
            self._written(seen, access)

    def _read(self, seen: Seen, access: RegisterRead) -> None:
        if access.offset not in (Register.CC, Register.CSTS):
            return
        self.has_gone = access.value == GONE
        if self.has_gone:
            # Whether it has what is written now nobody knows.
            self.certain = False
            self.gone.clear()
            if access.offset == Register.CSTS:
                self.fatal = self.fatal or (seen if self.settled else None)
        elif access.offset == Register.CSTS:
            self._read_csts(seen, Csts(access.value))
        else:
            self.cc = access.value
            if self.alive and not Cc(access.value).en:
                self._end(seen)

    def _read_csts(self, seen: Seen, csts: Csts) -> None:
        self.csts = seen
        if csts.cfs and self.settled and self.alive and self.fatal is None:
            self.fatal = seen
        if not self.alive:
            self.gone.clear()
        if csts.rdy == self.alive:
            self.settled = True

    def _written(self, seen: Seen, access: RegisterWrite) -> None:
        for register in RING_REGISTERS:
            part = access.offset - register
            if 0 <= part < register.width:
                mask = ((1 << 8 * access.width) - 1) << 8 * part
                old = self.written.get(register, 0)
                self.written[register] = (old & ~mask | access.value << 8 * part) & ((1 << 8 * register.width) - 1)
                self.fresh[register] = seen
        if access.offset == Register.CC:
            self.cc = access.value
            self._configured(seen, Cc(access.value))
        elif access.offset == Register.NSSR and access.value == NSSR_MAGIC:
            self._end(seen)

    def _configured(self, seen: Seen, cc: Cc) -> None:
        if not cc.en:
            self.torn_down = seen if self.deleted else None
            self._end(seen)
        elif not self.alive:
            self._end(seen)
            self.alive, self.settled, self.deleted = True, False, False
            self.torn_down = None
            aqa = Aqa(self.written[Register.AQA]) if Register.AQA in self.written else None
            asq, acq = self.written.get(Register.ASQ), self.written.get(Register.ACQ)
            self.pairs[ADMIN_QUEUE_ID] = Pair(
                ADMIN_QUEUE_ID,
                Submission(aqa.asqs + 1 if aqa is not None else None, asq, seen),
                Completions(aqa.acqs + 1 if aqa is not None else None, acq, ADMIN_VECTOR, seen),
            )
            self.fresh.clear()

    def _end(self, seen: Seen) -> None:
        """Queues and commands are gone, by whatever `seen` is."""
        self.gone.update(self.pairs)
        for pair in self.gone.values():
            pair.outstanding.clear()
        self.pairs = {}
        self.commands.clear()
        self.suspects.clear()
        self.identified = self.fatal = self.csts = None
        self.alive = self.settled = self.began_late = self.reset_unseen = False
        self.changed = seen
        self.certain = True

    def _rung(self, seen: Seen, doorbell: Doorbell) -> None:
        pair = self.pairs.get(doorbell.queue) if doorbell.queue is not None else None
        if pair is None:
            return
        if doorbell.which == DoorbellKind.SQ_TAIL and pair.sq is not None:
            ring = pair.sq
            if ring.entries and ring.tail is not None and doorbell.value < ring.entries:
                ring.unfetched += ahead(ring.tail, doorbell.value, ring.entries)
                ring.tail = doorbell.value
            ring.rung = seen
        elif doorbell.which == DoorbellKind.CQ_HEAD and pair.cq is not None:
            if pair.cq.entries is None or doorbell.value < pair.cq.entries:
                pair.cq.advance(doorbell.value)
            pair.cq.rung = seen
            pair.settle(seen)

    def _fetched(self, seen: Seen, entry: Entry) -> None:
        pair = self.pairs.get(entry.queue)
        cid = command_id(entry.queue, entry.data)
        if pair is None or pair.sq is None or cid is None:
            return
        pair.sq.unfetched = max(0, pair.sq.unfetched - 1)
        pair.outstanding[cid] = seen
        pair.used = True
        pair.faulty.discard(cid)
        pair.settle(seen)
        command = admin_command(entry.data) if entry.queue == ADMIN_QUEUE_ID else None
        if command is not None:
            self.commands[cid] = seen, command
            self._deleting(seen, command)

    def _deleting(self, seen: Seen, command: AdminCommand) -> None:
        """A queue's end begins when the device has the command."""
        if command.opcode in DELETES:
            self.deleting = seen
        pair = self.pairs.get(command.queue.id)
        if command.opcode == AdminOpcode.DELETE_SQ and pair is not None and pair.sq is not None:
            pair.sq.deleting = pair.last_delete = seen
            pair.last_idle = pair.idle_since
            pair.idle_s = self.passed_s(pair.idle_since, seen) if pair.idle_since is not None else 0.0
            if pair.cq is not None:
                pair.cq.signalled = None
        elif command.opcode == AdminOpcode.DELETE_CQ and pair is not None and pair.cq is not None:
            pair.cq.deleting = seen

    def _answered(self, completion: Seen) -> None:
        assert isinstance(completion.record, Completion)
        pair = self.pairs.get(completion.record.queue)
        if pair is None or pair.cq is None or answer(pair.id, completion.record.data) is None:
            return
        for seen in pair.cq.post(completion):
            assert isinstance(seen.record, Completion)
            data = seen.record.data
            found = answer(pair.id, data)
            assert found is not None
            pair.outstanding.pop(found.cid, None)
            if pair.sq is not None:
                pair.sq.told_head = found.sqhd
            if pair.id == ADMIN_QUEUE_ID and found.cid in self.commands:
                fetched, command = self.commands.pop(found.cid)
                if command.opcode in DELETES:
                    self.deleting = seen
                self._carried_out(fetched, command, found, int(np.frombuffer(data, ADMIN_CQE)["dw0"][0]))

    def _carried_out(self, fetched: Seen, command: AdminCommand, found: Answer, dw0: int) -> None:
        """What an admin command has changed, now that the driver is told."""
        if found.psf.status:
            return
        number = command.queue.id
        match command.opcode:
            case AdminOpcode.IDENTIFY:
                self.identified = fetched
            case AdminOpcode.SET_FEATURES:
                counts = QueueCounts(dw0)
                self.granted[FeatureDw10(command.dw10).feat_id] = (min(counts.sqs, counts.cqs) + 1) & 0xFFFF
            case AdminOpcode.CREATE_CQ:
                dw11 = CreateCqDw11(command.dw11)
                vector = dw11.ivec if dw11.ien else None
                pair = self.pairs.setdefault(number, Pair(number))
                pair.cq = Completions(command.queue.size + 1, command.prp1, vector, fetched)
                self._laid(command.prp1)
            case AdminOpcode.CREATE_SQ:
                pair = self.pairs.setdefault(number, Pair(number))
                pair.sq = Submission(command.queue.size + 1, command.prp1, fetched)
                pair.outstanding.clear()
                pair.used, pair.idle_since = False, None
                self._laid(command.prp1)
            case AdminOpcode.DELETE_SQ if number in self.pairs:
                self.pairs[number].sq = None
                self.pairs[number].outstanding.clear()
            case AdminOpcode.DELETE_CQ if number in self.pairs:
                del self.pairs[number]
                self.deleted = set(self.pairs) == {ADMIN_QUEUE_ID}

    def _laid(self, iova: int) -> None:
        """A ring is there from now on."""
        self.deleted = False
        places = [extent.iova for extent, _ in self.live_rings()]
        for mapping in self.mappings.overlapping(iova, 1):
            inside = {place for place in places if mapping.iova <= place < mapping.iova + mapping.size}
            self.shared_mappings |= len(inside) > 1

    def _interrupted(self, seen: Seen, interrupt: Interrupt) -> None:
        if not interrupt.delivered:
            return
        for pair in self.pairs.values():
            ring = pair.cq
            if ring is None or ring.vector != interrupt.vector:
                continue
            ring.quiet = 0
            is_leaving = pair.sq is None or pair.sq.deleting is not None
            if ring.waiting and ring.signalled is None and not is_leaving:
                ring.signalled = seen
            pair.settle(seen)

    def _unmapped(self, seen: Seen, iova: int, size: int) -> None:
        for found, named in ((self.suspects, self.memory_in_use()), (self.ring_suspects, self.live_rings())):
            found += [Suspect(seen, given, extent) for extent, given in named if extent.overlaps(iova, size)]
        self.mappings.remove(iova, size)

    def _reset(self, seen: Seen, reset: Reset) -> None:
        was_alive = self.alive
        self._end(seen)
        self.gone.clear()
        self.written.clear()
        self.fresh.clear()
        self.cc = 0
        self.reset_unseen = was_alive
        if reset.reset == TraceReset.DEVICE:
            self.torn_down = None

    def _connection(self, seen: Seen) -> None:
        """A client has come or gone: nothing of the one before is left."""
        self._end(seen)
        self.gone.clear()
        self.written.clear()
        self.fresh.clear()
        self.mappings.clear()
        self.mappings_known = True
        self.shared_mappings = False
        self.granted.clear()
        self.suspects.clear()
        self.ring_suspects.clear()
        self.cc, self.torn_down, self.driven, self.deleted = None, None, False, False

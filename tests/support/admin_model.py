# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What an emulated VF must answer to admin commands: spec 01 §14.4 read once more, in numbers, for comparison."""

from __future__ import annotations

from dataclasses import dataclass, field

OK, BAD_OPCODE, BAD_FIELD, DATA_ERROR, INTERNAL = 0, 0x4001, 0x4002, 0x4004, 0x4007
BAD_CQ, BAD_QUEUE, BAD_SIZE, BAD_VECTOR, BAD_DELETE = 0x4100, 0x4101, 0x4102, 0x4108, 0x410C


@dataclass
class AdminModel:
    """The queues of a function with `resources` resources and controller id `ctrl_id`."""

    resources: int
    ctrl_id: int
    mapped: range
    cqs: set[int] = field(default_factory=set)
    sqs: set[int] = field(default_factory=set)

    def forget(self) -> None:
        self.cqs.clear()
        self.sqs.clear()

    def id_status(self, number: int) -> int:
        """Range first, then what the function owns; 0 is the caller's affair."""
        if number < 256:
            last, owned = 65, 1 <= number <= self.resources
        else:
            last, owned = 385, number < 256 + 2 * self.resources
        return BAD_QUEUE if number > last else OK if owned else INTERNAL

    def answer(self, opcode: int, dw10: int, dw11: int, prp1: int) -> tuple[int, int]:
        """Status and dw0."""
        low, high = dw10 & 0xFFFF, dw10 >> 16
        match opcode:
            case 0x06:
                return INTERNAL if prp1 == 0 else OK if prp1 in self.mapped else DATA_ERROR, 0
            case 0x09 | 0x0A:
                return self.feature(opcode, dw10 & 0xFF)
            case 0x05:
                return self.create_cq(low, high, dw11), 0
            case 0x01:
                return self.create_sq(low, high, dw11), 0
            case 0x00:
                return self.delete_sq(low), 0
            case 0x04:
                return self.delete_cq(low), 0
            case 0xC4:
                if dw10 > 64:
                    return BAD_FIELD, 0
                return OK, self.resources if dw10 == self.ctrl_id else 0
            case 0xC5 | 0xC6 | 0xC7 | 0xC8 | 0xC9:
                return BAD_FIELD, 0
        return BAD_OPCODE, 0

    def feature(self, opcode: int, number: int) -> tuple[int, int]:
        hsm, aes = self.resources - 1, 2 * self.resources - 1
        answers = {0x07: hsm << 16 | hsm, 0xC1: aes << 16 | aes}
        if opcode == 0x0A:
            answers[0xC2] = 1
        return (OK, answers[number]) if number in answers else (BAD_OPCODE, 0)

    def create_cq(self, number: int, size: int, dw11: int) -> int:
        physical, interrupts, vector = dw11 & 1, dw11 >> 1 & 1, dw11 >> 16
        if not physical:
            return INTERNAL
        if size == 0:
            return BAD_SIZE
        if number == 0:
            return BAD_QUEUE
        if interrupts and not (1 <= vector <= 15 if number < 256 else 16 <= vector <= 31):
            return BAD_VECTOR
        if status := self.id_status(number):
            return status
        if number in self.cqs:
            return INTERNAL
        self.cqs.add(number)
        return OK

    def create_sq(self, number: int, size: int, dw11: int) -> int:
        physical, cqid = dw11 & 1, dw11 >> 16
        if not physical:
            return INTERNAL
        if size == 0:
            return BAD_SIZE
        if cqid == 0:
            return BAD_CQ
        if number == 0:
            return BAD_QUEUE
        if status := self.id_status(cqid):
            return status
        if cqid not in self.cqs:
            return INTERNAL
        if status := self.id_status(number):
            return status
        if number in self.sqs or number not in self.cqs:
            return INTERNAL
        self.sqs.add(number)
        return OK

    def delete_sq(self, number: int) -> int:
        if number == 0:
            return BAD_QUEUE
        if status := self.id_status(number):
            return status
        if number not in self.sqs:
            return INTERNAL
        self.sqs.remove(number)
        return OK

    def delete_cq(self, number: int) -> int:
        if number == 0:
            return BAD_QUEUE
        if status := self.id_status(number):
            return status
        if number in self.sqs:
            return BAD_DELETE
        if number not in self.cqs:
            return INTERNAL
        self.cqs.remove(number)
        return OK

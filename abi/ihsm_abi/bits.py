# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Bit fields of registers and packed words: declared as class attributes, read and replaced by name."""

from __future__ import annotations

from typing import ClassVar, Self, overload


class Bits:
    """Bits `low` to `low + width - 1` of a `Word`."""

    __slots__ = ("low", "mask", "name")

    def __init__(self, low: int, width: int = 1) -> None:
        """Declare a field; bit 0 is the least significant."""
        self.low = low
        self.mask = (1 << width) - 1
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        """Remember the attribute's name for messages."""
        self.name = name

    @overload
    def __get__(self, word: None, owner: type) -> Bits: ...
    @overload
    def __get__(self, word: int, owner: type) -> int: ...
    def __get__(self, word: int | None, owner: type) -> Bits | int:
        """Value of the field in `word`, or the declaration itself when asked of the class."""
        return self if word is None else (word >> self.low) & self.mask

    def insert(self, word: int, value: int) -> int:
        """`word` with this field set to `value`; ValueError if the value does not fit."""
        if not 0 <= value <= self.mask:
            raise ValueError(f"{self.name}: {value:#x} exceeds the field's maximum {self.mask:#x}")
        return (word & ~(self.mask << self.low)) | (value << self.low)


class Word(int):
    """An integer with named bit fields."""

    _declared: ClassVar[dict[str, Bits]] = {}

    def __init_subclass__(cls) -> None:
        """Collect the fields, those of the base first."""
        own = {name: value for name, value in vars(cls).items() if isinstance(value, Bits)}
        cls._declared = cls._declared | own

    @classmethod
    def of(cls, **fields: int) -> Self:
        """Word with the given fields set and all other bits 0."""
        return cls._with(0, fields)

    def replace(self, **fields: int) -> Self:
        """Copy with the given fields changed."""
        return self._with(self, fields)

    @classmethod
    def _with(cls, word: int, fields: dict[str, int]) -> Self:
        for name, value in fields.items():
            declaration = cls._declared.get(name)
            if declaration is None:
                raise TypeError(f"{cls.__name__} has no field {name}")
            word = declaration.insert(word, value)
        return cls(word)

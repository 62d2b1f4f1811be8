# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Files of traces: another implementation reads ours, ours reads what others make, and nothing breaks on damage."""

import io
import struct

import pcapng
import pcapng.blocks
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ihsm.errors import TraceCutError, TraceError
from ihsm.trace.pcapng import LINKTYPE_EXPORTED_PDU, PcapngWriter, read_file, write_file
from ihsm.trace.records import Mark, Record
from support.trace_records import RECORDS


def written(records: list[Record]) -> bytes:
    file = io.BytesIO()
    write_file(file, records)
    return file.getvalue()


@given(st.lists(RECORDS, max_size=6))
def test_what_is_written_is_read(records: list[Record]) -> None:
    packets = list(read_file(io.BytesIO(written(records))))
    assert [packet.record for packet in packets] == records
    assert [packet.number for packet in packets] == list(range(1, len(records) + 1))
    assert [packet.interface for packet in packets] == [f"function {record.function}" for record in records]


@pytest.mark.filterwarnings("ignore:Field type should not be")
@given(st.lists(RECORDS, min_size=1, max_size=6))
def test_a_second_implementation_reads_it(records: list[Record]) -> None:
    blocks = list(pcapng.FileScanner(io.BytesIO(written(records))))
    interfaces = [block for block in blocks if isinstance(block, pcapng.blocks.InterfaceDescription)]
    packets = [block for block in blocks if isinstance(block, pcapng.blocks.EnhancedPacket)]
    assert {interface.link_type for interface in interfaces} == {LINKTYPE_EXPORTED_PDU}
    assert {interface.options["if_tsresol"] for interface in interfaces} == {b"\x09"}
    names = [interfaces[packet.interface_id].options["if_name"] for packet in packets]
    assert names == [f"function {record.function}" for record in records]
    assert [(packet.timestamp_high << 32) + packet.timestamp_low for packet in packets] == [
        record.time_ns for record in records
    ]
    for packet, record in zip(packets, records, strict=True):
        tag, length = struct.unpack(">HH", packet.packet_data[:4])
        assert (tag, packet.packet_data[4 : 4 + length], packet.packet_data[8:12]) == (12, b"ihsm", bytes(4))
        assert packet.packet_data[12:] == record.encode()


@given(st.lists(RECORDS, max_size=4), st.data())
def test_a_cut_file_gives_what_is_whole(records: list[Record], data: st.DataObject) -> None:
    whole = written(records)
    length = data.draw(st.integers(0, len(whole)))
    found = []
    try:
        for packet in read_file(io.BytesIO(whole[:length])):
            found.append(packet.record)
        error = None
    except TraceError as raised:
        error = raised
    assert found == records[: len(found)]
    if length == len(whole):
        assert error is None
        assert found == records
    elif length >= 4:
        assert error is None or isinstance(error, TraceCutError)


@given(st.lists(RECORDS, max_size=4), st.data())
def test_damage_is_told_or_harmless(records: list[Record], data: st.DataObject) -> None:
    whole = bytearray(written(records))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        for _ in read_file(io.BytesIO(whole)):
            pass
    except TraceError:
        pass


@given(st.binary(max_size=200))
def test_what_is_no_trace_is_refused(data: bytes) -> None:
    with pytest.raises(TraceError):
        list(read_file(io.BytesIO(data)))


class Dribble(io.BytesIO):
    """A pipe that gives a few bytes at a time."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(min(3, size) if size is not None and size >= 0 else 3)


def test_a_pipe_that_gives_little_at_a_time() -> None:
    records = [Mark(time_ns=1, text="one"), Mark(time_ns=2, text="two")]
    assert [packet.record for packet in read_file(Dribble(written(list(records))))] == records


def _big_endian(record: Record, *, link_type: int = LINKTYPE_EXPORTED_PDU, tags: bytes | None = None) -> bytes:
    """A file as a big-endian machine writes it, with blocks and options that ours has not."""

    def block(kind: int, content: bytes) -> bytes:
        content += b"\0" * (-len(content) % 4)
        length = struct.pack(">I", len(content) + 12)
        return struct.pack(">I", kind) + length + content + length

    data = (struct.pack(">HH4sHH", 12, 4, b"ihsm", 0, 0) if tags is None else tags) + record.encode()
    comment = struct.pack(">HH4sHH", 1, 3, b"abc", 0, 0)
    return (
        block(0x0A0D0D0A, struct.pack(">IHHq", 0x1A2B3C4D, 1, 0, -1) + comment)
        + block(1, struct.pack(">HHI", link_type, 0, 0) + struct.pack(">HH4sHH", 2, 3, b"eth", 0, 0))
        + block(5, bytes(16))
        + block(6, struct.pack(">IIIII", 0, 0, 5, len(data), len(data)) + data)
    )


def test_files_of_other_programs() -> None:
    record = Mark(time_ns=7, text="here")
    (packet,) = read_file(io.BytesIO(_big_endian(record)))
    assert (packet.interface, packet.record, packet.number) == ("eth", record, 1)
    tags = struct.pack(">HH8sHH4sHH", 33, 8, b"whatever", 12, 4, b"ihsm", 0, 0)
    (packet,) = read_file(io.BytesIO(_big_endian(record, tags=tags)))
    assert packet.record == record


def test_packets_of_others_are_passed_over() -> None:
    record = Mark(text="here")
    assert list(read_file(io.BytesIO(_big_endian(record, link_type=1)))) == []
    tags = struct.pack(">HH4sHH", 12, 4, b"tcp\0", 0, 0)
    assert list(read_file(io.BytesIO(_big_endian(record, tags=tags)))) == []


def test_sections_one_after_the_other() -> None:
    first, second = Mark(text="first", function=1), Mark(text="second", function=2)
    packets = list(read_file(io.BytesIO(written([first]) + written([second]))))
    assert [(packet.number, packet.record) for packet in packets] == [(1, first), (2, second)]


def test_a_batch_is_one_write_and_one_flush() -> None:
    class Counting(io.BytesIO):
        calls: list[str]

        def write(self, data: object) -> int:
            self.calls.append("write")
            return super().write(data)  # type: ignore[arg-type]

        def flush(self) -> None:
            self.calls.append("flush")

    file = Counting()
    file.calls = []
    writer = PcapngWriter(file)
    interface = writer.add_interface("function 0")
    file.calls.clear()
    writer.write((interface, Mark(text=str(number)).encode()) for number in range(10))
    assert file.calls == ["write", "flush"]
    assert len(list(read_file(io.BytesIO(file.getvalue())))) == 10

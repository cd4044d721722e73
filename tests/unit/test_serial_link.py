"""Frames of the serial protocol, and requests over lines that lose and damage them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec.compiler.core.errors import DeviceError
from edgec.runtime.devices.serial_link import (
    CHUNK_BYTES,
    HELLO,
    READ,
    RUN,
    WRITE,
    SerialLink,
    cobs_decode,
    cobs_encode,
    frame,
    unframe,
)

ANSWER, REFUSED = 0x80, 0xFF


@given(st.binary(max_size=1200) | st.integers(0, 600).map(lambda n: b"\x01" * n))
def test_cobs_has_no_zero_and_comes_back(data: bytes) -> None:
    coded = cobs_encode(data)
    assert 0 not in coded and cobs_decode(coded) == data
    assert len(coded) <= len(data) + 1 + len(data) // 254


@pytest.mark.parametrize(
    ("data", "coded"),
    [
        (b"", b"\x01"),
        (b"\0", b"\x01\x01"),
        (b"\x11\x22\0\x33", b"\x03\x11\x22\x02\x33"),
        (b"\x11\0\0\0", b"\x02\x11\x01\x01\x01"),
        (bytes(range(1, 255)), b"\xff" + bytes(range(1, 255))),
        (bytes(range(255)), b"\x01\xff" + bytes(range(1, 255))),
        (bytes(range(1, 256)), b"\xff" + bytes(range(1, 255)) + b"\x02\xff"),
    ],
)
def test_cobs_as_published(data: bytes, coded: bytes) -> None:
    """The examples of Cheshire and Baker, 1999, as they are commonly given."""
    assert cobs_encode(data) == coded


@pytest.mark.parametrize("data", [b"\x05\x01", b"\x02\x00", b"\x03\x01"])
def test_what_is_no_cobs(data: bytes) -> None:
    assert cobs_decode(data) is None


@given(st.binary(max_size=244), st.integers(0, 255), st.integers(0, 255), st.data())
def test_one_wrong_byte_is_noticed(
    payload: bytes, kind: int, number: int, pick: st.DataObject
) -> None:
    content = frame(kind, number, payload)[1:-1]
    assert unframe(content) == (kind, number, payload)
    at = pick.draw(st.integers(0, len(content) - 1))
    wrong = pick.draw(st.integers(1, 255).filter(lambda b: b != content[at]))
    assert unframe(content[:at] + bytes([wrong]) + content[at + 1 :]) is None


@dataclass
class Board:
    """A line with a small model behind it: the output is the input reversed.

    `spoil` sees every answer and returns what arrives of it.
    """

    spoil: Callable[[int, bytes], bytes] = lambda index, data: data
    inputs: bytearray = field(default_factory=lambda: bytearray(600))
    runs: int = 0
    asked: int = 0
    _last: tuple[int, int] | None = None
    _answer: bytes = b""
    _waiting: bytes = b""

    def write(self, data: bytes, /) -> int:
        """Take one frame and prepare its answer."""
        found = unframe(data.strip(b"\0"))
        assert found is not None
        kind, number, payload = found
        if self._last != (kind, number):
            self._answer = frame(*self._respond(kind, number, payload))
            self._last = (kind, number)
        self._waiting += self.spoil(self.asked, self._answer)
        self.asked += 1
        return len(data)

    def read(self, size: int = 1, /) -> bytes:
        """Return a few bytes at a time."""
        count = min(size, 7)
        part, self._waiting = self._waiting[:count], self._waiting[count:]
        return part

    def _respond(self, kind: int, number: int, payload: bytes) -> tuple[int, int, bytes]:
        if kind == HELLO:
            answer = struct.pack("<5I", 1, 77, 600, 600, 1000) + b"mirror"
        elif kind == WRITE:
            (at,) = struct.unpack("<I", payload[:4])
            self.inputs[at : at + len(payload) - 4] = payload[4:]
            answer = b""
        elif kind == RUN:
            self.runs += 1
            answer = struct.pack("<iII", 0, 5, 0xFFFFFFFF)
        elif kind == READ:
            at, count = struct.unpack("<IB", payload)
            answer = bytes(reversed(self.inputs))[at : at + count]
        else:
            return REFUSED, number, b""
        return kind | ANSWER, number, answer


def drop_every_third(index: int, data: bytes) -> bytes:
    return b"" if index % 3 == 2 else data


def damage_every_second(index: int, data: bytes) -> bytes:
    return data[:3] + bytes([data[3] ^ 0x40 or 1]) + data[4:] if index % 2 else data


def noise_before(index: int, data: bytes) -> bytes:
    return b"boot: hello\r\n" + data


@pytest.mark.parametrize(
    "spoil", [Board.spoil, drop_every_third, damage_every_second, noise_before]
)
def test_data_arrives_and_every_run_runs_once(spoil: Callable[[int, bytes], bytes]) -> None:
    board = Board(spoil)
    link = SerialLink(board, "the test", reply_s=0.1)
    greeting = link.hello()
    assert (greeting.name, greeting.model_id, greeting.ticks_per_second) == ("mirror", 77, 1000)
    data = bytes(i % 251 for i in range(600))
    assert len(data) > 2 * CHUNK_BYTES
    link.write(data)
    answered = link.run(0x5A, timeout_s=5)
    assert answered.status == 0 and answered.ticks == 5 and answered.stack_bytes is None
    assert link.read(600) == data[::-1] and board.runs == 1


def test_silence_is_an_error_with_advice() -> None:
    link = SerialLink(Board(lambda index, data: b""), "board on /dev/ttyX", reply_s=0.005)
    with pytest.raises(DeviceError, match=r"board on /dev/ttyX gave no answer.*baud rate"):
        link.hello()

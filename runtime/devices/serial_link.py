"""The host's end of the serial protocol of runtime/c/port/edgec_serial.c: frames and requests."""

from __future__ import annotations

import secrets
import struct
import time
import zlib
from dataclasses import dataclass
from typing import Protocol

from ...compiler.core.errors import DeviceError

PROTOCOL_VERSION = 1
HELLO, WRITE, RUN, READ = 1, 2, 3, 4
_ANSWER, _REFUSED = 0x80, 0xFF
_FRAME_BYTES, _OVERHEAD_BYTES, _OFFSET_BYTES = 250, 6, 4
CHUNK_BYTES = _FRAME_BYTES - _OVERHEAD_BYTES - _OFFSET_BYTES
NO_STACK = 0xFFFFFFFF

# How long to ask again, in times the first wait.
_PATIENCE = 10


class Line(Protocol):
    """What is needed of a serial line; that of pyserial with a short time-out fits."""

    def read(self, size: int = 1, /) -> bytes:
        """Return up to size bytes, fewer at the time-out of the line."""
        ...

    def write(self, data: bytes, /) -> int | None:
        """Send data."""
        ...


def cobs_encode(data: bytes) -> bytes:
    """Return data without zero bytes: each run that a zero ends, after its length + 1."""
    out = bytearray()
    for index, run in enumerate(parts := data.split(b"\0")):
        while len(run) >= 254:
            out += b"\xff" + run[:254]
            run = run[254:]
            if not run and index == len(parts) - 1:
                return bytes(out)
        out += bytes([len(run) + 1]) + run
    return bytes(out)


def cobs_decode(data: bytes) -> bytes | None:
    """Return what was encoded, or None when data is no COBS."""
    out = bytearray()
    at = 0
    while at < len(data):
        code = data[at]
        run = data[at + 1 : at + code]
        if code == 0 or len(run) != code - 1 or 0 in run:
            return None
        out += run
        at += code
        if code < 0xFF and at < len(data):
            out.append(0)
    return bytes(out)


def frame(kind: int, sequence: int, payload: bytes) -> bytes:
    """Return one frame between its delimiters."""
    content = bytes([kind, sequence]) + payload
    content += struct.pack("<I", zlib.crc32(content))
    return b"\0" + cobs_encode(content) + b"\0"


def unframe(data: bytes) -> tuple[int, int, bytes] | None:
    """Return (type, sequence number, payload) of what came between delimiters; None if damaged."""
    content = cobs_decode(data)
    if content is None or len(content) < _OVERHEAD_BYTES:
        return None
    body, (crc,) = content[:-4], struct.unpack("<I", content[-4:])
    return (body[0], body[1], body[2:]) if zlib.crc32(body) == crc else None


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a board says of itself; `ticks_per_second` is 0 without a clock."""

    version: int
    model_id: int
    input_bytes: int
    output_bytes: int
    ticks_per_second: int
    name: str


@dataclass(frozen=True, slots=True)
class Answered:
    """One run on the board; `stack_bytes` is None when not measured, `overrun` names a buffer."""

    status: int
    ticks: int
    stack_bytes: int | None
    overrun: str


class SerialLink:
    """Asks a board over a line; lost and damaged frames are asked for again."""

    def __init__(self, line: Line, where: str, reply_s: float = 2.0) -> None:
        self._line = line
        self._where = where
        self._reply_s = reply_s
        self._sequence = secrets.randbelow(256)
        self._received = bytearray()

    def hello(self) -> Greeting:
        """Return what the board says of itself; raises DeviceError when nothing answers."""
        payload = self._ask(HELLO, b"")
        return Greeting(
            *struct.unpack("<5I", payload[:20]), payload[20:].decode("ascii", "replace")
        )

    def write(self, data: bytes) -> None:
        """Fill the inputs."""
        for at in range(0, len(data), CHUNK_BYTES):
            self._ask(WRITE, struct.pack("<I", at) + data[at : at + CHUNK_BYTES])

    def run(self, pattern: int, timeout_s: float) -> Answered:
        """Run the model once, arena and outputs filled with a pattern before."""
        payload = self._ask(RUN, bytes([pattern]), timeout_s)
        status, ticks, stack = struct.unpack("<iII", payload[:12])
        measured = None if stack == NO_STACK else stack
        return Answered(status, ticks, measured, payload[12:].decode("ascii", "replace"))

    def read(self, size: int) -> bytes:
        """Return the first `size` bytes of the outputs."""
        parts: list[bytes] = []
        for at in range(0, size, CHUNK_BYTES):
            wanted = min(CHUNK_BYTES, size - at)
            part = self._ask(READ, struct.pack("<IB", at, wanted))
            if len(part) != wanted:
                raise DeviceError(f"{self._where} sent {len(part)} bytes, expected {wanted}.")
            parts.append(part)
        return b"".join(parts)

    def _ask(self, kind: int, payload: bytes, timeout_s: float | None = None) -> bytes:
        """Send a request until its answer comes; the board does nothing twice.

        With a time-out of its own, each wait is twice the one before: a busy board is left alone.
        """
        self._sequence = (self._sequence + 1) % 256
        request = frame(kind, self._sequence, payload)
        limit_s = self._reply_s * _PATIENCE if timeout_s is None else timeout_s
        deadline = time.monotonic() + limit_s
        wait_s = self._reply_s
        while (now := time.monotonic()) < deadline:
            self._line.write(request)
            answer = self._answer(kind, request, min(now + wait_s, deadline))
            if answer is not None:
                return answer
            wait_s *= 1 if timeout_s is None else 2
        raise DeviceError(
            f"{self._where} gave no answer within {limit_s:g} s; is the firmware of this artifact "
            "flashed, and is this the right port and baud rate?"
        )

    def _answer(self, kind: int, request: bytes, deadline: float) -> bytes | None:
        """Return the payload that answers kind; a damaged frame is asked for again at once."""
        while (data := self._next(deadline)) is not None:
            found = unframe(data)
            if found is None:
                self._line.write(request)
                continue
            type_, sequence, payload = found
            if sequence != self._sequence:
                continue  # a late copy of an earlier answer
            if type_ == _REFUSED:
                raise DeviceError(f"{self._where} refused request {kind}; its firmware is another.")
            if type_ == kind | _ANSWER:
                return payload
        return None

    def _next(self, deadline: float) -> bytes | None:
        """Return what comes next between delimiters, or None at the deadline."""
        while True:
            head, delimiter, rest = self._received.partition(b"\0")
            if delimiter:
                self._received = rest
                if head:
                    return bytes(head)
                continue
            if time.monotonic() > deadline:
                return None
            self._received += self._line.read(256)

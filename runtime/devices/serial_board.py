"""A real board on a serial line, running its artifact with runtime/c/port/edgec_serial.c."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ...compiler.core.artifact import Manifest, model_id
from ...compiler.core.errors import DeviceError, OptionError, ToolMissingError
from .base import (
    Array,
    DeviceSpec,
    RunResult,
    pack_samples,
    stored_samples,
    unpack_samples,
)
from .serial_link import PROTOCOL_VERSION, Greeting, SerialLink

DEFAULT_BAUD = 115200
# How long a read waits for more; the end of a frame is seen at once when the line is quiet.
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class SerialBoard:
    """One board; implements `Device`. The user flashes it: it runs one program."""

    port: str
    baud: int = DEFAULT_BAUD
    timeout_s: float = 600.0

    flashed: ClassVar[bool] = True

    @property
    def description(self) -> str:
        """What people call it."""
        return f"board on {self.port}"

    def run(
        self,
        artifact: Path,
        manifest: Manifest,
        inputs: Mapping[str, Array],
        profile: bool = False,
        repeat: int = 1,
    ) -> RunResult:
        """Run every sample on the board; see `Device.run`. Times where the board has a clock."""
        arrays = stored_samples(manifest, inputs)
        samples = len(arrays[0])
        packed = pack_samples(arrays)
        size = len(packed) // samples
        outputs: list[bytes] = []
        times_s: list[float] = []
        stacks: list[int] = []
        with _open(self.port, self.baud, self.description) as link:
            greeting = link.hello()
            self._require_model(artifact, manifest, greeting)
            for index in range(samples):
                link.write(packed[index * size : (index + 1) * size])
                for turn in range(repeat):
                    answered = link.run((0x5A + 0x35 * (index + turn)) % 256, self.timeout_s)
                    self._require_good(manifest, answered.status, answered.overrun)
                    if greeting.ticks_per_second:
                        times_s.append(answered.ticks / greeting.ticks_per_second)
                    if answered.stack_bytes is not None:
                        stacks.append(answered.stack_bytes)
                outputs.append(link.read(greeting.output_bytes))
        return RunResult(
            outputs=unpack_samples(b"".join(outputs), manifest.outputs, samples),
            log="",
            stack_bytes=max(stacks, default=None),
            times_s=tuple(times_s) or None,
            ticks_per_second=greeting.ticks_per_second or None,
        )

    def _require_model(self, artifact: Path, manifest: Manifest, greeting: Greeting) -> None:
        if greeting.version != PROTOCOL_VERSION:
            raise DeviceError(
                f"{self.description} speaks version {greeting.version} of the protocol, this edgec "
                f"{PROTOCOL_VERSION}; build its firmware again."
            )
        if greeting.model_id != model_id(manifest.files):
            raise DeviceError(
                f"{self.description} runs another program ('{greeting.name}', "
                f"{greeting.model_id:08x}); flash a firmware with {artifact}/firmware/serial "
                f"({model_id(manifest.files):08x}) and check again."
            )

    def _require_good(self, manifest: Manifest, status: int, overrun: str) -> None:
        if overrun:
            raise DeviceError(
                f"the check of '{manifest.name}' failed on {self.description}: the model wrote "
                f"past the end of '{overrun}'; this is a fault of the compiled code, report it."
            )
        if status != 0:
            raise DeviceError(f"model '{manifest.name}' returned status {status}.")


@contextmanager
def _open(port: str, baud: int, where: str) -> Generator[SerialLink]:
    """Yield a link over a port; raises ToolMissingError without pyserial, OptionError if busy."""
    try:
        import serial
    except ImportError:
        raise ToolMissingError(
            "checking over a serial line needs the package pyserial: pip install 'edgec[serial]'"
        ) from None
    try:
        line = serial.Serial(port, baud, timeout=_POLL_S, exclusive=True)
    except (OSError, ValueError) as error:  # serial.SerialException is an OSError
        raise OptionError(
            f"cannot open serial port '{port}': {error}; is the board plugged in?"
        ) from None
    try:
        yield SerialLink(line, where)
    except OSError as error:
        raise DeviceError(f"the line to {where} broke: {error}") from None
    finally:
        line.close()


def serial_board(spec: DeviceSpec, text: str, timeout_s: float) -> SerialBoard:
    """Return the board that PORT[@BAUD] names; raises OptionError when no such target answers."""
    port, _, baud = text.partition("@")
    if not port or (baud and not (baud.isdecimal() and int(baud) > 0)):
        raise OptionError(
            f"'serial:{text}' is no serial line; write for example serial:/dev/ttyACM0@115200."
        )
    if spec.family != "cortex_m":
        raise OptionError(
            f"target '{spec.name}' is not checked over a serial line; only Cortex-M targets are."
        )
    return SerialBoard(port, int(baud) if baud else DEFAULT_BAUD, timeout_s)

"""A firmware that answers over a serial line, on an emulated board whose UART is a pty."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from edgec.compiler.core.artifact import load_manifest
from edgec.targets import find_target
from edgec.targets.harness import PORT_FOLDER


def build_firmware(artifact: Path, folder: Path) -> Path:
    """Link the artifact, its firmware/serial and the example board as a user would."""
    manifest = load_manifest(artifact)
    spec, _ = find_target(manifest.target)
    out = folder / "firmware.elf"
    board = f"-DBOARD_{spec.machine.upper().replace('-', '_')}=1"
    serial = artifact / "firmware" / "serial"
    command = [
        spec.cc, *spec.cflags, "-std=c11", "-Os", "-Wall", "-Wextra", "-Werror", "-Wconversion",
        board, f"-I{serial}", f"-I{artifact}/include", f"-I{PORT_FOLDER}",
        "-nostartfiles", "--specs=nano.specs", f"-L{PORT_FOLDER}",
        f"-T{PORT_FOLDER}/{spec.machine}.ld", "-ffunction-sections", "-Wl,--gc-sections",
        str(serial / "edgec_serial.c"), f"{PORT_FOLDER}/board_mps2.c",
        f"{PORT_FOLDER}/port_cortex_m.c", f"{artifact}/lib/lib{manifest.name}.a", "-lm",
        "-o", str(out),
    ]  # fmt: skip
    subprocess.run(command, check=True)
    return out


@contextmanager
def board(firmware: Path, machine: str) -> Generator[str]:
    """Yield the pty of the UART of an emulated board that runs firmware."""
    command = ["qemu-system-arm", "-M", machine, "-display", "none", "-monitor", "none"]
    command += ["-serial", "pty", "-semihosting-config", "enable=on,target=native"]
    with subprocess.Popen(
        [*command, "-kernel", str(firmware)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline().decode()
            found = re.search(r"redirected to (\S+)", line)
            assert found, line
            yield found[1]
        finally:
            process.kill()

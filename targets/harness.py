"""The C text that joins the check program of runtime/c/port to one model."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from ..compiler.core.artifact import PortInfo, arena_macro, hash_files, model_id
from .spec import TargetSpec

# Located by path, not by import: targets and runtime do not know each other.
PORT_FOLDER = Path(__file__).parents[1] / "runtime" / "c" / "port"
# What a firmware needs to answer a check over a serial line, besides check_ports.h.
_SERIAL = ("check_buffers.h", "edgec_crc.h", "edgec_serial.c", "edgec_serial.h")


def check_ports_header(name: str, inputs: Sequence[PortInfo], outputs: Sequence[PortInfo]) -> str:
    """Return check_ports.h for model `name`; check_buffers.h documents the format.

    Raises ValueError when there is no input (the check program reads samples) or no output.
    """
    if not inputs or not outputs:
        raise ValueError(f"model '{name}' needs an input and an output to be checked")
    arguments = [f"buffer_{port.c_name}.data" for port in (*inputs, *outputs)]
    lines = [
        f"/* The inputs and outputs of {name} for check_main.c. */",
        "#include <stdint.h>",
        f'#include "{name}.h"',
        f"#define CHECK_ARENA_BYTES {arena_macro(name)}",
        f"#define CHECK_INPUTS(PORT) {_rows(inputs)}",
        f"#define CHECK_OUTPUTS(PORT) {_rows(outputs)}",
        f"#ifdef {name.upper()}_WEIGHTS_BYTES",
        f"#define CHECK_RUN(arena) {name}_run({', '.join(arguments)}, arena, port_weights)",
        "#else",
        f"#define CHECK_RUN(arena) {name}_run({', '.join(arguments)}, arena)",
        "#endif",
    ]
    return "\n".join(lines) + "\n"


def rpc_ports_header(name: str, inputs: Sequence[PortInfo], outputs: Sequence[PortInfo]) -> str:
    """Return check_ports.h for edgec_rpc.c, which calls NAME_run by a pointer, check_model."""
    return check_ports_header(name, inputs, outputs) + (
        f"static __typeof__({name}_run) *check_model;\n"
        f"#define {name}_run check_model\n"
        f'#define CHECK_NAME "{name}"\n#define CHECK_FUNCTION "{name}_run"\n'
    )


def write_serial(
    spec: TargetSpec,
    folder: Path,
    name: str,
    inputs: Sequence[PortInfo],
    outputs: Sequence[PortInfo],
) -> None:
    """Write folder/firmware/serial for targets that a check can reach over a serial line."""
    if spec.family != "cortex_m":
        return
    serial = folder / "firmware" / "serial"
    serial.mkdir(parents=True)
    for file in _SERIAL:
        shutil.copyfile(PORT_FOLDER / file, serial / file)
    number = model_id(hash_files(folder))
    header = check_ports_header(name, inputs, outputs)
    header += f'#define CHECK_NAME "{name}"\n#define CHECK_MODEL_ID 0x{number:08x}u\n'
    (serial / "check_ports.h").write_text(header, encoding="utf-8")


def _rows(ports: Sequence[PortInfo]) -> str:
    return " ".join(f"PORT({port.c_type}, {port.c_name}, {port.elements})" for port in ports)


def prototype(name: str, inputs: Sequence[PortInfo], outputs: Sequence[PortInfo]) -> str:
    """Return the C prototype of NAME_run without the closing semicolon."""
    parameters = [f"const {port.c_type} *{port.c_name}" for port in inputs]
    parameters += [f"{port.c_type} *{port.c_name}" for port in outputs]
    return f"int32_t {name}_run({', '.join(parameters)}, void *arena)"


def empty_model(
    name: str, inputs: Sequence[PortInfo], outputs: Sequence[PortInfo]
) -> tuple[str, str]:
    """Return (NAME.h, NAME.c) of a model that does nothing, to weigh the harness itself."""
    declared = prototype(name, inputs, outputs)
    header = f"#include <stdint.h>\n#define {arena_macro(name)} 0\n{declared};\n"
    unused = " ".join(f"(void){port.c_name};" for port in (*inputs, *outputs))
    source = f'#include "{name}.h"\n{declared} {{ {unused} (void)arena; return 0; }}\n'
    return header, source

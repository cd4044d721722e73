"""The C text that joins the check program of runtime/c/port to one model."""

from __future__ import annotations

from collections.abc import Sequence

from ..compiler.core.artifact import PortInfo, arena_macro


def check_ports_header(name: str, inputs: Sequence[PortInfo], outputs: Sequence[PortInfo]) -> str:
    """Return check_ports.h for model `name`; check_main.c documents the format.

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
        f"#define CHECK_RUN(arena) {name}_run({', '.join(arguments)}, arena)",
    ]
    return "\n".join(lines) + "\n"


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

"""Why a check program stopped, in words."""

from __future__ import annotations

import re

from ...compiler.core.elf import Elf, FunctionTable

_EXITS = {
    2: "its input file ended inside a sample",
    3: "the model returned status {status}",
    4: "the model wrote past the end of '{overrun}'",
    5: "out.bin could not be written",
    6: "the model used more stack than the check program measures",
    7: "in.bin or out.bin could not be opened",
    99: "the processor faulted",
}
_CFSR_BITS = {
    0: "instruction fetch from a forbidden address",
    1: "forbidden data access",
    4: "stack overflow on exception entry",
    8: "instruction bus error",
    9: "precise data bus error",
    10: "imprecise data bus error",
    12: "stack overflow on exception entry (bus error)",
    13: "bus error while saving the FPU state",
    16: "undefined instruction",
    17: "invalid processor state",
    18: "invalid exception return",
    19: "coprocessor access (FPU or MVE disabled or absent)",
    20: "stack limit violated",
    24: "unaligned access",
    25: "division by zero",
}
_BFAR_VALID = 15


def exit_reason(code: int, log: str, elf: Elf) -> str:
    """Return one clause that says why the check program ended with code; `log` is its output."""
    if "Lockup" in log:
        return "the processor locked up (a fault inside the fault handler)"
    if code == 99:
        return f"{_EXITS[99]}: {decode_fault(log, elf)}"
    if code < 0:
        return f"signal {-code} ended it{_where(log)}"
    reason = _EXITS.get(code, f"it ended with exit code {code}{_where(log)}")
    return reason.format(status=_word(log, "status"), overrun=_word(log, "overrun"))


def decode_fault(log: str, elf: Elf) -> str:
    """Return what the fault registers that the Cortex-M port printed mean."""
    status = int(_word(log, "cfsr"), 16) if "cfsr" in log else 0
    causes = [text for bit, text in _CFSR_BITS.items() if status >> bit & 1]
    cause = ", ".join(causes) or "no cause recorded"
    if status >> _BFAR_VALID & 1:
        cause += f" at address {_word(log, 'bfar')}"
    return f"{cause}{_program_counter(log, elf)}"


def _program_counter(log: str, elf: Elf) -> str:
    found = re.search(r"^pc (0x[0-9a-f]+)$", log, re.M)
    if found is None:
        return ", program counter lost with the stack"
    function = FunctionTable.of(elf).name_at(int(found[1], 16) & ~1)
    return f", in {function or 'no function'} (pc {found[1]})"


def _word(log: str, key: str) -> str:
    found = re.search(rf"^{key} (\S+)$", log, re.M)
    return found[1] if found else "?"


def _where(log: str) -> str:
    lines = [line for line in log.splitlines() if line.strip()]
    return f" ({lines[-1].strip()})" if lines else ""

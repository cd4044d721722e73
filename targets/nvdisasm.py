"""GPU code as instructions, by NVIDIA's disassembler: the proof of what NVRTC made of a kernel."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

from ..compiler.core.errors import EdgecError
from ..compiler.core.tools import NVDISASM, require_tools

_SECTION = re.compile(r"^\.text\.(\w+):", re.M)
_OPCODE = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][\w.]*)", re.M)


def opcodes(cubin: bytes) -> dict[str, Counter[str]]:
    """Return how often each instruction occurs in every GPU function of a cubin.

    Raises ToolMissingError without nvdisasm, EdgecError when it cannot read the file.
    """
    require_tools([NVDISASM], "reading GPU code")
    with tempfile.TemporaryDirectory(prefix="edgec-cubin-") as folder:
        path = Path(folder) / "code.cubin"
        path.write_bytes(cubin)
        command = [str(NVDISASM.find()), "-c", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EdgecError(f"nvdisasm cannot read the GPU code: {done.stderr.strip()}")
    parts = _SECTION.split(done.stdout)
    return {
        name: Counter(_OPCODE.findall(text))
        for name, text in zip(parts[1::2], parts[2::2], strict=True)
    }

"""Every operator that lowering claims to know is compared with ONNX Runtime somewhere."""

from __future__ import annotations

import re
from pathlib import Path

from edgec.compiler.lowering.matchers import MATCHERS
from edgec.compiler.lowering.movement import MOVEMENT

TESTS = sorted(Path(__file__).parent.glob("test_lower_*.py"))
# Opset 24 and ONNX Runtime's own spelling of RMSNormalization: forms that fuse to the same kernel.
ELSEWHERE = {
    "Cast": "only between constants, which fold_constants evaluates",
    "Kronecker": "a function of edgec, not of ONNX: tests/unit/test_online.py",
    "SimplifiedLayerNormalization": "read by the same matcher as RMSNormalization",
    "Swish": "opset 24; its table is made like that of every unary operator",
}


def test_every_operator_has_a_case() -> None:
    text = "\n".join(path.read_text() for path in TESTS)
    named = set(re.findall(r"\b([A-Z]\w+) (?:<[^>]*> ?)?\(", text))
    assert set(MATCHERS) | set(MOVEMENT) <= named | set(ELSEWHERE)


def test_exceptions_are_operators_without_a_case() -> None:
    assert set(ELSEWHERE) <= set(MATCHERS)

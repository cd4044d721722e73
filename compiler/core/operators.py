"""Facts about ONNX operators that planning and lowering must agree on."""

from __future__ import annotations

from .kronecker import KRONECKER

_UNARY = (
    "Relu Clip Sigmoid Tanh Erf Exp Log Sqrt Reciprocal Neg Abs Pow Add Sub Mul Div HardSigmoid "
    "HardSwish LeakyRelu Elu Selu Celu Softplus Softsign Gelu Mish Swish ThresholdedRelu Sin Cos "
    "Atan Floor Ceil Round Sign Min Max PRelu"
)
# Elementwise operators: with one tensor and scalars they are a table of 256 entries.
UNARY = frozenset(_UNARY.split())
# An additive attention mask removes a value by adding this or less.
MASKED = -1e4
NORMS = frozenset({"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"})
# Operators that carry codes of more than 8 bits from their operands to their result.
CARRY_WIDE = frozenset({"Add", "Sub", "Mul", "Neg", "Concat", "Where"})
# Layers whose state is int16 or more inside, whatever they read and write.
RECURRENT = frozenset({"LSTM", "GRU"})
# Which of their inputs is the initial hidden state.
HIDDEN_INPUT = 5
# Operators whose kernels read and write codes of more than 8 bits, movement apart.
WIDE = CARRY_WIDE | {"Gemm", "MatMul", KRONECKER} | RECURRENT
# Elementwise operators whose results are a table of 8-bit codes, never a clamp of a layer's.
TABULATED = UNARY - {"Relu", "Clip"}
# Operators that make or join the states of recurrent layers.
CARRY_STATE = RECURRENT | {"Concat"}
# Operators whose kernels read them.
READ_WIDE = WIDE | NORMS
# Operators whose kernels write them: a table of 8-bit codes may hold wider ones.
WRITE_WIDE = WIDE | UNARY | {"Pad"}

"""Which integer kernel computes a float operator between DequantizeLinear and QuantizeLinear.

Each matcher takes (lowering, node, request) and returns the result, None if the node is not its
business, or raises RefusedError with the reason. Order matters only within one operator: the more
specific form first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...core.kronecker import KRONECKER
from ..lower import Matcher
from ..movement import MOVEMENT
from .binary import match_binary
from .clamp import match_clamp
from .joins import match_concat, match_pad, match_select
from .kronecker import match_kronecker
from .linear import match_bias_add, match_conv, match_gemm, match_matmul
from .moved import match_moved
from .pooling import (
    match_average_pool,
    match_global_average_pool,
    match_masked_mean,
    match_max_pool,
    match_resize,
)
from .recurrent import match_recurrent
from .rows import match_layer_norm, match_rms_norm, match_softmax
from .unary import UNARY_OPS, match_unary

MATCHERS: Mapping[str, Sequence[Matcher]] = {
    **dict.fromkeys(UNARY_OPS, (match_unary,)),
    "Relu": (match_clamp, match_unary),
    "Clip": (match_clamp, match_unary),
    "Conv": (match_conv,),
    "Gemm": (match_gemm,),
    "MatMul": (match_matmul,),
    "Add": (match_bias_add, match_unary, match_binary),
    "Sub": (match_unary, match_binary),
    "Mul": (match_unary, match_binary),
    "Div": (match_masked_mean, match_unary, match_binary),
    "LSTM": (match_recurrent,),
    "GRU": (match_recurrent,),
    "MaxPool": (match_max_pool,),
    "AveragePool": (match_average_pool,),
    "GlobalAveragePool": (match_global_average_pool,),
    "Resize": (match_resize,),
    "Softmax": (match_softmax,),
    "LayerNormalization": (match_layer_norm,),
    "RMSNormalization": (match_rms_norm,),
    "SimplifiedLayerNormalization": (match_rms_norm,),
    "Concat": (match_concat,),
    "Pad": (match_pad,),
    "Where": (match_select,),
    KRONECKER: (match_kronecker,),
    **dict.fromkeys(MOVEMENT, (match_moved,)),
}

"""CUDA C -> GPU code with NVRTC, NVIDIA's compiler as a library, from its PyPI package."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..compiler.core.errors import EdgecError
from ..compiler.core.tools import NVRTC, require_tools

# NVRTC brings no C library; of its headers the kernels need these names only.
_SYSTEM_HEADERS = {
    "stdint.h": (
        "#pragma once\n"
        "typedef signed char int8_t; typedef unsigned char uint8_t;\n"
        "typedef short int16_t; typedef unsigned short uint16_t;\n"
        "typedef int int32_t; typedef unsigned int uint32_t;\n"
        "typedef long long int64_t; typedef unsigned long long uint64_t;\n"
        "#define INT32_MIN (-2147483647 - 1)\n"
    ),
    "string.h": "#pragma once\n#ifndef NULL\n#define NULL nullptr\n#endif\n",
    "math.h": "#pragma once\n",
}
_OPTIONS = (
    "--std=c++17",
    "--device-as-default-execution-space",
    # Float results must not depend on the target: no fused multiply-adds.
    "--fmad=false",
    "-D_Static_assert=static_assert",
)


def compile_cubin(source: str, name: str, headers: Mapping[str, str], architecture: str) -> bytes:
    """Return the GPU code (an ELF file) of CUDA C text called `name` for architecture (sm_80).

    `headers`: text by the name it is included under. Raises ToolMissingError without NVRTC,
    EdgecError with its first messages when it rejects the text.
    """
    require_tools([NVRTC], "compiling for NVIDIA GPUs")
    path = NVRTC.find()
    assert path is not None
    library = _library(path)
    included = {**_SYSTEM_HEADERS, **headers}
    program = ctypes.c_void_p()
    _done(library, library.nvrtcCreateProgram(
        ctypes.byref(program), source.encode(), name.encode(), len(included),
        _strings(list(included.values())), _strings(list(included)),
    ))  # fmt: skip
    try:
        options = (f"--gpu-architecture={architecture}", *_OPTIONS)
        code = library.nvrtcCompileProgram(program, len(options), _strings(options))
        if code:
            log = _text(library, "nvrtcGetProgramLog", program).decode("utf-8", "replace")
            raise EdgecError(f"NVRTC rejected {name} for {architecture}: {_errors(log)}")
        return _text(library, "nvrtcGetCUBIN", program)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


@lru_cache(maxsize=1)
def _library(path: Path) -> Any:
    library = ctypes.CDLL(str(path))
    library.nvrtcGetErrorString.restype = ctypes.c_char_p
    return library


def _strings(texts: Sequence[str]) -> Any:
    return (ctypes.c_char_p * len(texts))(*[text.encode() for text in texts])


def _done(library: Any, code: int) -> None:
    if code:
        raise EdgecError(f"NVRTC failed: {library.nvrtcGetErrorString(code).decode()}.")


def _text(library: Any, function: str, program: Any) -> bytes:
    """Return what one of NVRTC's pairs of functions gives: FUNCTIONSize and FUNCTION."""
    size = ctypes.c_size_t()
    _done(library, getattr(library, f"{function}Size")(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _done(library, getattr(library, function)(program, buffer))
    return buffer.raw


def _errors(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return " / ".join([line for line in lines if "error" in line][:3] or lines[:3])

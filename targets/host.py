"""This machine: the artifact is loaded in process."""

from __future__ import annotations

from ..compiler.core.tools import AR, GCC, HOST_LIBC
from .backend import Backend
from .spec import TargetSpec
from .toolchain import Toolchain

SPECS = (
    TargetSpec(
        name="host",
        family="host",
        cpu="host",
        isa="generic",
        cc="gcc",
        # No -march=native: the artifact must not depend on who compiled it.
        cflags=(),
        machine="",
        description="the machine that compiles, baseline instruction set",
        optimisation="-O3",
    ),
)

TOOLCHAIN = Toolchain(
    family="host",
    prefix="",
    port="port_linux.c",
    shared=True,
    build_tools=(GCC, AR, HOST_LIBC),
    check_tools=(),
    check_link=("-no-pie",),
)

BACKEND: Backend = TOOLCHAIN

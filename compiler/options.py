"""What a user may ask of a compilation: typed, frozen, unknown keys refused."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field


class CompileOptions(BaseModel):
    """Options of one compilation; every field has a sensible default.

    `shapes`: input name -> shape for models with symbolic dimensions. `samples`: most calibration
    samples used (None: all). `passes`, `no_passes`: optional passes to force or leave out.
    `max_flash_bytes`, `max_ram_bytes`: gates checked on the result; `max_drop`: largest loss
    of the float model's top-1 agreement, as a fraction.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: str
    name: str | None = None
    shapes: Mapping[str, tuple[int, ...]] = Field(default_factory=dict)
    calibration_method: str = "minmax"
    samples: int | None = Field(default=None, ge=1)
    seed: int = 0
    passes: tuple[str, ...] = ()
    no_passes: tuple[str, ...] = ()
    max_flash_bytes: int | None = Field(default=None, ge=1)
    max_ram_bytes: int | None = Field(default=None, ge=1)
    max_drop: float | None = Field(default=None, ge=0, le=1)
    reference_samples: int = Field(default=8, ge=1)

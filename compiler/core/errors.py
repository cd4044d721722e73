"""What can go wrong, as one sentence each: the thing, the reason, the remedy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class EdgecError(Exception):
    """Base of every error that the command line prints without a traceback."""

    exit_code = 2


class ModelError(EdgecError):
    """The model cannot be compiled; `problems` lists everything found, one sentence each."""

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class DataError(EdgecError):
    """Calibration or evaluation data does not fit the model."""


class OptionError(EdgecError):
    """An option, target, recipe or output folder is not usable."""


class ToolMissingError(EdgecError):
    """A compiler, emulator or package that this step needs is not installed."""

    exit_code = 3


class GateError(EdgecError):
    """The model was compiled but a limit does not hold; `problems`: one sentence per limit.

    `folder`: where the artifact was kept to look at.
    """

    exit_code = 1

    def __init__(self, problems: Sequence[str], folder: Path) -> None:
        self.problems, self.folder = tuple(problems), folder
        super().__init__("\n".join(self.problems))


class DeviceError(EdgecError):
    """The artifact failed where it ran: a fault, a time-out, or no answer."""

    exit_code = 1

"""What makes an artifact a package of a build system: CMake always, others when asked for."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from .core.errors import OptionError
from .version import __version__

TEMPLATES = Path(__file__).resolve().parent / "templates"
CMAKE: Final[Mapping[str, str]] = {
    "CMakeLists.txt": "CMakeLists.txt",
    "{name}-config.cmake": "config.cmake",
}
# Layout -> file in the artifact -> its template. The artifact itself is the package.
LAYOUTS: Final[Mapping[str, Mapping[str, str]]] = {
    "zephyr": {
        "zephyr/module.yml": "layouts/zephyr_module.yml",
        "zephyr/CMakeLists.txt": "layouts/zephyr_CMakeLists.txt",
        "zephyr/Kconfig": "layouts/zephyr_Kconfig",
    },
    "platformio": {"library.json": "layouts/platformio_library.json"},
    "arduino": {"library.properties": "layouts/arduino_library.properties"},
}


def write_layouts(folder: Path, name: str, layouts: Sequence[str]) -> None:
    """Write the package files of model `name` into an artifact folder that has its sources.

    Raises OptionError for a layout other than CMake's around the sources of a GPU.
    """
    gpu = (folder / "src" / f"{name}.cu").is_file()
    if gpu and layouts:
        raise OptionError(f"layout {layouts[0]} is for microcontrollers; leave it out for a GPU.")
    files = dict(CMAKE)
    if gpu:
        files["CMakeLists.txt"] = "CMakeLists_cuda.txt"
    for layout in layouts:
        files |= LAYOUTS[layout]
    weights = (folder / "src" / f"{name}_weights.c").is_file()
    for target, template in files.items():
        path = folder / target.format(name=name)
        path.parent.mkdir(exist_ok=True)
        path.write_text(_filled(template, name, weights), encoding="utf-8")
    if "arduino" in layouts:
        # Arduino looks for the headers of a library in src alone.
        shutil.copyfile(folder / "include" / f"{name}.h", folder / "src" / f"{name}.h")


def _filled(template: str, name: str, weights: bool) -> str:
    text = (TEMPLATES / template).read_text(encoding="utf-8")
    if not weights:
        text = text.replace(" src/@NAME@_weights.c", "")
    for key, value in (("NAME", name), ("MACRO", name.upper()), ("VERSION", __version__)):
        text = text.replace(f"@{key}@", value)
    return text

"""report.html: one page about an artifact that needs nothing but a browser, and no script."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from . import page_facts
from .advice import overall
from .core.artifact import REPORT_PAGE, load_manifest
from .core.errors import OptionError
from .core.plan import QuantPlan
from .core.units import number_text, size_text
from .page_facts import Folder
from .verdicts import stored_verdicts

TEMPLATES = Path(__file__).resolve().parent / "templates"


def read_folder(artifact: Path) -> Folder:
    """Read what the page says of an artifact; raises OptionError where it is none or damaged."""
    manifest = load_manifest(artifact)
    try:
        report = json.loads((artifact / "report.json").read_text(encoding="utf-8"))
        plan = QuantPlan.from_json((artifact / "plan.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OptionError(
            f"'{artifact}' has no readable report.json and plan.json ({error}); compile the model "
            "again."
        ) from None
    if "tensors" not in report:
        raise OptionError(f"'{artifact}' was compiled by an older edgec; compile the model again.")
    return Folder(artifact.name, manifest, report, plan, stored_verdicts(artifact))


def page(artifact: Path, others: Sequence[Path] = ()) -> str:
    """Return the page of an artifact, with the verdicts of other artifacts of its model beside.

    Raises OptionError for a folder that is none, and for artifacts of different models.
    """
    folder = read_folder(artifact)
    beside = [read_folder(path) for path in others]
    for path, other in zip(others, beside, strict=True):
        if other.manifest.source_sha256 != folder.manifest.source_sha256:
            raise OptionError(
                f"'{path}' was compiled from another model than '{artifact}'; give artifacts of "
                "one model."
            )
    text: str = _environment().get_template("page.html.j2").render(**_context(folder, beside))
    return text


def write_page(artifact: Path, others: Sequence[Path] = (), out: Path | None = None) -> Path:
    """Write the page and return where; see `page`.

    `out`: the file; else report.html of the artifact, or with others NAME-report.html here, which
    no later check replaces.
    """
    text = page(artifact, others)
    if out is None:
        name = f"{load_manifest(artifact).name}-{REPORT_PAGE}"
        out = Path(name) if others else artifact / REPORT_PAGE
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OptionError(
            f"cannot write '{out}': {error.strerror or error}; choose another file with -o."
        ) from error
    return out


def _context(folder: Folder, beside: Sequence[Folder]) -> dict[str, Any]:
    report, manifest = folder.report, folder.manifest
    layers = page_facts.layer_rows(report)
    return {
        "manifest": manifest,
        "came_quantised": not folder.plan.encodings,
        "report": report,
        "artifact": folder.name,
        "style": (TEMPLATES / "page.css").read_text(encoding="utf-8"),
        "advice": overall(report),
        "tiles": page_facts.tiles(folder),
        "device_rows": page_facts.DEVICE_ROWS,
        "columns": page_facts.columns([folder, *beside]),
        "layers": layers,
        "layers_left_out": len(report["layers"]) - len(layers),
        "profile": page_facts.profile(report) if layers else "",
        "tensors": page_facts.tensor_cards(report),
        "heat_maps": page_facts.heat_maps(report),
        "peak": page_facts.memory_peak(report),
        "costs": page_facts.cost_rows(report, page_facts.measured_layers(folder)),
        "plan": page_facts.plan_rows(folder),
    }


@cache
def _environment() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined,
        autoescape=True, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["path"] = _path
    environment.filters["size"] = size_text
    environment.filters["number"] = number_text
    return environment


def _path(name: str) -> Any:
    """Return name as HTML that may be broken behind its slashes."""
    from markupsafe import Markup, escape

    return Markup(str(escape(name)).replace("/", "/<wbr>"))

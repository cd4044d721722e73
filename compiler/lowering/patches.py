"""The patch stage: the first layers run tile by tile, so that their images never exist whole.

Calls 0 to `last` are replaced by the same calls on tiles: every tile of the stage's output is made
from the part of the program's inputs that it reads, and pasted into the output. Neighbours compute
the pixels between them twice; that is the price, in multiply-accumulates. Split and tile size are
found by trying them all (ALGORITHMS 7; MCUNetV2, arXiv 2110.15352). Same bits as without.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from .kernels.add import Add
from .kernels.copy import Copy
from .kernels.mul import Mul
from .kernels.paste import Paste
from .kernels.table import Table
from .memory import least_bytes, plan_arena
from .program import Buffer, Call, Kernel, Program
from .tiles import (
    Image,
    Rect,
    Span,
    UnfitError,
    copied_tile,
    elementwise,
    images_of,
    layout,
    read_spans,
    refusal,
    tiled,
    total,
    whole_access,
)

# Most tiles along one axis.
MOST_TILES = 8
# With no limit to meet, this share of multiply-accumulates may come on top.
WORTHWHILE_MACS = 1.25
# Full plans made, of those that their lower bound allows.
_PLANS = 24


@dataclass(frozen=True, slots=True)
class Patches:
    """Calls 0 to `last` run on tiles of rows x columns pixels of what call `last` makes."""

    last: int
    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen, and what it costs and saves; `patches` is None where nothing is patched.

    `reason`: why, in words. `tiles`: along rows and columns.
    """

    patches: Patches | None
    reason: str
    macs_before: int
    macs: int
    arena_bytes_before: int
    arena_bytes: int
    tiles: tuple[int, int] = (1, 1)
    layers: int = 0
    ends: str = ""

    @property
    def text(self) -> str:
        """What was chosen, what it costs and saves, in a sentence without a full stop."""
        if self.patches is None:
            return f"none, for {self.reason}"
        more = self.macs / self.macs_before - 1
        rows, columns = self.tiles
        return (
            f"the first {self.layers} layers run on {rows} x {columns} tiles of "
            f"{self.patches.rows} x {self.patches.columns} pixels of their result: the arena takes "
            f"{self.arena_bytes:,} bytes in place of {self.arena_bytes_before:,}, for {more:.1%} "
            "more multiply-accumulates"
        )


class Stage:
    """The calls of a program that could run on tiles, and where they may end.

    `ends`: why the call after the last of them cannot.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.images = images_of(program)
        self.ends = ""
        self.splits: list[int] = []
        self._spans: dict[tuple[int, int, Span], dict[str, Span]] = {}
        made: set[str] = set()
        for index, call in enumerate(program.calls):
            reason = refusal(program, call, self.images)
            if isinstance(call.kernel, Copy) and call.inputs[0] in made:
                reason = "a copy between layouts"
            if reason:
                self.ends = f"{', '.join(call.nodes) or call.outputs[0]}: {reason}"
                break
            made.add(call.outputs[0])
            if self._closed(index, made) and not isinstance(call.kernel, Copy):
                self.splits.append(index)

    def _closed(self, index: int, made: set[str]) -> bool:
        """Return whether of all made up to a call only its result is needed after it."""
        later = {name for call in self.program.calls[index + 1 :] for name in call.inputs}
        later |= {p.buffer for p in self.program.outputs}
        return later & made == {self.program.calls[index].outputs[0]}

    def image(self, last: int) -> Image:
        """Return the image that the stage makes if it ends with call `last`."""
        return self.images[self.program.calls[last].outputs[0]]

    def spans(self, last: int, axis: int, span: Span) -> dict[str, Span]:
        """Return what of every buffer of the stage a span of its output needs, along axis.

        Raises UnfitError where that is padding alone.
        """
        key = last, axis, span
        if key not in self._spans:
            calls = self.program.calls[: last + 1]
            needed = {calls[-1].outputs[0]: span}
            for call in reversed(calls):
                if isinstance(call.kernel, Copy):
                    continue
                for name, read in zip(
                    call.inputs, read_spans(call, axis, needed[call.outputs[0]]), strict=True
                ):
                    low, high = needed.get(name, read)
                    needed[name] = min(low, read[0]), max(high, read[1])
            self._spans[key] = needed
        return self._spans[key]

    def macs(self, patches: Patches) -> int:
        """Return the multiply-accumulates of the whole program in patches."""
        calls, image = self.program.calls, self.image(patches.last)
        across = [
            [self.spans(patches.last, axis, s) for s in _cut(extent, step)]
            for axis, (extent, step) in enumerate(
                ((image.height, patches.rows), (image.width, patches.columns))
            )
        ]
        found = sum(c.kernel.macs() for c in calls[patches.last + 1 :])
        for call in calls[: patches.last + 1]:
            name = call.outputs[0]
            whole = self.images[name]
            rows, columns = (total([s[name] for s in spans]) for spans in across)
            found += call.kernel.macs() * rows * columns // (whole.height * whole.width)
        return found


def _cut(extent: int, step: int) -> list[Span]:
    """Return the spans of `step` that cover extent; the last may be shorter."""
    return [(low, min(low + step, extent)) for low in range(0, extent, step)]


def patched(program: Program, patches: Patches, stage: Stage | None = None) -> Program:
    """Return the program with its first calls on tiles; same outputs, bit for bit.

    Raises UnfitError where a tile would be made of padding alone, or of one pixel.
    """
    stage = stage or Stage(program)
    image = stage.image(patches.last)
    rects = [
        Rect(rows, columns)
        for rows in _cut(image.height, patches.rows)
        for columns in _cut(image.width, patches.columns)
    ]
    return _Tiler(stage, patches.last).program(rects)


def choose(program: Program, isa: str, most_bytes: int | None) -> Choice:
    """Return the patches with the fewest multiply-accumulates whose arena takes most_bytes at most.

    most_bytes None: those with the smallest arena that cost no more than `WORTHWHILE_MACS`. No
    patches where the program fits as it is, or none would do.
    """
    before, macs = plan_arena(program, isa).size_bytes, sum(c.kernel.macs() for c in program.calls)
    unchanged = Choice(None, "", macs, macs, before, before)
    if most_bytes is not None and before <= most_bytes:
        return replace(unchanged, reason="the model fits without")
    stage = Stage(program)
    if not stage.splits:
        return replace(unchanged, reason=f"no layers can run on tiles ({stage.ends})")
    limit = before - 1 if most_bytes is None else most_bytes
    most_macs = int(macs * WORTHWHILE_MACS) if most_bytes is None else None
    found = _best(stage, isa, limit, most_macs)
    if found is None:
        size = "a smaller arena" if most_bytes is None else f"an arena of {most_bytes:,} bytes"
        first = f"the first {stage.splits[-1] + 1} layers"
        return replace(unchanged, reason=f"no split and tiles of {first} give {size}")
    patches, arena_bytes = found
    image = stage.image(patches.last)
    tiles = -(-image.height // patches.rows), -(-image.width // patches.columns)
    reason = (
        "the fewest multiply-accumulates that fit" if most_macs is None else "the smallest arena"
    )
    return Choice(
        patches, reason, macs, stage.macs(patches), before, arena_bytes, tiles, patches.last + 1,
        stage.ends,
    )  # fmt: skip


def _best(stage: Stage, isa: str, limit: int, most_macs: int | None) -> tuple[Patches, int] | None:
    """Return the best patches with their arena of at most limit bytes; None: there are none.

    Best are the fewest multiply-accumulates, or with most_macs the smallest arena.
    """
    candidates = sorted(_candidates(stage, isa, limit), key=lambda c: (c[0], c[1].last))
    found: list[tuple[int, int, Patches]] = []
    for macs, patches in candidates:
        if most_macs is not None and macs > most_macs:
            break
        bound = _tile_bytes(stage, patches, isa)
        if bound is not None and bound <= limit:
            found.append((bound, macs, patches))
        if most_macs is None and len(found) == _PLANS:
            break
    if most_macs is not None:
        found.sort(key=lambda f: f[:2])
    plans: list[tuple[int, Patches]] = []
    for _, _, patches in found[:_PLANS]:
        try:
            size = plan_arena(patched(stage.program, patches, stage), isa).size_bytes
        except UnfitError:
            continue
        if size <= limit:
            plans.append((size, patches))
        if plans and (most_macs is None or len(plans) == 3):
            break
    return min(((p, size) for size, p in plans), key=lambda f: f[1], default=None)


def _candidates(stage: Stage, isa: str, limit: int) -> Iterator[tuple[int, Patches]]:
    """Yield splits and tiles, with their multiply-accumulates, where the rest may fit in limit."""
    program = stage.program
    for last in stage.splits:
        if least_bytes(replace(program, calls=program.calls[last + 1 :]), isa) > limit:
            continue
        image = stage.image(last)
        steps = [
            sorted({-(-extent // count) for count in range(1, min(extent, MOST_TILES) + 1)})
            for extent in (image.height, image.width)
        ]
        for rows in steps[0]:
            for columns in steps[1]:
                patches = Patches(last, rows, columns)
                if (rows, columns) != (image.height, image.width):
                    try:
                        yield stage.macs(patches), patches
                    except UnfitError:
                        continue


def _tile_bytes(stage: Stage, patches: Patches, isa: str) -> int | None:
    """Return the least that the largest tile and the layers after the stage take; None: unfit."""
    image = stage.image(patches.last)
    spans = [
        max(
            _cut(extent, step),
            key=lambda s, a=axis: total([*stage.spans(patches.last, a, s).values()]),
        )
        for axis, (extent, step) in enumerate(
            ((image.height, patches.rows), (image.width, patches.columns))
        )
    ]
    try:
        # Twice, for between tiles the stage's output is there already.
        program = _Tiler(stage, patches.last).program([Rect(*spans)] * 2)
    except UnfitError:
        return None
    return least_bytes(program, isa)


class _Tiler:
    """Writes the calls of a stage once per tile."""

    def __init__(self, stage: Stage, last: int) -> None:
        self._stage, self._last = stage, last
        program = stage.program
        self._calls: list[Call] = []
        inner = {name for call in program.calls[:last] for name in call.outputs}
        self._buffers = {n: b for n, b in program.buffers.items() if n not in inner}
        self._result = program.calls[last].outputs[0]

    def program(self, rects: Sequence[Rect], rest: bool = True) -> Program:
        """Return the program whose stage makes these rectangles of its output."""
        for number, rect in enumerate(rects):
            self._tile(number, rect)
        program = self._stage.program
        kept = [*self._calls, *(program.calls[self._last + 1 :] if rest else ())]
        origins = {n: o for n, o in program.origins.items() if n in self._buffers}
        return replace(program, buffers=self._buffers, calls=tuple(kept), origins=origins)

    def _tile(self, number: int, rect: Rect) -> None:
        """Add the calls that make one rectangle of the stage's output."""
        stage, last = self._stage, self._last
        rows, columns = (
            stage.spans(last, axis, span) for axis, span in enumerate((rect.rows, rect.columns))
        )
        # Buffer of the whole program -> the tile of it, and what part of the image that is.
        made: dict[str, tuple[str, Rect]] = {}
        for call in stage.program.calls[: last + 1]:
            name = call.outputs[0]
            wanted = Rect(rows[name], columns[name])
            if isinstance(call.kernel, Copy):
                access = layout(call.kernel, stage.images[name])
                assert access is not None
                kernel, start, size = copied_tile(access, stage.images[name], wanted)
                source = self._part(call.inputs[0], start, size)
                made[name] = self._add(number, call, kernel, (source,), wanted)
                continue
            reads = zip(
                read_spans(call, 0, wanted.rows), read_spans(call, 1, wanted.columns), strict=True
            )
            inputs = tuple(
                self._read(number, source, made, Rect(*spans))
                for source, spans in zip(call.inputs, reads, strict=True)
            )
            if isinstance(call.kernel, Table | Add | Mul):
                size = wanted.height * wanted.width * stage.images[name].channels
                kernel = elementwise(call.kernel, size)
            else:
                kernel = tiled(call.kernel, wanted)
            made[name] = self._add(number, call, kernel, inputs, wanted)
        self._paste(*made[self._result])

    def _add(
        self, number: int, call: Call, kernel: Kernel, inputs: tuple[str, ...], rect: Rect
    ) -> tuple[str, Rect]:
        """Add the call that makes a tile; return the tile's buffer."""
        name = call.outputs[0]
        size = rect.height * rect.width * self._stage.images[name].channels
        if name == self._result and rect.width == self._stage.images[name].width:
            target = self._part(name, rect.rows[0] * size // rect.height, size)
        else:
            target = self._new(f"{name}_{number}", size)
        self._calls.append(Call(kernel, inputs, call.constants, (target,), call.nodes))
        return target, rect

    def _read(
        self, number: int, source: str, made: Mapping[str, tuple[str, Rect]], rect: Rect
    ) -> str:
        """Return the buffer that holds exactly a rectangle of source, copying it if it must be."""
        image = self._stage.images[source]
        held, whole = made.get(source, (source, Rect((0, image.height), (0, image.width))))
        if rect == whole:
            return held
        (top, left), seen = (whole.rows[0], whole.columns[0]), replace(
            image, height=whole.height, width=whole.width
        )  # fmt: skip
        inside = Rect(
            (rect.rows[0] - top, rect.rows[1] - top),
            (rect.columns[0] - left, rect.columns[1] - left),
        )
        kernel, start, size = copied_tile(whole_access(seen), seen, inside)
        part = self._part(held, start, size)
        if rect.width == whole.width:
            return part
        target = self._new(f"{source}_{number}_cut", kernel.size)
        self._calls.append(Call(kernel, (part,), (), (target,)))
        return target

    def _paste(self, tile: str, rect: Rect) -> None:
        """Add the call that writes a tile into the stage's output, if it is not there already."""
        if self._buffers[tile].part_of:
            return
        image = self._stage.images[self._result]
        pitch = image.width * image.channels
        kernel = Paste(rect.height, rect.width * image.channels, pitch)
        start = rect.rows[0] * pitch + rect.columns[0] * image.channels
        part = self._part(self._result, start, kernel.params("generic")[-1].size)
        self._calls.append(Call(kernel, (tile, part), (), (part,)))

    def _new(self, hint: str, size: int) -> str:
        """Declare a buffer under a fresh name and return it."""
        name, count = hint, 1
        while name in self._buffers or name in self._stage.program.buffers:
            count += 1
            name = f"{hint}_{count}"
        self._buffers[name] = Buffer(name, size, "int8")
        return name

    def _part(self, name: str, start: int, size: int) -> str:
        """Return the buffer that is part of another, from an element on."""
        held = self._buffers[name]
        whole, start = held.part_of or name, held.start + start
        part = f"{whole}_from_{start}_{size}"
        self._buffers.setdefault(part, Buffer(part, size, held.dtype, whole, start))
        return part

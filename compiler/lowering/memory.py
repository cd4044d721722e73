"""The arena: one block of memory in which every intermediate buffer gets a place for its lifetime.

Buffers that a kernel may overwrite in place share memory with its input; scratch lives for one
call. Placement is greedy, tried in several orders; the lower bound says how far it is from ideal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .program import Program

ALIGNMENT = 16


@dataclass(frozen=True, slots=True)
class Block:
    """Memory for `members`, alive from call `first` to call `last` (inclusive)."""

    members: tuple[str, ...]
    size_bytes: int
    first: int
    last: int

    def meets(self, other: Block) -> bool:
        """True if both are alive at the same time."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True, slots=True)
class Arena:
    """Offset of every member in bytes; `lower_bound_bytes` is the most that is alive at once."""

    offsets: Mapping[str, int]
    blocks: Sequence[tuple[Block, int]]
    size_bytes: int
    lower_bound_bytes: int


def scratch_name(call: int, param: str) -> str:
    """Return how the arena calls a scratch parameter of one call."""
    return f"{call}:{param}"


def _round_up(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _lifetimes(program: Program, isa: str) -> list[Block]:
    """Return one block per buffer and per scratch parameter."""
    outside = {p.buffer for p in (*program.inputs, *program.outputs)} | set(program.constants)
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    scratch: list[Block] = []
    for index, call in enumerate(program.calls):
        for name in (*call.inputs, *call.outputs):
            if name not in outside:
                first.setdefault(name, index)
                last[name] = index
        for param in call.kernel.params(isa):
            if param.role == "scratch":
                size = _round_up(param.size_bytes)
                members = (scratch_name(index, param.name),)
                scratch.append(Block(members, size, index, index))
    sizes = {n: _round_up(program.buffers[n].size_bytes) for n in first}
    return [Block((n,), sizes[n], first[n], last[n]) for n in first] + scratch


def _merge_in_place(program: Program, isa: str, blocks: list[Block]) -> list[Block]:
    """Let an output take over the memory of an input that dies in the same call."""
    if isa == "cuda":  # its threads read and write in no order
        return blocks
    at = {name: block for block in blocks for name in block.members}
    for index, call in enumerate(program.calls):
        for out, source in call.kernel.in_place().items():
            target, dying = at.get(call.outputs[out]), at.get(call.inputs[source])
            if target is None or dying is None or dying.last != index or target is dying:
                continue
            if call.inputs.count(call.inputs[source]) > 1:
                continue
            merged = Block(
                dying.members + target.members, max(dying.size_bytes, target.size_bytes),
                dying.first, target.last,
            )  # fmt: skip
            at.update(dict.fromkeys(merged.members, merged))
    return list({id(block): block for block in at.values()}.values())


def _place(order: Sequence[Block]) -> tuple[list[tuple[Block, int]], int]:
    """Place blocks in order, each at the lowest offset free for its whole life."""
    placed: list[tuple[Block, int]] = []
    for block in order:
        offset = 0
        for other, start in sorted(
            ((b, o) for b, o in placed if b.meets(block)), key=lambda pair: pair[1]
        ):
            if offset + block.size_bytes <= start:
                break
            offset = max(offset, start + other.size_bytes)
        placed.append((block, offset))
    return placed, max((o + b.size_bytes for b, o in placed), default=0)


def plan_arena(program: Program, isa: str) -> Arena:
    """Place every intermediate buffer and scratch area of program for the inner loops of isa."""
    blocks = _merge_in_place(program, isa, _lifetimes(program, isa))
    keys: list[Callable[[Block], tuple[int, ...]]] = [
        lambda b: (-b.size_bytes, b.first),
        lambda b: (b.first, -b.size_bytes),
        lambda b: (-b.size_bytes * (b.last - b.first + 1), b.first),
        lambda b: (-(b.last - b.first), -b.size_bytes),
    ]
    plans = [_place(sorted(blocks, key=lambda b, k=key: (*k(b), b.members))) for key in keys]
    placed, size = min(plans, key=lambda plan: plan[1])
    bound = max(
        (
            sum(b.size_bytes for b in blocks if b.first <= index <= b.last)
            for index in range(len(program.calls))
        ),
        default=0,
    )
    offsets = {name: offset for block, offset in placed for name in block.members}
    return Arena(offsets, placed, size, bound)

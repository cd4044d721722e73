"""The arena: one block of memory in which every intermediate buffer gets a place for its lifetime.

Buffers that a kernel overwrites element by element share memory with its input; an output that is
written behind the input still to be read may overlap it (diagonal memory, arXiv 2010.01668);
scratch lives for one call. Placement is greedy in several orders, then searched: exhaustively for
few blocks, else by moving blocks to the front. The lower bound says how far the plan is
from ideal.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from .program import Call, Program

ALIGNMENT = 16
# Offset by index of block.
Placed = dict[int, int]
# Programs of at most so many blocks are searched exhaustively.
EXACT_BLOCKS = 8
# Blocks placed in all the orders tried beyond the greedy ones, where these miss the lower bound.
SEARCH_BLOCKS = 30_000


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
class Overlap:
    """A call after which `source` is dead and before which `target` was: they may overlap.

    The target begins at least `behind_bytes` before the source; None: exactly where it begins.
    """

    call: int
    target: str
    source: str
    behind_bytes: int | None


@dataclass(frozen=True, slots=True)
class Arena:
    """Offset of every member in bytes; `lower_bound_bytes` is the least that any plan takes.

    `overlaps`: the pairs of buffers that may share memory while both are alive. `alive_bytes`: per
    call, what must exist at once.
    """

    offsets: Mapping[str, int]
    blocks: Sequence[tuple[Block, int]]
    size_bytes: int
    lower_bound_bytes: int
    overlaps: Sequence[Overlap] = ()
    alive_bytes: Sequence[int] = ()

    @property
    def peak_call(self) -> int:
        """The call at which most memory is needed at once."""
        return max(range(len(self.alive_bytes)), key=lambda i: self.alive_bytes[i], default=0)


def scratch_name(call: int, param: str) -> str:
    """Return how the arena calls a scratch parameter of one call."""
    return f"{call}:{param}"


def _round_up(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _lifetimes(program: Program, isa: str) -> list[Block]:
    """Return one block per buffer and per scratch parameter; parts are in their whole buffer's."""
    outside = {p.buffer for p in (*program.inputs, *program.outputs)} | set(program.constants)
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    scratch: list[Block] = []
    for index, call in enumerate(program.calls):
        for name in map(program.whole, (*call.inputs, *call.outputs)):
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


def _overlaps(program: Program, isa: str) -> Iterator[Overlap]:
    """Yield what the kernels allow, lifetimes apart."""
    if isa == "cuda":  # its threads read and write in no order
        return
    for index, call in enumerate(program.calls):
        allowed: dict[tuple[int, int], int | None] = dict.fromkeys(
            call.kernel.in_place(isa).items()
        )
        for target, (source, behind_bytes) in call.kernel.behind(isa).items():
            allowed[target, source] = behind_bytes
        for (target, source), behind_bytes in allowed.items():
            names = call.outputs[target], call.inputs[source]
            if _alone(program, call, *names):
                bytes_ = behind_bytes if behind_bytes is None else _round_up(behind_bytes)
                yield Overlap(index, *names, bytes_)


def _alone(program: Program, call: Call, target: str, source: str) -> bool:
    """Return whether both are whole buffers, and the source is read once."""
    whole = all(program.whole(name) == name for name in (target, source))
    return whole and call.inputs.count(source) == 1


def _merge_in_place(blocks: list[Block], overlaps: Sequence[Overlap]) -> list[Block]:
    """Let an output take over the memory of an input of its size that dies in the same call."""
    at = {name: block for block in blocks for name in block.members}
    for overlap in overlaps:
        if overlap.behind_bytes is not None:
            continue
        target, dying = at.get(overlap.target), at.get(overlap.source)
        if target is None or dying is None or dying.last != overlap.call or target is dying:
            continue
        if target.size_bytes == dying.size_bytes:
            merged = Block(
                dying.members + target.members, dying.size_bytes, dying.first, target.last
            )
            at.update(dict.fromkeys(merged.members, merged))
    return list({id(block): block for block in at.values()}.values())


class Puzzle:
    """Blocks, and for every two that are alive at once the offsets between them that clash."""

    def __init__(
        self, blocks: Sequence[Block], overlaps: Sequence[Overlap], calls: int,
        long: Set[str] = frozenset(),
    ) -> None:  # fmt: skip
        self.blocks = sorted(blocks, key=lambda b: (b.first, b.last, b.members))
        at = {name: i for i, b in enumerate(self.blocks) for name in b.members}
        # (target, source) -> how far the target begins before the source, at least or exactly.
        self._pairs: dict[tuple[int, int], int | None] = {}
        self.used: list[Overlap] = []
        for overlap in overlaps:
            target, source = at.get(overlap.target), at.get(overlap.source)
            if target is None or source is None or target == source:
                continue
            lives = self.blocks[target].first, self.blocks[source].last
            if lives == (overlap.call, overlap.call):
                self._pairs[target, source] = overlap.behind_bytes
                self.used.append(overlap)
        # Block -> the blocks alive with it, and the open intervals their distance may not lie in.
        self.clashes: list[list[tuple[int, list[tuple[int, int]]]]] = [[] for _ in self.blocks]
        for i, block in enumerate(self.blocks):
            for j in range(i + 1, len(self.blocks)):
                if self.blocks[j].first > block.last:
                    break
                self.clashes[i].append((j, self._forbidden(i, j)))
                self.clashes[j].append((i, self._forbidden(j, i)))
        # Blocks of buffers that are written part by part.
        self.long = [i for i, b in enumerate(self.blocks) if long & set(b.members)]
        self.alive_bytes = [self._alive_bytes(call) for call in range(calls)]

    def _forbidden(self, i: int, j: int) -> list[tuple[int, int]]:
        """Return the open intervals in which offset i less offset j must not lie."""
        low, high = -self.blocks[i].size_bytes, self.blocks[j].size_bytes
        for target, source in ((i, j), (j, i)):
            if (target, source) not in self._pairs:
                continue
            behind = self._pairs[target, source]
            if behind is None:
                return [(low, 0), (0, high)]
            behind = min(behind, self.blocks[target].size_bytes)
            low, high = (-behind, high) if target == i else (low, behind)
        return [(low, high)] if low < high else []

    def _alive_bytes(self, call: int) -> int:
        """Return the least memory that what is alive at a call can share."""
        alive = [i for i, b in enumerate(self.blocks) if b.first <= call <= b.last]
        pairs = [pair for pair in self._pairs if set(pair) <= set(alive)]
        total = sum(self.blocks[i].size_bytes for i in alive)
        if not pairs:
            return total
        (target, source) = pairs[0]
        if len(pairs) > 1:  # a bound that holds however they overlap
            sources, targets = {s for _, s in pairs}, {t for t, _ in pairs}
            return total - min(
                sum(self.blocks[i].size_bytes for i in s) for s in (sources, targets)
            )
        sizes = self.blocks[target].size_bytes, self.blocks[source].size_bytes
        behind = min(self._pairs[target, source] or 0, sizes[0])
        return total - sum(sizes) + max(sizes[0], behind + sizes[1], sizes[1])

    def place(self, order: Sequence[int], fixed: Placed) -> tuple[Placed, int]:
        """Place blocks in order, each at the lowest offset free for its whole life.

        Returns their offsets beside those that are fixed, and where the last of all ends.
        """
        offsets = dict(fixed)
        for i in order:
            offsets[i] = self.lowest(i, offsets)
        return offsets, self.end(offsets)

    def end(self, offsets: Placed) -> int:
        """Return where the last of the blocks placed ends."""
        return max((o + self.blocks[i].size_bytes for i, o in offsets.items()), default=0)

    def lowest(self, i: int, offsets: Placed) -> int:
        """Return the lowest offset of block i that clashes with none of those placed."""
        taken = sorted(
            (offsets[j] + low, offsets[j] + high)
            for j, intervals in self.clashes[i] if j in offsets for low, high in intervals
        )  # fmt: skip
        offset = 0
        for low, high in taken:
            if offset <= low:
                break
            if offset < high:
                offset = _round_up(high)
        return offset

    def groups(self, fixed: Placed) -> Iterator[list[int]]:
        """Yield the other blocks in groups of which no two are ever alive together."""
        group: list[int] = []
        last = -1
        for i in (i for i in range(len(self.blocks)) if i not in fixed):
            if group and self.blocks[i].first > last:
                yield group
                group = []
            group.append(i)
            last = max(last, self.blocks[i].last)
        if group:
            yield group

    def shape(self, group: Sequence[int], fixed: Placed) -> Hashable:
        """Return what decides about the places of a group: equal for groups that fit alike."""
        at = {i: n for n, i in enumerate(group)}
        return tuple(
            (self.blocks[i].size_bytes,
             tuple((at.get(j, -1), fixed.get(j, 0), *intervals)
                   for j, intervals in self.clashes[i] if j in at or j in fixed))
            for i in group
        )  # fmt: skip


_KEYS: tuple[Callable[[Block], tuple[int, ...]], ...] = (
    lambda b: (-b.size_bytes, b.first),
    lambda b: (b.first, -b.size_bytes),
    lambda b: (-b.last, -b.size_bytes),
    lambda b: (-b.size_bytes * (b.last - b.first + 1), b.first),
    lambda b: (-(b.last - b.first), -b.size_bytes),
)


def search(puzzle: Puzzle, bound: int) -> tuple[Placed, int]:
    """Return the offsets of the best placement found, and its size; none is below bound.

    Buffers that are written part by part (the output of a patch stage) outlive groups of others
    that never meet: they lie at either end, and every group is fitted in by itself.
    """
    best: tuple[Placed, int] | None = None
    fronts, end = {}, 0
    for i in puzzle.long:
        fronts[i] = end
        end += puzzle.blocks[i].size_bytes
    backs = {i: bound - end + offset for i, offset in fronts.items()}
    for fixed in (fronts, backs) if puzzle.long else (fronts,):
        found: Placed = dict(fixed)
        known: dict[Hashable, list[int]] = {}
        for group in puzzle.groups(fixed):
            shape = puzzle.shape(group, fixed)
            if shape not in known:
                placed, _ = _search_group(puzzle, group, fixed, bound)
                known[shape] = [placed[i] for i in group]
            found |= zip(group, known[shape], strict=True)
        if best is None or puzzle.end(found) < best[1]:
            best = found, puzzle.end(found)
    assert best is not None
    return best


def _search_group(
    puzzle: Puzzle, group: Sequence[int], fixed: Placed, bound: int
) -> tuple[Placed, int]:
    """Return the best offsets found for a group beside those that are fixed, and their end."""
    orders = [sorted(group, key=lambda i, k=key: (*k(puzzle.blocks[i]), i)) for key in _KEYS]
    tries = ((puzzle.place(o, fixed), o) for o in orders)
    best, order = min(tries, key=lambda found: found[0][1])
    if best[1] > bound and len(group) <= EXACT_BLOCKS:
        return _exhaustive(puzzle, group, best, bound, dict(fixed))
    chance = random.Random(0)
    for _ in range(SEARCH_BLOCKS // len(order)):
        if best[1] <= bound:
            break
        # A block on top of all can only sink if it is placed before what it lies on.
        offsets, size = best
        tops = [i for i in order if offsets[i] + puzzle.blocks[i].size_bytes == size] or order
        moved = chance.choice(tops if chance.random() < 0.5 else order)
        rest = [i for i in order if i != moved]
        at = chance.randrange(order.index(moved) + 1)
        tried = [*rest[:at], moved, *rest[at:]]
        found = puzzle.place(tried, fixed)
        if found[1] <= size:
            best, order = found, tried
    return best


def _exhaustive(
    puzzle: Puzzle, group: Sequence[int], best: tuple[Placed, int], bound: int, offsets: Placed
) -> tuple[Placed, int]:
    """Return the best of all orders that go on from offsets, or best."""
    end = puzzle.end(offsets)
    left = [i for i in group if i not in offsets]
    if not left:
        return (dict(offsets), end) if end < best[1] else best
    for i in left:
        if best[1] <= bound:
            break
        placed = {**offsets, i: puzzle.lowest(i, offsets)}
        if puzzle.end(placed) < best[1]:
            best = _exhaustive(puzzle, group, best, bound, placed)
    return best


def _puzzle(program: Program, isa: str) -> Puzzle:
    overlaps = list(_overlaps(program, isa))
    blocks = _merge_in_place(_lifetimes(program, isa), overlaps)
    written = {program.buffers[n].part_of for call in program.calls for n in call.outputs}
    return Puzzle(blocks, overlaps, len(program.calls), written)


def least_bytes(program: Program, isa: str) -> int:
    """Return what no plan of program takes less than."""
    return max(_puzzle(program, isa).alive_bytes, default=0)


def plan_arena(program: Program, isa: str) -> Arena:
    """Place every intermediate buffer and scratch area of program for the inner loops of isa."""
    puzzle = _puzzle(program, isa)
    bound = max(puzzle.alive_bytes, default=0)
    found, size = search(puzzle, bound)
    placed = [(puzzle.blocks[i], offset) for i, offset in found.items()]
    offsets = {name: offset for block, offset in placed for name in block.members}
    for name, buffer in program.buffers.items():
        if buffer.part_of in offsets:
            offsets[name] = offsets[buffer.part_of] + buffer.start_bytes
    return Arena(offsets, placed, size, bound, puzzle.used, puzzle.alive_bytes)

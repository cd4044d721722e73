"""Every sentence that edgec can fail with, read from the places in its code that raise them.

Values that are only known when it happens are written `…`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("compiler", "passes", "runtime", "targets")
HOLE = "…"
# What is raised, and the exit code's class it ends as: a refused operator is a ModelError.
RAISED: Mapping[str, str] = {
    "ModelError": "ModelError", "DataError": "DataError", "OptionError": "OptionError",
    "UsageError": "OptionError", "BadParameter": "OptionError",
    "ToolMissingError": "ToolMissingError", "GateError": "GateError",
    "DeviceError": "DeviceError", "RefusedError": "RefusedError",
}  # fmt: skip
# Numbers that a kernel cannot hold are ValueErrors there; the matchers put the node before them.
OF_NUMBERS, REFUSED = ("compiler/lowering/kernels/", "compiler/core/encoding.py"), "RefusedError"
# The function that says what became of any exception, also of those that are not ours.
LAST_RESORT, OTHER = "describe", "other"
# Calls that hand on the strings in their arguments.
_HAND_ON = {"list", "tuple", "str", "sorted", "fromkeys", "join", "set"}
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True, order=True)
class Message:
    """One sentence, what is raised with it, and the file that says it."""

    error: str
    text: str
    where: str

    def matches(self, sentence: str) -> bool:
        """Return whether sentence, as printed, is this one."""
        parts = (re.escape(part) for part in self.text.split(HOLE))
        return re.fullmatch(".*".join(parts), sentence, re.DOTALL) is not None


@cache
def messages() -> tuple[Message, ...]:
    """Return every sentence once, sorted by error, file and text."""
    return _collect()[0]


@cache
def unread() -> tuple[str, ...]:
    """Return 'file: expression' of every raise whose sentence could not be read from the code."""
    return _collect()[1]


def _collect() -> tuple[tuple[Message, ...], tuple[str, ...]]:
    reader = _Reader(ROOT)
    found: dict[tuple[str, str], str] = {}
    missing: list[str] = []
    for where, function, value, error in reader.raised():
        texts = [t for t in reader.texts(value, function, where, set()) if is_sentence(t)]
        if not texts:
            missing.append(f"{where}: {ast.unparse(value)}")
        for text in texts:
            found.setdefault((error, text), where)
    made = [Message(error, text, where) for (error, text), where in found.items()]
    return tuple(sorted(made, key=lambda m: (m.error, m.where, m.text))), tuple(missing)


def is_sentence(text: str) -> bool:
    """Return whether text holds words of its own, not only values and what joins them."""
    words = re.findall(r"[A-Za-z]{2,}", text.replace(HOLE, " "))
    return len(words) >= 2 or bool(words and text.endswith("."))


class _Reader:
    """The syntax trees of the code, and which function has which name."""

    def __init__(self, root: Path) -> None:
        self.trees = {
            p.relative_to(root).as_posix(): ast.parse(p.read_text("utf-8"))
            for folder in FOLDERS
            for p in sorted((root / folder).rglob("*.py"))
        }
        self.functions: dict[str, list[tuple[str, Function]]] = {}
        for where, tree in self.trees.items():
            for node in ast.walk(tree):
                if isinstance(node, Function):
                    self.functions.setdefault(node.name, []).append((where, node))

    def raised(self) -> Iterator[tuple[str, ast.AST, ast.expr, str]]:
        """Yield file, innermost function, sentences and error of every error that is made."""
        for where, tree in self.trees.items():
            for function, node in _with_function(tree, tree):
                if not isinstance(node, ast.Call) or not node.args:
                    continue
                name, said = _name(node.func), node.args[0]
                if name in RAISED:
                    yield where, function, said, RAISED[name]
                elif name == "ValueError" and where.startswith(OF_NUMBERS):
                    holes = [ast.FormattedValue(ast.Name("node"), -1), ast.Constant(": ")]
                    own = said.values if isinstance(said, ast.JoinedStr) else [said]
                    yield where, function, ast.JoinedStr([*holes, *own]), REFUSED
        ((where, last),) = self.functions[LAST_RESORT]
        for value in _returned(last):
            if isinstance(value, ast.Tuple) and isinstance(value.elts[1], ast.List):
                yield from ((where, last, said, OTHER) for said in value.elts[1].elts)

    def constants(self, where: str) -> ast.Module:
        """Return the assignments of a module that stand outside its functions."""
        body: list[ast.stmt] = [
            n for n in self.trees[where].body if isinstance(n, ast.Assign | ast.AnnAssign)
        ]
        return ast.Module(body, [])

    def texts(self, node: ast.AST, function: ast.AST, where: str, seen: set[int]) -> list[str]:
        """Return what node, an expression inside function, can be as a string; each node once."""
        if id(node) in seen:
            return []
        seen.add(id(node))
        match node:
            case ast.Constant(value=str(text)):
                return [text]
            case ast.JoinedStr(values=parts):
                return self._joined(parts, function, where, seen)
            case ast.IfExp(body=one, orelse=other):
                inner: list[ast.AST] = [one, other]
            case ast.BoolOp(values=values):
                inner = [*values]
            case ast.List(elts=values) | ast.Tuple(elts=values):
                inner = [*values]
            case ast.ListComp(elt=element) | ast.GeneratorExp(elt=element):
                inner = [element, *(g.iter for g in node.generators)]
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                before, after = (
                    self.texts(n, function, where, seen) or [HOLE] for n in (left, right)
                )
                return [_filled(b + a) for b in before for a in after]
            case ast.Starred(value=value) | ast.NamedExpr(value=value):
                inner = [value]
            case ast.Name(id=name):
                inner = list(_assigned(name, function)) or list(
                    _assigned(name, self.constants(where))
                )
                if not inner:
                    return self._passed(name, function, where, seen)
            case ast.Attribute(attr=name) if isinstance(node.ctx, ast.Load):
                inner = list(_assigned(name, self.trees[where]))
            case ast.Call():
                return self._called(node, function, where, seen)
            case _:
                inner = []
        return [t for n in inner for t in self.texts(n, function, where, seen)]

    def _passed(self, name: str, function: ast.AST, where: str, seen: set[int]) -> list[str]:
        """Return what the calls in function's module pass for its parameter called name."""
        if not isinstance(function, Function):
            return []
        names = [a.arg for a in function.args.args if a.arg != "self"]
        if name not in names:
            return []
        place = names.index(name)
        return [
            text
            for caller, node in _with_function(self.trees[where], self.trees[where])
            if isinstance(node, ast.Call) and _name(node.func) == function.name
            for argument in node.args[place : place + 1]
            for text in self.texts(argument, caller, where, seen)
        ]

    def _joined(
        self, parts: list[ast.expr], function: ast.AST, where: str, seen: set[int]
    ) -> list[str]:
        """Return an f-string; one without words of its own takes those of what it quotes."""
        text = _text(parts)
        if is_sentence(text):
            return [text]
        return [text] + [
            _text([*parts[:i], ast.Constant(said), *parts[i + 1 :]])
            for i, part in enumerate(parts)
            if isinstance(part, ast.FormattedValue)
            for said in self.texts(part.value, function, where, seen)
        ]

    def _called(self, call: ast.Call, function: ast.AST, where: str, seen: set[int]) -> list[str]:
        name = _name(call.func)
        if name in _HAND_ON:
            return [t for a in call.args for t in self.texts(a, function, where, seen)]
        known = self.functions.get(name, [])
        near = [pair for pair in known if pair[0] == where] or known
        return [
            text
            for home, callee in near
            for value in _returned(callee)
            for text in self.texts(value, callee, home, seen)
        ]


def _with_function(node: ast.AST, function: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    for child in ast.iter_child_nodes(node):
        inner = child if isinstance(child, Function) else function
        yield inner, child
        yield from _with_function(child, inner)


def _name(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return ""


def _text(parts: Iterable[ast.expr]) -> str:
    return _filled("".join(str(p.value) if isinstance(p, ast.Constant) else HOLE for p in parts))


def _filled(text: str) -> str:
    """Return text on one line with one hole where several stood side by side."""
    return " ".join(re.sub(rf"{HOLE}+", HOLE, text).split())


def _assigned(name: str, scope: ast.AST) -> Iterator[ast.expr]:
    """Yield what is put into a variable or attribute called name."""
    for node in ast.walk(scope):
        match node:
            case ast.Assign(targets=[*targets], value=value) if name in _names(targets):
                yield value
            case (
                ast.For(target=target, iter=value) | ast.comprehension(target=target, iter=value)
            ) if name in _names([target]):
                yield value
            case (
                ast.AnnAssign(target=target, value=ast.expr() as value)
                | ast.AugAssign(target=target, value=value)
                | ast.NamedExpr(target=target, value=value)
            ) if _name(target) == name:
                yield value
            case ast.Call(
                func=ast.Attribute(attr="append" | "extend", value=target), args=[value]
            ) if _name(target) == name:
                yield value
            case _:
                pass


def _names(targets: Iterable[ast.expr]) -> list[str]:
    """Return the names that an assignment to targets sets, those of tuples included."""
    flat = [t for x in targets for t in (x.elts if isinstance(x, ast.Tuple) else [x])]
    return [_name(t) for t in flat]


def _returned(function: Function) -> Iterator[ast.expr]:
    for node in ast.walk(function):
        if isinstance(node, ast.Return | ast.Yield | ast.YieldFrom) and node.value is not None:
            yield node.value

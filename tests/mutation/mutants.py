"""Small faults put into a module's source, one at a time: what its tests must be able to see."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass

LONGEST_SHOWN = 240
BINARY: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
COMPARED: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
PAIRS = ("min max", "any all", "amin amax", "zeros ones", "floor ceil", "sum mean", "sin cos")
SWAPPED = {one: other for pair in PAIRS for one, other in (pair.split(), pair.split()[::-1])}
SPOKEN = ("notice", "Setting", "Words", "warn")  # calls whose words are for people
PLACED = ("cpu", "contiguous", "to", "detach", "tolist", "item", "numpy", "keys", "items", "values")
EITHER_WAY = ("transpose", "swapaxes", "max", "min", "maximum", "minimum", "gcd")
CASTS = ("int", "str", "tuple", "list", "dict", "set", "len", "iter", "range", "super", "float")


@dataclass(frozen=True)
class Mutant:
    """A module with one fault.

    Attributes:
        line: where it is.
        text: that line, as it stands in the module.
        change: what became what.
        source: of the whole module.
    """

    line: int
    text: str
    change: str
    source: str


def mutants(source: str) -> Iterator[Mutant]:
    """Yield every mutant of a module; what is for people, or for a type checker, is left alone."""
    tree, lines = ast.parse(source), source.splitlines()
    whole = ast.unparse(tree)
    for parent, field, place, node in list(_places(tree, frozenset())):
        for new in _faults(node):
            _put(parent, field, place, new)
            text = lines[node.lineno - 1].strip()
            change = f"{_shown(node)} -> {_shown(new)}"
            changed = ast.unparse(ast.fix_missing_locations(tree))
            if changed != whole:  # two equal arguments may be exchanged
                yield Mutant(node.lineno, text, change, changed)
            _put(parent, field, place, node)


def _put(parent: ast.AST, field: str, place: int | None, node: ast.AST) -> None:
    if place is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[place] = node


def _shown(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def _places(
    parent: ast.AST, bound: frozenset[str]
) -> Iterator[tuple[ast.AST, str, int | None, ast.expr | ast.stmt]]:
    """Yield the nodes that may be mutated, and where each hangs."""
    known = set(bound)
    if isinstance(parent, ast.FunctionDef):
        every = (*parent.args.posonlyargs, *parent.args.args, *parent.args.kwonlyargs)
        known |= {one.arg for one in every}
    for field, value in ast.iter_fields(parent):
        for place, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(node, ast.AST) or _is_out_of_scope(parent, field, place, node):
                continue
            is_mutable = isinstance(node, ast.expr | ast.stmt)
            if is_mutable and not (isinstance(node, ast.Assign) and _is_new(node, known)):
                yield parent, field, place, node
            if not isinstance(node, ast.Raise):
                yield from _places(node, frozenset(known))
            if isinstance(node, ast.Assign):
                known |= {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}


def _is_new(node: ast.Assign, known: set[str]) -> bool:
    """Tell whether an assignment makes a name, without which nothing would run."""
    names = {
        one.id
        for target in node.targets
        for one in ast.walk(target)
        if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)
    }
    return not names <= known


def _is_out_of_scope(parent: ast.AST, field: str, place: int | None, node: ast.AST) -> bool:
    if field in ("annotation", "returns", "decorator_list", "bases", "targets", "target"):
        return True
    if isinstance(node, ast.Import | ast.ImportFrom | ast.Assert | ast.JoinedStr):
        return True
    if isinstance(parent, ast.Call) and _name(parent.func) == "require" and (place or 0) > 0:
        return True  # its first argument is what is required, the others are the message
    if isinstance(parent, ast.keyword) and parent.arg == "strict":
        return True
    is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    is_type = isinstance(node, ast.Subscript) and _is_camel(_name(node.value))
    is_checking = isinstance(node, ast.If) and _name(node.test) == "TYPE_CHECKING"
    is_spoken = isinstance(node, ast.Call) and (
        _name(node.func).endswith(("Error", "refusal")) or _name(node.func) in SPOKEN
    )
    return is_docstring or is_type or is_checking or is_spoken


def _is_camel(name: str) -> bool:
    return name[:1].isupper() and not name.isupper()


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else getattr(node, "attr", "")


def _faults(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what may stand in a node's place."""
    match node:
        case ast.BinOp(op=ast.MatMult()):
            yield _with(node, left=node.right, right=node.left)
        case ast.BinOp() if type(node.op) in BINARY:
            yield _with(node, op=BINARY[type(node.op)]())
        case ast.Compare():
            for place, operator in enumerate(node.ops):
                for other in COMPARED[type(operator)]:
                    yield _with(node, ops=[*node.ops[:place], other(), *node.ops[place + 1 :]])
        case ast.BoolOp():
            yield _with(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
        case ast.UnaryOp():
            yield node.operand
        case ast.Constant():
            yield from _constants(node)
        case ast.Name() | ast.Attribute():
            yield from _other_names(node)
        case ast.Call():
            yield from _calls(node)
        case ast.Slice() | ast.Lambda():
            return
        case ast.IfExp() | ast.If() | ast.While() if not isinstance(
            node.test, ast.Compare | ast.UnaryOp
        ):
            yield _with(node, test=ast.UnaryOp(ast.Not(), node.test))
        case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
            for place, one in enumerate(node.generators):
                if one.ifs:
                    all_ = _with(one, ifs=[])
                    rest = [*node.generators[:place], all_, *node.generators[place + 1 :]]
                    yield _with(node, generators=rest)
        case ast.Return(value=ast.expr()):
            if not (isinstance(node.value, ast.Constant) and node.value.value is None):
                yield _with(node, value=ast.Constant(None))
            if isinstance(node.value, ast.Tuple) and len(node.value.elts) > 1:
                yield _with(node, value=_with(node.value, elts=node.value.elts[::-1]))
        case ast.Continue() | ast.Break() | ast.AugAssign() | ast.Raise() | ast.Delete():
            yield ast.Pass(lineno=node.lineno)
        case ast.Expr(value=ast.Call()) | ast.Assign():
            yield ast.Pass(lineno=node.lineno)


def _with(node: ast.AST, **changes: object) -> ast.AST:
    new = copy.copy(node)
    for name, value in changes.items():
        setattr(new, name, value)
    return new


def _constants(node: ast.Constant) -> Iterator[ast.AST]:
    match node.value:
        case bool():
            yield ast.Constant(not node.value)
        case int():
            yield ast.Constant(node.value + 1)
        case float():
            yield ast.Constant(2 * node.value or 1.0)
        case str():
            yield ast.Constant(f"{node.value}_x")


def _other_names(node: ast.Name | ast.Attribute) -> Iterator[ast.AST]:
    other = SWAPPED.get(_name(node))
    if other and isinstance(node, ast.Name):
        yield ast.Name(other, node.ctx)
    elif other:
        yield _with(node, attr=other)


def _calls(node: ast.Call) -> Iterator[ast.AST]:
    """A call without one argument, with two of them exchanged, and what it was called on."""
    name = _name(node.func)
    for place, keyword in enumerate(node.keywords):
        if keyword.arg in ("device", "strict"):  # there is one here; a check, as assert is
            continue
        yield _with(node, keywords=[*node.keywords[:place], *node.keywords[place + 1 :]])
    if len(node.args) > 1:
        yield _with(node, args=node.args[:-1])
    if len(node.args) > 1 and name not in EITHER_WAY:
        yield _with(node, args=[node.args[1], node.args[0], *node.args[2:]])
    if isinstance(node.func, ast.Attribute) and name not in PLACED:
        is_of_module = isinstance(node.func.value, ast.Name) and len(node.args) == 1
        if is_of_module and node.func.value.id in ("np", "torch", "math", "functional"):
            yield node.args[0]
        elif (
            not node.keywords and len(node.args) <= 1 and not isinstance(node.func.value, ast.Call)
        ):
            if not (
                isinstance(node.func.value, ast.Name) and node.func.value.id in ("np", "torch")
            ):
                yield node.func.value
        elif isinstance(node.func.value, ast.Call):
            yield node.func.value
    elif name not in CASTS and len(node.args) == 1 and not node.keywords and name.islower():
        yield node.args[0]

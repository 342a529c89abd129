"""`help(fungistore)`: each public name with one sentence, read from the sources without imports."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def overview() -> str:
    """Return the public names by kind, each with the first sentence of its documentation."""
    found = list(_described())
    functions = [(name, said) for name, said, node in found if isinstance(node, FUNCTION)]
    others = [(name, said) for name, said, node in found if not isinstance(node, FUNCTION)]
    parts = (("Functions", functions), ("Classes and values", others))
    return "\n".join(line for title, names in parts for line in _listed(title, names))


def _listed(title: str, names: list[tuple[str, str]]) -> Iterator[str]:
    width = max(len(name) for name, _ in names)
    yield f"{title}:\n"
    yield from (f"    {name:{width}}  {said}" for name, said in sorted(names))
    yield ""


def _described() -> Iterator[tuple[str, str, ast.stmt]]:
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
    for line in stub.body:
        if isinstance(line, ast.ImportFrom):
            path = PACKAGE.joinpath(*str(line.module).split(".")).with_suffix(".py")
            body = ast.parse(path.read_text(encoding="utf-8")).body
            for alias in line.names:
                yield from _found(alias.name, body)


def _found(name: str, body: list[ast.stmt]) -> Iterator[tuple[str, str, ast.stmt]]:
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            yield name, _sentence(ast.get_docstring(node) or ""), node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                yield name, f"A value: {ast.unparse(node)[:60]}".partition("\n")[0], node


def _sentence(text: str) -> str:
    paragraph = " ".join(text.partition("\n\n")[0].split())
    return re.split(r"(?<=[.;:])\s+(?=[A-Z])", paragraph, maxsplit=1)[0]

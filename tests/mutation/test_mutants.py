"""The harness of `make mutate` by itself: what it changes, and that it changes nothing else."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from mutants import mutants

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def changes(source: str) -> set[str]:
    found = list(mutants(source))
    for one in found:
        ast.parse(one.source)
        assert ast.unparse(ast.parse(source)) != one.source
    return {one.change for one in found}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("x = a + 1", {"a + 1 -> a - 1", "1 -> 2"}),
        ("x = a @ b", {"a @ b -> b @ a"}),
        ("x = a < b", {"a < b -> a <= b", "a < b -> a >= b"}),
        ("x = a and not b", {"a and (not b) -> a or not b", "not b -> b"}),
        ("x = a if b else c", {"a if b else c -> a if not b else c"}),
        ("x = -0.5", {"-0.5 -> 0.5", "0.5 -> 1.0"}),
        ("x = True", {"True -> False"}),
        ("x = f(a, b, k=c)", {
            "f(a, b, k=c) -> f(a, b)", "f(a, b, k=c) -> f(a, k=c)", "f(a, b, k=c) -> f(b, a, k=c)"
        }),
        ("x = y.mean()", {"y.mean() -> y", "y.mean -> y.sum"}),
        ("x = [a for a in y if a]", {"[a for a in y if a] -> [a for a in y]"}),
        ("x += y", {"x += y -> pass"}),
        ("x.y = z", {"x.y = z -> pass"}),
        ("f(x)", {"f(x) -> pass", "f(x) -> x"}),
        ("require(a > 1, 'name', 'words')", {
            "require(a > 1, 'name', 'words') -> pass",
            "require(a > 1, 'name', 'words') -> require(a > 1, 'name')",
            "require(a > 1, 'name', 'words') -> require('name', a > 1, 'words')",
            "a > 1 -> a >= 1", "a > 1 -> a <= 1", "1 -> 2",
        }),
    ],
)  # fmt: skip
def test_a_line_has_these_faults(line: str, expected: set[str]) -> None:
    assert changes(line) == expected


@pytest.mark.parametrize(
    "line",
    [
        "import a",
        '"""Words."""',
        "x: Float[Tensor, 'b d']",
        "def f(x: Literal['a'] = ...) -> Annotated[int, 3]: ...",
        "assert x > 1",
        "x = f'{a + b}'",
        "Names = Literal['a', 'b']",
        "x = zip(a, strict=True)",
        "x = zeros(device='cpu')",
    ],
)
def test_what_is_for_people_and_type_checkers_is_left_alone(line: str) -> None:
    assert not {change for change in changes(line) if "strict" not in change} - {
        "zip(a, strict=True) -> a",
        "zeros(device='cpu') -> ones(device='cpu')",
        "zeros -> ones",
        "'cpu' -> 'cpu_x'",
    }


def test_a_module_comes_back_whole_after_its_mutants() -> None:
    """Every mutant has one fault: those before it are undone."""
    source = "def f(a, b):\n    c = a + b\n    if c > 0:\n        return c * 2\n    return b\n"
    whole = ast.unparse(ast.parse(source)).splitlines()
    for one in mutants(source):
        other = one.source.splitlines()
        assert sum(line not in whole for line in other) <= 1
        assert one.text == source.splitlines()[one.line - 1].strip()


def test_modules_and_their_tests_are_there() -> None:
    table = tomllib.loads((HERE / "modules.toml").read_text())
    missing = [f"fungistore/{name}.py" for name in table]
    missing += [file for files in table.values() for file in files]
    assert [path for path in missing if not (ROOT / path).is_file()] == []
    equivalent = tomllib.loads((HERE / "equivalent.toml").read_text())
    assert equivalent.keys() <= table.keys()
    assert all(one["why"] for entries in equivalent.values() for one in entries)


@pytest.mark.slow
def test_a_run_leaves_the_checkout_as_it_was() -> None:
    """And finds in five seeded mutants of a module what it found before."""
    files = {path: path.read_bytes() for path in (ROOT / "fungistore").rglob("*.py")}
    command = [sys.executable, str(HERE / "mutate.py"), "--module", "matrices/cells"]
    runs = [
        subprocess.run([*command, "--sample", "5"], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert runs[0].stdout == runs[1].stdout
    assert "| matrices/cells | 5 |" in runs[0].stdout
    assert {path: path.read_bytes() for path in (ROOT / "fungistore").rglob("*.py")} == files

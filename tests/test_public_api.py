"""The public names: complete, each stated once, light to import, and all that the CLI needs."""

from __future__ import annotations

import ast
import inspect
import json
import pkgutil
import pydoc
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fungi_cli.main import COMMANDS, app
from typer.testing import CliRunner

import fungistore as fungi
from feature_world import clustered, make_store
from fungistore.errors import UsageError
from fungistore.extraction.resolve import opened_source
from plugins import install, write_plugin

CLI = Path(__file__).parents[1] / "cli"
MODULES = sorted(CLI.rglob("*.py"))
ALLOWED = {
    "fungistore",
    "fungistore.errors",
    "fungistore.headings",
    "fungistore.machine.context",
    "fungistore.quantities",
    "fungistore.remote.waiting",  # a signal ends it
    "fungistore.report",
    "fungistore.settings",
    "fungistore.text",
    "fungistore.type_words",
}
HEAVY = {"torch", "numpy", "zarr", "timm", "pyarrow", "PIL", "faiss", "sklearn", "scipy"}
OPTIONS = [
    "fungistore.doctor.options",
    "fungistore.engines.options",
    "fungistore.evaluation.options",
    "fungistore.evaluation.registry",
    "fungistore.exchange.options",
    "fungistore.extraction.options",
    "fungistore.indexing.options",
    "fungistore.annotating.options",
    "fungistore.labelling.options",
    "fungistore.loff.evaluate_options",
    "fungistore.loff.options",
    "fungistore.pca.options",
    "fungistore.planning.options",
    "fungistore.prompting.options",
    "fungistore.searching.options",
    "fungistore.segmentation.bank_options",
    "fungistore.segmentation.predict_options",
    "fungistore.settings",
]


def used_names(module: Path) -> set[str]:
    """Return the names of the package that a module of the CLI uses as `fungi.NAME`."""
    return {
        node.attr
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "fungi"
    }


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_the_command_line_stands_on_public_names_alone(module: Path) -> None:
    """It imports the package, and what both speak: errors, reports, contexts, amounts, settings."""
    imported = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            imported.add(str(node.module))
    own = {name for name in imported if name.split(".")[0] == "fungistore"}
    assert own <= ALLOWED
    assert used_names(module) <= set(fungi.__all__)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_library_function(name: str) -> None:
    """What the shell can do, Python can: the module of a command calls a public function."""
    module = CLI / "commands" / f"{COMMANDS[name].__module__.rpartition('.')[2]}.py"
    calls = {
        node.func.attr
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "fungi"
    }
    assert any(callable(getattr(fungi, call)) for call in calls & set(fungi.__all__))


@pytest.mark.parametrize("name", fungi.EVALUATIONS)
def test_every_evaluation_is_a_public_function_with_public_options(name: str) -> None:
    """The function that its options name is the one that `fungistore` has."""
    kind = fungi.EVALUATIONS[name]
    function = pkgutil.resolve_name(kind.function)
    assert getattr(fungi, function.__name__) is function
    assert getattr(fungi, kind.__name__) is kind


def test_every_public_name_is_found() -> None:
    """`__all__` is what the stub states, and each of its names resolves."""
    stub = ast.parse(Path(str(fungi.__file__)).with_suffix(".pyi").read_text())
    stated = [a.name for n in stub.body if isinstance(n, ast.ImportFrom) for a in n.names]
    assert sorted(stated) == sorted(fungi.__all__)
    assert len(set(stated)) == len(stated)
    assert all(getattr(fungi, name) is not None for name in stated)


@pytest.mark.parametrize("name", [name for name in fungi.__all__ if name.islower()])
def test_a_place_is_text_or_a_path(name: str) -> None:
    """Of every public function: a store, too, is named by either."""
    for parameter in inspect.signature(getattr(fungi, name)).parameters.values():
        kind = str(parameter.annotation)
        if parameter.name == "store" or "Path" in kind:
            assert "str | Path" in kind, parameter


def test_places_are_taken_as_text_and_as_paths(tmp_path: Path) -> None:
    """What reads a store takes its place, or the open store; what writes a file takes its name."""
    vectors, labels = clustered(40, 4, 6)
    opened = make_store(tmp_path / "s.fungi", {"embeddings": vectors}, labels)
    fungi.fit_pca(opened.root, fungi.PcaOptions(dim=2, name="two", fit_split="all"))
    fungi.build_index(opened.root)
    for store in (opened.root, str(opened.root), opened):
        assert fungi.open_features(store).features == ("embeddings",)
        assert fungi.open_index(store).record.vectors == 40
        assert fungi.load_pca(store, "set", "two").components.shape == (2, 6)
    found = fungi.search(str(opened.root), [Path("000003.jpg")], fungi.SearchOptions(k=2))
    assert found.answers[0].query == "000003.jpg"
    fungi.write_page(str(tmp_path / "page.html"), found)
    assert (tmp_path / "page.html").is_file()


def test_help_lists_every_name_with_a_sentence() -> None:
    """`help(fungistore)` begins with them, functions first; no model library is imported for it."""
    text = pydoc.plain(pydoc.getdoc(fungi))
    listed = dict(re.findall(r"^ {4}(\w+) +(\S.*)$", text, re.MULTILINE))
    assert set(fungi.__all__) <= set(listed) | {"import", "options", "store"}
    for name in fungi.__all__:
        assert len(listed[name]) > 10, name
        assert listed[name].endswith((".", ";", ":")) or listed[name].startswith("A value: "), name
    assert text.index("\nFunctions:") < text.index("    extract ") < text.index("\nClasses")
    assert set(fungi.__all__) <= set(dir(fungi))
    assert not imported_by("import fungistore\nassert fungistore.__doc__.count(chr(10)) > 80")


def takes_a_list_of_texts(parameter: inspect.Parameter) -> bool:
    kind = str(parameter.annotation)
    return "Sequence[str" in kind and not kind.startswith("str")


LISTS = [
    (name, parameter.name)
    for name in fungi.__all__
    if callable(getattr(fungi, name)) and inspect.isclass(getattr(fungi, name)) is False
    for parameter in inspect.signature(getattr(fungi, name)).parameters.values()
    if takes_a_list_of_texts(parameter)
]


@pytest.mark.parametrize(("name", "argument"), LISTS)
def test_one_text_is_refused_where_a_list_is_meant(
    name: str, argument: str, tmp_path: Path
) -> None:
    """Of every public function: its letters are nobody's names; the error says what to write."""
    make_store(tmp_path / "s", {"embeddings": clustered(8, 2, 3)[0]}, ["a"] * 8)
    others = {"store": tmp_path / "s"} if argument != "store" else {}
    own = inspect.signature(getattr(fungi, name)).parameters
    given = {key: value for key, value in others.items() if key in own}
    with pytest.raises(UsageError) as refused:
        getattr(fungi, name)(**given, **{argument: "embeddings"})
    assert refused.value.expected == f"{argument}=['embeddings']"


def test_values_refuse_one_text_too(tmp_path: Path) -> None:
    """Engines and matrices, whose letters would be devices and blocks."""
    make_store(tmp_path / "s", {"embeddings": clustered(8, 2, 3)[0]}, ["a"] * 8)
    with pytest.raises(UsageError, match="devices is a list"):
        fungi.Processes("cuda:0")
    with pytest.raises(UsageError, match="features is a list"):
        fungi.open_features(tmp_path / "s").subset("embeddings")


def test_a_list_of_paths_is_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of text and of Path, in their order; folders, other things and nothing are refused."""
    monkeypatch.chdir(tmp_path)
    Path("b.jpg").write_bytes(b"x")
    source = fungi.open_source(["./b.jpg", Path("a/c.jpg"), tmp_path / "b.jpg"])
    found = list(source)
    assert [sample.id for sample in found] == ["b.jpg", "a/c.jpg", str(tmp_path / "b.jpg")]
    assert [sample.bytes for sample in found] == [1, None, 1]
    assert list(source) == found
    options = fungi.ExtractOptions(model="test_vit")
    for several in (np.array(["b.jpg"]), pd.Series(["b.jpg"]), (path for path in ["b.jpg"])):
        opened = opened_source(several, options.model)  # type: ignore[arg-type]
        assert [sample.id for sample in opened] == ["b.jpg"]
    frame = pd.DataFrame({"path": ["b.jpg"]})
    for odd in ([], [tmp_path], [1], ["a.jpg", None], None, 3, frame, np.array([["b.jpg"]])):
        with pytest.raises(UsageError, match="single files"):
            opened_source(odd, options.model)  # type: ignore[arg-type]


def test_queries_are_any_list(tmp_path: Path) -> None:
    """A column of a frame too; an open store is called by its place."""
    store = make_store(tmp_path / "s", {"embeddings": clustered(8, 2, 3)[0]}, ["a"] * 8)
    fungi.build_index(store)
    ids = store.to_pandas()["id"][:3]
    found = fungi.search(store, ids, fungi.SearchOptions(k=2))  # type: ignore[arg-type]
    assert [answer.query for answer in found.answers] == ids.tolist()
    assert found.store == str(tmp_path / "s")


def imported_by(code: str) -> set[str]:
    """Return the heavy packages that a fresh process has imported after some code."""
    code += "\nimport sys, json\njson.dump(sorted(sys.modules), sys.stderr)\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return HEAVY & set(json.loads(done.stderr))


def test_options_are_light() -> None:
    """Their modules import neither arrays nor models: the command line reads them for its help."""
    assert not imported_by("\n".join(f"import {name}" for name in OPTIONS))


def test_no_help_imports_anything_heavy() -> None:
    """Of no command, an evaluation's included."""
    names = [[name] for name in COMMANDS] + [["eval", name] for name in fungi.EVALUATIONS]
    code = (
        "from typer.testing import CliRunner\n"
        "from fungi_cli.main import app\n"
        f"for words in {[[], ['eval'], *names]!r}:\n"
        "    assert CliRunner().invoke(app, [*words, '--help']).exit_code == 0, words\n"
    )
    assert not imported_by(code)


SOURCE = '''
"""An evaluation that counts the classes with enough rows."""

from dataclasses import dataclass
from typing import Annotated

import fungistore as fungi
from fungistore.settings import Count


@dataclass(frozen=True, kw_only=True)
class CensusOptions(fungi.EvaluationOptions):
    """Count the classes that have enough rows.

    \\b
    Examples:
      fungi eval census pets.fungi --least 5
    """

    function = "census:evaluate_census"
    tell = ("least",)

    least: Annotated[Count, fungi.Setting("Rows of a class.")] = 3


def evaluate_census(store, options, *, context):
    opened = fungi.Store.open(store)
    labels = opened.samples.labels()
    sizes = [int((labels == one).sum()) for one in range(len(opened.manifest.labels))]
    share = sum(size >= options.least for size in sizes) / len(sizes)
    score = fungi.Score((), 0, 0, len(labels), {"share": share}, {}, {"least": options.least}, {})
    protocol = {"least": options.least}
    return fungi.Evaluation("census", str(store), "set", protocol, {}, (score,))
'''
DECLARED = {"fungistore.evaluations": {"census": "census:CensusOptions"}}


def test_an_evaluation_of_a_plugin_is_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file and one entry point: flags, help, checks, table, JSON and the saved result."""
    vectors, labels = clustered(40, 4, 6)
    make_store(tmp_path / "s.fungi", {"embeddings": vectors}, labels)
    write_plugin(tmp_path / "plugin", "census", SOURCE, DECLARED)
    install(monkeypatch, tmp_path / "plugin", "census", fungi.EVALUATIONS)
    command = ["eval", "census", str(tmp_path / "s.fungi")]
    shown = CliRunner().invoke(app, ["eval", "--help"])
    assert "Count the classes that have enough rows." in shown.stdout
    shown = CliRunner().invoke(app, [*command, "--help"])
    assert "fungi eval census pets.fungi --least 5" in shown.stdout
    assert "Rows of a class.  [default: 3]" in shown.stdout
    done = CliRunner().invoke(app, [*command, "--least", "10", "--json"])
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["metrics"] == {"share": 1.0}
    assert Path(document["saved"]).is_file()
    table = CliRunner().invoke(app, command).stdout
    assert table.split()[:2] == ["least", "features"]
    refused = CliRunner().invoke(app, [*command, "--least", "few"])
    assert refused.exit_code == 2
    assert "expected: a whole number of 1 or more" in refused.stderr


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import no_such_package\n", "no_such_package"),
        ("def CensusOptions(store, options, *, context): ...\n", "no class of EvaluationOptions"),
        (SOURCE.replace("Annotated[Count", "Annotated['NoSuchType'"), "NoSuchType"),
    ],
    ids=["import", "function", "annotation"],
)
def test_a_broken_plugin_breaks_its_own_command_alone(
    source: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are listed and work; the broken one says whose fault it is, with exit code 2."""
    write_plugin(tmp_path / "plugin", "census", source, DECLARED)
    install(monkeypatch, tmp_path / "plugin", "census", fungi.EVALUATIONS)
    shown = CliRunner().invoke(app, ["eval", "--help"])
    assert shown.exit_code == 0
    assert "knn" in shown.stdout
    broken = CliRunner().invoke(app, ["eval", "census", "s.fungi"])
    assert broken.exit_code == 2
    assert "census" in broken.stderr
    assert said in broken.stderr

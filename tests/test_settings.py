"""A setting is stated once: what follows from one definition, for every class of options."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import pytest
import typer
from annotated_types import Ge, Gt, Le
from fungi_cli.flags import Json, command
from fungi_cli.main import app
from typer.testing import CliRunner

import fungistore as fungi
from fungistore.errors import UsageError
from fungistore.objectives.dino import DINO
from fungistore.settings import (
    Count,
    PowerOfTwo,
    Setting,
    SettingField,
    Settings,
    Share,
    build,
    fields_of,
)

GROUPS = (fungi.Augmentation, fungi.ImageAugmentation)
OPTIONS: list[type[Settings]] = [
    value
    for name in fungi.__all__
    if isinstance(value := getattr(fungi, name), type)
    and issubclass(value, Settings)
    and value
    not in (Settings, fungi.EvaluationOptions, fungi.Augmentation, fungi.ImageAugmentation)
]
COMMANDS = {  # where each class's flags are
    "ExtractOptions": ["extract", "images", "s.fungi", "--model", "m"],
    "EngineChoice": ["extract", "images", "s.fungi", "--model", "m"],
    "PcaOptions": ["pca", "s.fungi"],
    "BankOptions": ["bank", "s.fungi"],
    "IndexOptions": ["index", "s.fungi"],
    "SearchOptions": ["search", "s.fungi", "query"],
    "TrainOptions": ["train-loff", "s.fungi"],
    "HeadsOptions": ["train-loff", "s.fungi"],
    "AdaptOptions": ["adapt", "images", "s.fungi", "--model", "m"],
    "LoffTableOptions": ["table", "loff", "s.fungi"],
    "PredictOptions": ["predict", "s.fungi", "--rows", "1"],
    "SegmentOptions": ["segment", "s.fungi", "photo.jpg"],
    "RetrieveOptions": ["retrieve", "s.fungi"],
    "ExportOptions": ["export", "s.fungi", "f.npy"],
    "LabelOptions": ["label", "s.fungi", "f.csv"],
    "AnnotateOptions": ["annotate", "s.fungi", "masks"],
    "ImportOptions": ["import", "f.npy", "s.fungi"],
    "CopyOptions": ["copy", "s.fungi", "copy.fungi"],
    "CacheOptions": ["status", "s.fungi"],
    "DemoOptions": ["demo"],
    "DoctorOptions": ["doctor"],
    "PlanOptions": ["plan", "s.fungi"],
} | {kind.__name__: ["eval", name, "s.fungi"] for name, kind in fungi.EVALUATIONS.items()}
NEEDED = {
    "ExtractOptions": {"model": "m"},
    "AdaptOptions": {"model": "m"},
    "IclOptions": {"endpoint": "http://localhost/v1", "model": "m"},
}
COMMANDS["IclOptions"] += ["--endpoint", "http://localhost/v1", "--model", "m"]
CASES = [(kind, field) for kind in OPTIONS for field in kind.flags()]
CHOICES = [(kind, field) for kind, field in CASES if field.choices and bool not in field.types]


def named(case: Any) -> str:
    return case.__name__ if isinstance(case, type) else case.key


def details(error: UsageError) -> dict[str, Any]:
    return {key: error.to_json()[key] for key in ("what", "where", "expected", "found")}


def shell(*arguments: str) -> dict[str, Any]:
    """Return what the command line says of an error."""
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 2, done.output
    error = json.loads(done.stdout)["error"]
    return {key: error[key] for key in ("what", "where", "expected", "found")}


@pytest.mark.parametrize(("kind", "field"), CHOICES, ids=named)
def test_a_wrong_choice_reads_the_same_from_python_a_file_and_the_shell(
    kind: type[Settings], field: SettingField, tmp_path: Path
) -> None:
    """Flag, choices and what was found, word for word."""
    with pytest.raises(UsageError) as caught:
        kind.from_config(NEEDED.get(kind.__name__, {}) | {field.key: "nope"})
    said = details(caught.value)
    assert said["where"] == field.where
    assert all(choice in said["expected"] for choice in field.choices)
    assert said["found"] == "'nope'"
    words = COMMANDS[kind.__name__]
    assert shell(*words, field.where, "nope") == said
    (tmp_path / "c.toml").write_text(f'{field.key.replace("_", "-")} = "nope"\n')
    assert shell(*words, "--config", str(tmp_path / "c.toml")) == said
    own = {one.name for one in fields(kind)}
    if field.name in own:  # others are of a group
        with pytest.raises(UsageError) as caught:
            kind(**NEEDED.get(kind.__name__, {}), **{field.name: "nope"})
        assert details(caught.value) == said


NUMBERS = [(k, f) for k, f in CASES if f.types & {int, float} and str not in f.types]


@pytest.mark.parametrize(("kind", "field"), NUMBERS, ids=named)
def test_what_is_no_number_reads_the_same_too(kind: type[Settings], field: SettingField) -> None:
    """The shell has no wording of its own for a word where a number is meant."""
    with pytest.raises(UsageError) as caught:
        kind.from_config(NEEDED.get(kind.__name__, {}) | {field.key: "many"})
    assert shell(*COMMANDS[kind.__name__], field.where, "many") == details(caught.value)


@pytest.mark.parametrize("kind", OPTIONS, ids=named)
def test_every_field_is_a_setting_with_help_and_a_flag_of_its_own(kind: type[Settings]) -> None:
    """Help is there, says no default, and no two fields share a flag."""
    visible = list(kind.flags())
    for field in visible:
        assert field.setting.help.endswith(".") or field.setting.help.endswith("'.")
        assert "default" not in field.setting.help
    assert len({field.where for field in visible}) == len(visible)
    hidden = [name for name, field in fields_of(kind).items() if not field.setting.help]
    assert all(fields_of(kind)[name].group for name in hidden)


@pytest.mark.parametrize("kind", OPTIONS, ids=named)
def test_options_survive_a_configuration_file(kind: type[Settings]) -> None:
    """What `to_config` writes, `from_config` reads; an empty one has the defaults."""
    needed = NEEDED.get(kind.__name__, {})
    plain = kind(**needed)
    assert kind.from_config(needed) == plain
    assert kind.from_config(json.loads(json.dumps(plain.to_config()))) == plain


@pytest.mark.parametrize("kind", OPTIONS, ids=named)
def test_the_help_shows_every_flag_with_its_default(kind: type[Settings]) -> None:
    """Stated in the class alone, the default is what `--help` says."""
    command = COMMANDS[kind.__name__]
    words = command[:2] if command[0] in ("eval", "table") else command[:1]
    shown = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "200"})
    text = " ".join(shown.stdout.split())
    for field in kind.flags():
        assert field.where in text
        assert field.setting.help in text
        if isinstance(field.default, int | float | str) and not isinstance(field.default, bool):
            assert f"[default: {field.setting.default or field.default}]" in text


@pytest.mark.parametrize(
    ("make", "where", "expected"),
    [
        (lambda: fungi.KnnOptions(vote="nope"), "--vote", "majority or weighted"),  # type: ignore[arg-type]
        (
            lambda: fungi.ClusterOptions(combinations="x"),  # type: ignore[arg-type]
            "--combinations",
            "one or nested or all",
        ),
        (lambda: fungi.RetrievalOptions(metric="l2"), "--metric", "dot or cosine"),  # type: ignore[arg-type]
        (
            lambda: fungi.ExtractOptions(model="m", dtype="f"),  # type: ignore[arg-type]
            "--dtype",
            "auto or float32 or bfloat16 or float16 or int8",
        ),
        (
            lambda: fungi.ExtractOptions(model="m", codec="gzip"),  # type: ignore[arg-type]
            "--codec",
            "none or zstd or bitround",
        ),
        (
            lambda: fungi.PcaOptions(storage_dtype="int8"),  # type: ignore[arg-type]
            "--storage-dtype",
            "float16 or float32",
        ),
        (lambda: fungi.KnnOptions(k=0), "--k", "a whole number of 1 or more"),
        (lambda: fungi.KnnOptions(k=True), "--k", "a whole number of 1 or more"),
        (lambda: fungi.KnnOptions(k=2.5), "--k", "a whole number of 1 or more"),  # type: ignore[arg-type]
        (lambda: fungi.KnnOptions(holdout=1), "--holdout", "a number between 0 and 1"),
        (lambda: fungi.KnnOptions(temperature=float("nan")), "--temperature", "a number above 0"),
        (lambda: fungi.LinearOptions(strengths=(0.0,)), "--strengths", "a number above 0"),
        (lambda: fungi.LinearOptions(strengths=()), "--strengths", "one or more"),
        (lambda: fungi.KnnOptions(pca_dims=(0,)), "--pca-dim", "1 or more"),
        (lambda: fungi.KnnOptions(seeds=0), "--seeds", "1 or more"),
        (lambda: fungi.KnnOptions(pca="p", combinations="all"), "--pca", "no --combinations"),
        (lambda: fungi.IndexOptions(target_recall=1.1), "--target-recall", "above 0, at most 1"),
        (lambda: fungi.IndexOptions(name="../x"), "--name", "letters, digits"),
        (lambda: fungi.ImportOptions(unit_rows=12), "--unit-rows", "a power of two"),
        (lambda: fungi.ExtractOptions(model="m", features=("blue",)), "--features", "embeddings"),
        (lambda: fungi.ExtractOptions(model="m", view_size="big"), "--view-size", "native"),  # type: ignore[arg-type]
        (lambda: fungi.EngineChoice(gpus=("a",)), "--gpus", "a whole number"),  # type: ignore[arg-type]
        (lambda: fungi.EngineChoice(gpus=(0,), processes=2), "--processes", "--gpus"),
        (lambda: fungi.TrainOptions(lr=float("inf")), "--lr", "a number above 0"),
    ],
)
def test_python_is_told_what_the_shell_is_told(make: Any, where: str, expected: str) -> None:
    """Every unusable value is refused when the options are made, with flag, expected and found."""
    with pytest.raises(UsageError, match="cannot use this value of") as caught:
        make()
    assert caught.value.where == where
    assert expected in str(caught.value.expected)
    assert caught.value.found is not None


def test_values_are_taken_as_they_come() -> None:
    """Text, NumPy's numbers, lists and commas become what the field has; words are no letters."""
    made = fungi.KnnOptions(
        k=np.int32(5),  # type: ignore[arg-type]
        temperature=np.float32(0.5),  # type: ignore[arg-type]
        shots="3",  # type: ignore[arg-type]
        features="embeddings, kl",  # type: ignore[arg-type]
        pca_dims="none,512",  # type: ignore[arg-type]
    )
    assert (made.k, made.temperature, made.shots) == (5, 0.5, (3,))
    assert type(made.k) is int
    assert type(made.temperature) is float
    assert made.features == ("embeddings", "kl")
    assert made.pca_dims == (None, 512)
    assert fungi.KnnOptions(features=["kl"]).features == ("kl",)  # type: ignore[arg-type]
    assert fungi.KnnOptions(pca_dims=np.array([4, 8])).pca_dims == (4, 8)  # type: ignore[arg-type]
    assert fungi.ExtractOptions(model="m", view_size="64").view_size == 64  # type: ignore[arg-type]
    assert fungi.RetrievalOptions(ground_truth="t.json").ground_truth == Path("t.json")  # type: ignore[arg-type]
    assert fungi.KnnOptions(pca_dims=512).pca_dims == (512,)  # type: ignore[arg-type]
    assert fungi.EngineChoice(gpus=[np.int64(1)]).gpus == (1,)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        fungi.KnnOptions(k=np.bool_(True))  # type: ignore[arg-type]
    weights = fungi.SearchOptions(weights=Path("w.safetensors")).weights  # type: ignore[arg-type]
    assert weights == str(Path("w.safetensors").absolute())


def test_an_unknown_key_names_what_is_near(tmp_path: Path) -> None:
    """From a file, or from Python; dashes and underscores are the same."""
    with pytest.raises(UsageError) as caught:
        fungi.KnnOptions.from_config({"shot-rul": "first"})
    assert caught.value.where == "shot-rul"
    assert caught.value.hint == "did you mean shot-rule or shots?"
    assert "temperature" in str(caught.value.expected)
    for key in ("shot-rule", "shot_rule"):
        assert fungi.KnnOptions.from_config({key: "first"}).shot_rule == "first"
    (tmp_path / "c.toml").write_text("neighbours = 3\n")
    said = shell("eval", "knn", "s.fungi", "--config", str(tmp_path / "c.toml"))
    assert said["where"] == "neighbours"


def test_flags_win_over_the_file_on_every_command(tmp_path: Path) -> None:
    """--config is taken by each command with settings."""
    (tmp_path / "c.toml").write_text("k = 0\n")
    for words in (["eval", "knn", "s.fungi"], ["search", "s.fungi", "query"]):
        said = shell(*words, "--config", str(tmp_path / "c.toml"))
        assert (said["where"], said["found"]) == ("--k", "0")
        said = shell(*words, "--config", str(tmp_path / "c.toml"), "--k", "3")
        assert said["what"] == "not a fungi store"


def parsed(kind: type[Any], *arguments: str) -> Any:
    """Return the options that a command is given."""
    made: list[Any] = []

    def keep(*, options: Settings, as_json: Json = False) -> None:
        made.append(options)

    keep.__annotations__["options"] = kind
    alone = typer.Typer()
    alone.command()(command(keep))
    done = CliRunner().invoke(alone, arguments)
    assert done.exit_code == 0, done.output
    return made[0]


HFLIP = fungi.Augmentation(kind="hflip", mixup=0.1, noise=0.3)


@pytest.mark.parametrize(
    ("flags", "saved", "found"),
    [
        ("--head a", fungi.LoffOptions(heads=("b",)), {"heads": ("a",)}),
        ("--pca-dim 8", fungi.KnnOptions(pca_dims=(4,)), {"pca_dims": (8,)}),
        ("--as kl", fungi.ImportOptions(feature="dino", key="x"), {"feature": "kl", "key": "x"}),
        (
            "--mixup 0.4",
            fungi.TrainOptions(augment=HFLIP),
            {"augment": replace(HFLIP, mixup=0.4)},
        ),
        (
            "--augment none",
            fungi.TrainOptions(augment=HFLIP),
            {"augment": replace(HFLIP, kind="none")},
        ),
        (
            "--set kl.temperature=3 --set dino.local_crops=4",
            fungi.ExtractOptions(model="m", objectives={"kl": {"head_dim": 5, "temperature": 2}}),
            {
                "objectives": fungi.ExtractOptions(
                    model="m",
                    objectives={
                        "kl": {"head_dim": 5, "temperature": 3},
                        "dino": {"local_crops": 4},
                    },
                ).objectives
            },
        ),
    ],
    ids=["heads", "pca-dim", "as", "mixup", "augment", "set"],
)
def test_flags_win_over_a_saved_configuration(
    flags: str, saved: Settings, found: dict[str, Any], tmp_path: Path
) -> None:
    """What a result was made with has fields' names and tables; flags go before those too."""
    (tmp_path / "c.json").write_text(json.dumps(saved.to_config()))
    options = parsed(type(saved), *flags.split(), "--config", str(tmp_path / "c.json"))
    assert options == replace(saved, **found)


def test_switches_that_are_on_or_open_can_be_turned_off(tmp_path: Path) -> None:
    """From the shell, and by a saved configuration, which keeps what is off, zero or empty."""
    off = parsed(fungi.TrainOptions, "--no-standardise", "--warmup", "0")
    assert (off.standardise, off.warmup) == (False, 0)
    (tmp_path / "c.json").write_text(json.dumps(off.to_config()))
    assert parsed(fungi.TrainOptions, "--config", str(tmp_path / "c.json")) == off
    for flags, compile_ in ([], None), (["--compile"], True), (["--no-compile"], False):
        assert parsed(fungi.ExtractOptions, "--model", "m", *flags).compile is compile_


def test_a_file_holds_the_settings_of_all_groups_of_a_command(tmp_path: Path) -> None:
    """Those of the engine stand among those of the extraction."""
    (tmp_path / "c.toml").write_text('codec = "zstd"\nprocesses = 0\n')
    said = shell("extract", "images", "s.fungi", "--model", "m", "--config", f"{tmp_path}/c.toml")
    assert (said["where"], said["found"]) == ("--processes", "0")


def test_a_file_and_flags_both_set_objectives(tmp_path: Path) -> None:
    """A flag changes what it names; what the file sets beside it stays."""
    (tmp_path / "c.toml").write_text('model = "m"\nset = ["kl.temperature=2"]\n')
    flags = ["--set", "kl.head_dim=7", "--config", str(tmp_path / "c.toml")]
    kl = parsed(fungi.ExtractOptions, *flags).objectives["kl"]
    assert (kl.temperature, kl.head_dim) == (2, 7)


def test_a_group_of_settings_is_flat_in_a_file_and_a_table_too() -> None:
    """Augmentation's settings stand beside those of the training, or in a table of their own."""
    flat = fungi.TrainOptions.from_config({"augment": "hflip", "mixup": 0.4, "epochs": 3})
    table = fungi.TrainOptions.from_config({"augment": {"kind": "hflip", "mixup": 0.4}})
    assert flat.augment == table.augment == fungi.Augmentation(kind="hflip", mixup=0.4)
    assert fungi.TrainOptions.from_config({"augment": "none"}).augment.noise == 0
    assert fungi.TrainOptions.from_config({"augment": "trivial"}).augment.noise == 0.1
    assert fungi.TrainOptions().augment.noise is None  # as is its kind, which the head decides


def test_objectives_are_set_from_tables_and_texts_alike() -> None:
    """--set, [kl] and Python give the same options; a flag wins over a table."""
    by_table = fungi.ExtractOptions.from_config({"model": "m", "kl": {"temperature": 2}})
    by_text = fungi.ExtractOptions.from_config({"model": "m", "set": ["kl.temperature=2"]})
    python = fungi.ExtractOptions(model="m", objectives={"kl": {"temperature": 2}})
    field = fungi.ExtractOptions.from_config(
        {"model": "m", "objectives": {"kl": {"temperature": 2}}}
    )
    assert field == by_text
    both = {"model": "m", "kl": {"temperature": 1}, "set": ["kl.temperature=2"]}
    assert by_table == by_text == python == fungi.ExtractOptions.from_config(both)
    assert by_table == fungi.ExtractOptions(model="m").with_settings("kl.temperature=2")


@pytest.mark.parametrize(
    ("config", "where", "expected"),
    [
        ({"kl": {"temperature": "warm"}}, "kl.temperature", "a number"),
        ({"kl": {"temperature": 0}}, "kl.temperature", "above 0"),
        ({"kl": {"direction": "up"}}, "kl.direction", "uniform-first or uniform-last"),
        ({"dino": {"head_dim": 1.5}}, "dino.head_dim", "a whole number"),
        ({"set": ["simclr.negatives=-1"]}, "simclr.negatives", "0 or more"),
        ({"set": 3}, "--set", "a list of OBJECTIVE.FIELD=VALUE"),
        ({"set": [3]}, "--set", "a list of OBJECTIVE.FIELD=VALUE"),
    ],
)
def test_objectives_speak_as_settings_do(config: dict[str, Any], where: str, expected: str) -> None:
    """One wording, for the fields' types and for what an objective checks itself."""
    what = f"cannot use this value of {where.removeprefix('--')}"
    with pytest.raises(UsageError, match=what) as caught:
        fungi.ExtractOptions.from_config({"model": "m"} | config)
    assert caught.value.where == where
    assert expected in str(caught.value.expected)


@pytest.mark.parametrize("given", [5, None, "kl", DINO()])
def test_an_objective_is_of_its_own_class(given: object) -> None:
    """From Python, another thing, or another objective, is not taken for it."""
    with pytest.raises(UsageError, match="objectives") as caught:
        fungi.ExtractOptions(model="m", objectives={"kl": given})
    assert "KL, or a table" in str(caught.value.expected)


def test_the_words_of_a_refusal_come_from_the_type() -> None:
    """Choices, bounds and types are said in words, whatever they are combined to."""

    @dataclass(frozen=True)
    class Odd:
        count: Annotated[Count | None, Setting("A.")] = None
        part: Share = 0.5
        size: PowerOfTwo = 1
        word: Literal["a", "b"] | Count = "a"
        words: tuple[Literal["a", "b"], ...] = ()
        ramp: Annotated[float, Gt(0), Le(1)] = 1.0
        path: Path | None = None
        switch: bool = False
        table: Annotated[int, Ge(-3)] = 0
        level: Literal[1, 2] = 1
        sizes: list[int] = dataclass_field(default_factory=list)
        widths: tuple[Count | None, ...] = (None,)

    globals()["Odd"] = Odd  # its annotations are text
    found = {name: field.expected for name, field in fields_of(Odd, "odd").items()}
    assert found == {
        "count": "a whole number of 1 or more",
        "part": "a number between 0 and 1",
        "size": "a power of two, 1 or more",
        "word": "a or b or a whole number of 1 or more",
        "words": "some of a, b",
        "ramp": "a number above 0, at most 1",
        "path": "a path",
        "switch": "true or false",
        "table": "a whole number -3 or more",
        "level": "1 or 2",
        "sizes": "one or more of: a whole number",
        "widths": "one or more of: a whole number of 1 or more or none",
    }
    assert build(Odd, {"word": "7", "words": "a,b"}, "odd") == Odd(word=7, words=("a", "b"))
    assert build(Odd, {"level": "2", "sizes": "4,5"}, "odd") == Odd(level=2, sizes=[4, 5])


def test_choices_are_those_of_the_types() -> None:
    """What the help lists is what the check knows."""
    from fungistore.evaluation.options import Vote

    assert fields_of(fungi.KnnOptions)["vote"].choices == get_args(Vote)
    assert fields_of(fungi.KnnOptions)["features"].choices == ()

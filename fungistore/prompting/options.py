"""What examples are retrieved for, how they become prompts, and who is asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from fungistore.evaluation.options import NEIGHBOURS, CombinationChoice, EvaluationOptions
from fungistore.headings import DATA, ROWS
from fungistore.matrices.choices import FeatureChoice, RemovedChoice, TaskChoice
from fungistore.settings import Count, Positive, Setting, Settings

TEST = "test"
KEY_VARIABLE = "OPENAI_API_KEY"
ANSWER_TOKENS = 32  # a label has few
TIMEOUT = 60.0
CONCURRENCY = 4

ExampleOrder = Literal["nearest-first", "nearest-last"]
RetrieveFormat = Literal["jsonl", "prompts"]


@dataclass(frozen=True, kw_only=True)
class PromptChoice(Settings):
    """Which examples a prompt has, and how it says them."""

    heading = "Prompts"

    k: Annotated[Count, Setting("Nearest training rows of each query.")] = NEIGHBOURS
    order: Annotated[ExampleOrder, Setting("Of these examples.")] = "nearest-first"
    template: Annotated[
        Path | None,
        Setting(
            "Text with {labels}, {query}, and {text} and {label} between lines {examples} and "
            "{end}.",
            default="task, labels, examples, query",
            metavar="FILE",
        ),
    ] = None
    max_characters: Annotated[
        Count | None, Setting("Cut longer texts, of examples and queries.", default="whole texts")
    ] = None


@dataclass(frozen=True, kw_only=True)
class RetrieveOptions(PromptChoice, FeatureChoice, RemovedChoice):
    """Settings of `fungi retrieve`."""

    split: Annotated[str, Setting("The queries.", metavar="NAME", heading=ROWS)] = TEST
    format: Annotated[
        RetrieveFormat,
        Setting(
            "A line a query: jsonl, with its examples; prompts, with its prompt.", heading=DATA
        ),
    ] = "jsonl"

    def __post_init__(self) -> None:
        """Refuse a template that nothing would be put into."""
        super().__post_init__()
        if self.template is not None and self.format != "prompts":
            prompts = "--format prompts, which puts examples into it"
            self.refuse("template", prompts, f"--format {self.format}", "add --format prompts")


@dataclass(frozen=True, kw_only=True)
class IclOptions(PromptChoice, CombinationChoice, TaskChoice, EvaluationOptions):
    """Ask a language model for the labels, with examples.

    In-context learning: each test text is sent with its nearest training texts and their labels to
    a chat endpoint that speaks as OpenAI's does, at temperature 0. Answers are kept in the store as
    they come, and none is asked for twice. This costs money where the endpoint does: how many
    prompts of which length is said first, and --limit bounds it. The key is read from the
    environment, and goes nowhere else.

    \b
    Examples:
      fungi eval icl news.fungi --endpoint http://localhost:8000/v1 --model m
      fungi eval icl news.fungi --endpoint https://api.openai.com/v1 \\
          --model gpt-4o-mini --limit 200 --features embeddings,kl \\
          --combinations nested
    """

    function = "fungistore.prompting.evaluate:evaluate_icl"
    heading = "Language model"

    endpoint: Annotated[str, Setting("Where chat completions are asked for.", metavar="URL")]
    model: Annotated[str, Setting("What the endpoint calls it.", metavar="NAME")]
    key_env: Annotated[
        str,
        Setting(
            "Variable of the environment with the key; none is sent where it is not set.",
            metavar="NAME",
        ),
    ] = KEY_VARIABLE
    max_tokens: Annotated[Count, Setting("Of an answer.")] = ANSWER_TOKENS
    concurrency: Annotated[Count, Setting("Requests at once.")] = CONCURRENCY
    timeout: Annotated[Positive, Setting("Seconds for one, then it is asked again.")] = TIMEOUT
    limit: Annotated[
        Count | None,
        Setting("Of the test rows so many, chosen by the split seed.", default="all", heading=ROWS),
    ] = None

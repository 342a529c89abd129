"""`fungi eval icl`: labels by a language model that is shown the nearest training texts.

FUNGI, section 4 and the appendix on in-context examples: better neighbours are better examples.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import recall_score

from fungistore.evaluation.intervals import accuracy_interval
from fungistore.evaluation.paired import Combination, Hits, paired_difference
from fungistore.evaluation.reduction import called, combine, fit_reduction
from fungistore.evaluation.result import Difference, Evaluation, Score, class_names
from fungistore.evaluation.task import Task, say_split, say_unseen, task_for
from fungistore.fingerprint import Config, digest_bytes
from fungistore.machine.context import DEFAULT, Context
from fungistore.prompting.answers import Answers, key_of, thing_of
from fungistore.prompting.asking import Asking, BackOff
from fungistore.prompting.endpoint import Endpoint
from fungistore.prompting.items import Items
from fungistore.prompting.neighbours import at_most, near
from fungistore.prompting.options import KEY_VARIABLE, IclOptions
from fungistore.prompting.parsing import LabelList
from fungistore.prompting.retrieve import AT_ONCE, refuse_no_texts
from fungistore.prompting.template import Template, open_template
from fungistore.quantities import counted
from fungistore.randomness import Stream
from fungistore.store.samples import Rows

UNPARSED = -1  # the label of an answer that means none


@dataclass(frozen=True)
class _Combination:
    """Some features, and what they make of the queries.

    Attributes:
        name: for messages.
        score: without metrics.
        rows: [q, k] the examples of each query, in the order of the prompt.
        keys: [q] of what is asked.
    """

    name: str
    score: Score
    rows: NDArray[np.int64]
    keys: tuple[str, ...]


class _Prompts:
    """What is asked for each query of an evaluation."""

    def __init__(self, task: Task, options: IclOptions, template: Template, queries: Rows) -> None:
        self.store = task.store
        self.items = Items(task.store, task.matrix.feature_set, options.max_characters)
        refuse_no_texts(self.items, task.store)
        self.template = template
        self.present = np.unique(task.labels[task.split.train])
        self.labels = class_names(task.store, self.present.tolist())
        self.queries = queries
        self._options = options

    def bodies(self, rows: NDArray[np.int64], places: Sequence[int]) -> Iterator[Config]:
        """Yield the requests of some queries, whose examples are [q, k] rows."""
        for start in range(0, len(places), AT_ONCE):
            some = np.asarray(places[start : start + AT_ONCE], np.int64)
            items = self.items.take(np.concatenate([self.queries[some], rows[some].ravel()]))
            for place in some.tolist():
                examples = [items[row] for row in rows[place].tolist()]
                query = items[int(self.queries[place])]
                prompt = self.template.fill(self.labels, examples, query)
                yield {
                    "model": self._options.model,
                    "messages": [{"role": "user", "content": prompt}],
                    "temperature": 0,
                    "max_tokens": self._options.max_tokens,
                }


def evaluate_icl(
    store: str | Path, options: IclOptions, *, context: Context = DEFAULT
) -> Evaluation:
    """Ask a language model for the labels of the test rows, with their nearest training rows.

    Every answer is kept in the store as it comes, by what was asked: the same prompt, of another
    combination, run or endpoint, is answered from there. Answers that mean no label count as wrong.

    Args:
        store: the store's directory.
        options: who is asked, which examples, features and rows.
        context: its reporter is told what happens, its stop asked all the time; what is under way
            is then still waited for and kept.

    Raises:
        UsageError: features, labels or splits are missing, the samples are no texts, the template
            or the endpoint cannot be used.
        MismatchError: a stored PCA was fitted on test rows.
        FungiError: the endpoint refuses, or keeps failing.
        StoppedError: `context` asked for it.
    """
    IclOptions.accept(options)
    endpoint = Endpoint.at(options.endpoint, options.timeout, options.key_env, os.environ)
    if endpoint.key is None and options.key_env != KEY_VARIABLE:
        options.refuse("key_env", "a variable with a key", options.key_env, "export it")
    template = open_template(options.template)
    task = task_for(store, options)
    split = say_split(task.split, context)
    queries = _drawn(task.split.test, options)
    unseen = say_unseen(task.unseen, context)
    prompts = _Prompts(task, options, template, queries)
    k = at_most(options.k, task.split.train, queries, context)
    if endpoint.is_unguarded:
        context.reporter.notice("--endpoint is no https: the key goes over the network unencrypted")
    answers = Answers(task.store, options.model)
    combinations = list(_combinations(task, options, prompts, k, context))
    prompts.items.say(context)
    _ask(endpoint, options, prompts, combinations, answers, context)
    truth = task.labels[queries]
    parsed = [_parsed(one, prompts, answers) for one in combinations]
    _say_unfinished(combinations, parsed, answers, options, context)
    hits = [
        Combination(one.name, (Hits(queries, said == truth),))
        for one, said in zip(combinations, parsed, strict=True)
    ]
    return Evaluation(
        kind="icl",
        store=task.store.where,
        feature_set=task.matrix.feature_set,
        protocol={
            "split": split,
            "limit": options.limit,
            "seed": options.rows_seed,
            "blocks": task.matrix.made_of,
            "combinations": options.combinations,
            "pca_dims": list(options.pca_dims),
            "k": k,
            "metric": "cosine",
            "order": options.order,
            "model": options.model,
            "template": digest_bytes(repr(asdict(template)).encode()),
            "max_characters": options.max_characters,
            "temperature": 0,
            "max_tokens": options.max_tokens,
        },
        excluded=task.excluded,
        unseen=unseen,
        scores=tuple(
            _scored(one, truth, said, answers, paired_difference(hit, hits[0]))
            for one, said, hit in zip(combinations, parsed, hits, strict=True)
        ),
    )


def _drawn(test: Rows, options: IclOptions) -> Rows:
    """Return the test rows to ask for; those of a smaller limit are among those of a larger one."""
    if options.limit is None or options.limit >= len(test):
        return test
    keys = Stream(options.rows_seed, "icl", "queries").uniform(len(test))
    return np.sort(test[np.argsort(keys, kind="stable")[: options.limit]])


def _combinations(
    task: Task, options: IclOptions, prompts: _Prompts, k: int, context: Context
) -> Iterator[_Combination]:
    """Yield what each combination asks for."""
    train, queries = task.split.train, prompts.queries
    for features in combine(task.matrix.features, options.combinations):
        matrix = task.matrix.subset(features)
        for dim in options.pca_dims:
            reduction = fit_reduction(matrix, train, dim, context, options, options.seed)
            parts = [one.rows for one in near(matrix, queries, train, k, context, reduction)]
            rows = np.concatenate(parts)
            rows = rows[:, ::-1] if options.order == "nearest-last" else rows
            keys = map(key_of, prompts.bodies(rows, range(len(queries))))
            yield _Combination(
                called(features, dim),
                Score(
                    features=matrix.features,
                    dim=reduction.dim,
                    n_train=len(train),
                    n_test=len(queries),
                    metrics={},
                    spread={},
                    protocol=reduction.protocol,
                    fingerprints=matrix.fingerprints,
                    contents=matrix.contents,
                ),
                rows,
                tuple(keys),
            )


def _ask(
    endpoint: Endpoint,
    options: IclOptions,
    prompts: _Prompts,
    combinations: Sequence[_Combination],
    answers: Answers,
    context: Context,
) -> None:
    """Ask for the answers that are not kept yet, each once, while nobody else asks this model."""
    first: dict[str, tuple[_Combination, int]] = {}
    for one in combinations:
        for place, key in enumerate(one.keys):
            first.setdefault(key, (one, place))
    missing = {key: where for key, where in first.items() if key not in answers}
    asked = sum(len(one.keys) for one in combinations)
    context.reporter.notice(
        f"{counted(asked, 'prompt')}, {len(first)} different: {len(first) - len(missing)} answers "
        f"are kept, {len(missing)} to ask for{_length(prompts, missing)}"
    )
    if answers.damaged:
        lines = counted(answers.damaged, "line of the kept answers is", "lines of them are")
        context.reporter.notice(f"{lines} cut short or damaged, and not counted")
    if not missing:
        return
    asking = Asking(endpoint, options.concurrency, BackOff(seed=options.seed), context)
    with prompts.store.writing(thing_of(options.model)):
        answers.read()
        missing = {key: where for key, where in missing.items() if key not in answers}
        context.reporter.begin("answers", len(first), len(first) - len(missing))
        for key, answer in asking.answers(_requests(prompts, combinations, missing)):
            answers.keep(key, answer)
            context.reporter.advance(1)
        context.reporter.end()


def _requests(
    prompts: _Prompts,
    combinations: Sequence[_Combination],
    missing: dict[str, tuple[_Combination, int]],
) -> Iterator[tuple[str, Config]]:
    for one in combinations:
        wanted = {place: key for key, (owner, place) in missing.items() if owner is one}
        yield from zip(wanted.values(), prompts.bodies(one.rows, list(wanted)), strict=True)


def _length(prompts: _Prompts, missing: dict[str, tuple[_Combination, int]]) -> str:
    """Say how long prompts are, by the first of them."""
    if not missing:
        return ""
    one, place = next(iter(missing.values()))
    (body,) = prompts.bodies(one.rows, [place])
    return f", the first of {len(body['messages'][0]['content'])} characters"


def _parsed(one: _Combination, prompts: _Prompts, answers: Answers) -> NDArray[np.int32]:
    """Return the label [q] that each answer means, UNPARSED where it means none."""
    labels = LabelList(prompts.labels)
    found = (labels.find(answers[key].text) for key in one.keys)
    return np.array(
        [UNPARSED if place is None else prompts.present[place] for place in found], np.int32
    )


def _say_unfinished(
    combinations: Sequence[_Combination],
    parsed: Sequence[NDArray[np.int32]],
    answers: Answers,
    options: IclOptions,
    context: Context,
) -> None:
    """Say how many answers ended before they named a label, as those of models that think do."""
    keys = {
        key
        for one, said in zip(combinations, parsed, strict=True)
        for key, label in zip(one.keys, said.tolist(), strict=True)
        if label == UNPARSED and answers[key].finish == "length"
    }
    if keys:
        context.reporter.notice(
            f"{counted(len(keys), 'answer')} ended at --max-tokens {options.max_tokens} and named "
            "no label"
        )


def _scored(
    one: _Combination,
    truth: NDArray[np.int32],
    said: NDArray[np.int32],
    answers: Answers,
    difference: Difference | None,
) -> Score:
    count, accuracy = len(truth), float((said == truth).mean())
    per_class = recall_score(truth, said, labels=np.unique(truth), average="macro")
    given = [answers[key] for key in one.keys]
    tokens = {
        "prompt_tokens": sum(answer.prompt_tokens for answer in given),
        "completion_tokens": sum(answer.completion_tokens for answer in given),
    }
    fields = {name: getattr(one.score, name) for name in Score.__dataclass_fields__}
    return Score(
        **fields
        | {
            "metrics": {
                "accuracy": accuracy,
                "mean_per_class_accuracy": float(per_class),
                "unparsed": float((said == UNPARSED).mean()),
            },
            "spread": {"accuracy": accuracy_interval(accuracy, count)},
            "difference": difference,
            "protocol": one.score.protocol
            | {
                "unparsed": int((said == UNPARSED).sum()),
                "cut_answers": sum(answer.finish == "length" for answer in given),
            }
            | tokens,
        }
    )

"""`fungi eval icl`: what is asked, what the answers are worth, and that none is paid twice."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from fungi_cli.main import app
from prompt_world import CLASSES, make_texts, news, said, stub, vote, votes
from typer.testing import CliRunner

import fungistore as fungi
from feature_world import Notices, clustered, make_store
from fungistore.errors import FungiError, StoppedError, UsageError
from fungistore.evaluation.intervals import accuracy_interval
from fungistore.evaluation.paired import score_interval
from fungistore.machine.context import Context
from fungistore.prompting import asking
from fungistore.store.schema import schema

SECRET = "sk-5up3rs3cr3t"


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(asking.BackOff, "__init__", quick_back_off(asking.BackOff.__init__))


def quick_back_off(made):
    """Wait for milliseconds where seconds are meant."""
    return lambda self, **given: made(self, **({"first": 0.002, "most": 0.01} | given))


@pytest.fixture
def store(tmp_path):
    return news(tmp_path / "n.fungi", test=12, noise=3.0)


def icl(store, server, **settings):
    context = settings.pop("context", Context())
    given = {"endpoint": server.url, "model": "m", "k": 5} | settings
    return fungi.evaluate_icl(store.root, fungi.IclOptions(**given), context=context)


def shell(store, server, *words):
    given = ["--endpoint", server.url, "--model", "m", "--k", "5", *map(str, words)]
    return CliRunner().invoke(app, ["eval", "icl", str(store.root), *given])


class Meanwhile(list):
    """A list of what was said; each time, something else happens."""

    def __init__(self, act):
        super().__init__()
        self.append = act


def answers_file(store):
    (path,) = (store.root / "answers").iterdir()
    return path


def test_a_score_is_that_of_the_answers(store):
    """Of a model that says what most examples say, it is the nearest neighbours' own."""
    with stub(vote) as server:
        done = icl(store, server, combinations="nested")
    truth, queries = store.samples.labels()[30:], np.arange(30, 42)
    for score in done.scores:
        accuracy = float((votes(store, score.features, 5, queries) == truth).mean())
        assert score.metrics["accuracy"] == accuracy
        assert score.metrics["unparsed"] == 0
        assert score.spread["accuracy"] == accuracy_interval(accuracy, 12)
        assert (score.n_train, score.n_test) == (30, 12)
        assert score.protocol["prompt_tokens"] == 7 * 12
    assert [score.features for score in done.scores] == [("embeddings",), ("embeddings", "kl")]


def test_what_is_sent_is_a_chat_of_one_message(store):
    """At temperature 0, with the labels of the training rows, examples in order, and the query."""
    with stub(vote) as server:
        icl(store, server, limit=1, order="nearest-last", max_tokens=9)
        icl(store, server, limit=1, max_tokens=9)
    assert server.paths == ["/v1/chat/completions"] * 2
    for body in server.bodies:
        assert body.keys() == {"model", "messages", "temperature", "max_tokens"}
        assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0, 9)
        assert [message["role"] for message in body["messages"]] == ["user"]
    last, first = (
        [line for line in prompt.splitlines() if line.startswith("Text: ")]
        for prompt in server.prompts
    )
    assert len(first) == 6
    assert first[:5] == last[4::-1]
    assert first[5] == last[5]
    assert "food\nsport\nweather" in server.prompts[0]


def test_the_same_command_again_asks_nothing(store):
    """Nor do other runs, combinations, seeds and endpoints, as far as the prompts are the same."""
    with stub(vote) as server:
        done = icl(store, server, combinations="all")
        asked = len(server.prompts)
        assert len(set(server.prompts)) == asked <= 36
        assert icl(store, server, combinations="all") == done
        assert len(server.prompts) == asked
    with stub(vote) as other:
        icl(store, other, features=("kl",), limit=7, seed=3)
        assert other.prompts == []
        icl(store, other, model="another", limit=2)
        icl(store, other, max_tokens=5, limit=2)
        assert len(other.prompts) == 4


def test_what_another_process_has_asked_meanwhile_is_not_asked_again(store):
    """Between the look at what is kept and the first request, which only one of them makes."""

    def meanwhile(text):
        if "12 to ask for" in text:
            icl(store, server)

    with stub(vote) as server:
        done = icl(store, server, context=Context(Notices(Meanwhile(meanwhile))))
        assert len(server.prompts) == 12
        assert icl(store, server) == done


def test_equal_prompts_of_two_combinations_are_asked_once(tmp_path):
    """With all rows as examples of equal texts, no combination has a prompt of its own."""
    labels = ["sport", "food"] * 10
    store = make_texts(tmp_path / "n.fungi", ["x"] * 20, labels, ["train"] * 10 + ["test"] * 10)
    with stub(vote) as server:
        done = icl(store, server, combinations="all", k=1)
    assert len(done.scores) == 3
    assert len(server.prompts) == 2


def test_a_larger_limit_holds_the_smaller_one(store):
    """The seed draws the queries; what was paid for before is not again."""
    with stub(vote) as server:
        assert icl(store, server, limit=4).scores[0].n_test == 4
        assert icl(store, server, limit=9).scores[0].n_test == 9
        assert len(server.prompts) == len(set(server.prompts)) == 9
        icl(store, server, limit=99)
        assert len(set(server.prompts)) == 12


def test_the_split_seed_draws_the_queries(store):
    """The seed does not, where they have one of their own."""
    with stub(vote) as server:
        icl(store, server, limit=4, seed=3)
        icl(store, server, limit=4, seed=9, split_seed=3)
        assert len(server.prompts) == 4
        icl(store, server, limit=4, seed=3, split_seed=9)
        assert len(server.prompts) > 4


def test_a_stopped_run_keeps_what_is_paid_and_goes_on(store):
    """The second run asks for the others alone, and says so first."""
    said_first = []
    with stub(vote) as server:
        stop = Context(stop=lambda: len(server.prompts) >= 4)
        with pytest.raises(StoppedError, match="stopped on request") as caught:
            icl(store, server, context=stop, concurrency=2)
        assert caught.value.exit_code == 75
        kept = len(answers_file(store).read_bytes().splitlines())
        assert kept == len(server.prompts) < 12
        done = icl(store, server, context=Context(Notices(said_first)))
        assert len(server.prompts) == len(set(server.prompts)) == 12
        assert icl(store, server) == done
    (planned,) = [text for text in said_first if "answers are kept" in text]
    assert planned.startswith(f"12 prompts, 12 different: {kept} answers are kept, {12 - kept} to")


@pytest.mark.parametrize("left", [1, 60, -1])
def test_a_line_that_a_kill_cut_short_costs_one_answer(store, left):
    """Whatever is left of it; the others count, and the next run mends the file."""
    heard = []
    with stub(vote) as server:
        done = icl(store, server)
        path = answers_file(store)
        *lines, last = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines) + last[: left if left > 0 else -20])
        assert icl(store, server, context=Context(Notices(heard))) == done
        assert len(server.prompts) == 13
        assert icl(store, server) == done
        assert len(server.prompts) == 13
    assert any("1 line of the kept answers is cut short" in text for text in heard)


def test_damaged_answers_are_found_and_repaired(store):
    """By `fungi verify`: lines that were edited or cut short are a warning, and can be dropped."""
    with stub(vote) as server:
        icl(store, server)
        file = answers_file(store)
        first, second, *others = file.read_bytes().splitlines(keepends=True)
        file.write_bytes(
            b"".join([first.replace(b'"finish": "stop"', b'"finish": "end"'), *others])
        )
        with file.open("ab") as lines:
            lines.write(second[:40])
        (finding,) = fungi.verify_store(store.root).findings
        assert (finding.kind, finding.severity) == ("answers-damaged", "warning")
        assert finding.where == f"answers/{file.name}"
        assert finding.found == "2 other lines"
        fungi.repair_store(store.root)
        assert fungi.verify_store(store.root).findings == ()
        assert file.read_bytes() == b"".join(others)
        icl(store, server)
        assert len(server.prompts) == 14


def test_a_full_disk_is_said_and_what_was_kept_counts(store):
    """No longer than so many bytes may a file be; with room made, the others are asked for."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with stub(vote) as server:
        resource.setrlimit(resource.RLIMIT_FSIZE, (700, limits[1]))
        try:
            with pytest.raises(FungiError, match="cannot be read or written") as caught:
                icl(store, server, concurrency=1)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert "answers that were written are kept" in caught.value.hint
        assert str(answers_file(store)) == str(caught.value.where)
        kept = answers_file(store).read_bytes().count(b"\n")
        assert 0 < kept < 12
        before = len(server.prompts)
        icl(store, server)
        assert len(server.prompts) == before + 12 - kept


def test_an_answer_that_was_edited_is_asked_for_again(store):
    """Its line has a checksum; so has an odd one that no version wrote."""
    with stub(vote) as server:
        done = icl(store, server)
        path = answers_file(store)
        data = path.read_bytes().replace(b'"text": " ', b'"text": "not ', 1)
        path.write_bytes(data + b'[1]\n{"key": 3}\n\xff\xfe\n')
        assert icl(store, server) == done
        assert len(server.prompts) == 13


def test_answers_that_mean_no_label_are_wrong_and_counted(store):
    """As in the table, where they are a share of the queries."""

    def reply(handler, number, prompt):
        handler.send(200, said("I cannot tell" if number % 2 else "Sport!"))

    with stub(reply) as server:
        done = icl(store, server, concurrency=1)
        table = shell(store, server)
    (score,) = done.scores
    assert score.metrics["unparsed"] == 0.5
    assert score.protocol["unparsed"] == 6
    truth = [store.manifest.labels[label] for label in store.samples.labels()[30:]]
    assert score.metrics["accuracy"] == sum(one == "sport" for one in truth[::2]) / 12
    assert "unparsed" in table.stdout
    assert "50.00" in table.stdout


def test_answers_that_ended_too_early_are_said(store):
    """Those of a model that thinks first need more tokens; one that has its label is whole."""

    def reply(handler, number, prompt):
        text = "sport and" if number % 2 else "<think>It could be sport, bec"
        answer = said(text)
        answer["choices"][0]["finish_reason"] = "length"
        handler.send(200, answer)

    with stub(reply) as server:
        notices = []
        (score,) = icl(store, server, context=Context(Notices(notices)), concurrency=1).scores
    assert score.protocol["unparsed"] == 6
    assert score.protocol["cut_answers"] == 12
    assert "6 answers ended at --max-tokens 32 and named no label" in notices


def test_combinations_are_compared_query_by_query(store):
    """Against the first one, with McNemar's test of the queries that change."""
    with stub(vote) as server:
        done = icl(store, server, combinations="all")
        printed = shell(store, server, "--combinations", "all").stdout
    truth, queries = store.samples.labels()[30:], np.arange(30, 42)
    first, *others = (votes(store, s.features, 5, queries) == truth for s in done.scores)
    assert done.scores[0].difference is None
    for hits, one in zip(others, [score.difference for score in done.scores[1:]], strict=True):
        assert one.against == "embeddings"
        assert one.gained == (hits & ~first).sum()
        assert one.lost == (first & ~hits).sum()
        assert one.value == pytest.approx(hits.mean() - first.mean())
        assert one.interval == score_interval(one.gained, one.lost, 12)
    assert "diff. (95 %)" in printed
    assert f"{100 * one.value:+.2f} ({100 * one.interval[0]:+.1f} to " in printed


def test_faults_on_the_way_change_no_score(store):
    """Every other request fails in some way, and each prompt has one answer in the end."""

    def reply(handler, number, prompt):
        if number % 2:
            vote(handler, number, prompt)
        else:
            handler.send((429, 500, 200)[number % 3], b"oh")

    with stub(vote) as server:
        expected = icl(news(store.root.parent / "other.fungi", test=12, noise=3.0), server)
    with stub(reply) as server:
        done = icl(store, server)
        assert len(set(server.prompts)) == 12
    assert done.scores[0].metrics == expected.scores[0].metrics


def test_the_key_is_sent_and_is_nowhere_else(store, monkeypatch):
    """In no file of the store, and on no stream, with --debug and an endpoint that echoes it."""
    monkeypatch.setenv("MY_KEY", SECRET)
    monkeypatch.setenv("OPENAI_API_KEY", "not this one")

    def echo(handler, number, prompt):
        if number < 3:
            handler.send(200, said(f"sport {SECRET}"))
        elif number == 3:
            handler.send(500, {"error": {"message": f"no {SECRET}"}})
        else:
            handler.send(401, {"error": {"message": f"Incorrect API key provided: {SECRET}"}})

    with stub(echo) as server:
        words = ["--endpoint", server.url, "--model", "m", "--k", "5", "--key-env", "MY_KEY"]
        command = ["--debug", "eval", "icl", str(store.root), *words, "--concurrency", "1"]
        runs = [CliRunner().invoke(app, [*command, *more]) for more in ([], ["--json"])]
        assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {SECRET}"}
    assert [run.exit_code for run in runs] == [1, 1]
    assert "Incorrect API key provided: [the key]" in runs[0].stderr
    assert "Traceback" in runs[0].stderr
    assert "--key-env" in json.loads(runs[1].stdout)["error"]["try"]
    assert len(answers_file(store).read_bytes().splitlines()) == 3
    files = [path for path in store.root.rglob("*") if path.is_file()]
    assert all(SECRET.encode() not in path.read_bytes() for path in files)
    assert all(SECRET not in run.stdout + run.stderr for run in runs)


def test_the_result_is_saved_and_the_store_is_sound(store):
    """One JSON object; answers are no stray files, and the schema knows them."""
    with stub(vote) as server:
        run = shell(store, server, "--json", "--combinations", "nested")
    assert run.exit_code == 0, run.stderr
    document = json.loads(run.stdout)
    assert document["kind"] == "icl"
    assert document["protocol"]["model"] == "m"
    assert document["scores"][1]["difference"]["against"] == "embeddings"
    assert server.url not in json.dumps(document)
    assert [path.name for path in (store.root / "evals").iterdir()] == [
        document["saved"].rpartition("/")[2]
    ]
    name = answers_file(store).relative_to(store.root).as_posix()
    line = json.loads(answers_file(store).read_bytes().splitlines()[0])
    kind = schema().kind_of(name)
    assert {field.name for field in kind.fields} == line.keys()
    assert fungi.verify_store(store.root).findings == ()
    assert CliRunner().invoke(app, ["status", str(store.root)]).exit_code == 0


def test_answers_that_are_kept_can_be_read_without_writing(store):
    """A store that nobody may write into, or that another process asks for, is evaluated."""
    with stub(vote) as server:
        done = icl(store, server)
        with fungi.Store.open(store.root).writing():
            assert icl(store, server) == done
            with pytest.raises(FungiError, match="another process"):
                icl(store, server, model="other")


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"endpoint": "localhost"}, "this is no endpoint"),
        ({"features": ("dino",)}, "no such feature"),
        ({"pca": "none"}, "there is no PCA"),
        ({"key_env": "NOT_SET"}, "key-env"),
        ({"template": "no.txt"}, "template cannot be read"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is(store, settings, what):
    with stub(vote) as server:
        with pytest.raises(UsageError, match=what):
            icl(store, server, **settings)
        assert server.bodies == []


def test_images_and_unlabelled_texts_are_refused(tmp_path):
    """A prompt is made of texts with labels."""
    vectors, labels = clustered(20, 2, 4)
    splits = ["train"] * 15 + ["test"] * 5
    images = make_store(tmp_path / "i.fungi", {"embeddings": vectors}, labels, splits)
    bare = make_texts(tmp_path / "b.fungi", ["x"] * 20, [None] * 20, splits)
    with stub(vote) as server:
        with pytest.raises(UsageError, match="a prompt is made of texts"):
            icl(images, server)
        with pytest.raises(UsageError, match="no labels"):
            icl(bare, server)


def test_a_store_without_splits_has_a_fifth_held_out(tmp_path):
    """As every evaluation does, and a PCA is fitted on the others alone."""
    labels = [CLASSES[row % 3] for row in range(60)]
    store = make_texts(tmp_path / "n.fungi", [f"t {row}" for row in range(60)], labels, [None] * 60)
    with stub(vote) as server:
        done = icl(store, server, pca_dims=(None, 4))
    assert [(s.n_train, s.n_test, s.dim) for s in done.scores] == [(48, 12, 16), (48, 12, 4)]
    assert "because" in done.protocol["split"]
    assert done.scores[1].difference.against == "embeddings + kl"


def test_cut_texts_and_open_lines_are_said(store, monkeypatch):
    """How many texts were cut; and that a key would go over the network for all to read."""
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    heard = []
    with stub(vote) as server:
        monkeypatch.setenv("http_proxy", server.url.removesuffix("/v1"))
        options = {"endpoint": "http://far.example/v1", "max_characters": 9, "limit": 1}
        icl(store, server, context=Context(Notices(heard)), **options)
    assert "the key goes over the network unencrypted" in " ".join(heard)
    assert any(text.endswith("texts were cut to 9 characters") for text in heard)


RUN = """
import sys
from fungi_cli.main import app
app(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_is_ended_has_paid_for_nothing_in_vain(store, kind):
    """Answers that came are there; after SIGKILL, those that were under way are asked for again."""

    def slowly(handler, number, prompt):
        time.sleep(0.05)
        vote(handler, number, prompt)

    with stub(slowly) as server:
        words = ["eval", "icl", str(store.root), "--endpoint", server.url, "--model", "m"]
        command = [sys.executable, "-c", RUN, *words, "--k", "5", "--concurrency", "2"]
        codes = []
        for many in (3, 6, 9, 99):
            run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            while len(server.prompts) < many and run.poll() is None:
                time.sleep(0.005)
            if run.poll() is None and many < 99:
                os.kill(run.pid, kind)
            run.communicate()
            codes.append(run.returncode)
    assert codes[-1] == 0
    if kind == signal.SIGTERM:
        assert set(codes[:-1]) <= {75, 0}
        assert len(server.prompts) == 12
    assert len(set(server.prompts)) == 12
    assert len(server.prompts) <= 12 + 2 * 3

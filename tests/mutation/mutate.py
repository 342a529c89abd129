"""How many small faults the tests see: `make mutate`, or a part of it with --module and --sample.

Each mutant of a module runs in a process forked from one that has the libraries loaded, with the
module's source replaced as it is imported: no file of the checkout is ever written. Only tests that
came past the mutated line run, and the first that fails ends the run. modules.toml says which tests
a module has, equivalent.toml which mutants cannot be seen, and why.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mutants import Mutant, mutants
from server import Answer, Server

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ENDED = {signal.SIGTERM: 143, signal.SIGHUP: 129}
SLOWER, GRACE = 4, 10  # a mutant that takes so many times its tests' seconds, and more, hangs


@dataclass(frozen=True)
class Outcome:
    """What became of one mutant.

    `fate` is "killed", "hung" (killed by the clock), "survived" or "equivalent".
    """

    module: str
    line: int
    text: str
    change: str
    fate: str


@dataclass(frozen=True)
class Baseline:
    """A module's tests without a fault: which came past which line, and how long they took."""

    seconds: dict[str, float]
    tests_of_line: dict[int, list[str]]

    def tests_of(self, line: int) -> list[str]:
        """Return the tests that came past a line, in the order of a whole run."""
        known = set(self.tests_of_line.get(line, ()))
        return [test for test in self.seconds if test in known]


def main() -> int:
    """Run what the command line asks for; 1 where tests fail without a fault."""
    asked = arguments()
    table = tomllib.loads((HERE / "modules.toml").read_text())
    names = asked.module or list(table)
    if unknown := sorted(set(names) - set(table)):
        print(f"no such module in modules.toml: {', '.join(unknown)}", file=sys.stderr)
        return 2
    for number, code in ENDED.items():
        signal.signal(number, lambda *_, code=code: sys.exit(code))
    again = json.loads(asked.again.read_text())["mutants"] if asked.again else None
    scratch = Path(tempfile.mkdtemp(prefix="mutate-"))
    outcomes: list[Outcome] = []
    try:
        server = Server(ROOT, scratch)
        for name in names:
            of_module = again and [one for one in again if one["module"] == name]
            found = examine(server, name, table[name], asked, of_module)
            if found is None:
                return 1
            outcomes += found
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    report(outcomes, as_json=asked.json)
    return 0


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--module", action="append", help="of modules.toml; may be repeated")
    parser.add_argument("--sample", type=int, help="so many mutants of each module, not all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--again", type=Path, help="only what survived in the --json of a run")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


def examine(
    server: Server,
    name: str,
    files: Sequence[str],
    asked: argparse.Namespace,
    again: list[dict[str, str]] | None,
) -> list[Outcome] | None:
    """Try the mutants of a module; None where its tests fail by themselves."""
    path = ROOT / "fungistore" / f"{name}.py"
    source = path.read_text(encoding="utf-8")
    every = list(mutants(source))
    equivalent = tomllib.loads((HERE / "equivalent.toml").read_text())
    known = {(one["text"], one["change"]) for one in equivalent.get(name, ())}
    for text, change in sorted(known - {(one.text, one.change) for one in every}):
        print(
            f"equivalent.toml: {name} has no such line any more: {text}: {change}", file=sys.stderr
        )
    if again is not None:
        alive = {(one["text"], one["change"]) for one in again if one["fate"] == "survived"}
        every = [one for one in every if (one.text, one.change) in alive]
    elif asked.sample is not None and asked.sample < len(every):
        drawn = random.Random(f"{asked.seed} {name}").sample(range(len(every)), asked.sample)
        every = [every[place] for place in sorted(drawn)]
    if not every:
        return []
    baseline = measure(server, path, files)
    if baseline is None:
        return None
    outcomes = []
    for number, mutant in enumerate(every, 1):
        fate = "equivalent"
        if (mutant.text, mutant.change) not in known:
            fate = try_mutant(server, path, mutant, baseline)
        outcomes.append(Outcome(name, mutant.line, mutant.text, mutant.change, fate))
        print(
            f"{name} {number}/{len(every)} {fate:10} {mutant.line}: {mutant.change}",
            file=sys.stderr,
            flush=True,
        )
    return outcomes


def measure(server: Server, path: Path, files: Sequence[str]) -> Baseline | None:
    """Run a module's tests without a fault: as it stands, and as mutants are written."""
    began = time.monotonic()
    seen = server.trace(path, files)
    same = ast.unparse(ast.parse(path.read_text(encoding="utf-8")))
    if seen is None or server.run(path, same, list(seen["seconds"]), 3600) is not Answer.PASSED:
        said = server.log.read_text(errors="replace")
        print(f"{said}\n{path}: its tests fail without a fault", file=sys.stderr)
        return None
    baseline = Baseline(seen["seconds"], {int(k): v for k, v in seen["tests_of_line"].items()})
    print(
        f"{path.relative_to(ROOT)}: {len(baseline.seconds)} tests, "
        f"{time.monotonic() - began:.0f} s",
        file=sys.stderr,
    )
    return baseline


def try_mutant(server: Server, path: Path, mutant: Mutant, baseline: Baseline) -> str:
    """Run the tests that can see a mutant, and return its fate."""
    tests = baseline.tests_of(mutant.line)
    if not tests:
        return "survived"
    limit = GRACE + SLOWER * sum(baseline.seconds[test] for test in tests)
    answer = server.run(path, mutant.source, tests, limit)
    return {Answer.PASSED: "survived", Answer.FAILED: "killed", Answer.HUNG: "hung"}[answer]


def report(outcomes: Sequence[Outcome], *, as_json: bool) -> None:
    """Print the scores of modules and who survived."""
    table = []
    for name in dict.fromkeys(one.module for one in outcomes):
        table.append(score(name, [one for one in outcomes if one.module == name]))
    table.append(score("all", outcomes))
    if as_json:
        print(json.dumps({"modules": table, "mutants": [vars(one) for one in outcomes]}, indent=1))
        return
    print("| module | mutants | killed | survived | equivalent | score |")
    print("|---|---:|---:|---:|---:|---:|")
    for row in table:
        print("| " + " | ".join(map(str, row.values())) + " |")
    for one in outcomes:
        if one.fate == "survived":
            print(f"\n{one.module}:{one.line}: {one.text}\n    {one.change}")


def score(name: str, outcomes: Sequence[Outcome]) -> dict[str, object]:
    """Count the fates; the score is of the mutants that can be seen."""
    fates = Counter(one.fate for one in outcomes)
    killed, seen = fates["killed"] + fates["hung"], len(outcomes) - fates["equivalent"]
    return {
        "module": name,
        "mutants": len(outcomes),
        "killed": killed,
        "survived": fates["survived"],
        "equivalent": fates["equivalent"],
        "score": f"{100 * killed / max(1, seen):.1f} %",
    }


if __name__ == "__main__":
    sys.exit(main())

"""Adaptations: their configuration, their weights, and which rows they have seen."""

from __future__ import annotations

from collections.abc import Iterator
from shlex import quote

from fungistore.backbones.adapters.adaptation import ADAPTATIONS, CONFIG, TABLES, read_seen
from fungistore.errors import FungiError
from fungistore.machine.context import Context
from fungistore.store.backend import Listing
from fungistore.store.folder import Folder
from fungistore.store.store import Store
from fungistore.training.run_folder import RunFolder
from fungistore.verification.artefacts import wrong_run
from fungistore.verification.findings import Finding, first_line, readable


def check_adaptations(store: Store, context: Context) -> Iterator[Finding]:
    """Check each adaptation as it was written; one whose training goes on is sound."""
    parent = store.folder(ADAPTATIONS)
    folders = parent.folders()
    for folder in parent.below():
        if folder in folders or folder.list() != Listing():
            context.stop_if_asked()
            yield from readable(store.backend, folder.key, _check(store, folder))


def _check(store: Store, folder: Folder) -> Iterator[Finding]:
    run = RunFolder(folder, "adaptation", TABLES)
    command = f"fungi adapt SOURCE {quote(store.where)} --name {folder.name}"
    again = f"{command} with its options and --restart"
    try:
        config = run.config()
        problem = wrong_run(run, config)
        if config is not None and not problem:
            read_seen(folder, config)
    except FungiError as error:
        config, problem = {}, f"{error.what}: {first_line(error.found)}"
    if problem:
        expected = "the run as it was written"
        yield Finding(
            "adaptation-damaged", folder.key, expected, problem, advice=f"train it again: {again}"
        )
    elif config is None:
        yield Finding("adaptation-damaged", folder.key, CONFIG, "missing", "warning", advice=again)

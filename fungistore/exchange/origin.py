"""What exported files say that their vectors were made with, and whether these belong together."""

from __future__ import annotations

from collections.abc import Sequence

from fungistore.errors import MismatchError
from fungistore.exchange.formats import FeatureFile
from fungistore.fingerprint import Config
from fungistore.report import Reporter
from fungistore.store.references import bank_of, fingerprint_of


def joined_origin(files: Sequence[FeatureFile], reporter: Reporter) -> Config:
    """Return what a setup records of the files that it was imported from, {} of foreign ones.

    Args:
        files: that become one array.
        reporter: is told of files that were made with different settings.

    Raises:
        MismatchError: their features were compared with different banks.
    """
    origins = [(file, references) for file in files if (references := _references(file))]
    if not origins:
        return {}
    first, expected = origins[0]
    with_it = {name: (first, one) for name, one in expected.items()}  # the first of each name
    for file, found in origins[1:]:
        for name, reference in sorted(found.items()):
            other, known = with_it.setdefault(name, (file, reference))
            if bank_of(known) != bank_of(reference):
                raise MismatchError(
                    f"the files' {name} were compared with different samples (SimCLR's negatives)",
                    where=file.path,
                    expected=f"the bank of {other.path}, {bank_of(known) or 'none'}",
                    found=bank_of(reference) or "none",
                    hint="extract one of the stores anew, into another feature set, with fungi "
                    "extract --bank-from the other one; or leave the feature out of the export",
                )
        if {n: fingerprint_of(r) for n, r in found.items()} != {
            n: fingerprint_of(r) for n, r in expected.items()
        }:
            reporter.notice(
                f"{file.path} was made with other settings than {first.path}: "
                "fungi status shows whether their vectors belong together"
            )
    joined = {name: reference for name, (_, reference) in with_it.items()}
    banks = {name: bank for name, one in joined.items() if (bank := bank_of(one))}
    return {"from": joined, "banks": banks}


def _references(file: FeatureFile) -> dict[str, str]:
    """Return what each block was made with, by its name in a feature set."""
    found = file.provenance.get("fingerprints")
    if not isinstance(found, dict):
        return {}
    return {str(name).partition("/")[2]: str(one) for name, one in found.items()}

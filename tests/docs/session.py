"""Python blocks of a page, one after the other in one process: each line in is one block's source.

Answers a line for each: what it printed, or its traceback.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import traceback


def main() -> None:
    """Run blocks until there are no more."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    names: dict[str, object] = {"__name__": "__main__"}
    for line in sys.stdin:
        printed, failed = io.StringIO(), None
        with contextlib.redirect_stdout(printed):
            try:
                for source, mode in json.loads(line):
                    exec(compile(source, "<page>", mode), names)
            except BaseException:
                failed = traceback.format_exc()
        print(json.dumps([printed.getvalue(), failed]), file=answers)


if __name__ == "__main__":
    main()

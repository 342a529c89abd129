"""How other programs write patch tokens down, and the grids or sequences that a store has of them.

[rows, h, w, width] or [rows, tokens, width]; with the channels first [rows, width, h, w], as
convolutions have them. Tokens in sequence may begin with a class token and registers, and are read
row by row of the image: of dinov2_vits14_reg at 224 pixels, 1 + 4 tokens in front of 16 x 16.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import numpy as np

from fungistore.errors import UsageError
from fungistore.exchange.formats import Matrix
from fungistore.exchange.options import GRID, ImportOptions
from fungistore.fingerprint import Config
from fungistore.quantities import counted
from fungistore.store.feature import PATCHES

# ViT; DeiT's distilled ones; DINOv2 with registers, and DINOv3
USUAL_PREFIXES = (0, 1, 2, 5)


@dataclass(frozen=True)
class TokenLayout:
    """What becomes of a file's rows.

    Attributes:
        channels_first: a token's numbers are in the first place of a row, instead of the last.
        prefix: tokens in front, that are dropped.
        grid: (h, w) that a sequence is folded to; None: it stays as it is.
        row_shape: of what comes out of it.
    """

    channels_first: bool
    prefix: int
    grid: tuple[int, int] | None
    row_shape: tuple[int, ...]

    def apply(self, rows: Matrix) -> Matrix:
        """Return rows of a file [n, ...] as the store has them, [n, h, w, d] or [n, tokens, d]."""
        if self.channels_first:
            rows = np.moveaxis(rows, 1, -1)
        if self.prefix:
            rows = rows[:, self.prefix :]
        return rows.reshape(len(rows), *self.row_shape)

    def to_config(self) -> Config:
        """Return what makes other values of the same file."""
        return {
            "channels": "first" if self.channels_first else "last",
            "prefix_tokens": self.prefix,
            "grid": None if self.grid is None else list(self.grid),
        }

    def remarks(self) -> list[str]:
        """Return what a user may not have meant."""
        said = []
        if self.prefix:
            said.append(
                f"--prefix-tokens: the first {counted(self.prefix, 'token')} of each row (class, "
                f"registers) {'is' if self.prefix == 1 else 'are'} dropped"
            )
        if len(self.row_shape) == 2:
            tokens = self.row_shape[0]
            fold = _folding(tokens, self.prefix)
            said.append(
                f"the tokens stay a sequence of {tokens}, which is not augmented as images are"
                + (f"; if they are an image's, fold them with {fold}" if fold else "")
            )
        return said


def read_layout(where: object, row_shape: tuple[int, ...], options: ImportOptions) -> TokenLayout:
    """Return how a file's rows are read.

    Args:
        where: the file, for errors.
        row_shape: of its rows, two or three numbers.
        options: what was said of them.

    Raises:
        UsageError: that does not fit the shape, or the shape looks like another.
    """
    if options.channels is None and len(row_shape) == 3 and row_shape[0] > max(row_shape[1:]):
        width, *cells = row_shape
        raise UsageError(
            "the tokens look as if their channels came first",
            where=where,
            expected="[rows, h, w, width]",
            found=f"rows of {_times(row_shape)}",
            hint=f"--channels first reads them as a grid of {_times(cells)}, {width} wide; "
            f"--channels last, if {width} is the height",
        )
    channels_first = options.channels == "first"
    shape = (*row_shape[1:], row_shape[0]) if channels_first else row_shape
    if len(shape) == 3:
        if options.grid is not None or options.prefix_tokens:
            flag = "--prefix-tokens" if options.grid is None else "--grid"
            raise UsageError(
                "the tokens are a grid already",
                where=flag,
                expected="tokens in sequence, [rows, tokens, width]",
                found=f"rows of {_times(shape)}",
                hint=f"leave out {flag}",
            )
        return TokenLayout(channels_first, 0, None, shape)
    tokens = shape[0] - options.prefix_tokens
    if tokens < 1:
        raise UsageError(
            "no token is left",
            where="--prefix-tokens",
            expected=f"less than the {counted(shape[0], 'token')} of a row",
            found=options.prefix_tokens,
            hint="check the number of the model's class and register tokens"
            + ("" if channels_first else "; --channels first, if the width comes first"),
        )
    grid = None if options.grid is None else _grid(options.grid, tokens, shape[0])
    places = (tokens,) if grid is None else grid
    return TokenLayout(channels_first, options.prefix_tokens, grid, (*places, shape[1]))


def refuse_layout(options: ImportOptions) -> None:
    """Raise UsageError where vectors are imported, and something is said of tokens."""
    flags = {
        "--grid": options.grid,
        "--prefix-tokens": options.prefix_tokens or None,
        "--channels": options.channels,
    }
    given = [flag for flag, value in flags.items() if value is not None]
    if given:
        raise UsageError(
            "vectors have no tokens",
            where=", ".join(given),
            expected=f"--as {PATCHES}",
            hint=f"add --as {PATCHES}, or leave out {' and '.join(given)}",
        )


def _grid(text: str, tokens: int, all_tokens: int) -> tuple[int, int]:
    """Return the rows and columns that tokens are folded to."""
    if found := GRID.fullmatch(text):
        grid = int(found[1]), int(found[2])
    else:
        grid = isqrt(tokens), isqrt(tokens)
    if grid[0] * grid[1] == tokens:
        return grid
    fold = _folding(all_tokens, 0)
    raise UsageError(
        f"{counted(tokens, 'token')} cannot be folded"
        + (" to a square" if text == "auto" else f" to {_times(grid)}"),
        where="--grid",
        expected="rows x columns = the tokens of a row, without those in front",
        found=f"{all_tokens} in the file, {all_tokens - tokens} of them dropped",
        hint=fold
        or "give rows and columns with --grid HxW, and the class and register tokens with "
        "--prefix-tokens",
    )


def _folding(tokens: int, dropped: int) -> str | None:
    """Return the flags that fold so many tokens to a square, as some are in front or dropped."""
    for prefix in USUAL_PREFIXES:
        side, all_dropped = isqrt(max(0, tokens - prefix)), dropped + prefix
        if side > 1 and side * side == tokens - prefix:
            return f"--grid {side}x{side}" + (
                f" --prefix-tokens {all_dropped}" if all_dropped else ""
            )
    return None


def _times(shape: list[int] | tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))

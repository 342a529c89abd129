"""URLs that hold a password or a signature: neither is kept, so nothing is read from them."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from fungistore.quantities import counted
from fungistore.remote.places import without_secret

_MAY_BE = r"^[hH][tT][tT][pP][sS]?://([^/]*@|.*\?)"


def without_secrets(uris: pa.Array) -> tuple[pa.Array, int]:
    """Return uris without the queries and passwords of URLs, and how many had one."""
    found = pc.fill_null(pc.match_substring_regex(uris, _MAY_BE), False)
    count = pc.sum(found).as_py() or 0
    if not count:
        return uris, 0
    bare = [
        without_secret(uri) if has else uri
        for uri, has in zip(uris.to_pylist(), found.to_pylist(), strict=True)
    ]
    return pa.array(bare, pa.string()), count


def secrets_remark(count: int) -> str:
    """Return what the user should know of URLs that had one."""
    return (
        f"{counted(count, 'URL has', 'URLs have')} a query or a password, which may be a secret: "
        "it is not kept, and the item is not read; give s3://, gs:// or az:// with credentials in "
        "the environment, or download such items"
    )

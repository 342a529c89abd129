"""Every kind of file in a store and every field in it, as data; `schema.py` makes the document.

Tests compare these lists with the dataclasses that are written, and with the files of real stores.
"""

from __future__ import annotations

from fungistore.store.artefact_layout import ARTEFACTS
from fungistore.store.kinds import SEAL, Field, StoredKind
from fungistore.store.setup_layout import SETUPS

VERSIONS = (
    ("2.0", "the first of this major version; stores of 1.x are refused"),
    ("2.1", "the columns of a manifest, kept in the parts of the sample table"),
    ("2.2", "rows whose file is gone from their source are listed"),
    ("2.3", "digests of the items that rows were made from"),
    ("2.4", "segmentation masks of images"),
)

MANIFEST = StoredKind(
    "store.json",
    "all that write",
    "what the directory is; it names the parts of the sample table that count",
    (
        Field("schema", "[integer, integer]", "major and minor version of this page"),
        Field("id", "text", "random name of the store, given once"),
        Field("labels", "list of text", "class names; a sample's label is an index into them"),
        Field("parts", "list", "files of the sample table in row order"),
        Field("parts[].file", "text", "its name in `samples.parquet/`"),
        Field("parts[].rows", "integer", "its rows"),
        Field("parts[].root", "text", "where its relative uris start"),
        Field("parts[].origin", "text", "which source with that root listed all of its rows"),
        Field("parts[].checksum", "text, null", "digest of the file; null while it is replaced"),
        Field("modality", "text", "what the samples are: image, or a plug-in's"),
        Field("samples", "integer", "rows in all, for human readers"),
        SEAL,
    ),
    note="Replaced as a whole by a rename. Top-level fields of newer minor versions are handed on.",
)

SAMPLES = StoredKind(
    "samples.parquet/<part>.parquet",
    "extract, import",
    "one row a sample, in an order that never changes; parts are only added",
    (
        Field("row", "int64", "number of the row in all arrays"),
        Field("id", "string", "path relative to the source, or the manifest's id; unique"),
        Field("uri", "string", "where the item is: a path, a member of a tar file, or itself"),
        Field("label", "int32, null", "index into the class names"),
        Field("split", "dictionary of string, null", "train, val, test, or any other name"),
        Field("bytes", "int64, null", "size of the file when it was listed"),
        Field("mtime", "timestamp[us, UTC], null", "its time when it was listed"),
        Field(
            "column.<name>",
            "int64, double, bool or string, null",
            "a column of the manifest; of Arrow's null type where all cells are empty",
        ),
    ),
    note="Row groups of 16,384 rows. A file that `store.json` does not name does not count.",
)

REMOVED = StoredKind(
    "removed.parquet",
    "extract",
    "rows whose file is gone from their source; absent where there is none",
    (Field("row", "int64", "of the sample table, ascending"),),
    note="Their features stay; evaluations, indexes and training leave them out. A row whose file "
    "comes back leaves the list.",
)

GROUP = StoredKind(
    "features.zarr/zarr.json", "extract, import", "a zarr v3 group of all feature sets"
)

ARRAY = StoredKind(
    "features.zarr/<array>/zarr.json",
    "extract, import, pca",
    "a zarr v3 group or array: `<feature set>/<array>`",
    (
        Field("embeddings", "float16 or float32 [N, E]", "the model's pooled output"),
        Field("gradients/<objective>", "float16 or float32 [N, D]", "unit vectors: kl, dino, .."),
        Field("norms/<objective>", "float32 [N]", "the norms that these vectors had"),
        Field("patches", "float16 [N, h, w, D] or [N, length, D]", "tokens after the final norm"),
        Field("lengths/patches", "float32 [N]", "how many are real, where their number differs"),
        Field("pca/<name>", "float16 or float32 [N, dim]", "coordinates of a PCA"),
        Field("patch-gradients/<objective>", "float16 [N, h, w, D]", "unit vectors of each token"),
        Field("patch-norms/<objective>", "float32 [N, h, w]", "the norms that these vectors had"),
        Field("bank/<name>", "float16 [N, K, dim]", "unit vectors of an image's patches in a bank"),
        Field("bank-labels/<name>", "float16 or float32 [N, K, C]", "their pixels of each class"),
        Field("attributes.fingerprint", "text", "the setup that the array belongs to"),
        Field("attributes.codec", "text", "none, zstd or bitround"),
    ),
    note="Arrays are chunked along the rows alone, a power of two of them: a unit. The fill value "
    "is NaN: rows that are not written, and inputs that could not be read.",
)

CHUNK = StoredKind(
    "features.zarr/<array>/c/<chunk>",
    "extract, import, pca",
    "the rows of one unit, then four bytes of CRC-32C; with codec none a plain C-order array",
)

COMMIT = StoredKind(
    "commits/<array>/<unit>.json",
    "extract, import, pca",
    "vouches for one chunk; without it the chunk counts for nothing",
    (
        Field("unit", "integer", "index of the unit, in the name too (eight digits or more)"),
        Field("rows", "integer", "rows that were written; the last unit may be partly filled"),
        Field("bytes", "integer", "size of the chunk's file"),
        Field("checksum", "text", "BLAKE2b-128 of the rows as they read back"),
        Field("fingerprint", "text", "of the setup that the rows were made with"),
        Field("ids", "text", "digest of the rows' sample ids in their order"),
        Field("failed", "integer", "rows whose input could not be read"),
        Field("nan_rows", "integer", "rows with a NaN"),
        Field("inf_rows", "integer", "rows with an infinity"),
        Field("zero_rows", "integer", "rows of zeros"),
        Field(
            "prefixes",
            "list of [integer, text]",
            "checksum of its first rows, as many as it was committed with before",
        ),
        Field(
            "inputs",
            "list of [text, text]",
            "of a PCA and a bank: each array, and the checksum of the rows that these were made "
            "from; a bank's `annotations/masks`: bits of a unit's rows, a digest of their masks",
        ),
    ),
)

COMPACTED = StoredKind(
    "commits/<array>/.records",
    "all that write to a URL",
    "the records of an array in one object, by name and tag; a cache: without it they are read",
)

HALF_COPY = StoredKind(
    "copy.json",
    "copy",
    "marks a copy that has not ended; beside `store.json` it means nothing",
    (
        Field("store", "text", "id of the store that is copied"),
        Field("source", "text", "where that is"),
    ),
)

DIGESTS = StoredKind(
    "contents/<feature set>/<unit>.bin",
    "extract",
    "of each row of a unit, a digest of the bytes of its item",
    (
        Field(
            "digest",
            "uint64 [rows]",
            "BLAKE2b-64, little-endian; 0: not noted, 1: the item could not be read",
        ),
        Field("checksum", "uint32", "CRC-32 of these, little-endian"),
    ),
    note="Published before the unit's records; it may have more rows than these. Items that were "
    "moved or touched are known again by it.",
)

FAILURES = StoredKind(
    "failures.jsonl",
    "extract",
    "one line an input that could not be read; the last line about a row counts",
    (
        Field("row", "integer", "row of the sample"),
        Field("uri", "text", "where the item is"),
        Field("error", "text", "class of the error"),
        Field("message", "text", "what it said"),
        Field("feature_set", "text", "what was being made"),
    ),
)

MASKS = StoredKind(
    "annotations/masks.json",
    "annotate, extract",
    "the segmentation masks of images: their classes, and the files that count",
    (
        Field("schema", "integer", "version of this file: 1"),
        Field("classes", "list of text", "names by index"),
        Field("named", "true or false", "whether somebody gave these names; else they are numbers"),
        Field("void", "integer, null", "the value of the source's files that is not judged"),
        Field(
            "colours",
            "list of [red, green, blue, index]",
            "where the source's files are in colours; index 65535 is not judged",
        ),
        Field("orientation", "text", "upright, or stored: which pixels of an image are meant"),
        Field("folders", "list of text", "folders of masks that were added; later ones come first"),
        Field("blocks", "list", "the files, each of at most 64 rows"),
        Field("blocks[].block", "integer", "its number: rows 64 x block and up"),
        Field("blocks[].file", "text", "its name in `annotations/masks/`"),
        Field("blocks[].checksum", "text", "BLAKE2b-128 of its bytes"),
        Field("blocks[].rows", "text", "the rows with a mask: hexadecimal, bit k is the k-th row"),
        Field("blocks[].skipped", "integer", "rows whose mask could not be used"),
        Field("skipped", "table", "masks that could not be used, by reason"),
        Field("pixels", "list of integers", "of each class, up to the last one met, in all masks"),
        Field("void_pixels", "integer", "that are not judged"),
        SEAL,
    ),
    note="Replaced as a whole by a rename. A file that it does not name does not count.",
)

MASK_BLOCK = StoredKind(
    "annotations/masks/<block>.parquet",
    "annotate, extract",
    "the masks of at most 64 rows; the name ends in digits of its checksum",
    (
        Field("row", "int64", "of the sample table"),
        Field("uri", "string, null", "where the mask was read"),
        Field("state", "string", "digest of that and of sizes and times: another one is read anew"),
        Field("digest", "string, null", "of the mask's size and classes"),
        Field("problem", "string, null", "why it could not be used, in a word"),
        Field("message", "string, null", "the same in words"),
        Field(
            "mask",
            "binary, null",
            "a grey PNG of the upright image's size: the class of each pixel; 255 of 8 bits and "
            "65535 of 16 are not judged",
        ),
        Field("pixels", "list of int64, null", "of each class"),
        Field("void", "int64, null", "pixels that are not judged"),
    ),
)

LOCK = StoredKind(
    ".locks/<name>.lock",
    "all that write",
    "held, as a system lock, by a writer; `short.lock` for moments",
)

CLAIM = StoredKind(
    ".locks/<name>.json",
    "all that write",
    "who holds the lock beside it; means nothing where nobody does",
    (
        Field("thing", "text", 'what is being written, such as `features/vit/embeddings`; "": all'),
        Field("index", "integer", "number of the worker, where several share the units"),
        Field("count", "integer", "how many workers do; 1: one has them all"),
        Field("token", "text", "random name of this acquisition"),
        Field("pid", "integer", "the owner's process"),
        Field("host", "text", "its host"),
        Field("since", "text", "when it was taken, with the time zone"),
        Field("command", "text", "what the owner runs"),
    ),
)

PARTIAL = StoredKind(
    "<file>.partial",
    "all that write",
    "a file being written, hidden and of a random name; left by a kill, removed by the next writer",
)

FILES = (
    MANIFEST,
    HALF_COPY,
    SAMPLES,
    REMOVED,
    GROUP,
    ARRAY,
    CHUNK,
    COMMIT,
    COMPACTED,
    DIGESTS,
    *SETUPS,
    FAILURES,
    MASKS,
    MASK_BLOCK,
    *ARTEFACTS,
    LOCK,
    CLAIM,
    PARTIAL,
)

PROTOCOL = (
    "Files appear whole or not at all: on a disk, each is written under another name, flushed, and "
    "renamed, and its folder is flushed. Only `failures.jsonl` and events grow, and a kill may cut "
    "their end; of a damaged claim beside a lock that is held, everything counts as claimed.",
    "A writer flushes the folders that it relies on: whoever wrote there may have been killed "
    "before its own flush.",
    "The setup is frozen: its files appear, its configuration last.",
    "A folder for the array's records is there. The unit's chunk appears. It is read back and "
    "hashed.",
    "The record appears. Units that are made faster than a disk flushes are published together: "
    "their chunks, then their records; each waits half a second at most.",
    "A unit is done when its record is there and the chunk has the recorded size (or, where it "
    "was completed since, the recorded checksum).",
)

GUARANTEES = (
    "A kill or a power cut, at any moment, costs the unit under way and nothing else.",
    "A committed row never changes, unless --update or --retry-failed ask for it; a longer source "
    "adds rows.",
    "Two writers never write the same thing, by locks that the system frees when a writer dies. "
    "Readers need no lock and no write access: a store on a read-only disk can be read, searched "
    "and evaluated.",
    "What was made with other settings is refused, not overwritten: every array, index, head and "
    "evaluation names the fingerprints of what it was made from.",
    "Every byte of a feature is covered twice: by the CRC-32C of its chunk, which reads check but "
    "those of single rows that are mapped (training on uncompressed patches), and by the checksum "
    "of its record.",
)

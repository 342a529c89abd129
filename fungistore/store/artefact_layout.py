"""What later stages keep in a store, as data: indexes, heads, adaptations, evaluations."""

from __future__ import annotations

from dataclasses import replace

from fungistore.store.kinds import SEAL, Field, StoredKind

CONTENTS = Field(
    "contents",
    "table",
    "which rows these were: of each array, `units`, a list of [units, rows of each] from the first "
    "on, `digest`, of the checksums of these rows, and `parts`, the first digits of the digests of "
    "at most 64 stretches of the used units",
)

INDEX = StoredKind(
    "indexes/<feature set>/<name>/index.json",
    "index",
    "what an index is, and the files that count",
    (
        Field("schema", "integer", "version of this file: 1"),
        Field("store", "text", "id of the store"),
        Field("feature_set", "text", "its name"),
        Field("name", "text", "of the index"),
        Field("features", "list of text", "the blocks, or one `pca/<name>`"),
        Field("dim", "integer", "width of a vector"),
        Field("metric", "text", "cosine or euclidean"),
        Field("factory", "text", "faiss factory string"),
        Field("reason", "text", "why it was chosen"),
        Field("seed", "integer", "of the training sample and the recall's queries"),
        Field("target_recall", "number", "recall up to which a search's effort was raised"),
        Field("chosen_for", "integer", "rows when the kind was chosen"),
        Field("trained_on", "integer", "vectors of the training sample"),
        Field("rows_done", "integer", "rows of the sample table that were added or excluded"),
        Field("done", "list of [units, rows of each]", "how many of each unit these are"),
        Field("vectors", "integer", "vectors in the index"),
        Field("excluded", "integer", "rows without usable features"),
        Field("removed", "list of integer", "rows left out since their file was gone"),
        Field("fingerprints", "table", "of the arrays it was made from"),
        CONTENTS,
        Field("effort", "table", "search parameter, such as nprobe"),
        Field("recall", "table, null", "k, value and queries of the measured recall"),
        Field("files", "table", "`vectors`, and `reference` unless search is exact"),
        Field("files.*.name", "text", "beside this file"),
        Field("files.*.bytes", "integer", "its size"),
        Field("files.*.crc32", "integer", "its CRC-32"),
        SEAL,
    ),
)

VECTORS = StoredKind(
    "indexes/<feature set>/<name>/vectors-<rows>.faiss",
    "index",
    "a faiss index; ids are row numbers",
)

REFERENCE = StoredKind(
    "indexes/<feature set>/<name>/reference-<rows>.safetensors",
    "index",
    "held-out queries and their exact neighbours, for the recall",
    (
        Field("rows", "int64 [q]", "row numbers of the queries"),
        Field("vectors", "float32 [q, d]", "the queries"),
        Field("neighbours", "int64 [q, 64]", "rows of their nearest; -1 where there is none"),
        Field("distances", "float32 [q, 64]", "of these"),
    ),
)

HEAD = StoredKind(
    "heads/<feature set>/<name>/config.json",
    "train-loff",
    "everything that decides a head's weights, frozen before the first step",
    (
        Field("schema", "integer", "the major version"),
        Field("options", "table", "the settings of the training"),
        Field("head", "table", "the architecture"),
        Field("dtype", "text", "of matrix products"),
        Field("classes", "list of text", "class names in the order of the outputs"),
        Field("split", "table", "where train, validation and test rows come from"),
        Field("rows", "table", "digests of these rows and their labels"),
        Field("inputs", "table", "fingerprints of the arrays that it reads"),
        CONTENTS,
    ),
)

STATE = StoredKind(
    "heads/<feature set>/<name>/state.json",
    "train-loff",
    "how far a run is",
    (
        Field("epoch", "integer", "the epoch under way, from 0"),
        Field("step", "integer", "its steps that were done"),
        Field("loss_sum", "number", "of these steps, each weighed by its rows"),
        Field("best_epoch", "integer, null", "with the best validation metric so far"),
        Field("done", "true or false", "whether the run has ended"),
        Field("history", "list", "what each finished epoch gave"),
        Field("file", "text", "the safetensors file of this moment"),
        Field("checksums", "table", "digests of `config.json` and of that file"),
        SEAL,
    ),
)

WEIGHTS = StoredKind(
    "heads/<feature set>/<name>/state-<epoch>-<step>.safetensors",
    "train-loff",
    "tensors named `model.*`, `optimiser.*`, `average.*` and, from the best epoch, `best.*`",
)

LOG = StoredKind(
    "heads/<feature set>/<name>/log.jsonl", "train-loff", "one line an epoch: losses and metrics"
)

SPEED = StoredKind(
    "heads/<feature set>/<name>/speed.json",
    "train-loff",
    "what the last process that trained it has measured",
    (
        Field("device", "text", "`cpu`, or the name of a GPU"),
        Field("rows", "integer", "trained on while it was measured"),
        Field("seconds", "number", "that these steps took, with the reading of their rows"),
        Field("peak_rss_bytes", "integer", "the most memory that the process had"),
        Field("peak_gpu_bytes", "integer, null", "the most that torch allocated on the GPU"),
    ),
)

EVENTS = StoredKind(
    "heads/<feature set>/<name>/tensorboard/<events>",
    "train-loff",
    "scalars for TensorBoard, with --log-to tensorboard",
)

TOLD = StoredKind(
    "heads/<feature set>/<name>/told.json",
    "train-loff --log-to",
    "what services were told of the log; without it they are told anew",
    (
        Field("run", "text", "random name of the run, by which a service knows it"),
        Field("epochs", "table", "last epoch that each service was told"),
    ),
)

ADAPTATION = StoredKind(
    "adaptations/<name>/config.json",
    "adapt",
    "everything that decides an adaptation's weights, frozen before the first step",
    (
        Field("schema", "integer", "the major version"),
        Field("adapter", "table", "the method, and its settings"),
        Field("backbone", "table", "the encoder that it was made for: model, hash of the weights"),
        Field("options", "table", "the settings of the training"),
        Field("dtype", "text", "of matrix products"),
        Field("classes", "list of text", "class names in the order of the classifier's outputs"),
        Field("split", "table", "where train, validation and test rows come from"),
        Field("rows", "table", "digests of the rows and their labels; `rows.seen`: of `seen.npy`"),
        Field("data", "table", "digests of the images"),
    ),
)

ADAPTATION_SEEN = StoredKind(
    "adaptations/<name>/seen.npy",
    "adapt",
    "of each row that it is trained or validated on, BLAKE2b-64 of its id, ascending, and the "
    "digest of its image; uint64 [2, n]",
)

ADAPTATION_ITEMS = StoredKind(
    "adaptations/<name>/items.npy",
    "adapt",
    "these rows, and the digests of their images when it was begun; uint64 [2, n]",
)

# a run is kept as that of a head
ADAPTATION_RUN = tuple(
    replace(
        kind,
        path=kind.path.replace("heads/<feature set>", "adaptations"),
        written_by=kind.written_by.replace("train-loff", "adapt"),
    )
    for kind in (STATE, WEIGHTS, LOG, SPEED, EVENTS, TOLD)
)

EVALUATION = StoredKind(
    "evals/<kind>-<feature set>-<protocol>.json",
    "eval",
    "one evaluation; the same one again replaces it",
    (
        Field(
            "kind",
            "text",
            "knn, linear, cluster, retrieval, compare, loff, adapted, segment or icl",
        ),
        Field("store", "text", "the store's directory at that time"),
        Field("feature_set", "text", "its name"),
        Field("protocol", "table", "everything that decides the scores"),
        Field("excluded", "table", "rows left out, by reason"),
        Field("unseen", "integer", "test rows of classes without training rows: they are wrong"),
        Field("scores", "list", "one for each combination of features"),
        Field("scores[].features", "list of text", "the blocks"),
        Field("scores[].dim", "integer", "width of the vectors"),
        Field("scores[].n_train", "integer", "rows fitted on, or searched"),
        Field("scores[].n_test", "integer", "rows tested on"),
        Field("scores[].metrics", "table", "fractions, not per cent"),
        Field("scores[].spread", "table", "[low, high] of 95 % intervals"),
        Field("scores[].protocol", "table", "what this combination has of its own"),
        Field(
            "scores[].difference",
            "table, null",
            "from the first combination on the same rows: value, interval, p, gained and lost",
        ),
        Field("scores[].fingerprints", "table", "of the arrays it was made from"),
        replace(CONTENTS, name="scores[].contents"),
        SEAL,
    ),
    note="The fields of the last score are at the top level too. A kind may add its own: loff has "
    "`classes`, `confusion`, `speed`, segment `classes` with the IoU of each.",
)

ANSWERS = StoredKind(
    "answers/<model>.jsonl",
    "eval icl",
    "what a language model was paid for: one line an answer, by what was asked",
    (
        Field("key", "text", "fingerprint of the request: model, messages and parameters"),
        Field("model", "text", "as its endpoint calls it"),
        Field("text", "text", "the answer"),
        Field("finish", "text", "why it ended: stop, length"),
        Field("prompt_tokens", "integer", "as the endpoint counts; 0 where it does not"),
        Field("completion_tokens", "integer", "the same"),
        SEAL,
    ),
    note="Lines are only added. One that a kill cut short, or that was edited, does not count.",
)

BANK_INDEX = StoredKind(
    "banks/<feature set>/<name>/bank.json",
    "bank",
    "how a memory bank is searched; it can be made again from the bank's arrays",
    (
        Field("factory", "text", "faiss factory string; Flat: exact search, without a file"),
        Field("reason", "text", "why it was chosen"),
        Field("vectors", "integer", "patches; their ids are places among those of the bank"),
        Field("contents", "text", "digest of the rows of the bank's arrays"),
        Field("effort", "table", "search parameter, such as nprobe"),
        Field("recall", "number, null", "recall@10, measured"),
        Field("file", "table, null", "name, bytes and CRC-32 of the faiss file"),
        Field("target_recall", "number, null", "up to which the effort was raised"),
        SEAL,
    ),
)

BANK_VECTORS = StoredKind(
    "banks/<feature set>/<name>/vectors-<digest>.faiss", "bank", "a faiss index"
)

ARTEFACTS = (
    BANK_INDEX,
    BANK_VECTORS,
    INDEX,
    VECTORS,
    REFERENCE,
    HEAD,
    STATE,
    WEIGHTS,
    LOG,
    SPEED,
    EVENTS,
    TOLD,
    ADAPTATION,
    ADAPTATION_SEEN,
    ADAPTATION_ITEMS,
    *ADAPTATION_RUN,
    EVALUATION,
    ANSWERS,
)

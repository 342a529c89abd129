"""The files of setups, which are frozen beside a configuration, and every field in them."""

from __future__ import annotations

from fungistore.store.kinds import Field, StoredKind

SETUP = StoredKind(
    "setups/<fingerprint>/config.json",
    "extract, import, pca",
    "everything that decides an array's values; the fingerprint is a hash of it",
    (
        Field("schema", "integer", "the major version"),
        Field(
            "backbone",
            "table",
            "family, model, hash of the weights, adapter, and what else makes it",
        ),
        Field("compute", "table", "precision up to the target layer, batch size"),
        Field(
            "layout",
            "table",
            "rows of a unit, codec, chunks of its file (`shard_units`) where it is a shard",
        ),
        Field("vectors", "table", "type of the stored vectors"),
        Field("gradient", "table", "target layer, seed, projection; where it is cut"),
        Field("layers", "table", "a further target layer, and the width of its gradients"),
        Field("views", "table", "size of the views"),
        Field("patches", "table", "pooling of the patch tensors; type of imported ones"),
        Field("kl, dino, simclr, deepcluster, ...", "table", "the objective's parameters"),
        Field("pca", "table", "blocks, references to their arrays, rows fitted on, width, kind"),
        Field("tokens", "table", "pooling of the gradients of patch tokens"),
        Field("bank", "table", "of a memory bank: blocks, classes, patches an image, choices"),
        Field(
            "import", "table", "digests of what was imported and of its ids; how tokens were read"
        ),
    ),
    note="A setup has the tables that its array depends on and no others. Frozen before the "
    "first unit is written. Canonical JSON, BLAKE2b-128.",
)

OPTIONS = StoredKind(
    "setups/<fingerprint>/options.json",
    "extract",
    "the options with every automatic decision; `fungi extract --config` takes it",
)

MADE = StoredKind(
    "setups/<fingerprint>/made.json",
    "extract, import",
    "what is no setting, but worth knowing of what was made with them",
    (
        Field("versions", "table", "of the packages that read and compute: torch, timm, pillow"),
        Field("banks", "table", "digest of each bank: features of equal settings need equal banks"),
        Field("from", "table", "of imported exports: what their arrays were made with"),
    ),
)

CHECKSUMS = StoredKind(
    "setups/<fingerprint>/checksums.json",
    "extract, import, pca",
    "digests of the setup's other files by name, for `fungi verify`",
)

TENSORS = StoredKind(
    "setups/<fingerprint>/tensors.safetensors",
    "extract",
    "what an objective drew at random",
    (
        Field("<head>.weight", "float32 [out, E]", "a projection head"),
        Field("<head>.bias", "float32 [out]", "its bias"),
    ),
)

SEEN = StoredKind(
    "setups/<fingerprint>/seen.safetensors",
    "extract --adapter",
    "which rows an adapted encoder was trained or validated on: no evaluation tests on them",
    (
        Field("rows", "uint64 [n]", "BLAKE2b-64 of their ids, ascending"),
        Field("images", "uint64 [n]", "digests of their images; 0 where not known"),
    ),
)

BANK = StoredKind(
    "setups/<fingerprint>/bank.<name>.safetensors",
    "extract",
    "what an objective compares with, made from samples of the train split",
    (
        Field(
            "bank",
            "float32 [...]",
            "SimCLR's negatives: [images x views, d], not normalised; DeepCluster's prototypes: "
            "[sets, K, d], the means of unit vectors",
        ),
    ),
)

LATENTS = StoredKind(
    "setups/<fingerprint>/latents.<start>.safetensors",
    "extract",
    "what a bank is being made of, in blocks, so that a kill costs little; gone when it is frozen",
    (
        Field("latents", "float32 [k, views, d]", "of the samples that could be read"),
        Field("tried", "int64 [1]", "how many samples were tried, in the bank's random order"),
        Field("digests", "uint8 [32]", "of their ids, and of the latents"),
    ),
    note="The fingerprint is of what decides the latents alone; there is no `config.json`.",
)

PCA = StoredKind(
    "setups/<fingerprint>/pca.safetensors",
    "pca",
    "a fitted PCA, or a random projection: components of float32 and fit_rows alone",
    (
        Field("mean", "float64 [d]", "of the rows that it was fitted on"),
        Field("components", "float64 [dim, d]", "orthonormal rows, scikit-learn's signs"),
        Field("explained_variance", "float64 [dim]", "of each component"),
        Field("total_variance", "float64", "of all d numbers"),
        Field("n_samples", "int64", "rows that it was fitted on"),
        Field("fit_rows", "uint8", "these rows, one bit a row of the sample table"),
    ),
)

CENTRE = StoredKind(
    "setups/<fingerprint>/bank.safetensors",
    "bank --center positions",
    "what a memory bank takes away from patch tokens",
    (Field("centre", "float32 [h, w, D]", "mean token of each place of its images"),),
)

SETUPS = (SETUP, OPTIONS, MADE, CHECKSUMS, TENSORS, SEEN, BANK, LATENTS, PCA, CENTRE)

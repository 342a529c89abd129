"""What each evaluation is asked for; a class here, or a plug-in's, is a command of `fungi eval`.

A class's docstring is its command's help. It names the function that does the work, and the
columns beyond the usual ones that its table shows.
"""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import MinLen

from fungistore.choices import ReductionKind
from fungistore.errors import UsageError
from fungistore.headings import FEATURES, GENERAL, ROWS, SCORES
from fungistore.joint.options import TextChoice
from fungistore.machine.context import DEFAULT, Context
from fungistore.matrices.choices import (
    FeatureChoice,
    Features,
    FeatureSetChoice,
    OrderChoice,
    RemovedChoice,
    RepeatChoice,
    SeedChoice,
    TaskChoice,
)
from fungistore.settings import Count, Positive, Setting, Settings

if TYPE_CHECKING:
    from fungistore.evaluation.result import Evaluation

NEIGHBOURS = 20  # FUNGI, section 4
TEMPERATURE = 0.07  # of the weighted vote (DINO, section 4.1 and its code)
STRENGTHS = (5e-6, 1.2875e-4, 2.525e-4, 3.7625e-4, 5e-4)  # FUNGI's reference code
ITERATIONS = 300  # the same
TEMPLATE = "a photo of a {}."  # CLIP, section 3.1.4
QUERIES = 10_000  # of a retrieval by label: mAP is then within half a per cent

Combinations = Literal["one", "nested", "all"]
Vote = Literal["majority", "weighted"]
ShotRule = Literal["random", "first", "proportional"]
ALL: Literal["all"] = "all"  # of the training rows, instead of shots
RetrievalMetric = Literal["dot", "cosine"]
COMBINATIONS = Setting(
    "Of the features: all together, nested, or every choice of them.", heading=FEATURES
)
NEIGHBOURS_OF = "Nearest neighbours"
PLOT = "Draw {}: a .png or .svg file."


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(Settings):
    """The base of all evaluations.

    Attributes:
        function: "module:function" that takes a store, these options and `context`.
        tell: fields of the scores' protocols that get a column where they occur.
        is_divided: whether the function takes an `engine`, too.
    """

    function: ClassVar[str]
    tell: ClassVar[tuple[str, ...]] = ()
    is_divided: ClassVar[bool] = False

    @classmethod
    def accept(cls, options: object) -> None:
        """Refuse the options of something else, which Python passes without a word.

        Raises:
            UsageError: they are.
        """
        if not isinstance(options, cls):
            raise UsageError(
                "the options are those of something else",
                expected=cls.__name__,
                found=type(options).__name__,
            )

    def evaluate(self, store: str | Path, *, context: Context = DEFAULT) -> Evaluation:
        """Run the evaluation on a store."""
        found: Evaluation = pkgutil.resolve_name(self.function)(store, self, context=context)
        return found


@dataclass(frozen=True, kw_only=True)
class CombinationChoice(FeatureChoice):
    """Which combinations of the blocks, and how wide their PCAs are."""

    combinations: Annotated[Combinations, COMBINATIONS] = "one"
    pca_dims: Annotated[
        Annotated[tuple[Count | None, ...], MinLen(1)],
        Setting(
            "Fit a PCA on the training rows: 512, or none,512 for both.",
            flag="--pca-dim",
            default="none",
            metavar="DIMS",
            heading=FEATURES,
        ),
    ] = (None,)
    reduction: Annotated[
        ReductionKind,
        Setting("What --pca-dim is: a PCA, or a random projection by --seed.", heading=FEATURES),
    ] = "pca"

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant together."""
        super().__post_init__()
        is_one = self.combinations == "one" and self.pca_dims == (None,)
        if self.pca is not None and not is_one:
            self.refuse(
                "pca",
                "no --pca-dim and no --combinations: a stored PCA is one fixed combination",
                self.pca,
                "leave out --pca: --pca-dim fits one for every combination",
            )
        if self.reduction == "random" and set(self.pca_dims) == {None}:
            expected = "a --pca-dim: it says how wide the random projection is"
            self.refuse("reduction", expected, self.reduction, "--pca-dim 512")


@dataclass(frozen=True, kw_only=True)
class KappaChoice(OrderChoice):
    """Whether errors are weighed by how far the classes are from each other."""

    kappa: Annotated[
        bool, Setting("Quadratic kappa, for ordered classes; --order implies it.", heading=SCORES)
    ] = False


@dataclass(frozen=True, kw_only=True)
class TableOptions(CombinationChoice, TaskChoice, RepeatChoice, KappaChoice, EvaluationOptions):
    """Which combinations, widths, seeds and rows a table of a classifier's scores is of."""

    tell = ("shots",)

    shots: Annotated[
        Annotated[tuple[Literal["all"] | Count, ...], MinLen(1)],
        Setting(
            "Training rows of each class, or for each; 1,2,4,8,16 for a curve.",
            metavar="NUMBERS",
            heading=ROWS,
        ),
    ] = (ALL,)
    shot_rule: Annotated[
        ShotRule,
        Setting(
            "Which of each class: random, or the first (the paper's of images); proportional: "
            "--shots times the classes, as frequent as in train (its texts').",
            heading=ROWS,
        ),
    ] = "random"
    plot: Annotated[
        Path | None,
        Setting(
            PLOT.format("the curve of several --shots"),
            default="none",
            metavar="FILE",
            heading=GENERAL,
        ),
    ] = None

    def __post_init__(self) -> None:
        """Refuse a number of shots that is there twice, and a curve of one."""
        super().__post_init__()
        if len(set(self.shots)) < len(self.shots):
            self.refuse("shots", "each number once", ",".join(map(str, self.shots)))
        if self.plot is not None and len(self.shots) == 1:
            self.refuse("plot", "several --shots, for a curve", self.plot, "--shots 1,2,4,8,16")

    @property
    def is_random(self) -> bool:
        """Whether the seed decides more than rows: a random projection, that is."""
        return self.reduction == "random"


@dataclass(frozen=True, kw_only=True)
class KnnOptions(TableOptions):
    """Classify the test rows by their nearest training rows.

    The majority vote predicts what scikit-learn's KNeighborsClassifier predicts, row for row.
    Tests on the store's split test, or on a fifth of each class where it has none.

    \b
    Examples:
      fungi eval knn pets.fungi
      fungi eval knn pets.fungi --combinations nested --pca-dim none,512
      fungi eval knn pets.fungi --shots 5 --split-seeds 3
      fungi eval knn pets.fungi --shots 1,2,4,8,16,all --k 1
      fungi eval knn pets.fungi --holdout 0.2 --group owner
      fungi eval knn pets.fungi --features embeddings --vote weighted --json
      fungi eval knn pets.fungi --processes 2
    """

    function = "fungistore.evaluation.knn:evaluate_knn"
    is_divided = True
    heading = NEIGHBOURS_OF

    k: Annotated[Count, Setting("Neighbours.")] = NEIGHBOURS
    vote: Annotated[
        Vote, Setting("majority: Euclidean, ties to the smallest label; weighted: cosine, DINO's.")
    ] = "majority"
    temperature: Annotated[Positive, Setting("Of the weighted vote.")] = TEMPERATURE


@dataclass(frozen=True, kw_only=True)
class LinearOptions(TableOptions):
    """Train a linear probe on frozen features and test it.

    Multinomial logistic regression; the strength of the regularisation is chosen on validation
    rows (the split val, or a fifth of train), the final fit is on all training rows. With --shots
    it is on the shots alone, and the fifth is one of the training rows that are no shots.

    \b
    Examples:
      fungi eval linear pets.fungi
      fungi eval linear pets.fungi --combinations nested --holdout 0.2
      fungi eval linear pets.fungi --shots 1,2,4,8,16 --split-seeds 3
      fungi eval linear pets.fungi --strengths 1e-6,1e-5,1e-4 --json
    """

    function = "fungistore.evaluation.linear:evaluate_linear"
    heading = "Linear probe"

    strengths: Annotated[
        Annotated[tuple[Positive, ...], MinLen(1)],
        Setting("Regularisations to choose from; the paper's five.", metavar="NUMBERS"),
    ] = STRENGTHS
    max_iter: Annotated[Count, Setting("Of the solver.")] = ITERATIONS


@dataclass(frozen=True, kw_only=True)
class ClusterOptions(FeatureChoice, RemovedChoice, EvaluationOptions):
    """Cluster the images and compare the clusters with the classes.

    There is one cluster a class. `matched acc` is the part of the images in the cluster matched
    with their class, `mean overlap` the mean of that part over classes; NMI and ARI need no
    matching. All times 100.

    \b
    Examples:
      fungi eval cluster pets.fungi
      fungi eval cluster pets.fungi --features embeddings,kl --seeds 5 --json
      fungi eval cluster pets.fungi --pca fungi512 --split test --nredo 10
    """

    function = "fungistore.evaluation.cluster:evaluate_cluster"
    heading = "Clusters"

    combinations: Annotated[Combinations, COMBINATIONS] = "nested"  # as in table 14
    split: Annotated[
        str | None, Setting("Cluster this split.", default="all rows", metavar="NAME")
    ] = None
    niter: Annotated[Count, Setting("Iterations of k-means.")] = 25  # faiss's; the paper has none
    nredo: Annotated[Count, Setting("Runs of k-means; the tightest one counts.")] = 5
    seed: Annotated[int, Setting("Of k-means, and of the rows fitted on if memory is short.")] = 0
    seeds: Annotated[Count, Setting("Average over so many seeds, from the seed on.")] = 1


@dataclass(frozen=True, kw_only=True)
class RetrievalOptions(FeatureChoice, SeedChoice, RemovedChoice, EvaluationOptions):
    """Rank the images for each query: mAP, precision at 1, 5, 10.

    mAP is the mean average precision. With --ground-truth, the queries, images and difficulties
    (easy, medium, hard) of revisited Oxford or Paris; an image is found by its file name. Without,
    the test split searches the train split, or every image all others. All numbers times 100.

    \b
    Examples:
      fungi eval retrieval pets.fungi
      fungi eval retrieval pets.fungi --queries 1000 --combinations one --json
      fungi eval retrieval oxford.fungi --ground-truth gnd_roxford5k.pkl
    """

    function = "fungistore.evaluation.retrieval:evaluate_retrieval"
    heading = "Retrieval"
    tell = ("difficulty",)

    ground_truth: Annotated[
        Path | None,
        Setting(
            "Of revisited Oxford or Paris: gnd_roxford5k.pkl, or JSON of the same shape.",
            default="images of the same label should be found",
            metavar="FILE",
        ),
    ] = None
    combinations: Annotated[Combinations, COMBINATIONS] = "nested"
    queries: Annotated[
        Count | None,
        Setting("By label: so many, chosen by the split seed.", default=f"all, up to {QUERIES}"),
    ] = None
    metric: Annotated[RetrievalMetric, Setting("dot is the paper's raw product.")] = "dot"

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant together."""
        super().__post_init__()
        if self.ground_truth is not None and self.queries is not None:
            expected = "nothing: the ground truth says which the queries are"
            hint = "leave out --queries, or --ground-truth"
            self.refuse("queries", expected, self.queries, hint)


@dataclass(frozen=True, kw_only=True)
class ZeroShotOptions(FeatureSetChoice, RemovedChoice, TextChoice, EvaluationOptions):
    """Classify the images by the names of their classes.

    Nothing is trained. Each class name is put into each template; the text side of the encoder
    that made the embeddings, CLIP or of its kind, turns the class's sentences into one vector, and
    an image is of the class whose vector is nearest (CLIP, section 3.1). Tests on the store's split
    test, or on all labelled images where it has none.

    \b
    Examples:
      fungi eval zero-shot photos.fungi
      fungi eval zero-shot photos.fungi --templates 'a bad photo of a {}.'
      fungi eval zero-shot photos.fungi --templates imagenet \\
          --class-names names.csv --json
    """

    function = "fungistore.evaluation.zero_shot:evaluate_zero_shot"
    heading = "Texts"

    templates: Annotated[
        Annotated[tuple[str, ...], MinLen(1)],
        Setting(
            "Sentences with {} for the name; imagenet: CLIP's 80; simple: 7 of them; FILE: a line "
            "each.",
            flag="--templates",
            metavar="SENTENCE",
            is_repeated=True,
        ),
    ] = (TEMPLATE,)
    class_names: Annotated[
        Path | None,
        Setting(
            "A .csv of label,name with what to call each class.",
            default="the labels, with blanks for _",
            metavar="FILE",
        ),
    ] = None
    split: Annotated[
        str | None,
        Setting("Classify this split.", default="test, or all rows", metavar="NAME", heading=ROWS),
    ] = None


@dataclass(frozen=True, kw_only=True)
class CompareOptions(TaskChoice, EvaluationOptions):
    """Compare features: their CKA, and which classes gain from B.

    The CKA is how alike they are; a class gains from B against A. The accuracy of a class is that
    of its test images' nearest neighbours among the train images. All numbers times 100, but for
    the CKA, which is 1 between features that are alike.

    \b
    Examples:
      fungi eval compare pets.fungi
      fungi eval compare pets.fungi --a embeddings --b embeddings,kl
      fungi eval compare pets.fungi --holdout 0.3 --k 5 --json
    """

    function = "fungistore.evaluation.compare:compare_features"
    heading = NEIGHBOURS_OF
    tell = ("combination",)

    a: Annotated[
        Features | None,
        Setting(
            "Combination A.",
            default="the first feature",
            metavar="NAMES",
            heading=FEATURES,
            names="feature",
        ),
    ] = None
    b: Annotated[
        Features | None,
        Setting(
            "Combination B.",
            default="all features",
            metavar="NAMES",
            heading=FEATURES,
            names="feature",
        ),
    ] = None
    k: Annotated[Count, Setting("Nearest neighbours that vote.")] = NEIGHBOURS
    plot: Annotated[
        Path | None,
        Setting(PLOT.format("both tables"), default="none", metavar="FILE", heading=GENERAL),
    ] = None

"""Oxford 102 Flower.

Layout and order: torchvision's Flowers102, whose "train" (1020 images), "val" and "test" the FUNGI
paper's code reads. The archive has numbers alone; the names are those of the set's own page.
"""

from __future__ import annotations

from collections.abc import Iterator

from fungistore.sources.sets.facts import FUNGI, DataSet, DataSetLayout
from fungistore.sources.sets.image_set import ImageSet, Row
from fungistore.sources.sets.lists import read_mat
from fungistore.sources.sets.place import Place

_LABELS, _SPLITS = "imagelabels.mat", "setid.mat"
_VARIABLES = {"train": "trnid", "val": "valid", "test": "tstid"}
_NAMES = """
pink primrose; hard-leaved pocket orchid; canterbury bells; sweet pea; english marigold;
tiger lily; moon orchid; bird of paradise; monkshood; globe thistle; snapdragon;
colt's foot; king protea; spear thistle; yellow iris; globe-flower; purple coneflower;
peruvian lily; balloon flower; giant white arum lily; fire lily; pincushion flower;
fritillary; red ginger; grape hyacinth; corn poppy; prince of wales feathers;
stemless gentian; artichoke; sweet william; carnation; garden phlox; love in the mist;
mexican aster; alpine sea holly; ruby-lipped cattleya; cape flower; great masterwort;
siam tulip; lenten rose; barbeton daisy; daffodil; sword lily; poinsettia;
bolero deep blue; wallflower; marigold; buttercup; oxeye daisy; common dandelion; petunia;
wild pansy; primula; sunflower; pelargonium; bishop of llandaff; gaura; geranium;
orange dahlia; pink-yellow dahlia?; cautleya spicata; japanese anemone; black-eyed susan;
silverbush; californian poppy; osteospermum; spring crocus; bearded iris; windflower;
tree poppy; gazania; azalea; water lily; rose; thorn apple; morning glory; passion flower;
lotus; toad lily; anthurium; frangipani; clematis; hibiscus; columbine; desert-rose;
tree mallow; magnolia; cyclamen; watercress; canna lily; hippeastrum; bee balm; ball moss;
foxglove; bougainvillea; camellia; mallow; mexican petunia; bromelia; blanket flower;
trumpet creeper; blackberry lily
"""


class Flowers102(ImageSet):
    """Oxford 102 Flower."""

    data_set = DataSet(
        name="flowers102",
        title="Oxford 102 Flower",
        splits={"train": 1020, "val": 1020, "test": 6149},
        classes=102,
        bytes=350_000_000,
        layouts=(
            DataSetLayout(
                "as the archive unpacks",
                {
                    _LABELS: "which is offered by itself",
                    _SPLITS: "which is offered by itself",
                    "jpg/": "from 102flowers.tgz",
                },
                ("flowers-102", "102flowers"),
            ),
        ),
        split_rule="official (setid.mat)",
        metric="mean accuracy of the classes",
        papers=(FUNGI,),
        terms="none stated",
        page="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
    )

    def classes(self, place: Place) -> list[str]:
        """Return the names in the order of their numbers."""
        return [name.strip() for name in _NAMES.split(";")]

    def rows(self, place: Place) -> Iterator[Row]:
        """Yield train, val and test, each in the order of its numbers in setid.mat."""
        names = self.classes(place)
        labels = read_mat(place.root / _LABELS, "labels").astype(int).tolist()
        for split, variable in _VARIABLES.items():
            for image in read_mat(place.root / _SPLITS, variable).astype(int).tolist():
                if not 1 <= image <= len(labels):
                    raise ValueError(f"image {image} of {len(labels)}")
                yield Row(f"jpg/image_{image:05d}.jpg", names[labels[image - 1] - 1], split)

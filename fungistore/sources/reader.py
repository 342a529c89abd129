"""Kinds of sources by name: `fungi extract PATH` finds the kind, `fungi extract NAME:PATH` says it.

A plug-in adds one as an entry point of the group "fungistore.readers".
"""

from __future__ import annotations

from typing import Protocol

from fungistore.modalities.modality import Modality
from fungistore.registry import Registry
from fungistore.sources.sample import Source

# In the order in which they are asked whether a path is theirs; those of plug-ins come last.
READERS = Registry(
    "reader",
    "fungistore.readers",
    {
        "tar": "fungistore.sources.webdataset:TarReader",
        "saved": "fungistore.sources.hub_tables:SavedDatasetReader",
        "parquet": "fungistore.sources.hub_tables:HubParquetReader",
        "npz": "fungistore.sources.array_files:NpzReader",
        "idx": "fungistore.sources.array_files:IdxReader",
        "cifar": "fungistore.sources.cifar_batches:CifarReader",
        "hdf5": "fungistore.sources.array_files:Hdf5Reader",
        "table": "fungistore.sources.manifest:TableReader",
        "lines": "fungistore.sources.text_files:LinesReader",
        "voc-aug": "fungistore.sources.sets.voc:VocAug",
        "voc": "fungistore.sources.sets.voc:Voc",
        "ade20k": "fungistore.sources.sets.ade20k:Ade20k",
        "folder": "fungistore.sources.folder:FolderReader",
        # data sets, which have to be named
        "cub": "fungistore.sources.sets.cub:Cub",
        "cars": "fungistore.sources.sets.cars:Cars",
        "dtd": "fungistore.sources.sets.dtd:Dtd",
        "eurosat": "fungistore.sources.sets.eurosat:Eurosat",
        "cifar10": "fungistore.sources.sets.cifar:Cifar10",
        "cifar100": "fungistore.sources.sets.cifar:Cifar100",
        "pets": "fungistore.sources.sets.pets:Pets",
        "food101": "fungistore.sources.sets.food101:Food101",
        "imagenet": "fungistore.sources.sets.imagenet:ImageNet",
        "aircraft": "fungistore.sources.sets.aircraft:Aircraft",
        "flowers102": "fungistore.sources.sets.flowers102:Flowers102",
        "aptos": "fungistore.sources.sets.aptos:Aptos",
        "aid": "fungistore.sources.sets.aid:Aid",
        "ddsm": "fungistore.sources.sets.ddsm:Ddsm",
        "isic": "fungistore.sources.sets.isic:Isic",
        "nabirds": "fungistore.sources.sets.nabirds:Nabirds",
        "esc50": "fungistore.sources.sets.esc50:Esc50",
        "esc50-fold2": "fungistore.sources.sets.esc50:Esc50Fold2",
        "esc50-fold3": "fungistore.sources.sets.esc50:Esc50Fold3",
        "esc50-fold4": "fungistore.sources.sets.esc50:Esc50Fold4",
        "esc50-fold5": "fungistore.sources.sets.esc50:Esc50Fold5",
        "speech-commands": "fungistore.sources.sets.speech_commands:SpeechCommands",
    },
)


class Reader(Protocol):
    """One kind of source. Made without arguments, and imports nothing heavy before it is asked."""

    @property
    def summary(self) -> str:
        """What such a source is, in a few words: "WebDataset .tar shards"."""

    def recognises(self, path: str, modality: Modality) -> bool:
        """Whether a path, of a file or folder that is there or of a pattern, is such a source.

        One that has to be named, since nothing tells it from others, says no.
        """

    def open(self, path: str, modality: Modality) -> Source:
        """Return the source at a path; no item of it is read yet.

        Raises:
            UsageError: there is none.
        """

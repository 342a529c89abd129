"""`fungi adapt`: a backbone trained on images; the run from top to bottom."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fungistore.adaptation.folder import adaptation_run
from fungistore.adaptation.memory import needs_checkpointing
from fungistore.adaptation.model import AdaptedModel
from fungistore.adaptation.options import FULL, AdaptOptions
from fungistore.adaptation.rows import AdaptRows, Items, Reader, find_rows
from fungistore.adaptation.task import AdaptTask
from fungistore.backbones.adapters.adaptation import adapter_config, publish_seen
from fungistore.backbones.adapters.adapter import Adapter
from fungistore.backbones.encoder import remarks_of
from fungistore.backbones.families import load_backbone, modality_of, spelled_model
from fungistore.backbones.timm_vit.encoder import TimmViT
from fungistore.errors import UsageError
from fungistore.evaluation.task import say_split
from fungistore.extraction.adding import add_samples
from fungistore.extraction.loader import default_workers
from fungistore.extraction.resolve import SourcePlace, opened_source
from fungistore.fingerprint import Config, differences, fingerprint
from fungistore.machine.context import DEFAULT, Context
from fungistore.machine.device import explain_full_memory, fast_dtype, resolve_device
from fungistore.modalities.modality import IMAGE, find_modality
from fungistore.quantities import counted
from fungistore.settings import to_json
from fungistore.store.backend import open_backend
from fungistore.store.disk_errors import disk_errors_explained
from fungistore.store.listing import refuse_other_modality
from fungistore.store.manifest import SCHEMA_VERSION
from fungistore.store.store import Store
from fungistore.training.loop import TrainingLoop
from fungistore.training.options import LATER, without_defaults
from fungistore.training.run_folder import RunFolder
from fungistore.training.run_loggers import Tail, refuse_unusable
from fungistore.training.settling import refuse_metric, refuse_other_settings
from fungistore.training.speed import read_speed

OUTSIDE = (  # change no weights, or are known by what they become: the backbone, the adapter
    *("name", "device", "workers", "checkpoint_minutes", "log_to", "gradient_checkpointing"),
    *("model", "weights", "image_size", "method", "settings"),
    "keep_removed",  # but the rows do, which have a digest
)


@dataclass(frozen=True)
class AdaptResult:
    """What an adaptation came to.

    Attributes:
        store: the store's directory.
        name: of the adaptation.
        adapter: the method, with its settings.
        backbone: what was adapted: model, weights, transform.
        epochs: that were run, in all.
        best_epoch: the one whose weights were kept, from 1.
        validation: its metrics on validation rows.
        split: where its rows, and those to test it on, come from.
        n_train, n_validation: rows.
        excluded: rows that were left out, by reason.
        failed: images of the training and validation rows that could not be read.
        trained: numbers that were trained, the classifier's among them.
        images_per_second: of this run's training steps; 0 where nothing was to do.
        peak_rss_bytes, peak_gpu_bytes: the most memory of the last process that trained it, and
            what torch had allocated on its GPU; None where that is not known.
        fingerprint: of the configuration.
    """

    store: str
    name: str
    adapter: Config
    backbone: Config
    epochs: int
    best_epoch: int
    validation: dict[str, float]
    split: Config
    n_train: int
    n_validation: int
    excluded: dict[str, int]
    failed: int
    trained: int
    images_per_second: float
    peak_rss_bytes: int | None
    peak_gpu_bytes: int | None
    fingerprint: str

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)


def adapt(
    source: SourcePlace,
    store: str | Path,
    options: AdaptOptions,
    *,
    restart: bool = False,
    context: Context = DEFAULT,
) -> AdaptResult:
    """Train a backbone, or a little beside it, on a source's images; continues where it stopped.

    A run that was killed and started again gives the weights of one that was not, bit for bit on
    one CPU. The best epoch, by the validation metric, is kept. No test row is read. The source's
    samples are listed in the store, as `extract` does it, so that splits, and holdouts of the same
    seed, are those of `train_loff` and the evaluations.

    Args:
        source: images with labels, as `extract` takes them.
        store: the store's directory; made where nothing is.
        options: what to train, and how.
        restart: first delete the adaptation of this name.
        context: its reporter is told what happens, its stop asked between steps; a checkpoint is
            written before the run ends.

    Raises:
        UsageError: the model, the labels, or an option cannot be used.
        MismatchError: an adaptation of this name was begun with other settings, rows or images.
        StoppedError: `context` asked for it.
        FungiError: the loss is not finite; the last good checkpoint is kept.
    """
    place = open_backend(store)
    refuse_unusable(options.log_to, place.directory(), place.where)
    device = resolve_device(options.device)
    encoder = _load(options, context)
    modality = find_modality(IMAGE)
    reader = Reader(modality, options.workers or default_workers(device.type), context)
    name = options.called
    with disk_errors_explained(place.where):
        if Store.exists(place):
            refuse_other_modality(Store.open(place), IMAGE)
        made = Store.open_or_create(place)
        with made.writing("samples", patience=context) as target:
            listed = opened_source(source, options.model)
            add_samples(target, listed, modality, context, update=False)
        opened = Store.open(place, keep_removed=options.keep_removed)
        with opened.writing(f"adaptations/{name}") as target:
            run = adaptation_run(target, name)
            if restart:
                context.reporter.notice(f"--restart: deleting adaptation {name!r}")
                run.remove()
            return _run(target, run, encoder, options, device, reader)


def _load(options: AdaptOptions, context: Context) -> TimmViT:
    """Load the backbone that is adapted.

    Raises:
        UsageError: it is none of timm's.
    """
    if modality_of(options.model) == IMAGE:
        context.reporter.notice(f"loading {spelled_model(options.model)}")
        encoder = load_backbone(
            options.model, weights=options.weights, image_size=options.image_size
        )
        if isinstance(encoder, TimmViT):
            for remark in remarks_of(encoder):
                context.reporter.notice(remark)
            return encoder
    raise UsageError(
        "models of this family are not adapted",
        where=f"--model {options.model}",
        expected="a model of timm's",
        hint="fungi models lists them; a file of your own goes with --weights",
    )


def _run(
    store: Store,
    run: RunFolder,
    encoder: TimmViT,
    options: AdaptOptions,
    device: torch.device,
    reader: Reader,
) -> AdaptResult:
    context, name = reader.context, run.folder.name
    stored = run.config()
    read = None if stored is None else Items.read(run.folder)
    data = find_rows(store, options, read, reader)
    refuse_metric(options, data.names, data.labels[data.split.validation])
    split = say_split(data.split, context)
    adapter = options.adapter()
    config = _config(data, encoder, adapter, options, device, stored)
    if stored is None:
        data.items.write(run.folder)
        config["rows"]["seen"] = publish_seen(run.folder, data.ids(), data.images())
        run.begin(config)
    else:
        config["rows"]["seen"] = stored["rows"].get("seen")  # which the ids' digest decides
        fields = differences(stored, config, common=False)
        refuse_other_settings("adaptation", run.folder.where(), fields)
    model = AdaptedModel(encoder, adapter, len(data.names), options.seed)
    trained = model.count_trained()
    progress = run.progress()
    run.remove_strays(progress)
    failed = len(data.items.failed)
    if failed:
        context.reporter.notice(f"{counted(failed, 'image')} cannot be read, and left out")
    speed = 0.0
    with closing(Tail(options.log_to, run, name, context)) as tail:
        tail.follow()  # what a kill kept from it, or a finished run that it never heard of
        if progress.done:
            epochs = counted(len(progress.history), "epoch is", "epochs are")
            context.reporter.notice(f"nothing to do: {epochs} done")
        else:
            options = replace(options, lr=config["options"]["lr"])
            _save_memory(encoder, model, options, config["dtype"], device, context)
            task = AdaptTask(
                data, model, encoder, options, config["dtype"], device, reader, context
            )
            with explain_full_memory(device, options.batch_size):
                speed = TrainingLoop(task, options, device, run, tail, context).run(progress)
            progress = run.progress()
    assert progress.best_epoch is not None  # an epoch has ended
    measured = read_speed(run)
    return AdaptResult(
        store=store.where,
        name=name,
        adapter=config["adapter"],
        backbone=config["backbone"],
        epochs=len(progress.history),
        best_epoch=progress.best_epoch + 1,
        validation=progress.history[progress.best_epoch]["validation"],
        split=split,
        n_train=len(data.split.train),
        n_validation=len(data.split.validation),
        excluded=data.excluded,
        failed=failed,
        trained=trained,
        images_per_second=speed,
        peak_rss_bytes=None if measured is None else measured.peak_rss_bytes,
        peak_gpu_bytes=None if measured is None else measured.peak_gpu_bytes,
        fingerprint=fingerprint(config),
    )


def _config(
    data: AdaptRows,
    encoder: TimmViT,
    adapter: Adapter,
    options: AdaptOptions,
    device: torch.device,
    stored: Config | None,
) -> Config:
    """Return everything that decides the weights."""
    dtype: str = options.dtype
    if dtype == "auto":
        fast = "bfloat16" if fast_dtype(device) == "bfloat16" else "float32"
        dtype = stored["dtype"] if stored and "dtype" in stored else fast
    before = stored["options"]["lr"] if stored else adapter.learning_rate
    rate = options.lr or before
    settings = {key: value for key, value in to_json(options).items() if key not in OUTSIDE}
    settings = without_defaults(settings, LATER)
    if options.method != FULL:
        del settings["layer_decay"]  # it has no effect
    return {
        "schema": SCHEMA_VERSION[0],
        "adapter": adapter_config(adapter),
        "backbone": encoder.identity(),
        "options": settings | {"dtype": dtype, "lr": rate},
        "dtype": dtype,
        "classes": list(data.names),
        "split": data.split.description,
        "rows": data.digest(),
        "data": data.content(),
    }


def _save_memory(
    encoder: TimmViT,
    model: AdaptedModel,
    options: AdaptOptions,
    dtype: str,
    device: torch.device,
    context: Context,
) -> None:
    """Compute activations twice where they do not fit, or where it was asked for.

    Batch norms would count each batch twice, so that the free memory decided the weights.
    """
    asked = options.gradient_checkpointing
    if asked is None:
        asked = not model.trains_batch_norms and needs_checkpointing(
            encoder, options.batch_size, dtype, device
        )
        if asked:
            context.reporter.notice("--gradient-checkpointing: activations would fill the memory")
    if not asked:
        return
    module: Any = encoder.module
    if not hasattr(module, "set_grad_checkpointing") or model.trains_batch_norms:
        raise UsageError(
            "the model cannot compute activations twice",
            where="--gradient-checkpointing",
            expected="blocks, without batch norms: these would count each batch twice",
            found=type(module).__name__,
            hint="a smaller --batch-size takes less memory",
        )
    module.set_grad_checkpointing(True)

"""What a training run has at a moment: weights, the best ones so far, the optimiser's state."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from fungistore.store.disk_errors import damage_explained
from fungistore.training.run_folder import STATE, Progress, RunFolder
from fungistore.training.task import Tensors


def load_tensors(run: RunFolder, progress: Progress) -> Tensors:
    """Return the tensors that a state names: "model.", "optimiser." and "best." ones.

    Raises:
        StoreError: they are missing or damaged.
    """
    where = run.folder.where(progress.file or STATE)
    with damage_explained("the weights of a training are damaged", where):
        if progress.file is None:
            raise ValueError("the state names no file")
        path = run.folder.local_path(progress.file)
        path.open("rb").close()  # safetensors takes all that it cannot open for missing
        return load_file(path)


def save_tensors(run: RunFolder, progress: Progress, tensors: Mapping[str, Tensor]) -> Progress:
    """Write a state with its tensors durably, then forget the one before."""
    contiguous = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    return run.save(progress, save(contiguous))


def below(tensors: Tensors, prefix: str) -> Tensors:
    """Return the tensors whose names start with a prefix, by what follows it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def flatten_optimiser(optimiser: torch.optim.Optimizer, names: Mapping[int, str]) -> Tensors:
    """Return AdamW's moments and step counts by parameter name; `names` is by the tensor's id."""
    return {
        f"optimiser.{names[id(parameter)]}.{key}": value
        for parameter, state in optimiser.state.items()
        for key, value in state.items()
    }


def restore_optimiser(
    optimiser: torch.optim.Optimizer, names: Mapping[int, str], tensors: Tensors
) -> None:
    """Put back what `flatten_optimiser` gave."""
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            prefix = f"optimiser.{names[id(parameter)]}."
            optimiser.state[parameter] = {
                key.removeprefix(prefix): value.to(parameter.device)
                for key, value in tensors.items()
                if key.startswith(prefix)
            }

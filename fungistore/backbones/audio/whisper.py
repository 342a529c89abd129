"""The encoder of Whisper, shown a recording as long as it is and two seconds of silence.

Whisper itself fills every window up to thirty seconds, and attends to that silence. Here attention
is masked behind the first two seconds of it; what a position sees through the convolutions, and
its place, are what they are in Whisper's window.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor, nn

from fungistore.backbones.audio.family import FAMILY, AudioSettings
from fungistore.backbones.audio.frame_encoder import FrameEncoder, target_layer_of
from fungistore.backbones.timm_vit.weights import digest_weights
from fungistore.backbones.transformers_folders import read_json
from fungistore.backbones.transformers_loading import digest_of_config, load_strictly
from fungistore.errors import UsageError
from fungistore.fingerprint import Config
from fungistore.modalities.audio.log_mel import RATE, SHIFT, WINDOW, LogMel, LogMelViews
from fungistore.modalities.requests import NoisyRolls
from fungistore.modalities.views import Inputs

CARD = "preprocessor_config.json"
KNOWN = {"sampling_rate": RATE, "hop_length": SHIFT, "n_fft": WINDOW}
STRIDE = 2  # frames of a token


def load_whisper(folder: Path, config: Any, settings: AudioSettings) -> WhisperEncoder:
    """Return the encoder of a directory's Whisper.

    Args:
        folder: of transformers.
        config: its configuration.
        settings: what the user says of it.

    Raises:
        UsageError: weights are missing, or a setting is not for it.
    """
    from transformers import WhisperModel

    longest = STRIDE * config.max_source_positions
    if settings.max_length is not None and settings.max_length > longest:
        raise UsageError(
            "the model has no positions for recordings of this length",
            where=f"--max-length {settings.max_length}",
            expected=f"at most {longest} frames of ten milliseconds",
        )
    _refuse_other_frames(folder)
    without_decoder = copy.deepcopy(config)
    without_decoder.decoder_layers = 0
    whole, left_out = load_strictly(
        WhisperModel, folder, without_decoder, f"{FAMILY}:{settings.name}", _is_of_decoder
    )
    module = whole.encoder
    target_layer, candidates = target_layer_of(module, settings)
    return WhisperEncoder(
        name=settings.name,
        module=module,
        log_mel=LogMel(config.num_mel_bins, settings.max_length or longest),
        target_layer=target_layer,
        candidates=candidates,
        weights_hash=digest_weights(module.state_dict()),
        config_hash=digest_of_config(folder),
        said=(f"left out: {', '.join(['the decoder', *left_out])}",),
    )


@dataclass(eq=False, kw_only=True)
class WhisperEncoder(FrameEncoder):
    """A frozen encoder of Whisper; make one with `load_whisper`.

    Attributes:
        log_mel: what it is shown of a recording.
    """

    log_mel: LogMel

    @cached_property
    def base_view(self) -> LogMelViews:
        """The recording as it is."""
        return LogMelViews(self.log_mel)

    def rolled(self, request: NoisyRolls) -> LogMelViews:
        """Return the views of a request."""
        return LogMelViews(self.log_mel, request)

    @property
    def longest(self) -> int:
        """Frames that are kept of a recording."""
        return self.log_mel.longest

    @property
    def token_shape(self) -> tuple[int]:
        """The greatest length in tokens, of two frames each."""
        return (-(-self.longest // STRIDE),)

    @property
    def blocks(self) -> nn.ModuleList:
        """Its layers."""
        found: nn.ModuleList = self.module.layers
        return found

    @property
    def before_blocks(self) -> Iterable[nn.Module]:
        """The two convolutions and the positions."""
        return self.module.conv1, self.module.conv2, self.module.embed_positions

    def shown(self) -> Config:
        """Return the log mel's settings, and what is attended to."""
        return {"log_mel": self.log_mel.identity(), "attention": "heard frames"}

    def count_tokens(self, inputs: Inputs) -> int:
        """Return the number of tokens of one view, padding included."""
        return -(-inputs[0].shape[-1] // STRIDE)

    def tokens(self, inputs: Inputs) -> tuple[Float[Tensor, "n t d"], Bool[Tensor, "n t"]]:
        """Return the tokens of log mels [n, bins, frames], and which are a recording's own."""
        banks, *masks = inputs
        own, heard = (mask[:, ::STRIDE] for mask in masks)
        module = self.module
        hidden = nn.functional.gelu(module.conv1(banks.to(self.dtype)))
        hidden = nn.functional.gelu(module.conv2(hidden)).mT
        hidden = hidden + module.embed_positions.weight[: hidden.shape[1]]
        for block in module.layers:
            hidden = block(hidden, heard[:, None, None, :])
        return module.layer_norm(hidden.float()), own


def _refuse_other_frames(folder: Path) -> None:
    """Refuse a directory whose recordings are cut into other frames than Whisper's.

    Raises:
        UsageError: it is one.
    """
    card = read_json(folder, CARD)
    for name, known in KNOWN.items():
        if card.get(name, known) != known:
            raise UsageError(
                "the model hears other frames than Whisper does",
                where=folder / CARD,
                expected=f"{name} {known}",
                found=card[name],
                hint="a plug-in may bring its encoder: see docs/extending.md",
            )


def _is_of_decoder(key: str) -> bool:
    return key.startswith(("decoder.", "model.decoder.", "proj_out."))

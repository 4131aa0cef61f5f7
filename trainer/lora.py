"""LoRA and DoRA by peft: what learns are small matrices beside frozen layers."""

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from peft import LoraConfig as PeftConfig
from peft import inject_adapter_in_model
from torch import Tensor, nn

from .config import ConfigError, LoraConfig
from .config.lora import DORA
from .dropout import RowDropout
from .lora_layers import file_names
from .randomness import generator
from .state import CheckpointWriter

_NAME = "default"  # peft keeps several adapters by name; we have one


class Adapters:
    """The LoRA of each trained part; the model's own weights stay as they are, bit for bit.

    The file is kohya's: ``<layer>.lora_down.weight``, ``.lora_up.weight`` and ``.alpha``, for DoRA
    also ``.dora_scale``.
    """

    def __init__(
        self, parts: Mapping[str, nn.Module], config: LoraConfig, seed: int, text_encoders: int
    ) -> None:
        """
        Args:
            parts: what trains; its layers are wrapped.
            text_encoders: how many the model has, see :func:`lora_layers.file_name`.

        Raises:
            ConfigError: DoRA on a layer with an output of zeros.
        """
        self.modules = dict(parts)
        self._config = config
        self._files = file_names(parts, config.layers, text_encoders)
        self._dropouts: dict[str, list[RowDropout]] = {part: [] for part in parts}
        for part, module in self.modules.items():
            _inject(module, list(self._files[part]), config)
            for path, name in self._files[part].items():
                if config.kind == DORA:
                    _check_magnitudes(module.get_submodule(path), path)
                self._prepare(part, module.get_submodule(path), name, seed)

    def _prepare(self, part: str, layer: nn.Module, name: str, seed: int) -> None:
        """The first values, and the dropout, from the run's seed instead of torch's own state."""
        down = layer.lora_A[_NAME].weight
        nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator(seed, f"lora {name}"))
        nn.init.zeros_(layer.lora_B[_NAME].weight)
        if self._config.dropout:
            layer.lora_dropout[_NAME] = RowDropout(self._config.dropout, seed, name)
            self._dropouts[part].append(layer.lora_dropout[_NAME])

    @property
    def names(self) -> Mapping[str, Collection[str]]:
        ends = ["lora_down.weight", "lora_up.weight"]
        ends += ["dora_scale"] * (self._config.kind == DORA)
        return {
            part: [f"{name}.{end}" for name in files.values() for end in ends]
            for part, files in self._files.items()
        }

    def tensors(self) -> dict[str, Tensor]:
        """The small matrices, ``[rank, in, ...]`` and ``[out, rank, ...]``; for DoRA the scale."""
        tensors = {}
        for layer, name in self._layers():
            tensors[f"{name}.lora_down.weight"] = layer.lora_A[_NAME].weight.detach()
            tensors[f"{name}.lora_up.weight"] = layer.lora_B[_NAME].weight.detach()
            if self._config.kind == DORA:
                tensors[f"{name}.dora_scale"] = dora_scale(layer)
        return tensors

    def writer(self, precision: str, metadata: Mapping[str, str]) -> CheckpointWriter:
        alpha = torch.tensor(self._config.alpha)
        alphas = {f"{name}.alpha": alpha for _, name in self._layers()}
        return CheckpointWriter(alphas, precision, metadata, whole=(".dora_scale",))

    @contextmanager
    def switched_off(self) -> Iterator[None]:
        """Inside, the parts are the base's."""
        layers = [layer for layer, _ in self._layers()]
        try:
            for layer in layers:
                layer.enable_adapters(False)
            yield
        finally:
            for layer in layers:
                layer.enable_adapters(True)

    @contextmanager
    def dropping(self, images: Sequence[str], prompts: Sequence[str]) -> Iterator[None]:
        """Inside, dropout is at work: on the UNet's rows, and on the prompts of a pass.

        Holds through the backward pass, too, which may compute activations again.
        """
        try:
            for part, dropouts in self._dropouts.items():
                for dropout in dropouts:
                    dropout.rows = images if part == "unet" else prompts
            yield
        finally:
            for dropout in (d for dropouts in self._dropouts.values() for d in dropouts):
                dropout.rows = None

    def _layers(self) -> Iterator[tuple[nn.Module, str]]:
        for part, files in self._files.items():
            for path, name in files.items():
                yield self.modules[part].get_submodule(path), name


def _check_magnitudes(layer: nn.Module, path: str) -> None:
    """DoRA divides by the norm of each output's weights.

    Raises:
        ConfigError: one of them is zero.
    """
    magnitude = layer.lora_magnitude_vector[_NAME].weight
    if not bool((magnitude > 0).all()):
        raise ConfigError(
            f"kind = dora: {path} has an output whose weights are all zero, which has no direction"
            " to learn; choose kind = lora"
        )


def dora_scale(layer: nn.Module) -> Tensor:
    """The magnitude of each output as ComfyUI reads it: ``[out, 1, ...]``.

    DoRA's weight is m·(W + ΔW)/‖W + ΔW‖ (Liu et al. 2024, eq. 5), the norm over each output. The
    host divides by ‖W‖ instead (``comfy/weight_adapter/base.py``, ``weight_decompose``), so the
    scale that gives the very same weight there is m·‖W‖/‖W + ΔW‖. While ΔW is small the two hardly
    differ, so other programs see nearly the same weight.
    """
    weight = layer.get_base_layer().weight.detach().float()
    delta = layer.get_delta_weight(_NAME).detach().float()
    before = weight.flatten(1).norm(dim=1)
    after = (weight + delta).flatten(1).norm(dim=1)
    magnitude = layer.lora_magnitude_vector[_NAME].weight.detach().flatten().float()
    return (magnitude * before / after).reshape(-1, *[1] * (weight.ndim - 1))


def _inject(module: nn.Module, paths: list[str], config: LoraConfig) -> None:
    """Wrap these layers; torch's random state stays as it is."""
    settings = PeftConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        target_modules="|".join(map(re.escape, paths)),
        use_dora=config.kind == DORA,
    )
    with torch.random.fork_rng(devices=[]):
        inject_adapter_in_model(settings, module, adapter_name=_NAME)

"""The judge: a small network that says what a picture of the drawn world shows.

It knows the world and nothing of the trainer or the base model, so it can grade both. Its answers
are a class, a setting and an identity embedding, which is close for pictures of one and the same
individual and far for others of its class (supervised contrastive learning, Khosla et al. 2020).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ...demo.world import CLASSES, SETTINGS

WEIGHTS = Path(__file__).with_name("judge.safetensors")
PLACES = ("", *SETTINGS)
SIDE = 64
BATCH = 64
WIDTHS = (24, 48, 96, 128)
FEATURES = 2 * WIDTHS[-1]
EMBEDDING = 64
META = "judge"  # the one key of the file's metadata, JSON
REMEDY = "restore it from the repository or run `python -m benchmarks.picturebook train`"


class JudgeError(RuntimeError):
    """Weights or pictures that the judge can not use; the message says which and what to do."""


@dataclass(frozen=True)
class Verdict:
    """What the judge says about B pictures."""

    kind_probabilities: Tensor
    """``[B, 16]`` fp32, in the order of ``CLASSES``."""
    setting_probabilities: Tensor
    """``[B, 12]`` fp32, in the order of ``PLACES``: no setting first."""
    embedding: Tensor
    """``[B, 64]`` fp32, rows of length 1."""

    @property
    def kinds(self) -> Tensor:
        """``[B]`` int64, the likeliest index into ``CLASSES``."""
        return self.kind_probabilities.argmax(dim=1)

    @property
    def settings(self) -> Tensor:
        """``[B]`` int64, the likeliest index into ``PLACES``."""
        return self.setting_probabilities.argmax(dim=1)


class Block(nn.Module):
    """Residual block of two convolutions (He et al. 2016) with group norm (Wu & He 2018)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.first_norm = nn.GroupNorm(8, after)
        self.second = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.second_norm = nn.GroupNorm(8, after)
        self.skip = nn.Conv2d(before, after, 1, bias=False)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.first_norm(self.first(x)))
        h = self.second_norm(self.second(h))
        return F.relu(h + self.skip(F.avg_pool2d(x, self.stride)))


class JudgeNet(nn.Module):
    """``[B, 3, 64, 64]`` in 0…1 → logits of classes and of places, and an embedding of length 1."""

    def __init__(self) -> None:
        super().__init__()
        a, b, c, d = WIDTHS
        self.trunk = nn.Sequential(
            nn.Conv2d(3, a, 5, 2, 2), nn.GroupNorm(8, a), nn.ReLU(),
            Block(a, b, 2), Block(b, c, 2), Block(c, d, 1),
        )  # fmt: skip
        self.kind = nn.Linear(FEATURES, len(CLASSES))
        self.setting = nn.Linear(FEATURES, len(PLACES))
        self.individual = nn.Linear(FEATURES, FEATURES)
        self.identity = nn.Linear(FEATURES, EMBEDDING)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Class logits, setting logits, embedding, and the features that it was made from."""
        maps = self.trunk((pictures - 0.5) * 4)
        features = torch.cat([maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))], dim=1)
        own = F.relu(self.individual(features))
        embedding = F.normalize(self.identity(own), dim=1)
        return self.kind(features), self.setting(features), embedding, own


class Judge:
    """The network with its threshold, on the CPU. The same pictures give the same verdict."""

    def __init__(self, net: JudgeNet, threshold: float) -> None:
        self.threshold = threshold
        """Of ``likeness`` to five pictures: what is above counts as the same individual."""
        self._net = net.eval().requires_grad_(False)

    @classmethod
    def load(cls, path: Path = WEIGHTS) -> Judge:
        """Raises JudgeError where the file is missing, damaged or of another world."""
        tensors, about = read_weights(path)
        if (about.get("classes"), about.get("places")) != (list(CLASSES), list(PLACES)):
            raise JudgeError(f"{path} was trained on other classes or settings: train it again")
        net = JudgeNet()
        try:
            net.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
            return cls(net, float(about["threshold"]))
        except (RuntimeError, KeyError) as error:
            raise JudgeError(f"{path} does not fit the judge's network: {REMEDY}") from error

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> Verdict:
        """The verdict on ``[B, 3, h, w]`` in 0…1; what is not 64 × 64 is resized."""
        if pictures.ndim != 4 or pictures.shape[1] != 3 or not pictures.is_floating_point():
            raise JudgeError(
                f"pictures are {pictures.dtype} {tuple(pictures.shape)}: give float [B, 3, h, w]"
            )
        pictures = pictures.float().cpu()
        if pictures.shape[2:] != (SIDE, SIDE):
            pictures = F.interpolate(pictures, (SIDE, SIDE), mode="bilinear", antialias=True)
        parts = [self._net(part)[:3] for part in pictures.clamp(0, 1).split(BATCH)]
        kinds, settings, embedding = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return Verdict(kinds.softmax(dim=1), settings.softmax(dim=1), embedding)


def likeness(embedding: Tensor, prototypes: Tensor) -> Tensor:
    """``[B]`` cosines of ``[B, D]`` rows with the mean direction of ``[P, D]`` prototypes."""
    return embedding @ F.normalize(prototypes.mean(dim=0), dim=0)


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Tensors and what the file says about itself."""
    if not path.is_file():
        raise JudgeError(f"there is no {path}: {REMEDY}")
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})[META])
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError) as error:
        raise JudgeError(f"{path} is damaged or no judge ({error}): {REMEDY}") from error


def write_weights(path: Path, net: JudgeNet, about: Mapping[str, object]) -> None:
    """fp16 weights, and what ``about`` says of them."""
    about = {"classes": CLASSES, "places": PLACES, **about}
    tensors = {name: tensor.half().contiguous() for name, tensor in net.state_dict().items()}
    save_file(tensors, path, {META: json.dumps(about)})

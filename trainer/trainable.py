"""What of a model learns, and the file that it becomes."""

from collections.abc import Collection, Mapping
from typing import Protocol

from torch import Tensor, nn

from .checkpoint import export, file_keys, part_keys
from .model import StableDiffusion
from .state import CheckpointWriter


class Trainable(Protocol):
    """One answer to "what learns": the loop, the states and the saves know no more of it.

    Attributes:
        modules: the trained parts, whose parameters with ``requires_grad`` are what learns.
    """

    modules: dict[str, nn.Module]

    @property
    def names(self) -> Mapping[str, Collection[str]]:
        """Per trained part, the names of its tensors in the file."""

    def tensors(self) -> dict[str, Tensor]:
        """The weights that learn, under their names in the file; no copies."""

    def writer(self, precision: str, metadata: Mapping[str, str]) -> CheckpointWriter:
        """What writes them, with all else that belongs into the file."""


class WholeParts:
    """Every weight of the trained parts that is read learns; the file is the base's, with these
    replaced.

    What no gradient reaches stays the base's, bit for bit: weight decay alone would move it.
    """

    def __init__(self, model: StableDiffusion, base: dict[str, Tensor], parts: list[str]) -> None:
        """
        Args:
            base: the dict that the model was built from. What trains is taken out of it, so that
                no second copy stays in memory; the rest goes into the file as it is.
        """
        self.modules: dict[str, nn.Module] = {part: model.parts[part] for part in parts}
        self._layout = model.layout
        self._base = base
        unread = {part: model.unread(part) for part in parts}
        self._kept = {
            key
            for part in parts
            for name, key in file_keys(base, model.layout, part).items()
            if name in unread[part]
        }
        # per part the names and shapes of its tensors in the base's file
        self._spelling = {part: self._take_out(part) for part in parts}
        for part, module in self.modules.items():
            for name, parameter in module.named_parameters():
                parameter.requires_grad_(name not in unread[part])

    @property
    def names(self) -> Mapping[str, Collection[str]]:
        return self._spelling

    def tensors(self) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for part, like in self._spelling.items():
            tensors |= export(self.modules[part], self._layout, part, like=like)
        return {
            key: tensor
            for key, tensor in tensors.items()
            if not tensor.is_meta and key not in self._kept
        }

    def writer(self, precision: str, metadata: Mapping[str, str]) -> CheckpointWriter:
        return CheckpointWriter(self._base, precision, metadata)

    def _take_out(self, part: str) -> dict[str, Tensor]:
        """Remove a part's weights from the base; returns all its names as meta tensors.

        What belongs to the part but has no place in the module (``position_ids``) stays, and so
        does what nothing reads.
        """
        like = {key: self._base[key] for key in part_keys(self._base, self._layout, part)}
        for key, tensor in export(self.modules[part], self._layout, part, like=like).items():
            if tensor is not self._base[key] and key not in self._kept:
                del self._base[key]
        return {key: tensor.to("meta") for key, tensor in like.items()}

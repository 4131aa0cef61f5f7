"""Hidden states of captions, each computed once and kept on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from ...trainer.checkpoint import Layout, build, read_checkpoint, write_checkpoint
from ...trainer.tokenizer import tokenize
from ..random_base import LAYOUT
from .text import SEED, text_tensors

Progress = Callable[[int, int], None]


class TextStates:
    """A table of states, ``[captions, 77, width]`` in fp16 on ``device``, and who is where."""

    def __init__(self, device: torch.device, layout: Layout = LAYOUT, seed: int = SEED) -> None:
        self._device, self._layout, self._seed = device, layout, seed
        self._index: dict[str, int] = {}
        width = layout.text_config["hidden_size"]
        self._table = torch.zeros(0, 77, width, dtype=torch.float16, device=device)

    def fill(self, captions: Iterable[str], file: Path | None, progress: Progress) -> None:
        """Makes the states of these captions known, from ``file`` where it has them all."""
        wanted = list(dict.fromkeys(captions))
        if file is not None and self._load(file, wanted):
            return
        self.add(wanted, progress)
        if file is not None:
            metadata = {"captions": json.dumps(list(self._index)), "seed": str(self._seed)}
            write_checkpoint(file, {"states": self._table}, metadata)

    @torch.no_grad()
    def add(self, captions: list[str], progress: Progress = lambda done, of: None) -> None:
        """Encodes those that are new."""
        new = [text for text in dict.fromkeys(captions) if text not in self._index]
        if not new:
            return
        tensors = text_tensors(self._seed, self._layout)
        encoder = build(tensors, self._layout, "text_encoder").to(self._device)
        parts, batch = [self._table], 256 if self._device.type == "cuda" else 16
        for start in range(0, len(new), batch):
            tokens = tokenize(new[start : start + batch]).to(self._device)
            parts.append(encoder(tokens).last_hidden_state.to(torch.float16))
            progress(min(start + batch, len(new)), len(new))
        self._table = torch.cat(parts)
        self._index |= {text: len(self._index) + n for n, text in enumerate(new)}

    def _load(self, file: Path, wanted: list[str]) -> bool:
        if not file.is_file():
            return False
        tensors, metadata = read_checkpoint(file)
        names = json.loads(metadata["captions"])
        if metadata["seed"] != str(self._seed) or not set(wanted) <= set(names):
            return False
        self._index = {name: number for number, name in enumerate(names)}
        self._table = tensors["states"].to(self._device)
        return True

    def rows(self, captions: Iterable[str]) -> Tensor:
        """Where each caption's states lie, int64."""
        return torch.tensor([self._index[text] for text in captions])

    def __getitem__(self, rows: Tensor) -> Tensor:
        """States ``[len(rows), 77, width]`` in fp32."""
        return self._table[rows.to(self._device)].float()

    def __len__(self) -> int:
        return len(self._index)

"""Prompts of frozen text encoders: known ones once, before the first step; others on demand."""

import contextlib
from collections import OrderedDict
from collections.abc import Iterable

import torch

from .conditioning import Conditioning
from .model import StableDiffusion, placed

KEPT = 512  # in memory: 120 MB of Stable Diffusion 1.5's, 320 MB of SDXL's


class FrozenTexts:
    """Each prompt's conditioning, one row of it.

    The last ``KEPT`` are kept. Each is encoded by itself and in fp32, so that it has the same bits
    whenever that happens.
    """

    def __init__(
        self, model: StableDiffusion, prompts: Iterable[str], device: torch.device
    ) -> None:
        """
        Args:
            prompts: encoded at once; then the encoders go to the CPU. Without any they stay where
                they are.
        """
        self._model = model
        self._device = device
        self._states: OrderedDict[str, Conditioning] = OrderedDict()
        known = list(dict.fromkeys(prompts))[:KEPT]
        with contextlib.ExitStack() as stack:
            for encoder in model.text_encoders.values() if known else ():
                stack.enter_context(placed(encoder, device))
            for prompt in known:
                self._states[prompt] = self._encode(prompt)

    def __getitem__(self, prompt: str) -> Conditioning:
        if prompt not in self._states:
            for encoder in self._model.text_encoders.values():
                encoder.to(self._device)  # and stays there: more will follow
            self._states[prompt] = self._encode(prompt)
            while len(self._states) > KEPT:
                self._states.popitem(last=False)
        self._states.move_to_end(prompt)
        return self._states[prompt]

    def _encode(self, prompt: str) -> Conditioning:
        with torch.no_grad(), torch.autocast(self._device.type, enabled=False):
            return self._model.encode_prompts([prompt], self._device)

"""diffusers' ``train_dreambooth.py`` on given draws: ``run_diffusers.py DRAWS SCRIPT [ARGUMENT…]``.

For the gate alone, never under the clock. The script asks torch for an order of its pictures, for
latents, noise and timesteps; here it gets those of the file, see :func:`gate.write_draws`.
"""

import itertools
import math
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers.models.autoencoders import vae
from safetensors.torch import load_file
from torch.utils.data import RandomSampler


def order(folder: str) -> list[int]:
    """Where the script, which takes pictures as the folder lists them, has the sorted ones."""
    listed = list(Path(folder).iterdir())
    return [listed.index(path) for path in sorted(listed)]


def index_of(own: int, other: int, instances: int, classes: int) -> int:
    """The script pairs index modulo ``instances`` with index modulo ``classes``."""
    fits = (i for i in range(instances * classes) if (i % instances, i % classes) == (own, other))
    return next(fits)


def share(draws: dict[str, torch.Tensor], instances: list[int], classes: list[int]) -> None:
    """Hands the draws out, in order, where the script asks for its own."""
    counts = len(instances), len(classes)
    pairs = zip(draws["own"].flatten().tolist(), draws["other"].flatten().tolist(), strict=True)
    indices = iter([index_of(instances[a], classes[b], *counts) for a, b in pairs])
    batch = draws["own"].shape[1]
    left = {name: iter(draws[name]) for name in ("posterior", "noise", "times")}

    def serve(name: str, shape: tuple[int, ...], **how: object) -> torch.Tensor:
        drawn = next(left[name])
        if drawn.shape != shape:
            raise ValueError(f"the script asks for {name} of {tuple(shape)}, not {drawn.shape}")
        return drawn.to(**how)

    def epoch(sampler: RandomSampler) -> Iterator[int]:
        """Full batches, so many as the script counts on."""
        return itertools.islice(indices, batch * math.ceil(len(sampler) / batch))

    RandomSampler.__iter__ = epoch
    vae.randn_tensor = lambda shape, generator=None, **how: serve("posterior", shape, **how)
    torch.randn_like = lambda like: serve("noise", like.shape, device=like.device, dtype=like.dtype)
    torch.randint = lambda low, high, shape, device: serve("times", shape, device=device)


def main(draws: str, script: str, *arguments: str) -> None:
    told = dict(itertools.pairwise(arguments))
    folders = (order(told[f"--{kind}_data_dir"]) for kind in ("instance", "class"))
    share(load_file(draws), *folders)
    sys.path[0] = str(Path(script).parent)
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])

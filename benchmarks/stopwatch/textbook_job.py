"""The textbook loop as a whole job: from a checkpoint to the trained UNet on disk."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file

from ...trainer.checkpoint import detect, read_checkpoint
from ...trainer.model import StableDiffusion
from ..picturebook.cases import read_photos
from ..picturebook.textbook import Draw, TextbookConfig, train_textbook
from .material import CLASS_PROMPT, INSTANCE_PROMPT


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run_textbook.py", description=__doc__)
    for folder in ("base", "instances", "classes", "out"):
        parser.add_argument(f"--{folder}", type=Path, required=True)
    for number in ("steps", "batch"):
        parser.add_argument(f"--{number}", type=int, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--draws", type=Path, help="of each step, instead of its own")
    parser.add_argument("--exact", action="store_true", help="no TF32 in convolutions either")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    options = arguments(argv)
    if options.exact:
        torch.backends.cudnn.allow_tf32 = False
    device = torch.device(options.device)
    tensors, _ = read_checkpoint(options.base)
    model = StableDiffusion(tensors, detect(tensors))
    for module in model.parts.values():
        module.to(device)
    own, other = (
        read_photos([str(path) for path in sorted(folder.iterdir())]).to(device)
        for folder in (options.instances, options.classes)
    )
    config = TextbookConfig(max_train_steps=options.steps, train_batch_size=options.batch)
    draws = read_draws(options.draws) if options.draws else None
    prompts = (INSTANCE_PROMPT, CLASS_PROMPT)
    for _ in train_textbook(model, own, other, prompts, config, draws):
        pass
    model.unet.save_pretrained(options.out / "unet")


def read_draws(path: Path) -> Iterator[Draw]:
    """What :func:`gate.write_draws` has written, step by step."""
    stored = load_file(path)
    for step in range(len(stored["times"])):
        yield Draw(**{name: tensor[step] for name, tensor in stored.items()})

"""One contender on one subject: train, sample, keep the pictures; nothing is made twice."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...trainer.images import to_image
from .cases import PHOTOS, SIZE, Case
from .contenders import Contender, Mark, Material
from .sampling import from_bytes, load_model, sample_all

VERSION = 1  # of what a trial does; a new one makes all pictures anew


@dataclass(frozen=True)
class Plan:
    """How much is sampled, and how."""

    settings: tuple[str, ...]
    seeds: int
    """Pictures of each setting."""
    plain: int
    """Pictures of the class without a place."""
    class_images: int
    steps: int
    cfg: float

    def prompts(self, case: Case, identifier: bool) -> list[str]:
        """Settings one after the other, each ``seeds`` times; then the plain ones."""
        placed = (case.subject_prompts if identifier else case.class_prompts)(self.settings)
        return [p for p in placed for _ in range(self.seeds)] + case.plain_prompts(self.plain)


@dataclass(frozen=True)
class Sampled:
    """What a trial leaves behind."""

    steps: int
    seconds: float
    placed: Tensor
    """uint8 ``[settings·seeds, 3, h, w]``"""
    plain: Tensor
    """uint8 ``[plain, 3, h, w]``"""


class Bench:
    """The base under test, the plan, and the folder where everything is kept."""

    def __init__(self, base: Path, plan: Plan, work: Path, device: torch.device) -> None:
        self.base, self.plan, self.device = base, plan, device
        digest = hashlib.sha256(base.read_bytes()).hexdigest()
        self.folder = work / digest[:12]

    def material(self, case: Case, contender: Contender) -> Material:
        return Material(
            case,
            self.base,
            case.photos(self.folder / "photos", case.count),
            self._class_images(case),
            self.folder / "runs" / contender.name,
            self.device,
        )

    def trials(
        self, contender: Contender, case: Case, show: Callable[[str], None] = print
    ) -> Iterator[Sampled]:
        """Each of the contender's marks, from disk where it was made before."""
        options = contender.options
        if case.count != PHOTOS and contender.learns:
            options = {**options, "photos": case.count}
        key = digest_of(VERSION, contender.name, options, asdict(self.plan))
        folder = self.folder / "pictures" / case.name / key
        index = folder / "marks.json"
        if not index.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            marks = []
            for mark in contender.run(self.material(case, contender)):
                show(f"{contender.name}, {case.name}: {mark.steps} steps, {mark.seconds:.1f} s")
                np.savez_compressed(
                    folder / f"{mark.steps}.npz", self._sample(mark, case, contender).numpy()
                )
                marks.append([mark.steps, mark.seconds])
            partial = index.with_suffix(".partial")
            partial.write_text(json.dumps(marks))
            os.replace(partial, index)
        for steps, seconds in json.loads(index.read_text()):
            with np.load(folder / f"{steps}.npz") as stored:
                pictures = torch.from_numpy(stored["arr_0"])
            yield Sampled(
                steps, seconds, pictures[: -self.plan.plain], pictures[-self.plan.plain :]
            )

    def seen(self, pictures: Tensor, case: Case) -> Tensor:
        """Pictures as the base's autoencoder gives them back: what no sample can exceed.

        −1…1 in, 0…1 out, ``[B, 3, h, w]``.
        """
        file = self.folder / "seen" / f"{case.name}-{digest_of(pictures.numpy().tobytes())}.npz"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            model = load_model(self.base, self.device)
            with torch.no_grad():
                mean, _ = model.encode_images(pictures.to(self.device))
                out = model.decode_latents(mean).add(1).div(2).clamp(0, 1)
            np.savez_compressed(file, out.cpu().numpy())
        with np.load(file) as stored:
            return torch.from_numpy(stored["arr_0"])

    def _sample(self, mark: Mark, case: Case, contender: Contender) -> Tensor:
        return self._pictures(mark, self.plan.prompts(case, contender.identifier), seed=0)

    def _pictures(self, mark: Mark, prompts: list[str], seed: int) -> Tensor:
        model, plan = mark.model(), self.plan
        return sample_all(
            model, prompts, size=SIZE, steps=plan.steps, cfg=plan.cfg, seed=seed, device=self.device
        )

    def _class_images(self, case: Case) -> list[str]:
        """The base's own pictures of the class, shared by all contenders."""
        folder = self.folder / "classes" / f"{case.kind}-{digest_of(asdict(self.plan))}"
        paths = [folder / f"{n:03d}.png" for n in range(self.plan.class_images)]
        if not all(path.is_file() for path in paths):
            folder.mkdir(parents=True, exist_ok=True)
            mark = Mark(0, 0.0, Material(case, self.base, [], [], folder, self.device).model)
            made = self._pictures(mark, [case.class_prompt] * len(paths), seed=1)
            for picture, path in zip(from_bytes(made), paths, strict=True):
                to_image(picture * 2 - 1).save(path)
        return [str(path) for path in paths]


def digest_of(*values: object) -> str:
    text = (
        values[0] if isinstance(values[0], bytes) else json.dumps(values, sort_keys=True).encode()
    )
    return hashlib.sha256(text).hexdigest()[:12]

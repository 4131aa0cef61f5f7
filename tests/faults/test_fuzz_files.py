"""Damaged pictures and checkpoints: each is taken or refused in words, and nothing is written."""

import json
import random
from pathlib import Path

import torch
from mutate import damaged, large_pictures, other_values, picture_seeds
from nets import random_checkpoint
from pack.trainer.checkpoint import CheckpointError, UnsupportedModel, detect, read_checkpoint
from pack.trainer.image_set import read_folder
from pack.trainer.images import ImageError, check_image
from safetensors.torch import save
from toy import toy_base
from trials import Trials

# ---- pictures ----------------------------------------------------------------------------------


def test_pictures(tmp_path: Path, full: bool) -> None:
    trials = Trials("pictures", tmp_path, full)
    seeds = picture_seeds()
    for name, data in seeds.items():
        (tmp_path / name).write_bytes(data)
        assert check_image(tmp_path / name).width in (24, 32), name
    files = large_pictures()
    for number in range(trials.count - len(files)):
        name = trials.rng.choice(list(seeds))
        files[f"{number} {name}"] = damaged(seeds[name], list(seeds.values()), trials.rng)
    for name, data in files.items():
        path = tmp_path / name
        path.write_bytes(data)
        trials.try_one(name, (ImageError,), lambda path=path: check_image(path))
        path.unlink()
    trials.finish()


def test_folders_of_pictures(tmp_path: Path, full: bool) -> None:
    trials = Trials("folders of pictures", tmp_path, full)
    seeds = picture_seeds()
    for number in range(trials.count):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        for place in range(trials.rng.randrange(8)):
            data = damaged(trials.rng.choice(list(seeds.values())), [b"", b"BM"], trials.rng)
            ending = trials.rng.choice(("png", "jpg", "GIF", "webp", "txt", "heic", "tiff"))
            (folder / f"{place}.{ending}").write_bytes(data)
        found = trials.try_one(
            f"{number}", (ImageError,), lambda folder=folder: read_folder(folder)
        )
        assert found is None or (found.files and len(found.report()) < 20_000)
    trials.finish()


# ---- checkpoints -------------------------------------------------------------------------------


def other_header(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file whose JSON header says something else, with its length set right."""
    length = int.from_bytes(data[:8], "little")
    header = other_values(json.loads(data[8 : 8 + length]), rng)
    try:
        text = json.dumps(header).encode()
    except ValueError:  # a number too long for Python to spell out
        text = data[8 : 8 + length].replace(b"0", b"9" * 5000, 1)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def test_checkpoint_files(tmp_path: Path, full: bool) -> None:
    trials = Trials("checkpoint files", tmp_path, full)
    names = [name for name, tensor in toy_base().items() if tensor.numel() < 2000]
    data = save({name: toy_base()[name] for name in names[:40]}, {"format": "pt"})
    path = tmp_path / "x.safetensors"
    for number in range(trials.count):
        bad = other_header(data, trials.rng) if number % 2 else None
        path.write_bytes(bad or damaged(data, [b"PK\3\4", b"\x80\2}"], trials.rng))
        trials.try_one(
            f"{number}",
            (CheckpointError, UnsupportedModel),
            lambda: detect(read_checkpoint(path)[0]),
        )
    trials.finish()


def test_tensor_names_and_shapes(tmp_path: Path, full: bool) -> None:
    trials = Trials("tensor names and shapes", tmp_path, full)
    affine = {name: tensor for name, tensor in toy_base().items() if "vae_s" in name}
    bases = [
        random_checkpoint(kind, device="meta") | affine for kind in ("toy", "toy_sd2_v", "toy_sdxl")
    ]
    shapes = ((), (0,), (1,), (1, 1), (7, 3, 2), (2, 2, 2, 2, 2), (2**40, 8), (32, 4, 3, 3))
    kinds = (torch.int8, torch.float8_e4m3fn, torch.bool, torch.complex64, torch.float64)
    for number in range(trials.count):
        good = bases[number % 3]
        changed = dict(good)
        for name in trials.rng.sample(sorted(good), trials.rng.choice((1, 3, 40))):
            kind = trials.rng.randrange(4)
            tensor = changed.pop(name)
            if kind == 0:
                changed[name] = torch.zeros(()).expand(trials.rng.choice(shapes))
            elif kind == 1:
                changed[name] = torch.empty(tensor.shape, device="meta", dtype=kinds[number % 5])
            elif kind == 2:
                changed[name.replace("1", "2")] = tensor
        trials.try_one(
            f"{number}",
            (CheckpointError, UnsupportedModel),
            lambda changed=changed: detect(changed),
        )
    trials.finish()

"""How the demo's base is made, on a net of 32 channels: text from a seed, resume, pack, expand."""

import dataclasses
import json
import shutil
import zlib

import numpy as np
import pytest
import torch
from nets import make_layout
from pack.demo.base import pack as packing
from pack.demo.base.autoencoder import balance, fresh, head_start, reconstruction, spread
from pack.demo.base.grid import GRID, show
from pack.demo.base.pool import captions_of, load_pool, picture_file, seeds, to_pixels
from pack.demo.base.recipe import BaseFailed, Recipe
from pack.demo.base.stage import Budget, Stage
from pack.demo.base.states import TextStates
from pack.demo.base.text import text_tensors
from pack.demo.base.train import Plan, train
from pack.demo.random_base import LAYOUT
from pack.demo.world import draw, random_scene
from pack.trainer.checkpoint import build, detect, part_keys, read_checkpoint
from PIL import Image

TOY = dataclasses.replace(make_layout("toy"), vae_scale=LAYOUT.vae_scale)
CPU = torch.device("cpu")
TINY = Recipe(size=16, pool=12, captions=2, vae_batch=2, unet_batch=4)


def plan_in(folder, **changes) -> Plan:
    return Plan(**{"recipe": TINY, "folder": folder, "device": CPU, "steps": (2, 4),
                   "layout": TOY, "rows": 1, **changes})  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of 2 and 4 steps."""
    folder = tmp_path_factory.mktemp("base")
    assert train(plan_in(folder))
    return folder


# ---- text ----------------------------------------------------------------------------------------


def test_the_text_encoder_is_exact_in_fp16_and_comes_from_its_seed() -> None:
    first, second, other = (text_tensors(seed, TOY) for seed in (1, 1, 2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)
    assert {tensor.dtype for tensor in first.values()} == {torch.float16}
    build(first, TOY, "text_encoder")
    words = next(value for key, value in first.items() if "token_embedding" in key).float()
    assert abs(float(words.std()) - 0.25) < 0.003 and abs(float(words.mean())) < 0.003
    # known values: numpy must not change the stream under us
    assert float(words[0, 0]) == -0.06787109375


def test_states_tell_words_apart_and_are_computed_once(tmp_path) -> None:
    states = TextStates(CPU, TOY)
    captions = ["a photo of a dog", "a photo of a cat", "a photo of a dog", ""]
    states.fill(captions, tmp_path / "captions.safetensors", lambda done, of: None)
    assert len(states) == 3
    dog, cat, again = states[states.rows(captions[:3])]
    assert torch.equal(dog, again)
    noun = 5  # start, a, photo, of, a, dog
    assert torch.equal(dog[:noun], cat[:noun])
    alike = torch.cosine_similarity(dog[noun], cat[noun], dim=0)
    assert alike < 0.5
    reread = TextStates(CPU, TOY)
    reread.fill(captions[1:], tmp_path / "captions.safetensors", pytest.fail)
    assert torch.equal(
        reread[reread.rows(["", captions[0]])], states[states.rows(["", captions[0]])]
    )


# ---- pictures ------------------------------------------------------------------------------------


def test_the_pool_holds_the_scenes_of_its_seeds(tmp_path) -> None:
    pictures = load_pool(tmp_path, TINY)
    assert pictures.shape == (12, 16, 16, 3) and picture_file(tmp_path, TINY).is_file()
    for number in (0, 11):
        assert (pictures[number].numpy() == np.asarray(draw(random_scene(number), 16))).all()
    pixels = to_pixels(pictures, CPU)
    assert pixels.shape == (12, 3, 16, 16) and pixels.min() >= -1 and pixels.max() <= 1
    assert torch.equal(load_pool(tmp_path, TINY), pictures)
    assert [len(c) for c in captions_of(TINY)] == [2] * 12
    assert not set(seeds(TINY)) & set(seeds(dataclasses.replace(TINY, seed=1)))


def test_several_processes_draw_the_same_pool(tmp_path) -> None:
    recipe = dataclasses.replace(TINY, pool=200, size=16)
    alone = load_pool(tmp_path / "alone", recipe, workers=1)
    shared = load_pool(tmp_path / "shared", recipe, workers=2)
    assert torch.equal(alone, shared)


# ---- stages --------------------------------------------------------------------------------------


def test_stopping_and_going_on_is_the_same_as_never_stopping(trained, tmp_path) -> None:
    """2 + 2 steps of the UNet with the cool-down of 4, bit for bit."""
    folder = tmp_path / "base"
    picture_steps = []
    leaving = plan_in(folder)
    original = leaving.budget

    def budget(stage: int) -> Budget:
        made = original(stage)
        picture_steps.append(made)
        return made

    leaving.budget = budget
    stages = []
    advance = Stage.advance

    def advance_and_leave(stage: Stage):
        loss = advance(stage)
        stages.append((stage.name, stage.step))
        if stage.step == 2 and stage.name == "unet":
            picture_steps[-1].leave_at = 0.0
        return loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stage, "advance", advance_and_leave)
        assert not train(leaving)
        assert train(plan_in(folder))
    assert stages == [("vae", 1), ("vae", 2), ("unet", 1), ("unet", 2), ("unet", 3), ("unet", 4)]
    for part in ("vae", "unet"):
        once, _ = read_checkpoint(trained / f"{part}.safetensors")
        twice, _ = read_checkpoint(folder / f"{part}.safetensors")
        assert once.keys() == twice.keys()
        assert all(torch.equal(once[key], twice[key]) for key in once), part


def test_a_finished_run_is_not_trained_again(trained, monkeypatch) -> None:
    monkeypatch.setattr(Stage, "advance", lambda stage: pytest.fail("trained again"))
    assert train(plan_in(trained))
    with pytest.raises(BaseFailed, match="unet_batch"):
        train(plan_in(trained, recipe=dataclasses.replace(TINY, unet_batch=3)))


def test_more_steps_go_on_and_another_autoencoder_begins_the_unet_anew(trained, tmp_path) -> None:
    folder = tmp_path / "more"
    shutil.copytree(trained, folder)
    stages, advance = [], Stage.advance
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stage, "advance", lambda s: stages.append((s.name, s.step + 1)) or advance(s))
        assert train(plan_in(folder, steps=(2, 6)))
        assert stages == [("unet", 5), ("unet", 6)]
        with pytest.raises(BaseFailed, match="learned from another autoencoder.*move it away"):
            train(plan_in(folder, steps=(3, 6)))
        (folder / "unet.safetensors").rename(tmp_path / "away")
        stages.clear()
        assert train(plan_in(folder, steps=(3, 4)))
        assert stages == [("unet", step) for step in (1, 2, 3, 4)]


def test_a_start_gives_the_autoencoder_and_the_unet_goes_on_at_another_size(
    trained, tmp_path
) -> None:
    larger = {"recipe": dataclasses.replace(TINY, size=24), "start": trained, "steps": (2, 2)}
    stages, first, advance = [], {}, Stage.advance

    def watched(stage: Stage):
        first.setdefault("weights", {k: v.detach().clone() for k, v in stage.parameters.items()})
        stages.append((stage.name, stage.step + 1))
        return advance(stage)

    folder = tmp_path / "larger"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stage, "advance", watched)
        assert train(plan_in(folder, **larger))
    assert stages == [("unet", 1), ("unet", 2)]
    unet, _ = read_checkpoint(trained / "unet.safetensors")
    assert all(torch.equal(unet[f"ema.{name}"], value) for name, value in first["weights"].items())
    before, after = (packing.trained_tensors(place, TOY) for place in (trained, folder))
    vae = [name for name in before if name.startswith("vae.") or "taesd" in name]
    assert vae and all(torch.equal(before[name], after[name]) for name in vae)
    latents, _ = read_checkpoint(folder / "latents.safetensors")
    assert latents["latents"].shape == (12, 4, 3, 3)
    with pytest.raises(BaseFailed, match="another --start"):
        train(plan_in(folder, **{**larger, "start": folder, "steps": (2, 3)}))
    with pytest.raises(BaseFailed, match="no .*nowhere.*--start"):
        train(plan_in(folder, **{**larger, "start": tmp_path / "nowhere"}))
    packed = tmp_path / "base.npz"
    packing.pack(folder, packed, TOY)
    assert show(tmp_path / "grid.png", packed, TOY, rows=1).is_file()
    assert train(plan_in(tmp_path / "again", **{**larger, "start": packed}))


def test_an_autoencoder_starts_with_unit_latents_and_the_right_colours(tmp_path) -> None:
    pictures = load_pool(tmp_path, dataclasses.replace(TINY, size=64, pool=8))
    vae = head_start(fresh("vae", 0))
    pixels = to_pixels(pictures, CPU)
    with torch.no_grad():
        before = vae.decode(vae.encode(pixels).latents).sample
        balance(vae, pictures, CPU)
        latents = vae.encode(pixels).latents
        after = vae.decode(latents).sample
    assert spread(latents) < 1e-6
    assert (before - after).abs().mean() < 0.03  # the decoder was told; its clamp is not linear
    grey = pixels.mean(dim=(2, 3), keepdim=True).expand_as(pixels)
    assert (after - pixels).abs().mean() < 0.8 * (grey - pixels).abs().mean()
    assert reconstruction(pixels, pixels) == 0 < reconstruction(pixels.flip(3), pixels)


def test_a_run_leaves_grids_and_a_log(trained) -> None:
    assert (trained / "unet-000004.png").is_file() and (trained / "vae-000002.png").is_file()
    stages = [json.loads(line)["stage"] for line in (trained / "log.jsonl").open()]
    assert stages == ["vae", "unet"]
    assert len({prompt for row in GRID for prompt in row}) == sum(map(len, GRID))


# ---- pack and expand -----------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "bits"), [(0.08, 6.1), (0.3, 4.3)])
def test_small_integers_are_near_and_hold_few_bits(step: float, bits: float) -> None:
    weight = torch.randn(16, 32, 3, 3, generator=torch.Generator().manual_seed(0))
    weight[3] = 0
    values, scale = packing.quantize(weight, step)
    back = packing.dequantize(values, scale).float()
    assert values.dtype == torch.int8 and scale.shape == (16,) and not back[3].any()
    # an even step s errs by s/√12; a normal spread σ holds log2(4.13 σ/s) bits
    assert (back - weight).norm() / weight.norm() == pytest.approx(step / 12**0.5, rel=0.05)
    assert len(zlib.compress(values.numpy().tobytes(), 9)) * 8 / values.numel() < bits
    weight[0, 0] = 1000.0  # one that leaves the row's spread behind
    values, scale = packing.quantize(weight, step)
    assert packing.dequantize(values, scale)[0, 0, 0, 0] == pytest.approx(
        1000, abs=float(scale[0]) / 2 + 1
    )


def test_pack_and_expand_give_a_checkpoint_and_the_same_bytes(trained, tmp_path) -> None:
    packed = tmp_path / "base.npz"
    figures = packing.pack(trained, packed, TOY)
    # a toy has few weights for errors to cancel in: the base moves by 0.03
    assert figures["weights"] < 0.1 and figures["answers"] < 0.3
    first = packing.expand(tmp_path / "one" / "base.safetensors", packed, TOY)
    second = packing.expand(tmp_path / "two.safetensors", packed, TOY)
    assert first.read_bytes() == second.read_bytes()
    picture = show(tmp_path / "grid.png", packed, TOY, rows=2)
    assert len(set(Image.open(picture).convert("L").tobytes())) > 20
    tensors, _ = read_checkpoint(first)
    layout = detect(tensors)
    assert layout.vae_scale == pytest.approx(0.18215, rel=1e-3)
    assert sum(len(part_keys(tensors, layout, part)) for part in layout.parts) == len(tensors)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    before = packing.trained_tensors(trained, TOY)
    name = next(key for key in before if key.endswith("taesd_encoder.0.bias"))
    assert torch.equal(tensors[name], before[name].half())


def test_packing_too_much_or_nothing_is_refused(trained, tmp_path, monkeypatch) -> None:
    with pytest.raises(BaseFailed, match="train"):
        packing.pack(tmp_path)
    monkeypatch.setattr(packing, "MOST_BYTES", 1000)
    with pytest.raises(BaseFailed, match="more than 1000"):
        packing.pack(trained, tmp_path / "base.npz", TOY)
    with pytest.raises(BaseFailed, match="pack"):
        packing.expand(tmp_path / "out.safetensors", tmp_path / "none.npz")
    (tmp_path / "half.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(BaseFailed, match="damaged"):
        packing.expand(tmp_path / "out.safetensors", tmp_path / "half.npz")

"""Masks: where they come from, how they follow their picture, what they do to the loss."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pack.trainer.config import Photo
from pack.trainer.image_set import read_folder
from pack.trainer.images import ImageError, check_photo, read_photo
from pack.trainer.objective import pixel_weights, row_losses
from pack.trainer.views import View
from PIL import Image
from toy import make_concept, make_job, picture, run, same

UNET = "model.diffusion_model."


def mask_file(path: Path, size: tuple[int, int], white: tuple[int, int, int, int]) -> str:
    """Black with a white box (left, top, right, bottom)."""
    mask = Image.new("L", size, 0)
    mask.paste(255, white)
    mask.save(path)
    return str(path)


def test_the_loss_is_the_weighted_mean_over_what_counts() -> None:
    # errors 1, 4, 9, 16; mask 1, 0, 0.5, 0; u = 0.2 → w = 1, 0.2, 0.6, 0.2
    # (1 + 0.8 + 5.4 + 3.2) / (1 + 0.2 + 0.6 + 0.2) = 10.4 / 2
    target = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 2, 2)
    mask = torch.tensor([1.0, 0.0, 0.5, 0.0]).reshape(1, 1, 2, 2)
    loss = row_losses(torch.zeros(1, 1, 2, 2), target, pixel_weights(mask, 0.2))
    assert loss.item() == pytest.approx(5.2)
    only_white = row_losses(torch.zeros(1, 1, 2, 2), target, pixel_weights(mask, 0.0))
    assert only_white.item() == pytest.approx((1 + 0.5 * 9) / 1.5)


def test_a_full_mask_gives_the_plain_loss_and_an_empty_one_no_gradient() -> None:
    g = torch.Generator().manual_seed(0)
    prediction, target = (torch.randn(3, 4, 7, 5, generator=g) for _ in "ab")
    prediction.requires_grad_(True)
    plain = row_losses(prediction, target)
    full = row_losses(prediction, target, pixel_weights(torch.ones(3, 1, 7, 5), 0.3))
    torch.testing.assert_close(full, plain, rtol=1e-6, atol=0)
    empty = row_losses(prediction, target, pixel_weights(torch.zeros(3, 1, 7, 5), 0.0))
    empty.sum().backward()
    assert empty.tolist() == [0, 0, 0] and not prediction.grad.any()
    every = row_losses(prediction, target, pixel_weights(torch.zeros(3, 1, 7, 5), 0.5))
    torch.testing.assert_close(every, plain)  # what counts everywhere as little counts as much


def test_channels_share_the_mask_in_float64() -> None:
    g = torch.Generator().manual_seed(1)
    prediction, target = (torch.randn(2, 4, 6, 8, generator=g) for _ in "ab")
    weights = pixel_weights(torch.rand(2, 1, 6, 8, generator=g), 0.1)
    expected = [
        sum(
            weights[row, 0].double().mul((prediction[row, c] - target[row, c]).double() ** 2).sum()
            for c in range(4)
        )
        / (4 * weights[row].double().sum())
        for row in range(2)
    ]
    got = row_losses(prediction, target, weights)
    torch.testing.assert_close(got.double(), torch.stack(expected), rtol=1e-6, atol=0)


def test_a_mask_is_averaged_over_each_latent_pixel() -> None:
    """32×16 shown at 32×16, 8 pixels a latent pixel: means of 8×8 blocks by hand."""
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (16, 32), dtype=np.uint8)
    expected = values.reshape(2, 8, 4, 8).mean(axis=(1, 3)) / 255
    view = View(Photo("a"), (32, 16))
    got = view.show_mask(Image.fromarray(values), 8)
    assert got.shape == (1, 2, 4) and got.dtype == torch.float32
    np.testing.assert_allclose(got[0].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("size", [(96, 64), (64, 160), (64, 64), (200, 100)])
def test_a_mask_is_cut_and_mirrored_as_its_picture(
    size: tuple[int, int], place: float, mirrored: bool
) -> None:
    """The picture is its own mask: what the picture shows, averaged, is what the mask says."""
    rng = np.random.default_rng(1)
    small = Image.fromarray(rng.integers(0, 256, (4, 6), dtype=np.uint8))
    grey = small.resize(size, Image.Resampling.BICUBIC)
    view = View(Photo("a"), (64, 64), place, mirrored)
    shown = np.asarray(view.show(grey.convert("RGB")).convert("L"), dtype=np.float64) / 255
    expected = shown.reshape(8, 8, 8, 8).mean(axis=(1, 3))
    got = view.show_mask(grey, 8)[0].numpy()
    assert abs(got - expected).max() < 0.03


def test_masks_beside_photos(tmp_path: Path) -> None:
    for name in ("a.png", "b.jpg", "c.png"):
        picture(tmp_path / name, 1)
    mask_file(tmp_path / "a-masklabel.png", (80, 72), (0, 0, 40, 72))
    mask_file(tmp_path / "b-masklabel.png", (80, 72), (0, 0, 80, 72))  # all white
    mask_file(tmp_path / "d-masklabel.png", (80, 72), (0, 0, 40, 72))
    found = read_folder(tmp_path)
    assert [Path(p).name for p in found.paths] == ["a.png", "b.jpg", "c.png"]
    assert [Path(m).name for m in found.masks] == ["a-masklabel.png", "b-masklabel.png", ""]
    assert [file.masked for file in found.files] == [True, False, False]
    assert found.skipped == (("d-masklabel.png", "a mask without its photo"),)
    assert "1 with a mask" in found.report()


def test_a_mask_that_does_not_fit_leaves_its_photo_out(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png", "d.png"):
        picture(tmp_path / name, 1)
    mask_file(tmp_path / "a-masklabel.png", (40, 72), (0, 0, 40, 72))
    mask_file(tmp_path / "b-masklabel.png", (80, 72), (0, 0, 0, 0))
    (tmp_path / "c-masklabel.png").write_text("no picture")
    found = read_folder(tmp_path)
    assert [Path(p).name for p in found.paths] == ["d.png"]
    reasons = dict(found.skipped)
    assert "40×72" in reasons["a.png"] and "black all over" in reasons["b.png"]
    assert "not a picture" in reasons["c.png"]


def test_alpha_as_mask_keeps_the_colours_under_it(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    image = Image.new("RGBA", (16, 16), (200, 100, 50, 0))
    image.paste((10, 20, 30, 255), (0, 0, 8, 16))
    image.save(path)
    shown, mask = read_photo(Photo(str(path), "mask"))
    assert shown.getpixel((12, 4)) == (200, 100, 50) and mask.getpixel((12, 4)) == 0
    assert shown.getpixel((2, 4)) == (10, 20, 30) and mask.getpixel((2, 4)) == 255
    own = mask_file(tmp_path / "own.png", (16, 16), (0, 0, 16, 4))
    _, mask = read_photo(Photo(str(path), "mask", own))
    assert mask.getpixel((2, 12)) == 0  # a mask of its own wins over alpha


def test_alpha_that_hides_all_or_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "a.png")
    Image.new("RGBA", (16, 16), (1, 2, 3, 255)).save(path)
    assert read_photo(Photo(path, "mask"))[1] is None
    Image.new("RGB", (16, 16)).save(path)
    assert read_photo(Photo(path, "mask"))[1] is None
    Image.new("RGBA", (16, 16), (1, 2, 3, 0)).save(path)
    with pytest.raises(ImageError, match="transparent"):
        read_photo(Photo(path, "mask"))


def test_the_digest_covers_the_mask(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", 1)
    boxes = [(0, 0, 80, 72), (0, 0, 40, 72), (0, 0, 41, 72)]
    masks = [mask_file(tmp_path / f"m{n}.png", (80, 72), box) for n, box in enumerate(boxes)]
    plain, white, half, other = (check_photo(Photo(path, mask=m)).digest for m in ("", *masks))
    assert plain == white and len({plain, half, other}) == 3


def test_a_run_learns_by_its_masks(tmp_path: Path) -> None:
    """Half of each photo hidden: other weights; unmasked_weight 1 makes the mask of no account;
    class rows have none."""
    concept = make_concept(tmp_path / "pictures")
    masks = tuple(
        mask_file(tmp_path / f"mask{n}.png", (80, 72), (0, 0, 40, 72))
        for n in range(len(concept.instance_images))
    )

    def weights(masks: tuple[str, ...], **data: object) -> dict[str, torch.Tensor]:
        from dataclasses import replace

        from pack.trainer.config import DataConfig

        job = make_job(tmp_path, (replace(concept, masks=masks),), data=DataConfig(**data))
        return run(job).tensors

    plain, masked, nearly = weights(()), weights(masks), weights(masks, unmasked_weight=0.0)
    assert not same(plain, masked, UNET) and not same(masked, nearly, UNET)
    whole = weights(masks, unmasked_weight=1.0)
    for key in plain:
        torch.testing.assert_close(whole[key].float(), plain[key].float(), rtol=2e-3, atol=2e-3)


def test_class_rows_count_whole(tmp_path: Path) -> None:
    from dataclasses import replace

    from test_field_faults import batch_of

    concept, latents, paired, _ = batch_of(tmp_path, 1)
    from pack.trainer.batch import make_batch
    from pack.trainer.config import LossConfig
    from pack.trainer.dataset import PairedRows
    from pack.trainer.views import Frames
    from toy import CPU

    size = (80, 72)
    masks = tuple(mask_file(tmp_path / f"m{n}.png", size, (0, 0, 40, 72)) for n in range(2))
    rows = PairedRows([replace(concept, masks=masks)], 0, Frames(64))
    latents.fill(rows.views(), CPU, lambda *_: None)
    batch = make_batch(rows, latents, range(2), loss=LossConfig(), seed=0)
    assert batch.masks.shape == (4, 1, 8, 8)
    assert (batch.masks[2:] == 1).all() and not batch.masks[:2, ..., 5:].any()
    assert batch.select(batch.is_class).masks.shape == (2, 1, 8, 8)

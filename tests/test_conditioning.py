"""What the UNet is told beside the noisy latents: states, pooled vectors, sizes."""

import torch
from pack.trainer.conditioning import Conditioning
from pack.trainer.config import Photo
from pack.trainer.views import View


def test_rows_and_parts_keep_states_and_pooled_together() -> None:
    given = Conditioning(torch.arange(3.0).view(3, 1, 1), torch.arange(3.0).view(3, 1) + 10)
    chosen = given[[2, 0, 2]]
    assert chosen.states.flatten().tolist() == [2, 0, 2]
    assert chosen.pooled.flatten().tolist() == [12, 10, 12]
    both = Conditioning.cat([given[1:2], chosen])
    assert both.states.flatten().tolist() == [1, 2, 0, 2] and len(both) == 4
    assert both.pooled.flatten().tolist() == [11, 12, 10, 12]
    assert Conditioning.cat([Conditioning(torch.zeros(1, 77, 4))] * 2).pooled is None


def test_sizes_are_the_originals_and_the_cut_that_of_the_scaled_picture() -> None:
    photo = Photo("a.png")
    # 3000 × 2000 to cover 512²: 768 × 512, the middle cut begins 128 from the left
    assert View(photo, (512, 512)).time_ids((3000, 2000)) == (2000, 3000, 0, 128, 512, 512)
    # upright, the upper edge; smaller than the target: scaled up to 512 × 1024
    assert View(photo, (512, 512), 0.0).time_ids((100, 200)) == (200, 100, 0, 0, 512, 512)
    assert View(photo, (512, 512), 1.0).time_ids((100, 200)) == (200, 100, 512, 0, 512, 512)
    assert View(photo, (512, 512)).time_ids((512, 512)) == (512, 512, 0, 0, 512, 512)
    # mirrored, what was cut on the right is cut on the left
    left = View(photo, (512, 512), 0.25, mirrored=True).time_ids((3000, 2000))
    assert left == (2000, 3000, 0, 192, 512, 512)

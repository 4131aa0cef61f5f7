"""Sample pictures against diffusers' own pipeline arithmetic."""

import torch
from diffusers import DDIMScheduler
from pack.trainer.checkpoint import detect
from pack.trainer.images import to_image
from pack.trainer.model import StableDiffusion
from pack.trainer.preview import encode_for_preview, sample
from pack.trainer.randomness import generator
from toy import CPU, toy_base


def model() -> StableDiffusion:
    base = toy_base()
    return StableDiffusion(base, detect(base))


def test_equals_a_plain_ddim_loop() -> None:
    sd = model()
    text, empty = encode_for_preview(sd, ["a zwx dog", ""], CPU)
    options = {"size": (64, 64), "steps": 4, "cfg": 3.0, "seed": 5, "device": CPU}
    got = sample(sd, text, empty, **options)

    ddim = DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    ddim.set_timesteps(4)
    x = torch.randn(1, 4, 8, 8, generator=generator(5, "preview"))
    with torch.no_grad():
        for t in ddim.timesteps:
            cond = sd.unet(x, t, encoder_hidden_states=text.states).sample
            uncond = sd.unet(x, t, encoder_hidden_states=empty.states).sample
            x = ddim.step(uncond + 3.0 * (cond - uncond), t, x).prev_sample
        expected = to_image(sd.decode_latents(x)[0])
    difference = [abs(a - b) for a, b in zip(got.tobytes(), expected.tobytes(), strict=True)]
    assert max(difference) <= 1


def test_same_seed_same_picture_and_the_process_generator_is_untouched() -> None:
    sd = model()
    text, empty = encode_for_preview(sd, ["a zwx dog", ""], CPU)
    options = {"size": (64, 64), "steps": 2, "cfg": 7.5, "device": CPU}
    before = torch.get_rng_state()
    first, again = (sample(sd, text, empty, seed=1, **options) for _ in range(2))
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != sample(sd, text, empty, seed=2, **options).tobytes()
    assert torch.equal(before, torch.get_rng_state())


def test_clip_skip_takes_an_earlier_layer_through_the_final_norm() -> None:
    base = toy_base()
    layout = detect(base)
    last, before_last = StableDiffusion(base, layout), StableDiffusion(base, layout, clip_skip=2)

    def states(model: StableDiffusion) -> torch.Tensor:
        return model.encode_prompts(["a zwx dog"], CPU).states

    with torch.no_grad():
        got = states(before_last)
        assert not torch.allclose(got, states(last))
        # by hand: drop the last layer, run the rest
        encoder = last.parts["text_encoder"]
        inner = getattr(encoder, "text_model", encoder)
        inner.encoder.layers = inner.encoder.layers[:-1]
        torch.testing.assert_close(got, states(last))

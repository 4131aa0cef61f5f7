"""Stable Diffusion as the trainer sees it: three modules, a noise schedule, four verbs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .checkpoint import Layout, build
from .config import ConfigError
from .objective import alphas_cumprod


class StableDiffusion:
    """SD 1.x with ε-prediction, as diffusers and transformers modules.

    Latents are in the UNet's own scale (the VAE's, times ``layout.latent_scale``).

    Attributes:
        unet, text_encoder, vae: modules in fp32 on the CPU until moved.
        alphas_cumprod: ᾱ_t, ``[1000]`` float64.
        clip_skip: 1 = the text encoder's last layer, 2 = the one before…
    """

    def __init__(self, state_dict: Mapping[str, Tensor], layout: Layout, clip_skip: int = 1):
        """Fill the modules; an fp32 tensor of ``state_dict`` becomes a weight without a copy.

        Raises:
            CheckpointError: a tensor is missing, unexpected or of the wrong shape.
        """
        self.layout = layout
        self.clip_skip = clip_skip
        self.unet = build(state_dict, layout, "unet")
        self.text_encoder = build(state_dict, layout, "text_encoder")
        self.vae = build(state_dict, layout, "vae")
        self.alphas_cumprod = alphas_cumprod()
        layers = layout.text_config["num_hidden_layers"]
        if not 1 <= clip_skip <= layers:
            raise ConfigError(f"clip_skip = {clip_skip}: this text encoder has {layers} layers")

    @property
    def timesteps(self) -> int:
        """How many noise levels there are."""
        return len(self.alphas_cumprod)

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        """``(channels, h, w)`` of a square picture's latent."""
        side = resolution // self.layout.downscale
        return (self.layout.unet_config["in_channels"], side, side)

    def recompute_activations(self, text_encoder: bool) -> None:
        """Gradient checkpointing of the UNet, and of the text encoder if it trains."""
        self.unet.enable_gradient_checkpointing()
        if text_encoder:
            # transformers 5 renamed ``gradient_checkpointing_enable``
            new = getattr(self.text_encoder, "activation_checkpointing_enable", None)
            (new or self.text_encoder.gradient_checkpointing_enable)()

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and std of pictures: ``[B, 3, H, W]`` in −1…1 → two ``[B, 4, h, w]``.

        The tiny autoencoder is deterministic: its std is zero.
        """
        scale = self.layout.latent_scale
        if self.layout.vae_kind == "tiny":
            latents = self.vae.encode(pixels).latents
            mean = latents / self.layout.vae_scale + self.layout.vae_shift
            return mean * scale, torch.zeros_like(mean)
        posterior = self.vae.encode(pixels).latent_dist
        return posterior.mean * scale, posterior.std * scale

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """``[B, 4, h, w]`` → pictures ``[B, 3, H, W]`` in about −1…1."""
        latents = latents / self.layout.latent_scale
        if self.layout.vae_kind == "tiny":
            latents = (latents - self.layout.vae_shift) * self.layout.vae_scale
        return self.vae.decode(latents).sample

    def encode_prompts(self, tokens: Tensor) -> Tensor:
        """Token ids ``[B, 77]`` → hidden states ``[B, 77, C]`` after the final layer norm."""
        if self.clip_skip == 1:
            return self.text_encoder(tokens).last_hidden_state
        states = self.text_encoder(tokens, output_hidden_states=True).hidden_states
        # transformers 5.6 flattened CLIPTextModel: the norm moved up one level
        inner = getattr(self.text_encoder, "text_model", self.text_encoder)
        return inner.final_layer_norm(states[-self.clip_skip])

    def predict(self, noisy: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        """ε̂(x_t, t, c): ``[B, 4, h, w]``, ``[B]``, ``[B, 77, C]`` → ``[B, 4, h, w]``."""
        return self.unet(noisy, timesteps, encoder_hidden_states=text).sample


@contextmanager
def placed(module: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """The module on ``device`` inside the block, back on the CPU after it."""
    module.to(device)
    try:
        yield module
    finally:
        module.to("cpu")

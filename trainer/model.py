"""Stable Diffusion as the trainer sees it: three modules, a noise schedule, four verbs."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .checkpoint import TITLES, Layout, build
from .conditioning import Conditioning
from .config import ConfigError
from .families import family_of
from .objective import alphas_cumprod, zero_terminal_snr
from .text import encode, tokens_of, unread


class StableDiffusion:
    """Stable Diffusion of one family, as diffusers and transformers modules.

    Latents are in the UNet's own scale (the VAE's, times ``layout.latent_scale``).

    Attributes:
        family: what it differs in from the others.
        parts: every module by the name of its part, in fp32 on the CPU until moved.
        unet, vae: two of them.
        text_encoders: the others by part, in the order in which their states lie side by side.
        prediction: what the UNet answers with, "epsilon" or "v_prediction".
        alphas_cumprod: ᾱ_t, ``[1000]`` float64.
        clip_skip: 1 = the text encoders' last layer, 2 = the one before…
        dtype: that the UNet is told its inputs in; bf16 where its weights are.
    """

    dtype = torch.float32

    def __init__(
        self, state_dict: Mapping[str, Tensor], layout: Layout, clip_skip: int | None = None
    ):
        """Fill the modules; an fp32 tensor of ``state_dict`` becomes a weight without a copy.

        Args:
            clip_skip: None: the family's own.

        Raises:
            CheckpointError: a tensor is missing, unexpected or of the wrong shape.
            ConfigError: ``clip_skip`` goes past the first layer.
        """
        self.layout = layout
        self.family = family_of(layout)
        self.clip_skip = self.family.clip_skip if clip_skip is None else clip_skip
        self.parts = {part: build(state_dict, layout, part) for part in layout.parts}
        self.unet, self.vae = self.parts["unet"], self.parts["vae"]
        self.text_encoders = {
            part: module for part, module in self.parts.items() if part.startswith("text_encoder")
        }
        self.prediction = layout.prediction
        self.alphas_cumprod = alphas_cumprod()
        if layout.zero_terminal_snr:
            self.alphas_cumprod = zero_terminal_snr(self.alphas_cumprod)
        first = 1 + self.family.unbuilt
        layers = min(e.config.num_hidden_layers for e in self.text_encoders.values())
        if not first <= self.clip_skip < first + layers:
            raise ConfigError(
                f"clip_skip = {self.clip_skip}: the text encoder of this {TITLES[layout.family]}"
                f" model has layers {first} to {first + layers - 1}, counted from its end"
            )

    @property
    def timesteps(self) -> int:
        """How many noise levels there are."""
        return len(self.alphas_cumprod)

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """``(channels, h, w)`` of the latent of a picture, ``size``: its width and height."""
        width, height = (side // self.layout.downscale for side in size)
        return (self.layout.unet_config["in_channels"], height, width)

    def unread(self, part: str) -> set[str]:
        """Parameters of a part that no gradient reaches, by name."""
        encoder = self.text_encoders.get(part)
        return unread(encoder, self.family, self.clip_skip) if encoder else set()

    @property
    def levels(self) -> int:
        """How many resolutions the UNet has."""
        return len(self.unet.down_blocks)

    def recompute_activations(self, text_encoders: bool, levels: int | None = None) -> None:
        """Gradient checkpointing of the UNet, and of the text encoders if they train.

        Args:
            levels: only in so many of the UNet's resolutions, the finest first; None: everywhere.
        """
        is_all = levels is None or levels >= self.levels
        self.unet.enable_gradient_checkpointing()
        if not is_all:
            self._recompute_finest(levels)
        verb = "enable" if is_all else "disable"
        for encoder in self.text_encoders.values() if text_encoders else ():
            # transformers 5 renamed ``gradient_checkpointing_enable``
            new = getattr(encoder, f"activation_checkpointing_{verb}", None)
            (new or getattr(encoder, f"gradient_checkpointing_{verb}"))()

    def _recompute_finest(self, levels: int) -> None:
        up = len(self.unet.up_blocks) - levels
        blocks = [*self.unet.down_blocks[:levels], *self.unet.up_blocks[up:]]
        finest = {module for block in blocks for module in block.modules()}
        for module in self.unet.modules():
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = module in finest

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

    def encode_prompts(self, prompts: Sequence[str], device: torch.device) -> Conditioning:
        """From the text encoders as they are now, which are on ``device``."""
        tokens = self.tokens(prompts)
        return self.encode_tokens({part: each.to(device) for part, each in tokens.items()})

    def tokens(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """What each text encoder reads, by part: ``[B, 77]``, in memory."""
        return tokens_of(self.text_encoders, prompts)

    def encode_tokens(self, tokens: Mapping[str, Tensor]) -> Conditioning:
        """As :meth:`encode_prompts`, of tokens on the encoders' device."""
        return encode(self.text_encoders, tokens, self.family, self.clip_skip)

    def predict(
        self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning, time_ids: Tensor
    ) -> Tensor:
        """The UNet's answer, ε̂ or v̂, to ``[B, 4, h, w]`` at ``[B]``: ``[B, 4, h, w]``.

        Args:
            conditioning: of one prompt per row.
            time_ids: ``[B, 6]``, see :class:`batch.Batch`; only SDXL's UNet looks at them.
        """
        added = None
        if conditioning.pooled is not None:
            added = {"text_embeds": conditioning.pooled.to(self.dtype), "time_ids": time_ids}
        return self.unet(
            noisy.to(self.dtype),
            timesteps,
            encoder_hidden_states=conditioning.states.to(self.dtype),
            added_cond_kwargs=added,
        ).sample


@contextmanager
def placed(module: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """The module on ``device`` inside the block, back on the CPU after it."""
    try:
        yield module.to(device)
    finally:  # also where it went there in part
        module.to("cpu")

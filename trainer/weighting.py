"""What a row's noise level decides: how much its loss counts, and the width of its Huber loss.

All are tables over the timesteps of a run's own ᾱ, ``[T]`` float64, so that a row takes its entry
by its own t, and a rescaled schedule has its own table. SNR(t) = ᾱ_t / (1 − ᾱ_t), which may be 0
at the end (Lin et al. 2023, zero terminal SNR).
"""

import torch
from torch import Tensor

from .config import LossConfig
from .objective import pseudo_huber

# SNR is held between these for the debiased weights, as sd-scripts does above: without noise, or
# without signal, they would be 0 or infinite. Stable Diffusion's own SNR runs from 1176 to 0.0047.
_LEAST, _MOST = 1e-3, 1e3


def loss_weights(weighting: str, gamma: float, prediction: str, acp: Tensor) -> Tensor:
    """The weight of a row's squared error by its timestep.

    Args:
        weighting: "min_snr" (Hang et al. 2023) or "debiased" (Yu et al. 2024).
        prediction: "epsilon" or "v_prediction": as E‖ε − ε̂‖² = ᾱ E‖v − v̂‖², a weight on ε's
            error is that weight times ᾱ on v's, and the same is learned.
    """
    table = _min_snr(gamma, acp) if weighting == "min_snr" else _debiased(acp)
    return table * acp if prediction == "v_prediction" else table


def _min_snr(gamma: float, acp: Tensor) -> Tensor:
    """min(SNR, γ) / SNR, which is 1 at SNR = 0; for v it becomes min(SNR, γ) / (SNR + 1)."""
    return (gamma * (1.0 - acp) / acp).clamp(max=1.0)


def _debiased(acp: Tensor) -> Tensor:
    """1 / √SNR; for v it becomes √SNR / (SNR + 1)."""
    return (acp / (1.0 - acp)).clamp(_LEAST, _MOST).rsqrt()


def huber_widths(schedule: str, c: float, acp: Tensor) -> Tensor:
    """The c of the pseudo-Huber loss by timestep (Khrapov et al. 2024, as in sd-scripts).

    "constant": c. "exponential": c^(t/T). "snr": (1 − c) / (1 + σ)² + c with σ² = 1/SNR. Both of
    these are near 1 where there is little noise and near c where there is much.
    """
    if schedule == "exponential":
        steps = torch.arange(len(acp), dtype=acp.dtype)
        return c ** (steps / len(acp))
    if schedule == "snr":
        return (1.0 - c) / (1.0 + ((1.0 - acp) / acp).sqrt()) ** 2 + c
    return torch.full_like(acp, c)


class LossShape:
    """The rows' squared errors as the settings let them count: what is learned from."""

    def __init__(
        self, config: LossConfig, prediction: str, acp: Tensor, device: torch.device
    ) -> None:
        self._weights = self._huber_c = None
        if config.weighting != "none":
            weights = loss_weights(config.weighting, config.min_snr_gamma, prediction, acp)
            self._weights = weights.to(device, torch.float32)
        if config.loss_type == "huber":
            widths = huber_widths(config.huber_schedule, config.huber_c, acp)
            self._huber_c = widths.to(device, torch.float32)

    def __call__(
        self,
        squared: Tensor,
        prediction: Tensor,
        target: Tensor,
        timesteps: Tensor,
        pixels: Tensor | None,
    ) -> Tensor:
        """``squared`` itself where nothing is set; else the rows' losses, ``[B]``.

        Args:
            squared: :func:`objective.row_losses` of the same arguments, ``[B]``.
            timesteps: each row's own, ``[B]``.
        """
        losses = squared
        if self._huber_c is not None:
            losses = pseudo_huber(prediction, target, self._huber_c[timesteps], pixels)
        if self._weights is not None:
            losses = losses * self._weights[timesteps]
        return losses

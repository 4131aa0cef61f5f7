"""What a UNet predicts, noise or velocity, and how its file tells the host.

The rules are those of ComfyUI ``comfy/supported_models.py``. It takes every SD 1.x file for epsilon
and reads no metadata: a mark that it does not look for in a family has no effect there."""

from collections.abc import Mapping

import torch

from .shapes import UNET

V_PREDICTION_SPREAD = 0.09
"""An SD 2.x file with a larger ``prediction_spread`` is taken for v-prediction."""
_TELLTALE = UNET + "output_blocks.11.1.transformer_blocks.0.norm1.bias"


def detect_prediction(state_dict: Mapping[str, torch.Tensor], family: str) -> tuple[str, bool]:
    """("epsilon" or "v_prediction", whether the noise schedule ends at zero SNR)."""
    v = False
    if family == "sd2":
        spread = prediction_spread(state_dict)
        v = spread is not None and spread > V_PREDICTION_SPREAD
    elif family == "sdxl":
        v = "v_pred" in state_dict
    return ("v_prediction" if v else "epsilon"), family == "sdxl" and v and "ztsnr" in state_dict


def prediction_spread(state_dict: Mapping[str, torch.Tensor]) -> float | None:
    """The number that the host tells an SD 2.x file's prediction by; None where it has none.

    The standard deviation of one bias, in the precision that the file holds it in: a model trained
    across ``V_PREDICTION_SPREAD`` is sampled as the other kind when it is loaded.
    """
    bias = state_dict.get(_TELLTALE)
    if bias is None or bias.is_meta or not bias.is_floating_point():
        return None
    return float(torch.std(bias.detach(), unbiased=False))

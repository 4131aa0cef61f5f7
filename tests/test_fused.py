"""Fused layers against torch's; without a card in Triton's interpreter (conftest.py)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from torch import Tensor, nn
from torch.nn import functional

pytest.importorskip("triton", reason="Triton is not installed")

from diffusers import UNet2DConditionModel  # noqa: E402
from diffusers.models.resnet import ResnetBlock2D  # noqa: E402
from pack.trainer import fused, fused_layers, modules  # noqa: E402
from pack.trainer.events import Note, Step  # noqa: E402
from pack.trainer.footprint import META, AsComputed, Held, backward  # noqa: E402
from pack.trainer.fused_layers import fuse, gate, norm_and_silu  # noqa: E402
from toy import make_concept, make_job, run, same  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LAST, USUAL = torch.channels_last, torch.contiguous_format
# of a root mean square. Triton's interpreter cuts bf16 off where a card rounds
NEAR = {torch.float32: 1e-6, torch.bfloat16: 6e-3, torch.float16: 8e-4}


def small_unet(**options: object) -> UNet2DConditionModel:
    """Few groups: the interpreter takes its time for each."""
    torch.manual_seed(0)
    made = UNet2DConditionModel(
        block_out_channels=(8, 16), norm_num_groups=2, attention_head_dim=2, cross_attention_dim=6,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), layers_per_block=1, **options,
    )  # fmt: skip
    return made.to(DEVICE).train()


def answer(unet: UNet2DConditionModel, layout: torch.memory_format = USUAL) -> list[Tensor]:
    """The UNet's answer and all its gradients."""
    g = torch.Generator().manual_seed(1)
    noisy, told = (torch.randn(s, generator=g).to(DEVICE) for s in ((1, 4, 4, 6), (1, 3, 6)))
    unet.to(memory_format=layout)
    out = unet(noisy.to(memory_format=layout), torch.tensor([900]).to(DEVICE), told).sample
    unet.zero_grad()
    (out.float() * noisy).sum().backward()
    return [out.detach(), *(p.grad for p in unet.parameters() if p.grad is not None)]


def apart(a: list[Tensor], b: list[Tensor]) -> float:
    assert len(a) == len(b)
    far = [(s.detach().double() - t.detach().double()).norm() for s, t in zip(a, b, strict=True)]
    whole = [t.detach().double().norm() for t in b]
    return float(torch.stack(far).norm() / torch.stack(whole).norm())


@pytest.mark.parametrize("layout", [USUAL, LAST])
@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize(
    ("shape", "groups", "mean"),
    [((2, 12, 5, 7), 3, 0.0), ((1, 6, 40, 30), 2, 30.0), ((2, 16, 1, 1), 2, 0.0)],
)
@pytest.mark.parametrize("silu", [True, False])
def test_norm_and_silu(shape, groups, mean, dtype, layout, silu) -> None:
    """Against float64: the result, and the gradients of all that goes in."""
    g = torch.Generator().manual_seed(0)
    x = (torch.randn(shape, generator=g) * 2 + mean).to(DEVICE, dtype)
    x = x.contiguous(memory_format=layout)
    weight, bias = (torch.randn(shape[1], generator=g).to(DEVICE, dtype) for _ in range(2))
    given = [t.requires_grad_() for t in (x, weight, bias)]
    out = norm_and_silu(*given, groups, 1e-5, silu)
    assert out.dtype == dtype and out.is_contiguous(memory_format=layout)
    gradient = torch.randn(shape, generator=g).to(DEVICE, dtype)  # in the usual layout always
    got = [out, *torch.autograd.grad(out, given, gradient)]

    exact = [t.detach().double().requires_grad_() for t in given]
    normed = functional.group_norm(exact[0], groups, *exact[1:], 1e-5)
    expected = functional.silu(normed) if silu else normed
    expected = [expected, *torch.autograd.grad(expected, exact, gradient.double())]
    for a, b in zip(got, expected, strict=True):
        assert apart([a], [b]) <= NEAR[dtype] * (1 + mean)


@pytest.mark.parametrize("dtype", NEAR)
def test_gate(dtype) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, 2 * 300, generator=g).to(DEVICE, dtype)
    x[0, 0, 300:] *= 30  # where it is all or nothing
    x.requires_grad_()
    out = gate(x)
    gradient = torch.randn(out.shape, generator=g).to(DEVICE, dtype)
    got = [out, *torch.autograd.grad(out, x, gradient)]
    exact = x.detach().double().requires_grad_()
    value, passed = exact.chunk(2, dim=-1)
    expected = value * functional.gelu(passed)
    expected = [expected, *torch.autograd.grad(expected, exact, gradient.double())]
    assert out.dtype == dtype and out.shape == (3, 5, 300)
    for a, b in zip(got, expected, strict=True):
        assert apart([a], [b]) <= NEAR[dtype]


@pytest.mark.parametrize("layout", [USUAL, LAST])
def test_a_unet_computes_the_same(monkeypatch, layout) -> None:
    used = []
    for layer in (fused_layers._NormSilu, fused_layers._Gate):
        real = layer.apply
        monkeypatch.setattr(layer, "apply", lambda *a, r=real, n=layer: used.append(n) or r(*a))
    unet = small_unet()
    expected = answer(unet)
    keys = list(unet.state_dict())
    fuse(unet)
    assert apart(answer(unet, layout), expected) < 1e-6
    assert list(unet.state_dict()) == keys
    resnets = 2 + 2 + 4  # down, mid, up: one more in each block that goes up
    plain = {USUAL: 0, LAST: 3 + 1 + 1}[layout]  # before attention, and the last norm
    assert used.count(fused_layers._NormSilu) >= 2 * resnets - 2 + plain
    assert used.count(fused_layers._Gate) >= 4

    unet.enable_gradient_checkpointing()
    assert apart(answer(unet, layout), expected) < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_results_are_of_the_lower_precision(dtype) -> None:
    x = torch.randn(2, 4, 3, 3, device=DEVICE)
    with torch.autocast(DEVICE.type, dtype):
        out = norm_and_silu(x, torch.ones(4).to(DEVICE), torch.zeros(4).to(DEVICE), 2, 1e-5)
    assert out.dtype == dtype
    expected = functional.silu(functional.group_norm(x, 2, eps=1e-5)).to(dtype)
    assert apart([out], [expected]) < NEAR[dtype]


def test_frozen_norms_have_no_gradient() -> None:
    x = torch.randn(2, 4, 3, 3, device=DEVICE, requires_grad=True)
    weight = torch.ones(4, device=DEVICE)
    norm_and_silu(x, weight, weight, 2, 1e-5).sum().backward()
    assert x.grad is not None and weight.grad is None


def test_blocks_of_other_kinds_are_left_alone() -> None:
    unet = small_unet(resnet_time_scale_shift="scale_shift")
    expected = answer(unet)
    fuse(unet)
    assert apart(answer(unet), expected) < 1e-6


@pytest.mark.parametrize(("lower", "most"), [(None, 0.87), (torch.bfloat16, 0.8)])
def test_less_is_kept_for_backward(lower: torch.dtype | None, most: float) -> None:
    peaks = []
    for is_fused in (False, True):
        unet = small_unet().to(META)
        if is_fused:
            fuse(unet)
        with AsComputed(lower, on_card=True) as computed, Held() as held:
            noisy = torch.empty(2, 4, 64, 64, device=META)
            told = torch.empty(2, 77, 6, device=META)
            out = unet(noisy, torch.zeros(2, dtype=torch.long, device=META), told).sample
            computed.forget()
            backward(out.float().square().mean())
        peaks.append(held.peak)
    assert peaks[1] < most * peaks[0]


def test_shapes_are_those_that_a_unet_norms(monkeypatch) -> None:
    seen = set()
    forward = ResnetBlock2D.forward

    def look(block: ResnetBlock2D, x: Tensor, *given: Tensor) -> Tensor:
        out = forward(block, x, *given)
        seen.update((tuple(x.shape[1:]), tuple(out.shape[1:])))
        return out

    monkeypatch.setattr(ResnetBlock2D, "forward", look)
    unet, sides = small_unet(), [(9, 14), (8, 8)]
    for side in sides:
        unet(torch.zeros(1, 4, *side).to(DEVICE), 1, torch.zeros(1, 2, 6).to(DEVICE))
    assert set(fused.shapes(unet, sides)) == seen


PAIR = (torch.float32, torch.float32)


def small_trial(dtypes: tuple[torch.dtype, torch.dtype] = PAIR) -> float:
    norms = {(4, 3, 3): nn.GroupNorm(2, 4)}
    return fused.compare(norms, {4}, DEVICE, dtypes)


@pytest.mark.parametrize(
    "dtypes", [PAIR, (torch.bfloat16, torch.float32), (torch.bfloat16, torch.bfloat16),
               (torch.float16, torch.float32)],
)  # fmt: skip
def test_it_is_tried_before_it_is_trusted(monkeypatch, dtypes) -> None:
    assert small_trial(dtypes) < 0.6 * fused.NEAR[dtypes[0]]
    for factor, name in ((0.97, "norm_and_silu"), (1.03, "gate"), (float("nan"), "gate")):
        with monkeypatch.context() as patch:
            real = getattr(fused_layers, name)
            patch.setattr(fused_layers, name, lambda *a, r=real, f=factor: f * r(*a))
            assert not small_trial(dtypes) <= fused.NEAR[dtypes[0]]


def test_why_it_is_not_used_is_said(monkeypatch) -> None:
    unet, cuda = nn.Module(), torch.device("cuda")
    assert fused.use_fused_layers(unet, [], torch.device("cpu"), PAIR) == "cpu has no such kernels"
    assert fused.use_fused_layers(unet, [], cuda, PAIR) == "TRITON_INTERPRET is set"
    monkeypatch.setattr(fused, "is_interpreted", lambda: False)
    monkeypatch.setattr(fused, "shapes", lambda *_: {})
    monkeypatch.setattr(fused, "compare", lambda *_: 0.5)
    said = fused.use_fused_layers(unet, [], cuda, PAIR)
    assert said == "a fused layer is 0.5 from torch's on cuda"
    monkeypatch.setattr(fused, "compare", lambda *_: 0.0)
    assert fused.use_fused_layers(unet, [], cuda, PAIR) == ""
    monkeypatch.setitem(sys.modules, "triton.errors", None)  # cannot be imported
    assert fused.use_fused_layers(unet, [], cuda, PAIR).startswith("Triton is not installed")


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a card")
def test_a_run_without_a_card_says_so_and_learns_the_same(tmp_path: Path) -> None:
    plain = run(make_job(tmp_path / "plain", steps=2))
    made = run(make_job(tmp_path / "made", steps=2, fused_layers=True))
    assert [note.text for note in made.of(Note) if "fused" in note.text] == [
        "fused_layers: cpu has no such kernels, so layers are computed by torch's own kernels"
    ]
    assert same(plain.tensors, made.tensors)


def test_a_run_learns_nearly_the_same(tmp_path: Path, monkeypatch) -> None:
    """With the kernels in place, as on a card."""
    options = {"steps": 1, "trains": "unet", "weights": "exact", "channels_last": True}
    concepts = (make_concept(tmp_path / "pictures", classes=0),)
    plain = run(make_job(tmp_path / "plain", concepts, **options))

    def use(unet: nn.Module, *_: object) -> str:
        if DEVICE.type == "cpu":
            monkeypatch.setattr(fused_layers, "is_interpreted", lambda: True)
        fuse(unet)
        return ""

    monkeypatch.setattr(modules, "use_fused_layers", use)
    made = run(make_job(tmp_path / "made", concepts, **options, fused_layers=True))
    assert not any("fused" in note.text for note in made.of(Note))
    assert not same(plain.tensors, made.tensors)
    losses = [[step.loss for step in each.of(Step)] for each in (plain, made)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


# each kernel in both layouts
COMPILE = """
import sys, types
pack = types.ModuleType("pack")
pack.__path__ = [sys.argv[1]]
sys.modules["pack"] = pack
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from pack.trainer import fused_kernels

NUMBERS = dict.fromkeys(("channels", "groups", "pixels", "width", "count"), "i32")
NUMBERS |= {"eps": "fp32"} | dict.fromkeys(
    ("means", "scales", "to_weight", "to_bias"), "*fp32")
for name in ("norm_silu", "norm_silu_backward", "gated", "gated_backward"):
    kernel = getattr(fused_kernels, name)
    for last, kind, target in ((False, "*fp16", 75), (True, "*bf16", 90)):
        fixed = {"SILU": True, "C": 16 if last else 4, "P": 256 if last else 1024,
                 "BLOCK": 1024, "over_channel" if last else "over_pixel": 1}
        kinds = NUMBERS | {"over_pixel": "i32", "over_channel": "i32"}
        fixed = {n: v for n, v in fixed.items() if n in kernel.arg_names}
        signature = {n: "constexpr" if n in fixed else kinds.get(n, kind)
                     for n in kernel.arg_names}
        source = ASTSource(fn=kernel, signature=signature, constexprs=fixed)
        made = triton.compile(source, target=GPUTarget("cuda", target, 32))
        assert f".target sm_{target}" in made.asm["ptx"]
print("compiled")
"""


def test_it_compiles_for_cards(tmp_path) -> None:
    """To PTX of sm_75 and sm_90; the interpreter runs anything."""
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, str(ROOT)],
        capture_output=True, text=True,
        env={**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)},
    )  # fmt: skip
    assert done.stdout.strip() == "compiled", done.stderr[-2000:]

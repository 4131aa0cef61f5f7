"""The update in one pass against torch's; without a card in Triton's interpreter (conftest.py)."""

import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from torch import Tensor
from torch.nn import Parameter

pytest.importorskip("triton", reason="Triton is not installed")

from pack.trainer import kernel  # noqa: E402
from pack.trainer.moments import EightBitMoments, WholeMoments  # noqa: E402
from pack.trainer.one_pass import OnePass, make_one_pass  # noqa: E402
from pack.trainer.split_adamw import SplitAdamW  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHAPES = [(7, 5), (6,), (40, 30, 3, 3), (33, 128)]
RUNS = 24  # with another seed each
OPTIONS = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1}


def parameters() -> list[Parameter]:
    g = torch.Generator().manual_seed(1)
    values = [(torch.randn(shape, generator=g) * 0.03).to(DEVICE) for shape in SHAPES]
    values[2] = values[2].contiguous(memory_format=torch.channels_last)
    return [Parameter(value) for value in values]


def gradients(step: int) -> list[Tensor]:
    """The third in another memory layout than its weight."""
    g = torch.Generator().manual_seed(step)
    return [torch.randn(shape, generator=g).to(DEVICE, torch.bfloat16) for shape in SHAPES]


def optimizer_of(weights, moments, lean=False, seed=0) -> SplitAdamW:
    groups = [{"params": weights[:2], "lr": 1e-4}, {"params": weights[2:], "lr": 3e-4}]
    groups = [group for group in groups if group["params"]]
    return SplitAdamW(groups, moments=moments, lean=lean, seed=seed, **OPTIONS)


def pair(moments, **options) -> tuple[SplitAdamW, SplitAdamW]:
    """By torch, and by the kernel."""
    made = [optimizer_of(parameters(), moments(), **options) for _ in range(2)]
    made[1].one_pass = make_one_pass(made[1])
    return tuple(made)


def train(optimizer: SplitAdamW, steps: range, clip: float | None = 1.0) -> None:
    for step in steps:
        weights = [p for group in optimizer.param_groups for p in group["params"]]
        for weight, gradient in zip(weights, gradients(step), strict=True):
            weight.grad = gradient
        if clip:
            optimizer.clip(clip)
        optimizer.step()


def weights_of(optimizer: SplitAdamW) -> list[Tensor]:
    return [optimizer.value(p).cpu() for group in optimizer.param_groups for p in group["params"]]


@pytest.mark.parametrize("clip", [1.0, None])
def test_exact_weights_with_fp32_moments_are_torchs(clip) -> None:
    plain, fast = pair(WholeMoments)
    train(plain, range(5), clip)
    train(fast, range(5), clip)
    for old, mine, other in zip(parameters(), weights_of(fast), weights_of(plain), strict=True):
        moved = (other - old.detach().cpu()).abs().max()
        assert moved > 1e-4 and (mine - other).abs().max() < 1e-4 * moved
    for mine, other in zip(fast.state.values(), plain.state.values(), strict=True):
        assert mine.keys() == other.keys()  # a state goes from one to the other
        assert all(mine[k].shape == other[k].shape for k in mine)
        assert all(mine[k].stride() == other[k].stride() for k in mine)


def test_moments_in_8_bits_are_the_nearest_of_their_block() -> None:
    plain, fast = pair(EightBitMoments)
    train(plain, range(1))
    train(fast, range(1))
    for mine, other in zip(fast.state.values(), plain.state.values(), strict=True):
        assert mine.keys() == other.keys()
        for name in ("exp_avg", "exp_avg_sq"):
            assert mine[name].dtype == other[name].dtype and mine[name].shape == other[name].shape
        if "exp_avg_scale" not in mine:
            continue
        # a value in the middle of two may go either way; its ratio is to the root that was kept
        ratio, root = ((mine[n].int() - other[n].int()).abs() for n in ("exp_avg", "exp_avg_sq"))
        assert root.max() <= 1 and (root > 0).double().mean() < 1e-3
        assert ratio[root == 0].max() <= 1 and (ratio > 0).double().mean() < 2e-3
        assert torch.allclose(mine["exp_avg_sq_scale"], other["exp_avg_sq_scale"], rtol=1e-6)
    assert sum(s["exp_avg"].dtype == torch.int8 for s in fast.state.values()) == 2


def test_a_state_goes_on_with_the_other_way() -> None:
    """Two updates by torch, the third by the kernel: as three by torch."""
    plain, mixed = pair(EightBitMoments)
    kernel_of, mixed.one_pass = mixed.one_pass, None
    train(plain, range(3))
    train(mixed, range(2))
    mixed.one_pass = kernel_of
    train(mixed, range(2, 3))
    for mine, other in zip(weights_of(mixed), weights_of(plain), strict=True):
        assert (mine - other).abs().max() < 1e-7


def test_all_weights_share_a_few_launches(monkeypatch) -> None:
    """One a form, however many weights there are: between launches a card waits for Python."""
    forms = []
    launch = OnePass._launch

    def counted(self, form, *given) -> None:
        forms.append(form)
        launch(self, form, *given)

    monkeypatch.setattr(OnePass, "_launch", counted)
    weights = [Parameter(torch.randn(48, 16 * n, device=DEVICE)) for n in range(1, 13)]
    optimizer = optimizer_of(weights, EightBitMoments())
    optimizer.one_pass = make_one_pass(optimizer)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert len(forms) == len(set(forms)) == 2  # small weights keep their moments in fp32
    assert all(form.aligned and form.half for form in forms)


def test_lean_weights_are_right_on_average_and_the_same_for_the_same_seed() -> None:
    def final(seed: int, lean: bool = True) -> Tensor:
        weights = [Parameter(p.detach().bfloat16().float()) for p in parameters()]
        optimizer = optimizer_of(weights, WholeMoments(), lean, seed)
        optimizer.one_pass = make_one_pass(optimizer)
        train(optimizer, range(2))
        return torch.cat([value.flatten() for value in weights_of(optimizer)])

    runs = torch.stack([final(seed) for seed in range(RUNS)])
    assert torch.equal(runs[3], final(3)) and not torch.equal(runs[3], runs[4])
    exact = final(0, lean=False)
    large = exact.abs() > 0.005  # of smaller ones a step of bf16 may change on the way
    ulp = 2.0 ** (exact.abs().log2().floor() - 7)
    error = ((runs.mean(0) - exact) / ulp)[large]
    # a rounding's deviation is at most half a step, and there were two of them
    deviation = 0.5 * 2**0.5 / RUNS**0.5
    assert error.abs().max() < 7 * deviation  # of some thousand values
    assert abs(float(error.mean())) < 5 * deviation / len(error) ** 0.5


def test_a_last_block_that_is_not_full_keeps_its_own_scale() -> None:
    """Large gradients once, then none: what lies behind the weight's end must not stay large."""
    scales = []
    for by_kernel in (False, True):
        weight = Parameter(torch.full((4106,), 0.03, device=DEVICE))
        optimizer = optimizer_of([weight], EightBitMoments())
        optimizer.one_pass = make_one_pass(optimizer) if by_kernel else None
        for step in range(6):
            weight.grad = torch.full_like(weight, 1.0 if step == 0 else 0.0)
            optimizer.step()
        scales.append(optimizer.state[weight]["exp_avg_scale"])
    assert len(scales[0]) == 17 and torch.allclose(*scales, rtol=1e-4)


@pytest.mark.parametrize("lean", [False, True], ids=["exact", "lean"])
@pytest.mark.parametrize("moments", [WholeMoments, EightBitMoments])
def test_it_is_tried_before_it_is_trusted(monkeypatch, moments, lean) -> None:
    def like(weights: list[Parameter]) -> SplitAdamW:
        return optimizer_of(weights, moments(), lean)

    forms = set()
    launch = OnePass._launch
    monkeypatch.setattr(
        OnePass, "_launch", lambda self, form, *given: forms.add(form) or launch(self, form, *given)
    )
    assert kernel.compare(like, DEVICE) < 0.3 * kernel.NEAR
    assert {form.aligned for form in forms} == {True, False}
    assert {form.eight for form in forms} == {moments is EightBitMoments, False}

    def wrong(factor: float) -> None:
        class Wrong(OnePass):
            def numbers(self, *given) -> list[float]:
                told = super().numbers(*given)
                told[1] *= factor
                return told

        monkeypatch.setattr(
            "pack.trainer.one_pass.make_one_pass",
            lambda o: Wrong(o.defaults["betas"], o.defaults["eps"], o.eight),
        )

    for factor in (0.0, 0.9, 1.1, -1.0, float("nan")):
        wrong(factor)
        assert not kernel.compare(like, DEVICE) <= kernel.NEAR, factor


def test_a_fault_is_said_in_words(monkeypatch) -> None:
    def like(weights: list[Parameter]) -> SplitAdamW:
        return optimizer_of(weights, WholeMoments())

    assert kernel.fault(like, DEVICE) == ""
    for distance in (0.5, float("nan")):
        monkeypatch.setattr(kernel, "compare", lambda *_, d=distance: d)
        assert f"is {distance:.2g} of a step from torch's" in kernel.fault(like, DEVICE)

    def raises(error: Exception):
        def broken(*given: object) -> float:
            raise error

        return broken

    for error in (AssertionError("libcuda.so cannot found!"), OSError("a\nno compiler"),
                  RuntimeError()):  # fmt: skip
        monkeypatch.setattr(kernel, "compare", raises(error))
        last = (str(error).splitlines() or ["RuntimeError"])[-1]
        assert kernel.fault(like, DEVICE).endswith(f"does not work on {DEVICE}: {last}")
    monkeypatch.setattr(kernel, "compare", raises(torch.OutOfMemoryError("full")))
    with pytest.raises(torch.OutOfMemoryError):
        kernel.fault(like, DEVICE)
    monkeypatch.setitem(sys.modules, "triton.errors", None)  # cannot be imported
    assert kernel.fault(like, DEVICE).startswith("Triton is not installed")


COMPILE = """
import sys, types
pack = types.ModuleType("pack")
pack.__path__ = [sys.argv[1]]
sys.modules["pack"] = pack
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from pack.trainer.moments import BLOCK
from pack.trainer.one_pass_kernel import ROWS, adamw

for case in range(16):
    half, eight, lean, aligned = (bool(case & 1 << n) for n in range(4))
    kinds = dict(
        table="*i64", places="*i32", numbers="*fp32", clip="*fp32", share1="fp32", beta2="fp32",
        share2="fp32", eps="fp32",
    )
    fixed = dict(HALF=half, EIGHT=eight, LEAN=lean, ALIGNED=aligned, ROWS=ROWS, BLOCK=BLOCK)
    signature = {n: kinds.get(n, "constexpr") for n in adamw.arg_names}
    source = ASTSource(fn=adamw, signature=signature, constexprs=fixed)
    made = triton.compile(source, target=GPUTarget("cuda", 80, 32))
    assert ".target sm_80" in made.asm["ptx"], case
    wide = sum(f".global.v{n}" in made.asm["ptx"] for n in (2, 4))
    assert bool(wide) == aligned, (case, wide)
print("compiled")
"""


def test_it_compiles_for_a_card(tmp_path) -> None:
    """To PTX of sm_80 in all sixteen forms, the aligned with wide reads; the interpreter runs."""
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, str(ROOT)],
        capture_output=True, text=True,
        env={**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)},
    )  # fmt: skip
    assert done.stdout.strip() == "compiled", done.stderr[-2000:]


def test_where_there_is_no_card_torch_updates() -> None:
    optimizer = optimizer_of([Parameter(torch.ones(3))], WholeMoments())
    kernel.use_one_pass(optimizer, lambda weights: optimizer_of(weights, WholeMoments()))
    assert optimizer.one_pass is None and not optimizer.slow_because

"""When a pass is recorded, replayed and recorded again, on one whose gradient is known."""

import pytest
import torch
from pack.trainer.capture import MOST, WARM_UPS, Captured
from pack.trainer.forward import Inputs
from tape import Tapes


@pytest.fixture
def tapes() -> Tapes:
    return Tapes()


class Parabola:
    """A pass whose gradient is known: (w − x)² for each x."""

    def __init__(self) -> None:
        self.weight = torch.nn.Parameter(torch.ones(3))

    def __call__(self, inputs: Inputs) -> torch.Tensor:
        loss = (self.weight - inputs.tensors["x"]).square().sum()
        loss.backward()
        return loss.detach().view(1)

    def gradient(self, *xs: torch.Tensor) -> torch.Tensor:
        return sum(2 * (self.weight.detach() - x).sum(0) for x in xs)


def inputs(x: torch.Tensor) -> Inputs:
    return Inputs({"x": x}, taught=False, text_learns=True)


def others(given: Inputs) -> Inputs:
    return inputs(-given.tensors["x"])


def captured(work: Parabola, recorder: Tapes) -> tuple[Captured, list[str]]:
    said: list[str] = []
    return Captured(work, others, [work.weight], recorder, said.append), said


def test_passes_of_several_shapes_add_up(tapes: Tapes) -> None:
    """First and later passes, in any order of shapes, recorded or not yet."""
    work = Parabola()
    run_, said = captured(work, tapes)
    g = torch.Generator().manual_seed(0)
    for step in range(30):
        xs = [torch.randn(1 + (step + n) % 3, 3, generator=g) for n in range(1 + step % 4)]
        work.weight.grad = None
        for n, x in enumerate(xs):
            loss = run_(inputs(x), first=n == 0)
            expected = (work.weight.detach() - x).square().sum()
            torch.testing.assert_close(loss, expected.view(1))
        torch.testing.assert_close(work.weight.grad, work.gradient(*xs))
        with torch.no_grad():
            work.weight -= 0.01 * work.weight.grad
    assert said == [] and tapes.recorded == 6


def test_there_are_only_so_many_recordings(tapes: Tapes) -> None:
    work = Parabola()
    run_, said = captured(work, tapes)
    for rows in range(1, MOST + 3):
        for _ in range(WARM_UPS + 2):
            work.weight.grad, x = None, torch.randn(rows, 3)
            run_(inputs(x), first=True)
            torch.testing.assert_close(work.weight.grad, work.gradient(x))
    assert tapes.recorded == MOST and said == []


def test_weights_that_have_moved_are_recorded_again(tapes: Tapes) -> None:
    work = Parabola()
    run_, _ = captured(work, tapes)
    for step in range(8):
        if step == 5:
            work.weight.data = work.weight.data.clone() + 1
        work.weight.grad, x = None, torch.randn(2, 3)
        run_(inputs(x), first=True)
        torch.testing.assert_close(work.weight.grad, work.gradient(x))
    assert tapes.recorded == 2 and tapes.forgotten == 1


def test_bad_numbers_prove_nothing(tapes: Tapes) -> None:
    """A loss that is not finite is no reason to mistrust a recording, nor to believe it."""
    work = Parabola()
    run_, said = captured(work, tapes)
    for step in range(6):
        work.weight.grad, x = None, torch.full((2, 3), float("nan") if step == 2 else 0.5)
        loss = run_(inputs(x), first=True)
        assert bool(loss.isfinite().all()) == (step != 2)
    assert said == [] and tapes.recorded == 1

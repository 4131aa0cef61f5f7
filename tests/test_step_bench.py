"""Where a step's time goes: the benches on a toy, and what they wrote into the page."""

import argparse
import importlib
import json

import pytest
import torch
from pack.benchmarks.step import attention, kinds, layouts

OPTIONS = argparse.Namespace(device="cpu", size="toy", pairs=[1], side=64, rounds=2)


@pytest.mark.parametrize("name", ["kinds", "layouts", "attention"])
def test_the_page_shows_what_was_measured(name: str) -> None:
    command = importlib.import_module(f"pack.benchmarks.step.{name}")
    for suite in json.loads(command.RESULTS.read_text("utf-8")).values():
        assert command.table(suite["rows"]) in command.PAGE.read_text("utf-8")


def test_every_kind_of_operation_has_its_time() -> None:
    (row,) = kinds.measure(OPTIONS).values()
    assert set(row) == {*kinds.KINDS, kinds.REST, kinds.UPDATE, kinds.WAITING}
    assert all(row[kind] > 0 for kind in row if kind != kinds.WAITING)


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("aten::convolution_backward", "convolutions"),
        ("aten::_scaled_dot_product_flash_attention", "attention"),
        ("aten::addmm", "matrix products"),
        ("aten::native_group_norm_backward", "norms"),
        ("aten::copy_", "copies and casts"),
        ("aten::silu", kinds.REST),
    ],
)
def test_operations_are_told_apart(operation: str, kind: str) -> None:
    assert kinds.kind_of(operation) == kind


def test_both_layouts_are_timed_side_by_side(monkeypatch) -> None:
    seen = []
    real = layouts.Net.forward_backward

    def look(net: layouts.Net, rows: int, side: int) -> None:
        weight = net.unet.conv_in.weight
        seen.append(weight.is_contiguous(memory_format=torch.channels_last))
        real(net, rows, side)

    monkeypatch.setattr(layouts.Net, "forward_backward", look)
    (taken,) = layouts.measure(OPTIONS).values()
    assert [len(times) for times in taken.values()] == [2, 2]
    assert seen == ([False] * 3 + [True] * 3) * 3


def test_each_shape_of_attention_is_tried_in_each_way() -> None:
    found = attention.measure(OPTIONS)
    assert any("× 77" in name for name in found)  # the text
    for row in found.values():
        assert row["calls"] > 0 and row[attention.CHOSEN] > 0 and row["math"] > 0
        assert row["cudnn"] is None  # not on a processor

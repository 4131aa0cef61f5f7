"""``python -m trainer``: what it makes of its arguments."""

import pytest
import torch
from pack.trainer import __main__ as shell
from pack.trainer.ranks import ALONE


@pytest.mark.parametrize(("given", "card"), [("cuda", 0), ("cuda:1", 1)])
def test_a_card_is_named_by_its_number_and_is_the_current_one(
    monkeypatch, given: str, card: int
) -> None:
    """Some of torch's questions are about that one, and some refuse a card without a number."""
    current, trained = [], []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(shell, "_train", lambda args, ranks, device: trained.append(device) or 0)
    assert shell.main(["job.json", "--device", given]) == 0
    assert current == trained == [torch.device("cuda", card)]
    assert ALONE.count == 1


def test_a_processor_has_no_number(monkeypatch) -> None:
    trained = []
    monkeypatch.setattr(shell, "_train", lambda args, ranks, device: trained.append(device) or 0)
    assert shell.main(["job.json", "--device", "cpu"]) == 0
    assert trained == [torch.device("cpu")]

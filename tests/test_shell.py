"""``python -m trainer``: what it makes of its arguments."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pack.trainer import __main__ as shell
from pack.trainer.checkpoint import read_checkpoint, weights_digest, write_checkpoint
from pack.trainer.config import Job
from pack.trainer.deferred import write_job
from toy import make_job, run, toy_base


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


def test_a_processor_has_no_number(monkeypatch) -> None:
    trained = []
    monkeypatch.setattr(shell, "_train", lambda args, ranks, device: trained.append(device) or 0)
    assert shell.main(["job.json", "--device", "cpu"]) == 0
    assert trained == [torch.device("cpu")]


@pytest.mark.parametrize("kind", ["as it is", "in fewer bits", "other numbers", "a pickle"])
def test_a_written_job_names_a_file_only_if_it_holds_the_base(tmp_path: Path, kind: str) -> None:
    """A host may hold a file's weights in other dtypes, or with a LoRA."""
    base, file = toy_base(), tmp_path / "base of the user.safetensors"
    if kind == "a pickle":
        file = file.with_suffix(".ckpt")
        file.write_bytes(b"no matter")
    else:
        change = {"other numbers": 1.0}.get(kind, 0.0)
        write_checkpoint(file, {key: value + change for key, value in base.items()}, {})
    if kind == "in fewer bits":
        base = {key: value.half().float() for key, value in base.items()}
    job = replace(make_job(tmp_path), base=str(file), base_digest=weights_digest(base))
    written = Job.read(write_job(job, base, tmp_path / "jobs"))
    assert (written.base == str(file)) is (kind == "as it is")
    assert weights_digest(read_checkpoint(written.base)[0]) == job.base_digest
    made = run(written, read_checkpoint(written.base)[0])
    assert made.result.steps == written.config.steps

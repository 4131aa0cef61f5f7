"""Names, folders and room of a run."""

from pathlib import Path

import pytest
import torch
from pack.trainer import room
from pack.trainer.checkpoint import read_checkpoint
from pack.trainer.config import ConfigError
from pack.trainer.names import check_name
from pack.trainer.room import check_room
from pack.trainer.state import CheckpointWriter, RunFolder
from toy import make_job


@pytest.mark.parametrize("name", ["my dog", "zwx-2", "Hund_ß", "犬", "v1.5"])
def test_good_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", " ", "..", ".", "a/b", "a\\b", "../x", "a\nb", "a\0b", "x.", ".x", " x", "CON", "nul.txt"]
    + ["a" * 121, "Cache", "jobs", "a:b", 'a"b', "a\x1bb", "a\u202eb"],
)
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        check_name(name)


def test_a_taken_name_gets_a_number(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    assert RunFolder.reserve(job).name == "toy"
    assert RunFolder.reserve(job).name == "toy-2"
    (tmp_path / "checkpoints" / "toy-3.safetensors").touch()
    assert RunFolder.reserve(job).name == "toy-4"


def test_room_is_told_in_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_room(tmp_path, 1)
    usage = type("usage", (), {"free": 3_000_000_000})
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ConfigError, match=r"4\.0 GB.*3\.0 GB"):
        check_room(tmp_path, 4_000_000_000)


def test_untrained_tensors_shrink_only_where_nothing_is_lost(tmp_path: Path) -> None:
    exact = torch.tensor([0.5, 1.0, -2.0])
    rounded = torch.tensor([0.1, 1.0])
    untrained = {"exact": exact, "rounded": rounded, "ids": torch.arange(3)}
    writer = CheckpointWriter(untrained, "fp16", {})
    path = tmp_path / "x.safetensors"
    writer.write(path, {"trained": torch.tensor([0.1])}, 1)
    got, _ = read_checkpoint(path)
    kinds = {key: tensor.dtype for key, tensor in got.items()}
    assert kinds == {
        "exact": torch.float16,
        "rounded": torch.float32,
        "ids": torch.int64,
        "trained": torch.float16,
    }
    assert torch.equal(got["exact"].float(), exact) and torch.equal(got["rounded"], rounded)


def test_extra_checkpoints_of_an_earlier_run_are_not_replaced(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "toy-step000002.safetensors").touch()
    assert RunFolder.reserve(job).name == "toy-2"

"""The same inputs give the same file: in one server, under another name, and from a shell."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from graphs import forget, small_run
from pack.demo.server import ROOT
from pack.trainer.checkpoint import read_checkpoint

SETTINGS = {"trains": "unet + text encoder", "seed": 5}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def repeated(connect, info, base_name, drawn) -> None:
    """Two runs of one name, then one of another name and one of another seed."""
    client = connect()
    for name, seed in (("same", 5), ("same", 5), ("other", 5), ("seed", 6)):
        forget(client, info)
        settings = SETTINGS | {"seed": seed}
        graph, _ = small_run(info, base_name, drawn, name, settings, train_again=True)
        client.run(graph)
    client.close()


def test_a_taken_name_gets_a_number(repeated, checkpoints: Path, runs: Path) -> None:
    assert (checkpoints / "same-2.safetensors").is_file()
    assert (runs / "same-2" / "job.json").is_file()
    assert not (checkpoints / "same-3.safetensors").exists()


def test_the_same_queue_gives_the_same_bytes(repeated, checkpoints: Path) -> None:
    assert sha256(checkpoints / "same.safetensors") == sha256(checkpoints / "same-2.safetensors")


def test_a_name_changes_no_weight(repeated, checkpoints: Path) -> None:
    first, about_first = read_checkpoint(checkpoints / "same.safetensors")
    other, about_other = read_checkpoint(checkpoints / "other.safetensors")
    assert all(first[key].equal(value) for key, value in other.items())
    assert {k for k in about_first if about_first[k] != about_other[k]} == {"modelspec.title"}


def test_a_seed_does(repeated, checkpoints: Path) -> None:
    first, _ = read_checkpoint(checkpoints / "same.safetensors")
    other, _ = read_checkpoint(checkpoints / "seed.safetensors")
    assert any(not first[key].equal(value) for key, value in other.items())


def test_a_shell_repeats_the_run(repeated, runs: Path, checkpoints: Path, tmp_path: Path) -> None:
    job = runs / "same" / "job.json"
    command = [sys.executable, "-m", "trainer", str(job), "--output", str(tmp_path)]
    ended = subprocess.run(
        [*command, "--device", "cpu"],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert sha256(tmp_path / "same.safetensors") == sha256(checkpoints / "same.safetensors")

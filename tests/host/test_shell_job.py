"""*DreamBooth Train* writes its job instead of training, a shell trains it, the graph gets it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from graphs import Graph, Loaded, Node, text_of, trained
from pack.demo.client import PromptFailed
from pack.demo.server import ROOT
from pack.trainer.config import Job


def from_two_loaders(info, base_name: str, folder: str, where: str) -> tuple[Graph, Node, Node]:
    """A base that no one file holds: (graph, its *Train*, the picture's *Save Image*)."""
    graph = Graph(info)
    one, two = graph.load(base_name), graph.load(base_name)
    base = Loaded(one.model, two.clip, two.vae)
    train = graph.train(base, graph.concept(graph.photos(folder)), "written", where=where)
    return graph, train, graph.sample(trained(train))


def test_written_trained_in_a_shell_and_handed_over(
    client, info, base_name, drawn, runs: Path, checkpoints: Path
) -> None:
    graph, train, picture = from_two_loaders(info, base_name, drawn, "shell")
    outcome = client.run(graph)
    said, file = text_of(outcome, train), runs / "jobs" / "written" / "job.json"
    assert f'train.py" "{file}"' in said and "not trained" in said
    assert not outcome.images(picture.id), "what follows has nothing to work with"
    assert not (checkpoints / "written.safetensors").exists() and not (runs / "written").exists()
    job = Job.read(file)
    assert job.base == str(file.parent / "base.safetensors") and Path(job.base).is_file()

    ended = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), str(file), "--device", "cpu"],
        cwd=runs,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    made = (checkpoints / "written.safetensors").stat()

    graph, train, picture = from_two_loaders(info, base_name, drawn, "here")
    outcome = client.run(graph)
    assert "handed over" in text_of(outcome, train)
    assert outcome.images(picture.id)
    assert (checkpoints / "written.safetensors").stat().st_mtime_ns == made.st_mtime_ns


def test_bad_input_is_named_before_anything_is_written(
    client, info, base_name, drawn, runs: Path
) -> None:
    graph = Graph(info)
    base, concept = graph.load(base_name), graph.concept(graph.photos(drawn))
    graph.train(base, concept, "refused", {"precision": "fp16"}, where="shell")
    with pytest.raises(PromptFailed, match="fp16"):  # no processor's
        client.run(graph)
    assert not (runs / "jobs" / "refused").exists()

"""The demo's parts that need no server: environment, client, progress, the way it stops."""

import json
import struct
import sys
from pathlib import Path

import pytest
from pack.demo import environment
from pack.demo.client import ComfyClient, PromptFailed, PromptRejected
from pack.demo.environment import EnvironmentFailed
from pack.demo.progress import TEXT, Tracker
from pack.demo.server import PACK_NAME, link_pack


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "requirements.txt").write_text("diffusers\n")
    return tmp_path


def stand(root: Path, stamp: str) -> Path:
    """A virtual environment with this stamp, as far as anybody looks."""
    python = environment.venv_python(root / ".venv")
    python.parent.mkdir(parents=True)
    python.touch()
    (root / ".venv" / environment.STAMP).write_text(stamp)
    return python


def test_a_finished_environment_is_used_as_it_is(root, monkeypatch) -> None:
    python = stand(root, environment.fingerprint(root))
    monkeypatch.setattr(environment, "install", lambda *_: pytest.fail("installed again"))
    assert environment.ensure_venv(root) == python


@pytest.mark.parametrize("change", ["requirements", "interrupted", "packages"])
def test_a_changed_or_cut_off_environment_is_installed_again(root, monkeypatch, change) -> None:
    stand(root, environment.fingerprint(root))
    if change == "requirements":
        (root / "requirements.txt").write_text("diffusers>=0.30\n")
    elif change == "interrupted":
        (root / ".venv" / environment.STAMP).unlink()
    else:
        monkeypatch.setattr(environment, "PACKAGES", ("other",))
    done = []
    monkeypatch.setattr(environment, "runs", lambda python: True)
    monkeypatch.setattr(environment, "install", lambda *_: done.append(1))
    environment.ensure_venv(root)
    environment.ensure_venv(root)
    assert done == [1]


def test_a_failed_install_leaves_no_stamp(root, monkeypatch) -> None:
    stand(root, "old")

    def fail(*_: object) -> None:
        raise EnvironmentFailed("no network")

    monkeypatch.setattr(environment, "runs", lambda python: True)
    monkeypatch.setattr(environment, "install", fail)
    with pytest.raises(EnvironmentFailed):
        environment.ensure_venv(root)
    assert not (root / ".venv" / environment.STAMP).exists()


def test_packages_cut_off_while_they_were_unpacked_are_forgotten(tmp_path: Path) -> None:
    site = tmp_path / "lib" / "python3" / "site-packages"
    for name in ("whole-1.dist-info", "half-1.dist-info"):
        (site / name).mkdir(parents=True)
    (site / "whole-1.dist-info" / "INSTALLER").write_text("pip")
    environment.drop_half_installed(tmp_path)
    assert [p.name for p in site.iterdir()] == ["whole-1.dist-info"]


def test_a_wrong_comfyui_folder_is_named(root) -> None:
    stand(root, environment.fingerprint(root))
    with pytest.raises(EnvironmentFailed, match=r"no main\.py in .*nowhere"):
        environment.prepare(root, comfyui=root / "nowhere")


def test_a_foreign_python_is_never_installed_into(monkeypatch) -> None:
    monkeypatch.setattr(environment, "NEEDED", ("json", "surely_not_there"))
    with pytest.raises(EnvironmentFailed, match="pip install surely_not_there"):
        environment.check_foreign(Path(sys.executable))


def test_the_pack_is_linked_once_and_nothing_of_the_user_is_replaced(tmp_path: Path) -> None:
    pack = tmp_path / "checkout"
    (pack / ".venv").mkdir(parents=True)
    (pack / "__init__.py").write_text("")
    nodes = tmp_path / "custom_nodes"
    nodes.mkdir()
    for _ in range(2):
        assert (link_pack(nodes, pack) / "__init__.py").is_file()
    (nodes / PACK_NAME).unlink()
    (nodes / PACK_NAME).mkdir()
    assert not (link_pack(nodes, pack) / "__init__.py").exists()


def test_refusals_carry_the_node(monkeypatch) -> None:
    body = {
        "error": {"message": "Prompt outputs failed validation"},
        "node_errors": {
            "7": {
                "class_type": "KSampler",
                "errors": [{"message": "Value not in list", "details": "sampler_name: 'x'"}],
            }
        },
    }
    error = ComfyClient._refusal("/prompt", 400, json.dumps(body))
    assert isinstance(error, PromptRejected)
    assert "node 7 (KSampler): Value not in list sampler_name: 'x'" in str(error)
    assert "answered 500: <html>" in str(ComfyClient._refusal("/x", 500, "<html>"))
    failed = PromptFailed(
        {
            "node_id": 3,
            "node_type": "T",
            "exception_type": "E",
            "exception_message": "bad \n",
            "traceback": ["a", "b"],
        }
    )
    assert str(failed) == "Node 3 (T) failed with E: bad" and failed.traceback == "ab"


def said(node: str, text: str) -> dict:
    message = struct.pack(">II", TEXT, len(node)) + node.encode() + text.encode()
    return {"type": "binary", "data": {"bytes": message}}


def test_the_training_has_a_bar_of_its_own(capsys) -> None:
    tracker = Tracker({"4": {"_meta": {"title": "Train"}}})
    tracker.on_event({"type": "executing", "data": {"node": "4"}})
    tracker.on_event(said("4", "Encoding pictures 1/8"))
    assert tracker.bar.title == "Train: encoding pictures"
    tracker.on_event(said("4", "step 3/60 · instance 0.5 · 1.0 it/s"))
    assert (tracker.bar.title, tracker.bar.value, tracker.bar.total) == ("Train: training", 3, 60)
    tracker.on_event(said("4", "Sampling previews 0/1"))
    assert (tracker.bar.title, tracker.bar.value) == ("Train: training", 3)
    tracker.on_event({"type": "execution_error", "data": {}})
    assert "✗ Train: training" in capsys.readouterr().out
    assert tracker.bar is None


def test_a_prompt_that_ends_in_a_quiet_second_is_heard_to_its_end(monkeypatch) -> None:
    """Between a quiet second and the question whether it is over, it can end."""
    client = ComfyClient("nowhere:0")
    last = {"type": "executing", "data": {"prompt_id": "a", "node": None}}
    ending = {"type": "execution_success", "data": {"prompt_id": "a"}}
    work = {"type": "executing", "data": {"prompt_id": "a", "node": "7"}}
    coming = iter([None, work, ending, last])
    monkeypatch.setattr(client, "_next_event", lambda: next(coming))
    monkeypatch.setattr(client, "history", lambda prompt_id: {"outputs": {}})
    assert client.wait("a").events == [work, ending, last]
    coming = iter([work, None, None])  # the last one is missed for good
    assert client.wait("a").events == [work]

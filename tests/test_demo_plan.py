"""Which base and which subject a run of the demo takes, and with which numbers."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from pack.demo import picture_book, random_base
from pack.demo.base.recipe import BaseFailed
from pack.demo.plan import PHOTOS, DemoFailed, collect_photos, prepare_inputs
from pack.demo.recipe import FULL, PICTURE_BOOK, RANDOM
from pack.demo.run import arguments
from pack.trainer.config import TrainConfig


@pytest.fixture
def server(tmp_path: Path) -> SimpleNamespace:
    """As much of a server as is asked for its folders."""
    return SimpleNamespace(base=tmp_path, folder=lambda name: tmp_path / name, python="python")


@pytest.fixture
def packed(tmp_path: Path, monkeypatch) -> Path:
    """A packed base that expands to its own bytes."""
    file = tmp_path / "packed"
    file.write_bytes(b"first")
    monkeypatch.setattr(picture_book, "PACKED", file)
    monkeypatch.setattr(picture_book, "expand", copy)
    return file


def copy(out: Path, packed: Path) -> Path:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(packed.read_bytes())
    return out


# ---- base ----------------------------------------------------------------------------------------


def test_the_base_is_expanded_once_and_again_when_it_changed(tmp_path, packed, monkeypatch) -> None:
    made = []
    monkeypatch.setattr(picture_book, "expand", lambda *a: made.append(1) or copy(*a))
    target = tmp_path / "cache" / "base.safetensors"
    for _ in range(2):
        assert picture_book.ensure_base(target, packed).read_bytes() == b"first"
    assert len(made) == 1
    packed.write_bytes(b"second")
    for _ in range(2):
        assert picture_book.ensure_base(target, packed).read_bytes() == b"second"
    assert len(made) == 2
    target.unlink()
    assert picture_book.ensure_base(target, packed).is_file()


def test_an_expansion_that_was_cut_off_is_made_again(tmp_path, packed, monkeypatch) -> None:
    target = tmp_path / "base.safetensors"
    picture_book.ensure_base(target, packed)
    packed.write_bytes(b"second")

    def fail(*_: object) -> None:
        raise BaseFailed("no room")

    with monkeypatch.context() as patch:
        patch.setattr(picture_book, "expand", fail)
        with pytest.raises(BaseFailed):
            picture_book.ensure_base(target, packed)
    assert picture_book.ensure_base(target, packed).read_bytes() == b"second"


def test_the_base_that_comes_along_is_the_default(server, packed) -> None:
    plan = prepare_inputs(arguments([]), server)
    assert (plan.recipe, plan.base) == (PICTURE_BOOK, "picture_book_sd15.safetensors")
    offered = server.folder("models/checkpoints") / plan.base
    assert offered.read_bytes() == b"first"


@pytest.mark.parametrize("reason", ["asked for", "nothing packed"])
def test_the_random_base_takes_its_place(server, packed, reason, capsys) -> None:
    if reason == "nothing packed":
        packed.unlink()
    ask = ["--random-base"] if reason == "asked for" else []
    made = server.base / "cache" / "small_sd15.safetensors"
    made.parent.mkdir()
    made.touch()
    made.with_suffix(".version").write_text(f"{random_base.VERSION} 0")
    plan = prepare_inputs(arguments(ask), server)
    assert (plan.recipe, plan.base) == (RANDOM, made.name)
    assert ("is missing" in capsys.readouterr().out) == (not ask)


def test_a_damaged_base_is_reported(server, packed, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise BaseFailed("base.npz is damaged")

    monkeypatch.setattr(picture_book, "expand", fail)
    with pytest.raises(DemoFailed, match="damaged"):
        prepare_inputs(arguments([]), server)


# ---- subject -------------------------------------------------------------------------------------


def test_an_unknown_subject_is_named_with_those_that_there_are(server) -> None:
    with pytest.raises(DemoFailed, match="--subject dog-9: choose one of dog-1, .*robot-1"):
        prepare_inputs(arguments(["--subject", "dog-9"]), server)


def test_the_class_follows_the_subject(server, packed) -> None:
    plan = prepare_inputs(arguments(["--subject", "teapot-1"]), server)
    assert (plan.noun, plan.subject) == ("teapot", "zwx teapot")
    photos = sorted(path.name for path in (server.folder("input") / PHOTOS).iterdir())
    assert photos == [f"teapot-1_{number}.png" for number in range(1, 6)]
    plan = prepare_inputs(arguments(["--subject", "teapot-1", "--class", "pot"]), server)
    assert plan.noun == "pot"


def test_the_users_photos_take_the_drawn_ones_place(server, packed, tmp_path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "a.jpg").write_bytes(b"photo")
    prepare_inputs(arguments([]), server)
    plan = prepare_inputs(arguments(["--images", str(mine)]), server)
    assert [path.name for path in (server.folder("input") / PHOTOS).iterdir()] == ["a.jpg"]
    assert plan.noun == "dog"


def test_a_folder_without_pictures_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(DemoFailed, match="no pictures"):
        collect_photos(tmp_path, tmp_path / "target")


@pytest.mark.parametrize("pair", [("--subject", "--images"), ("--checkpoint", "--random-base")])
def test_what_excludes_each_other_is_refused(pair, capsys) -> None:
    values = {"--random-base": []}
    with pytest.raises(SystemExit):
        arguments([part for name in pair for part in (name, *values.get(name, ["x"]))])
    assert "not allowed with" in capsys.readouterr().err


# ---- numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [RANDOM, PICTURE_BOOK, FULL])
def test_the_numbers_are_settings_that_there_are(recipe) -> None:
    config = TrainConfig(steps=recipe.steps, resolution=recipe.resolution, **recipe.settings)
    assert config.steps % recipe.previews == 0


def test_what_the_user_asks_for_goes_before_the_recipe(server, packed) -> None:
    asked = ["--steps", "7", "--resolution", "128", "--class-images", "0"]
    plan = prepare_inputs(arguments(asked), server)
    assert (plan.steps, plan.resolution, plan.class_images) == (7, 128, 0)
    assert plan.sampling.resolution == 128
    with pytest.raises(DemoFailed, match="--steps 0"):
        prepare_inputs(arguments(["--steps", "0"]), server)

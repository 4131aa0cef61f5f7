"""Files: one format, atomic, verified, and the same bytes for the same inputs."""

import errno
import os
import stat
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from nets import random_checkpoint
from pack.trainer import files
from pack.trainer.checkpoint import (
    CheckpointError,
    file_size,
    read_checkpoint,
    weights_digest,
    write_checkpoint,
)
from pack.trainer.checkpoint import file as module
from safetensors.torch import load_file

METADATA = {"z": "last", "a": "erst – ä", "m": '{"json": "inside"}'}


def some() -> dict[str, torch.Tensor]:
    return {
        "half": torch.randn(3, 5).half(),
        "brain": torch.randn(7).bfloat16(),
        "single": torch.randn(2, 3, 4),
        "turned": torch.randn(4, 6).T,
        "part": torch.randn(10)[::3],
        "scalar": torch.tensor(1.5),
        "empty": torch.zeros(0, 4),
        "ids": torch.arange(9),
        "odd": torch.tensor([True, False, True]),
    }


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_written_files_are_what_safetensors_reads(tmp_path: Path) -> None:
    path, tensors = tmp_path / "x.safetensors", some()
    write_checkpoint(path, tensors, METADATA)
    theirs = load_file(path)
    ours, metadata = read_checkpoint(path)
    assert metadata == METADATA
    assert theirs.keys() == ours.keys() == tensors.keys()
    for name, tensor in tensors.items():
        for read in (theirs[name], ours[name]):
            assert read.dtype == tensor.dtype
            assert torch.equal(read, tensor)
    assert leftovers(tmp_path) == ["x.safetensors"]


def test_every_tensor_starts_aligned(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_checkpoint(path, some(), {})
    header, entries = module._plan(some(), {}, {})
    start = len(header)
    for name, dtype in entries:
        assert start % dtype.itemsize == 0
        start += some()[name].numel() * dtype.itemsize
    assert start == path.stat().st_size


def test_same_inputs_same_bytes_in_any_order(tmp_path: Path) -> None:
    tensors = some()
    backwards = dict(reversed(tensors.items()))
    write_checkpoint(tmp_path / "a", tensors, METADATA)
    write_checkpoint(tmp_path / "b", backwards, dict(reversed(METADATA.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_casts_only_what_is_named_and_only_floats(tmp_path: Path) -> None:
    path, tensors = tmp_path / "x.safetensors", some()
    dtypes = {"single": torch.float16, "half": torch.float32, "ids": torch.float16}
    write_checkpoint(path, tensors, {}, dtypes=dtypes)
    read, _ = read_checkpoint(path)
    assert read["single"].dtype == torch.float16
    assert read["half"].dtype == torch.float32
    assert read["ids"].dtype == torch.int64
    assert read["turned"].dtype == torch.float32
    assert file_size(tensors, dtypes) == path.stat().st_size


def test_mode_follows_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_checkpoint(tmp_path / "x.safetensors", some(), {})
    finally:
        os.umask(old)
    if os.name != "nt":
        assert stat.S_IMODE((tmp_path / "x.safetensors").stat().st_mode) == 0o640


def test_the_temporary_file_is_beside_and_is_no_model(tmp_path: Path, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(module.os, "fsync", lambda handle: seen.append(leftovers(tmp_path)))
    write_checkpoint(tmp_path / "x.safetensors", some(), {})
    assert len(seen) == 2  # the file, then, renamed, its folder
    assert seen[0][0].endswith(".partial")
    assert seen[1] == ["x.safetensors"]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flip, cut, empty])
def test_damage_on_the_way_to_the_disk_is_caught(tmp_path: Path, monkeypatch, damage) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"old")
    monkeypatch.setattr(
        module.os, "fsync", lambda handle: damage(next(tmp_path.glob(".*.partial")))
    )
    with pytest.raises(CheckpointError, match="reads back differently.*check the disk"):
        write_checkpoint(path, some(), {})
    assert path.read_bytes() == b"old"
    assert leftovers(tmp_path) == ["x.safetensors"]


def test_a_folder_that_cannot_be_synced_is_no_reason_to_fail(tmp_path: Path, monkeypatch) -> None:
    """The file is in its place by then."""
    real = os.fsync

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(handle)

    monkeypatch.setattr(module.os, "fsync", fsync)
    write_checkpoint(tmp_path / "x.safetensors", some(), {})
    assert leftovers(tmp_path) == ["x.safetensors"]


def test_what_another_program_reads_is_replaced_when_it_is_done(
    tmp_path: Path, monkeypatch
) -> None:
    """As on Windows, where a virus scanner opens what has just been written."""
    real, refused = os.replace, []

    def replace(*paths: object) -> None:
        if len(refused) < times:
            refused.append(paths)
            raise PermissionError(13, "Permission denied")
        real(*paths)

    monkeypatch.setattr(files, "os", SimpleNamespace(replace=replace, name="nt"))
    monkeypatch.setattr(files.time, "sleep", lambda seconds: None)
    times, path = 3, tmp_path / "x.safetensors"
    write_checkpoint(path, some(), {})
    assert len(refused) == 3 and leftovers(tmp_path) == ["x.safetensors"]
    times = 1000
    path.write_bytes(b"old")
    with pytest.raises(CheckpointError, match="another program has it open.*untouched"):
        write_checkpoint(path, some(), {})
    assert path.read_bytes() == b"old"


def test_a_full_disk_leaves_the_old_file_alone(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"old")
    real = zlib.crc32

    def full(data):
        if len(data) > 50:  # the header is on the disk by then
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(data)

    monkeypatch.setattr(module.zlib, "crc32", full)
    with pytest.raises(CheckpointError, match="No space left.*needs.*GiB.*untouched") as error:
        write_checkpoint(path, some(), {})
    assert isinstance(error.value.__cause__, OSError)
    assert path.read_bytes() == b"old"
    assert leftovers(tmp_path) == ["x.safetensors"]


def test_a_write_that_the_system_refuses(tmp_path: Path) -> None:
    """Not simulated: a file-size limit makes the real ``write`` fail half-way."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        with pytest.raises(CheckpointError, match="File too large.*untouched"):
            write_checkpoint(path, random_checkpoint(), {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"old"
    assert leftovers(tmp_path) == ["x.safetensors"]


def test_an_interrupt_leaves_no_temporary_file(tmp_path: Path, monkeypatch) -> None:
    def interrupt(handle: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(tmp_path / "x.safetensors", some(), {})
    assert leftovers(tmp_path) == []


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        write_checkpoint(tmp_path / "nowhere" / "x.safetensors", some(), {})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_not_written(tmp_path: Path, value: float) -> None:
    tensors = some() | {"bad": torch.tensor([1.0, value])}
    with pytest.raises(CheckpointError, match="^bad holds values that are not finite"):
        write_checkpoint(tmp_path / "x.safetensors", tensors, {})
    assert leftovers(tmp_path) == []


def test_overflow_of_the_cast_is_not_written(tmp_path: Path) -> None:
    tensors = some() | {"big": torch.tensor([1.0, -70000.0])}
    with pytest.raises(CheckpointError, match="^big holds a value of 7e.04, which float16 cannot"):
        write_checkpoint(tmp_path / "x", tensors, {}, dtypes={"big": torch.float16})
    assert leftovers(tmp_path) == []
    write_checkpoint(tmp_path / "x", tensors, {}, dtypes={"big": torch.bfloat16})


def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="'steps' is int"):
        write_checkpoint(tmp_path / "x", some(), {"steps": 3})
    with pytest.raises(ValueError, match="not there: \\['typo'\\]"):
        write_checkpoint(tmp_path / "x", some(), {}, dtypes={"typo": torch.float16})
    with pytest.raises(ValueError, match="complex64 cannot be written"):
        write_checkpoint(tmp_path / "x", {"c": torch.zeros(1, dtype=torch.complex64)}, {})


@pytest.mark.parametrize("name", ["sd.ckpt", "SD.CKPT", "x.pt", "x.bin"])
def test_pickles_are_refused_before_they_are_opened(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="pickle.*convert it to .safetensors"):
        read_checkpoint(tmp_path / name)


def test_missing_cut_and_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(CheckpointError, match="no file"):
        read_checkpoint(path)
    write_checkpoint(path, some(), {})
    for damage in (cut, empty, lambda path: path.write_bytes(b"<html>not found</html>" * 9)):
        damage(path)
        with pytest.raises(CheckpointError, match="damaged"):
            read_checkpoint(path)


def test_changing_what_was_read_does_not_change_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_checkpoint(path, random_checkpoint(), {})
    before = path.read_bytes()
    tensors, _ = read_checkpoint(path)
    for tensor in tensors.values():
        tensor.add_(1)
    assert path.read_bytes() == before


def test_a_model_keeps_its_digest_through_a_file(tmp_path: Path) -> None:
    tensors = random_checkpoint()
    write_checkpoint(tmp_path / "x.safetensors", tensors, {})
    read, _ = read_checkpoint(tmp_path / "x.safetensors")
    assert weights_digest(read) == weights_digest(tensors)

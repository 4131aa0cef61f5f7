"""Several processes on one run: real ones, joined by gloo on the processor."""

import dataclasses
import json
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from pack.trainer import __main__ as shell
from pack.trainer import ranks
from pack.trainer.checkpoint import read_checkpoint, write_checkpoint
from pack.trainer.config import ConfigError, Job
from pack.trainer.config.lora import LORA, LoraConfig
from pack.trainer.events import Step
from pack.trainer.gradients import Gradients
from pack.trainer.ladder import Ladder
from pack.trainer.loop import train
from pack.trainer.ranks import Ranks, join
from runs import OFTEN, logged, queue, states, stopped
from torch.nn import Parameter
from toy import CPU, Run, make_concept, make_job, run, toy_base

ROOT = Path(__file__).resolve().parent.parent
# three rows a step: one process has one of them, the other two
OPTIONS = {"steps": 8, "batch_size": 3, "text_encoder_learning_rate": 1e-3, "ema_decay": 0.9}
# without an epsilon of some size AdamW makes a whole step of a gradient that is only rounding
OPTIONS |= {"save_precision": "fp32", "lr_schedule": "cosine", "adam_epsilon": 1e-3}
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
Act = Callable[[Gradients], list[float] | None]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run of one process, unbroken."""
    return run(placed(tmp_path_factory.mktemp("alone"))[0])


def placed(folder: Path, classes: int = 3, **options: object) -> tuple[Job, list[str]]:
    """The job, and the shell's arguments for it."""
    folder.mkdir(exist_ok=True)
    base = folder / "base.safetensors"
    write_checkpoint(base, toy_base(), {})
    job = make_job(
        folder, (make_concept(folder / "pictures", classes=classes),), **{**OPTIONS, **options}
    )
    file = folder / "job.json"
    file.write_text(dataclasses.replace(job, base=str(base)).to_json())
    return job, [str(file), "--device", "cpu"]


def curve(folder: Path) -> dict[int, list[float]]:
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    names = ("loss", "instance_loss", "class_loss", "grad_norm")
    return {line["step"]: [line[name] for name in names] for line in lines}


def check_equal(folder: Path, alone: Run) -> None:
    """The same curve and, but for the order of sums, the same one file; nothing half-written."""
    wanted, found = curve(alone.result.folder), curve(folder / "runs" / "toy")
    assert list(found) == list(wanted) == list(range(1, OPTIONS["steps"] + 1))
    for step, numbers in wanted.items():
        assert found[step] == pytest.approx(numbers, rel=1e-5), step
    (file,) = (folder / "checkpoints").iterdir()
    for name, tensor in read_checkpoint(file)[0].items():
        torch.testing.assert_close(tensor, alone.tensors[name], rtol=1e-4, atol=1e-6)
    assert [path.name for path in (folder / "runs").iterdir() if path.is_dir()] == ["toy"]
    assert not list(folder.rglob("*partial*"))
    whole = {path.name for path in alone.result.folder.iterdir()}
    assert {path.name for path in (folder / "runs" / "toy").iterdir()} == whole


def two(main: Callable[[], int], said: Path, who: int = 1, **acts: Act) -> list[int]:
    """A function in two forked children of one launch, which need not import torch again.

    Args:
        acts: what one of them, ``who``, does in a step, ``step_5`` in the fifth, and what it says
            of the step's losses.

    Returns:
        What it returned in each, or minus the signal.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    children = []
    for index in range(2):
        numbers = {"RANK": str(index), "LOCAL_RANK": str(index), "WORLD_SIZE": "2"}
        numbers["OMP_NUM_THREADS"] = "1"  # a forked process has none but its first
        if not (child := os.fork()):
            os.environ |= place | numbers
            _be_one(main, said.with_suffix(f".{index}"), acts if index == who else {})
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def _be_one(main: Callable[[], int], said: Path, acts: dict[str, Act]) -> None:
    code = 70
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(120)  # no test waits for ever
        sys.stdout = sys.stderr = said.open("a", buffering=1)
        torch.set_num_threads(1)
        _act_in_steps(acts)
        code = main()
    except Exception as error:  # noqa: BLE001
        sys.stdout.write(f"{error!r}\n")
    finally:
        sys.stdout.flush()
        os._exit(code)


def _act_in_steps(acts: dict[str, Act]) -> None:
    plain = Gradients._accumulate

    def accumulate(gradients: Gradients, done: int) -> list[float]:
        act = acts.pop(f"step_{done + 1}", lambda _: None)
        return act(gradients) or plain(gradients, done)

    Gradients._accumulate = accumulate


def be_full(gradients: Gradients) -> None:
    raise torch.OutOfMemoryError("out of memory: this one's card is smaller")


def be_told_to_end(gradients: Gradients) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def be_bad(gradients: Gradients) -> list[float]:
    return [math.nan, 1.0, 1.0, 1.0]


def be_broken(gradients: Gradients) -> None:
    raise OSError("this one's disk is gone")


def be_killed(gradients: Gradients) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_launcher_starts_two_that_equal_one(tmp_path: Path, alone: Run) -> None:
    """``accelerate launch -m trainer job.json``, as a user types it in the pack's folder."""
    _, arguments = placed(tmp_path)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    command += ["--num_processes", "2", "--main_process_port", "0", "-m", "trainer", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"saved {tmp_path / 'checkpoints' / 'toy.safetensors'}") == 1
    check_equal(tmp_path, alone)


@needs_fork
def test_one_then_two_that_stop_then_two_that_lose_one_then_one(tmp_path: Path, alone: Run) -> None:
    """All of it is one run: its curve is that of an unbroken one."""
    job, arguments = placed(tmp_path)
    assert logged(stopped(job, 2)) == [1, 2]

    said = tmp_path / "stop"
    command = partial(shell.main, arguments)
    acts = {"step_4": be_full, "step_5": be_told_to_end}
    assert two(command, said, **acts) == [130, 130], said.with_suffix(".0").read_text()
    first, second = (said.with_suffix(f".{index}").read_text() for index in range(2))
    assert "goes on from step 2 of toy" in first and not second
    assert "step 4 did not fit into the memory (in another process): from here on 1 ins" in first
    assert states(job)[-1] == 4 and list(curve(tmp_path / "runs" / "toy")) == [1, 2, 3, 4]

    said = tmp_path / "lose"
    codes = two(command, said, step_6=be_killed)
    assert codes == [1, -signal.SIGKILL], said.with_suffix(".0").read_text()
    first = said.with_suffix(".0").read_text()
    assert "goes on from step 4" in first
    assert "error in process 0: another of this run's 2 processes is gone" in first
    assert states(job)[-1] == 5  # no state was due: it was written because the other one was gone

    said = tmp_path / "fail"
    assert two(command, said, step_7=be_broken) == [1, 1]
    first, second = (said.with_suffix(f".{index}").read_text() for index in range(2))
    assert "another of this run's 2 processes is gone" in first
    assert second == "error in process 1: this one's disk is gone\n"
    assert states(job)[-1] == 6

    said = tmp_path / "lose_first"
    assert two(command, said, who=0, step_8=be_killed) == [-signal.SIGKILL, 1]
    assert "error in process 1: another of this" in said.with_suffix(".1").read_text()

    assert queue(job).of(Step)[0].step == 7
    check_equal(tmp_path, alone)


@needs_fork
def test_bad_numbers_of_one_take_all_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three in a row: back to the newest state at a lower rate, as one process goes.

    Of a LoRA with dropout, which the base teaches the class.
    """
    lora = LoraConfig(kind=LORA, rank=4, dropout=0.3, prior_without_images=True)
    options = {"lora": lora, "learning_rate": 1e-2, "state_minutes": OFTEN}
    one, _ = placed(tmp_path / "one", classes=0, **options)
    _, arguments = placed(tmp_path / "two", classes=0, **options)
    bad = {"step_3": be_bad, "step_4": be_bad, "step_5": be_bad}
    assert two(partial(shell.main, arguments), tmp_path / "said", **bad) == [0, 0]
    assert "back to step 2, at 0.25 of the rate" in (tmp_path / "said.0").read_text()
    monkeypatch.setattr(Gradients, "_accumulate", Gradients._accumulate)  # put back afterwards
    _act_in_steps(bad)
    check_equal(tmp_path / "two", run(one))


@needs_fork
def test_sums_and_gradients_are_the_same_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers that are none, gradients that only one or none of them has, buckets of a few."""
    monkeypatch.setattr(ranks, "_BUCKET", 6)
    held = [[[1.0, 2.0], None, [3.0] * 5, None], [[10.0, 20.0], [0.5], [30.0] * 5, None]]

    def main() -> int:
        mine, _ = join(CPU)
        parameters = [Parameter(torch.zeros(n)) for n in (2, 1, 5, 3)]
        for parameter, gradient in zip(parameters, held[mine.index], strict=True):
            parameter.grad = torch.tensor(gradient) if gradient else None
        mine.add_gradients(parameters)
        found = [None if p.grad is None else p.grad.tolist() for p in parameters]
        told = dict(mine.tell({"ü": mine.index}))
        sums = mine.total([math.nan if mine.index else 1.0, 2.0])
        sys.stdout.write(json.dumps([found, told, sums]))
        mine.leave(well=True)
        return 0

    assert two(main, tmp_path / "said") == [0, 0]
    first, second = ((tmp_path / f"said.{index}").read_text() for index in range(2))
    assert first == second
    found, told, sums = json.loads(first)
    assert found == [[11.0, 22.0], [0.5], [33.0] * 5, None]
    assert told == {"ü": 0} and math.isnan(sums[0]) and sums[1] == 4.0


def test_shares_are_the_step_in_order() -> None:
    for count, rows in ((1, 4), (2, 3), (3, 8), (4, 4)):
        shares = [Ranks(index, count).share(range(40, 40 + rows)) for index in range(count)]
        assert [n for share in shares for n in share] == list(range(40, 40 + rows))
        sizes = list(map(len, shares))
        assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1


def test_a_share_is_cut_where_its_batches_end() -> None:
    ladder = Ladder(4, has_classes=False, checkpointing=False, share=6)
    assert [list(cut) for cut in ladder.cut(14, 6)] == [[14, 15], [16, 17, 18, 19]]
    assert Ladder(4, has_classes=False, checkpointing=False, share=2).rows == 2


def test_more_processes_than_rows_are_refused(tmp_path: Path) -> None:
    job, _ = placed(tmp_path)
    with pytest.raises(ConfigError, match="3 instance images.*4 processes.*batch_size to 4"):
        train(job, {}, device=CPU, ranks=Ranks(0, 4))


def test_a_plain_start_joins_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    mine, device = join(torch.device("cuda:1"))
    assert (mine.count, str(device)) == (1, "cuda:1") and not torch.distributed.is_initialized()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="each of the 2 processes takes one of its own"):
        join(torch.device("cuda:1"))

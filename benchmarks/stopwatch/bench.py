"""The whole bench: material, gates, rounds of all rows in turn, the table."""

from __future__ import annotations

import argparse
import datetime
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import report
from .figures import table
from .gate import distance, write_draws
from .material import SIZES, make_material
from .measure import Run, measure
from .rows import KOHYA, OURS, PEERS, TEXTBOOK, Row, choose
from .tools import Missing, Task, make_job, prepare


def run(options: argparse.Namespace, root: Path) -> int:
    try:
        rows = choose(options.device, options.rows)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    size, suites = SIZES[options.size], {}
    material = make_material(size, options.work / options.size)
    peers = {tool: getattr(options, tool) for tool in PEERS}
    for batch in options.batch:
        steps = options.steps or size.steps
        task = Task(material, options.device, batch, steps, options.threads)
        bench = Bench(task, rows, peers, options.work / "runs")
        lines, machine = bench.run(options.rounds)
        about = {
            "date": datetime.date.today().isoformat(),
            "command": command(options),
            "machine": machine,
            "steps": task.steps,
            "rounds": options.rounds,
            "batch": batch,
        }
        name = f"{options.size}, {batch} + {batch} images a step, {options.device}"
        if options.threads:
            name += f", {options.threads} threads"
        suites[name] = {"about": about, "rows": lines}
        print(f"\n{report.as_section(name, suites[name])}\n", flush=True)
    if options.write:
        report.write(root, suites)
        say(f"wrote {report.RESULTS} and {report.PAGE}")
    return 0


def command(options: argparse.Namespace) -> str:
    """What was asked for, without anybody's paths."""
    said = ["python benchmarks/peers.py", f"--size {options.size}", f"--device {options.device}"]
    said += [f"--{tool} DIR" for tool in PEERS if getattr(options, tool)]
    if options.rows:
        said.append("--rows " + " ".join(f'"{name}"' for name in options.rows))
    for name in ("batch", "steps", "rounds", "threads"):
        value = getattr(options, name)
        if value and value != [1]:
            said.append(f"--{name} {' '.join(map(str, value)) if name == 'batch' else value}")
    return " ".join(said)


@dataclass
class Bench:
    """One table: rows on one task."""

    task: Task
    rows: Sequence[Row]
    peers: Mapping[str, Path | None]
    work: Path
    runs: dict[str, list[Run]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    gates: dict[str, float | str] = field(default_factory=dict)

    def run(self, rounds: int) -> tuple[list[dict], dict]:
        """The table's lines, and the machine in words."""
        say(f"timing: {rounds} rounds of {len(self.rows)} rows")
        for turn in range(rounds):
            for row in self.rows:
                self.time(row, turn, rounds)
        self.find_gates()
        shutil.rmtree(self.work)
        lines = table(self.rows, self.runs, self.missing, self.gates, self.task.batch)
        machines = [line["machine"] for line in lines if "machine" in line]
        return lines, machines[0] if machines else {}

    def time(self, row: Row, turn: int, rounds: int) -> None:
        """One run of a row, unless it has failed before."""
        if row.name in self.missing:
            return
        out = self.work / "timed"
        try:
            start = prepare(row, self.task, out, self.peers)
            run = measure(start, out, self.task.device, self.task.threads)
        except Missing as reason:
            self.missing[row.name] = str(reason)
            say(f"round {turn + 1} of {rounds}: {row.name}: not measured: {reason}")
        else:
            self.runs.setdefault(row.name, []).append(run)
            speed = 2 * self.task.batch / run.step
            say(f"round {turn + 1} of {rounds}: {row.name}: {speed:.3g} images/s")
            if row.tool == OURS:  # its draws are the shared ones
                self.kept(row).parent.mkdir(exist_ok=True)
                start.trained.replace(self.kept(row))
        shutil.rmtree(out, ignore_errors=True)

    def kept(self, row: Row) -> Path:
        """What a row of ours has learned in its last timed run."""
        return self.work / "kept" / f"{self.rows.index(row)}.safetensors"

    def find_gates(self) -> None:
        """Trains what the gates compare with, and the rows that can be given the same draws."""
        draws, out = self.work / "draws.safetensors", self.work / "reference"
        shape = (4, *[self.task.material.size.resolution // 8] * 2)
        write_draws(make_job(self.task, out, {}), shape, draws)
        exact = Row("reference", TEXTBOOK, {"exact": True})
        try:
            say("gates: reference")
            start = prepare(exact, self.task, out, self.peers, draws)
            measure(start, out, self.task.device, self.task.threads)
        except Missing as reason:
            self.gates |= {row.name: f"no reference ({reason})" for row in self.rows}
            return
        for row in self.rows:
            if row.name not in self.missing:
                self.gates[row.name] = self.gate(row, draws, start.trained)

    def gate(self, row: Row, draws: Path, reference: Path) -> float | str:
        """The distance, or why there is none."""
        if row.lora:
            return "other parameters learn"
        if row.tool == OURS:
            return self.distance(self.kept(row), reference)
        if row.tool == KOHYA:
            return "it mixes its rows and draws its own noise"
        if row.tool == TEXTBOOK and self.task.device == "cpu":
            return "it is the reference"
        out = self.work / "gate"
        try:
            say(f"gates: {row.name}")
            start = prepare(row, self.task, out, self.peers, draws)
            measure(start, out, self.task.device, self.task.threads)
            return self.distance(start.trained, reference)
        except Missing as reason:
            return str(reason)
        finally:
            shutil.rmtree(out, ignore_errors=True)

    def distance(self, trained: Path, reference: Path) -> float:
        material = self.task.material
        return distance(trained, reference, material.checkpoint, material.size.layout)


def say(text: str) -> None:
    print(f"  {text}", flush=True)

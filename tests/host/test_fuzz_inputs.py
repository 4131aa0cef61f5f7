"""Node inputs that no page would send: each is refused in words or taken, and the host lives on.

One server gets a graph with all of our nodes, one of them spoilt. What comes before it stays in the
host's cache; what comes after it is left out, and so is nearly all training: the wired settings ask
for fp16, which a processor refuses.
"""

import json
import math
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from graphs import QUICK, SIDE, Graph, Node
from mutations import FOLDERS, Mutations, inputs_of, up_to
from pack.demo.client import ClientError, ComfyClient, PromptFailed, PromptRejected
from pack.demo.server import ComfyServer
from pack.trainer.__main__ import USER_ERRORS
from record import record

SEED = 20261122
MUTANTS = {False: 40, True: 400}  # by whether the tests run at full count
PATIENCE = 60  # seconds until a prompt that does not end counts as hung
LONGEST = 2000  # characters of a message
OURS = "DreamBooth"
NAMED = {error.__name__ for error in USER_ERRORS}
WIDGETS = {
    "DreamBoothInstanceImages": {"folder": "drawn"},
    "DreamBoothClassImages": {"count": 1, "resolution": SIDE, "steps": 2, "batch_size": 1},
    "DreamBoothSettings": QUICK | {"steps": 1, "precision": "fp16"},
}
WRITTEN = ("output", "temp", "user")  # where the host writes, under its base


def whole_graph(info: Mapping[str, Any], base_name: str) -> tuple[Graph, dict[str, Node]]:
    """Every node of ours, fed by those before it; and which node is which."""
    graph, nodes = Graph(info), {}
    base = graph.load(base_name)
    wires: dict[str, list] = {"MODEL": base.model, "CLIP": base.clip, "VAE": base.vae}
    left = sorted(kind for kind in info if kind.startswith(OURS))
    left.sort(key=lambda kind: kind != "DreamBoothInstanceImages")
    while left:
        ready = [k for k in left if is_fed(info[k], wires)]
        # whatever changes settings comes before what takes them
        kind = min(ready, key=lambda k: "DREAMBOOTH_SETTINGS" not in info[k]["output"])
        linked = {n: wires[k] for n, k in inputs_of(info[kind]).items() if k in wires}
        nodes[kind] = graph.add(kind, **(linked | WIDGETS.get(kind, {})))
        for place, output in enumerate(info[kind]["output"]):
            # IMAGE wins over a folder: nothing may be fed by it unasked
            if output.startswith("DREAMBOOTH_"):
                wires[output] = nodes[kind][place]
        left.remove(kind)
    return graph, nodes


def is_fed(entry: Mapping[str, Any], wires: Mapping[str, list]) -> bool:
    kinds = [v[0] for v in entry["input"].get("required", {}).values()]
    return all(k in wires for k in kinds if isinstance(k, str) and k.startswith("DREAMBOOTH_"))


@dataclass
class Tally:
    """How the mutants ended; ``failures`` are sentences that must not be there."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0

    def ended(self, client: ComfyClient, graph: Graph) -> tuple[str, str]:
        """How a prompt ended, and what is wrong with that."""
        began = time.monotonic()
        try:
            prompt = client.queue(graph)
        except PromptRejected as error:
            return "refused by the host's checks", "" if error.node_errors else str(error)
        except ClientError as error:
            return "failed", str(error)[:500]
        try:
            client.wait(prompt, timeout=PATIENCE)
            return "run through", ""
        except PromptFailed as error:
            kind = error.exception_type.split(".")[-1]
            if kind in NAMED:
                long = len(error.exception_message) > LONGEST or not error.exception_message
                said = f"a message of {len(error.exception_message)} characters" if long else ""
                return kind, said
            by_us = error.node_type.startswith(OURS) or f"/{OURS}" in error.traceback
            return f"{kind} in {error.node_type}", str(error)[:500] if by_us else ""
        finally:
            self.slowest = max(self.slowest, time.monotonic() - began)

    def add(self, about: str, client: ComfyClient, graph: Graph) -> None:
        try:
            ended, wrong = self.ended(client, graph)
        except ClientError as error:  # it hangs, and with it whatever else would be queued
            self.failures.append(f"{about}: {error}")
            pytest.fail("\n".join(self.failures))
        self.outcomes["failed" if wrong else ended] += 1
        if wrong:
            self.failures.append(f"{about}: {wrong}")


@pytest.fixture
def odd_folders(server: ComfyServer, drawn: str) -> Iterator[None]:
    """Folders of odd names with one picture each, and a list of concepts, under input."""
    inputs = server.folder("input")
    picture = next(path for path in sorted((inputs / drawn).iterdir()) if path.suffix == ".png")
    made = [inputs / "odd" / name for name in FOLDERS]
    for folder in made:
        folder.mkdir(parents=True)
        shutil.copyfile(picture, folder / "0.png")
    entry = {"instance_prompt": "a photo of zwx dog", "class_prompt": "a photo of a dog"}
    listed = inputs / "concepts_list.json"
    listed.write_text(json.dumps([entry | {"instance_data_dir": drawn, "class_data_dir": ""}]))
    yield
    shutil.rmtree(inputs / "odd")
    listed.unlink()


def files(server: ComfyServer) -> dict[str, tuple[int, int]]:
    """Everything under the server's base that a node has no business to write, and beside it."""
    found = {}
    for folder, below, names in os.walk(server.base):
        if Path(folder) == server.base:
            below[:] = [name for name in below if name not in WRITTEN]
        for name in (*below, *names):
            path = Path(folder, name)
            about = path.lstat()
            found[str(path)] = (about.st_mtime_ns, about.st_size)
    found |= {str(path): (0, 0) for path in server.base.parent.iterdir()}
    del found[str(server.log)]
    return found


def outside_our_folders(server: ComfyServer) -> set[str]:
    output = server.folder("output")
    ours = ("dreambooth", "checkpoints/dreambooth", "loras/dreambooth")
    paths = [path for path in output.rglob("*") if path.is_file()]
    return {str(p) for p in paths if not any(p.is_relative_to(output / o) for o in ours)}


def test_spoilt_inputs_end_in_words(
    server: ComfyServer,
    connect: Callable[[], ComfyClient],
    info: dict[str, Any],
    base_name: str,
    odd_folders: None,
    full: bool,
) -> None:
    began, tally, client = time.monotonic(), Tally(), connect()
    graph, nodes = whole_graph(client.object_info(), base_name)
    before, elsewhere = files(server), outside_our_folders(server)
    for kind, node in nodes.items():
        ended, wrong = tally.ended(client, up_to(graph, node))
        assert ended in ("run through", "ConfigError") and not wrong, (kind, ended, wrong)
        mutations = Mutations(graph, node, random.Random(f"{SEED} {kind}"))
        for number in range(math.ceil(MUTANTS[full] / len(nodes))):
            about, mutant = mutations.next()
            tally.add(f"{number} {about}", client, mutant)
            server.check()
    client.close()
    after, written = files(server), outside_our_folders(server) - elsewhere
    changed = [path for path in before | after if before.get(path) != after.get(path)]
    if changed or written:
        tally.failures.append(f"written elsewhere: {[*changed, *written]}")
    if full:
        record(
            "node inputs",
            inputs=sum(tally.outcomes.values()),
            failures=len(tally.failures),
            outcomes=dict(sorted(tally.outcomes.items())),
            slowest_seconds=round(tally.slowest, 2),
            seed=SEED,
            seconds=round(time.monotonic() - began),
        )
    assert not tally.failures, f"seed {SEED}: " + "\n".join(tally.failures)

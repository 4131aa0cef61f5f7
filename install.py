"""Says whether this Python has what DreamBooth training needs. Changes nothing.

The extension manager runs it after an installation; anybody else may run it any time, with the
Python that starts ComfyUI: ``python install.py``, or ``--json`` for a machine to read. It installs,
downloads and writes nothing, and exits with 0 also when something is missing, because that must
not undo an installation. Only the standard library is imported here: torch, the trainer and the
accelerators run in a child process, so that a package that crashes costs one line of the report.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import importlib.metadata
import importlib.util
import io
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
OPTIONAL = {
    "xformers": "for attention = xformers; sdpa needs nothing",
    "peft": "for a LoRA; training all weights needs nothing",
}
ANSWER = "dreambooth-probe "  # begins a child's lines that are meant for us
PATIENCE = 300  # seconds for one child
OK, MISSING, TOO_OLD, BROKEN = "ok", "missing", "too old", "does not work"


@dataclasses.dataclass
class Check:
    """One line of the report. ``mend`` is the one command that changes the state."""

    name: str
    needed: bool
    state: str = OK
    version: str = ""
    at_least: str = ""
    note: str = ""
    mend: str = ""


# ---- versions, from the files that pip and the registry read -------------------------------------


def read_project() -> tuple[dict[str, str], dict[str, list[str]]]:
    """The strings and the lists of strings of pyproject.toml (Python 3.10 has no reader)."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    strings = dict(re.findall(r'^([\w-]+) = "([^"]*)"', text, re.MULTILINE))
    lists = re.findall(r"^([\w-]+) = \[([^\]]*)\]", text, re.MULTILINE)
    return strings, {key: re.findall(r'"([^"]*)"', body) for key, body in lists}


def read_requirements() -> list[str]:
    return (ROOT / "requirements.txt").read_text(encoding="utf-8").split()


def split(requirement: str) -> tuple[str, str]:
    """``"diffusers>=0.30"`` -> name and lower bound, which may be empty."""
    name, _, bound = requirement.partition(">=")
    return name.strip(), bound.strip()


def release(version: str) -> tuple[int, ...]:
    """The numbers of a version, comparable: 2.10.0+cu128 -> (2, 10)."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(number) for number in found.group().split(".")] if found else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def check_package(requirement: str, mend: str, *, needed: bool = True, note: str = "") -> Check:
    """Whether a package can be found and is new enough; it is not imported."""
    name, bound = split(requirement)
    check = Check(name, needed, at_least=bound, note=note)
    if importlib.util.find_spec(name) is None:
        check.state = MISSING
    else:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            check.version = importlib.metadata.version(name) or ""
        if check.version and release(check.version) < release(bound):
            check.state = TOO_OLD
    check.mend = "" if check.state == OK else mend
    return check


def quoted(path: Path | str) -> str:
    """For a command line; without quotes where none are needed, because PowerShell minds them."""
    return f'"{path}"' if re.search(r"[\s()&]", str(path)) else str(path)


def pip(*arguments: str) -> str:
    """A command line for this very Python."""
    user_site = ["-s"] if sys.flags.no_user_site else []  # as ComfyUI's portable build starts it
    return " ".join([quoted(sys.executable), *user_site, "-m pip install", *arguments])


def check_packages() -> list[Check]:
    """Python, the host's packages, ours, and the optional ones."""
    strings, lists = read_project()
    bound = split(strings["requires-python"])[1]
    python = Check("python", True, version=platform.python_version(), at_least=bound)
    if release(python.version) < release(bound):
        python.state, python.note = TOO_OLD, "update ComfyUI's Python"
    comfyui = ROOT.parent.parent
    if (comfyui / "main.py").is_file():
        host = pip("-r", quoted(comfyui / "requirements.txt"))
    else:
        host = pip(*(f'"{one}"' for one in lists["host"] if split(one)[0] != "torch"))
    ours = pip("-r", quoted(ROOT / "requirements.txt"))
    checks = [python]
    checks += [check_package(one, host) for one in lists["host"]]
    checks += [check_package(one, ours) for one in read_requirements()]
    for name, note in OPTIONAL.items():
        # without --no-deps either of them may bring another torch along
        alone = pip("--no-deps", f'"{lists[name][0]}"')
        checks.append(check_package(lists[name][0], alone, needed=False, note=note))
    torch = next(check for check in checks if check.name == "torch")
    if torch.state == MISSING:
        # here pip would install a torch of its own choice
        torch.note = "run this with the Python that starts ComfyUI"
        again = f"COMFYUI_PYTHON {quoted(ROOT / 'install.py')}"
        for check in checks:
            check.mend = again if check.mend and check.needed else ""
    elif torch.state == TOO_OLD:
        torch.note, torch.mend = "update it the way ComfyUI was installed", ""
    return checks


# ---- probes: what runs in a child process --------------------------------------------------------


def find_device() -> tuple[Any, str, str, float | None]:
    """The device that ComfyUI would take: torch.device, kind, name, memory in GiB."""
    import torch

    if torch.cuda.is_available():
        device = torch.device("cuda", torch.cuda.current_device())
        card = torch.cuda.get_device_properties(device)
        kind = "ROCm" if torch.version.hip else "CUDA"
        return device, kind, card.name, card.total_memory / 2**30
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        card = torch.xpu.get_device_properties()
        return torch.device("xpu"), "XPU", card.name, card.total_memory / 2**30
    if torch.backends.mps.is_available():
        memory = torch.mps.recommended_max_memory() / 2**30
        return torch.device("mps"), "MPS", platform.machine(), memory
    return torch.device("cpu"), "CPU", platform.machine(), _main_memory()


def _main_memory() -> float | None:
    with contextlib.suppress(ImportError):
        import psutil

        return psutil.virtual_memory().total / 2**30
    with contextlib.suppress(AttributeError, ValueError, OSError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return None


def probe_device() -> dict[str, Any]:
    """Name, memory and one real forward and backward."""
    import torch

    device, kind, name, memory = find_device()
    x = torch.ones(64, 64, device=device, requires_grad=True)
    (x @ x).sum().backward()
    if float(x.grad.sum()) != 2 * 64**3:
        raise RuntimeError(f"{name} computes wrong numbers")
    rounded = None if memory is None else round(memory, 1)
    built_for = torch.version.cuda or getattr(torch.version, "hip", None)
    return {"kind": kind, "name": name, "memory_gib": rounded, "built_for": built_for}


def probe_precision() -> dict[str, Any]:
    """Whether the device computes in bf16, and what precision = auto takes."""
    from trainer.config import ConfigError
    from trainer.precision import resolve_precision

    device = find_device()[0]
    try:
        bf16 = resolve_precision("bf16", device) == "bf16"
    except ConfigError:
        bf16 = False
    return {"bf16": bf16, "auto": resolve_precision("auto", device)}


def probe_import() -> dict[str, Any]:
    """Import the whole trainer from this folder and listen for connections."""
    asked: list[str] = []

    def hook(event: str, arguments: tuple) -> None:
        if event in ("socket.connect", "socket.getaddrinfo"):
            asked.append(f"{event} {arguments[-1] if event == 'socket.connect' else arguments[0]}")

    sys.addaudithook(hook)
    start = time.perf_counter()
    module = importlib.import_module("trainer.loop")
    if not Path(module.__file__).resolve().is_relative_to(ROOT):
        raise ImportError(f"another package named trainer is in the way: {module.__file__}")
    return {"seconds": round(time.perf_counter() - start, 1), "network": asked}


def probe_xformers() -> dict[str, Any]:
    """One attention call and its gradient."""
    from trainer.precision import check_attention

    check_attention("xformers", find_device()[0])
    return {}


def probe_peft() -> dict[str, Any]:
    """A LoRA's gradient."""
    import torch

    from trainer.packages import check_peft

    check_peft()
    from peft import LoraConfig, inject_adapter_in_model

    device = find_device()[0]
    net = torch.nn.Sequential(torch.nn.Linear(8, 8))
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["0"]), net)
    net.to(device)(torch.ones(1, 8, device=device)).sum().backward()
    if not any(p.grad is not None for p in net.parameters() if p.requires_grad):
        raise RuntimeError("a LoRA made with it does not learn; train all weights instead")
    return {}


PROBES: dict[str, Callable[[], dict[str, Any]]] = {
    "device": probe_device,
    "import": probe_import,
    "precision": probe_precision,
    "xformers": probe_xformers,
    "peft": probe_peft,
}


def be_a_child(names: list[str]) -> None:
    """Run probes one after the other and print each answer as it comes."""
    sys.path.insert(0, str(ROOT))  # an embedded Python does not look beside the script
    for name in names:
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                answer = PROBES[name]()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a broken package raises anything
            reason = " ".join(str(error).split()) or type(error).__name__
            answer = {"error": reason[:400]}
        print(f"\n{ANSWER}{json.dumps({name: answer})}", flush=True)


def run_probes(names: list[str]) -> dict[str, dict[str, Any]]:
    """Every probe's answer; one that takes the process down is named and the rest run again."""
    letters = {"s": "no_user_site", "S": "no_site", "E": "ignore_environment"}
    flags = [f"-{letter}" for letter, flag in letters.items() if getattr(sys.flags, flag)]
    command = [sys.executable, "-B", *flags, str(ROOT / "install.py"), "--probe"]
    answers: dict[str, dict[str, Any]] = {}
    while left := [name for name in names if name not in answers]:
        try:
            done = subprocess.run(
                [*command, *left], capture_output=True, stdin=subprocess.DEVNULL, timeout=PATIENCE
            )
            output, ending = done.stdout, f"it crashed Python (exit code {done.returncode})"
        except subprocess.TimeoutExpired as error:
            output, ending = error.stdout or b"", f"no answer within {PATIENCE} s"
        for line in output.decode("ascii", "replace").splitlines():
            if line.startswith(ANSWER):
                answers.update(json.loads(line[len(ANSWER) :]))
        if silent := [name for name in left if name not in answers]:
            answers[silent[0]] = {"error": ending}
    return answers


# ---- report --------------------------------------------------------------------------------------


def look() -> dict[str, Any]:
    """Everything that is known, as JSON values."""
    checks = check_packages()
    by_name = {check.name: check for check in checks}
    device: dict[str, Any] = {}
    if by_name["torch"].state != MISSING:
        names = ["device", "import", "precision"]
        names += [name for name in OPTIONAL if by_name[name].state != MISSING]
        answers = run_probes(names)
        device = answers["device"]
        device.update({key: answers["precision"].get(key) for key in ("bf16", "auto")})
        checks.insert(1, check_device(device))
        checks.insert(-len(OPTIONAL), check_import(answers["import"]))
        for name in OPTIONAL:
            if name in answers:
                error = answers[name].get("error")  # says what to choose instead
                by_name[name].state = BROKEN if error else by_name[name].state
                by_name[name].note = error or f"one real step on the {device.get('kind')} worked"
    return {
        "version": read_project()[0]["version"],
        "python": sys.executable,
        "ready": all(check.state == OK for check in checks if check.needed) and bool(device),
        "device": device,
        "checks": [dataclasses.asdict(check) for check in checks],
    }


def check_device(facts: dict[str, Any]) -> Check:
    check = Check("device", True, version=facts.get("kind", ""))
    if "error" in facts:
        check.state = BROKEN
        check.note = facts["error"]
        return check
    memory = f", {facts['memory_gib']} GiB" if facts["memory_gib"] else ""
    bf16 = {True: "yes", False: "no", None: "unknown"}[facts["bf16"]]
    auto = f", precision = auto is {facts['auto']}" if facts["auto"] else ""
    check.note = f"{facts['name']}{memory}, bf16: {bf16}{auto}"
    if facts["kind"] == "CPU":
        check.note += "; a CPU trains small nets only"
        if facts["built_for"]:
            check.note += f"; torch is built for {facts['built_for']} but sees no card"
    return check


def check_import(answer: dict[str, Any]) -> Check:
    """Importing the trainer: works, and fetches nothing."""
    check = Check("import", True)
    if "error" in answer:
        check.state, check.note = BROKEN, answer["error"]
    elif answer["network"]:
        check.state, check.note = BROKEN, "reached for the network: " + "; ".join(answer["network"])
    else:
        check.note = f"the trainer, in {answer['seconds']} s; nothing was fetched"
    return check


def as_text(facts: dict[str, Any]) -> str:
    """The report in plain letters, whatever the console's code page."""
    lines = [f"ComfyUI-DreamBooth {facts['version']} with {facts['python']}"]
    mends: dict[tuple[str, str], list[str]] = {}
    for check in facts["checks"]:
        optional = "" if check["needed"] else "optional, "
        bound = f" (needs {check['at_least']})" if check["state"] == TOO_OLD else ""
        note = optional + check["note"] if check["note"] else ""
        state = check["state"] + bound
        row = f"  {check['name']:<13} {check['version']:<13} {state:<14} {note}"
        lines.append(row.rstrip())
        if check["mend"]:
            title = "To mend" if check["needed"] or check["state"] != MISSING else "If you want"
            mends.setdefault((title, check["mend"]), []).append(check["name"])
    ready = "Ready to train." if facts["ready"] else "Not ready to train: see above."
    lines.append(f"{ready} Nothing was changed.")
    for (title, command), names in mends.items():
        lines.append(f"{title} {', '.join(names)}:\n  {command}")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    parser.add_argument("--probe", nargs="+", choices=PROBES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.probe:
        be_a_child(options.probe)
        return 0
    with contextlib.suppress(AttributeError):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path may not fit the code page
    facts = look()
    print(json.dumps(facts, indent=2) if options.json else as_text(facts), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

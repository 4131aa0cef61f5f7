"""install.py as the extension manager runs it: a child process, on a copy of what it reads."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from conftest import ROOT
from pack import install

SITE = Path(sysconfig.get_path("purelib"))
ACCELERATORS = {"xformers", "peft"}

# Loaded by Python before the script: writes down who is called and what is written.
WATCH = """
import os, sys
def hook(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "os.remove", "os.rename", "os.mkdir"):
        said = f"{event} {arguments}"
    elif event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR):
        said = f"{event} {arguments[0]}"
    elif event == "subprocess.Popen" and "install.py" not in str(arguments[1]):
        said = f"{event} {arguments[1]}"
    else:
        return
    if not any(usual in said for usual in ("watched.txt", os.devnull, os.environ["SCRATCH"])):
        with open(os.environ["WATCHED"], "a") as file:
            print(said, file=file)
sys.addaudithook(hook)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The pack in a folder whose name no code page holds."""
    target = tmp_path / "Jürgen 図" / "dreambooth"
    target.mkdir(parents=True)
    for name in ("install.py", "pyproject.toml", "requirements.txt"):
        shutil.copy(ROOT / name, target)
    shutil.copytree(ROOT / "trainer", target / "trainer", ignore=shutil.ignore_patterns("__py*"))
    return target


def start(folder: Path, *arguments: str, python: tuple[str, ...] = (), **env: str) -> str:
    """What install.py prints; it must end with 0 and say nothing on stderr."""
    done = subprocess.run(
        [sys.executable, *python, "install.py", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONIOENCODING": "ascii"} | env,
        capture_output=True,
        text=True,
        encoding="ascii",
        timeout=600,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def report(folder: Path, **options) -> tuple[dict, dict]:
    """(everything, checks by name)."""
    facts = json.loads(start(folder, "--json", **options))
    return facts, {check["name"]: check for check in facts["checks"]}


def sites(folder: Path, hidden: str = "", **fakes: str) -> dict[str, object]:
    """Options under which Python sees our packages but ``hidden``, and ``fakes`` as modules.

    torchvision is left out: where it needs a .pth file to load, it would not load here.
    """
    left_out = ("torchvision", *ACCELERATORS, *filter(None, [hidden]))
    shown, faked = folder.parent / "shown", folder.parent / "fakes"
    for place in (shown, faked):
        place.mkdir()
    for entry in SITE.iterdir():
        if not entry.name.startswith(left_out):
            try:
                (shown / entry.name).symlink_to(entry)
            except OSError:
                pytest.skip("this machine makes no links")
    for module, source in fakes.items():
        path = faked / (module.replace("_", "/") + ".py")
        path.parent.mkdir()
        (path.parent / "__init__.py").touch()
        path.write_text(source)
    # without -S the real site-packages would come back
    return {"python": ("-S",), "PYTHONPATH": os.pathsep.join(map(str, (faked, shown)))}


def freeze() -> str:
    command = [sys.executable, "-m", "pip", "freeze"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_says_what_is_here_and_changes_nothing(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "watch").mkdir()
    (tmp_path / "watch" / "sitecustomize.py").write_text(WATCH)
    watched = tmp_path / "watched.txt"
    watched.touch()
    (tmp_path / "scratch").mkdir()  # torch makes a folder where the system keeps temporary files
    # and remembers it in the environment, where an earlier test may have left it
    names = ("TMPDIR", "TEMP", "TMP", "SCRATCH", "TORCHINDUCTOR_CACHE_DIR")
    scratch = dict.fromkeys(names, str(tmp_path / "scratch"))
    before = freeze(), sorted(folder.rglob("*"))
    environment = {"PYTHONPATH": str(tmp_path / "watch"), "WATCHED": str(watched)}
    facts, checks = report(folder, **environment, **scratch)
    assert (freeze(), sorted(folder.rglob("*"))) == before
    assert watched.read_text() == ""
    assert facts["ready"] and facts["version"]
    assert set(checks) >= {"python", "torch", "transformers", "tokenizers", "safetensors"}
    assert {"diffusers", "accelerate", "device", "import"} | ACCELERATORS <= set(checks)
    assert all(check["state"] == "ok" for check in checks.values() if check["needed"])
    device = facts["device"]
    assert device["kind"] in ("CUDA", "ROCm", "XPU", "MPS", "CPU") and device["name"]
    assert device["memory_gib"] > 0 and isinstance(device["bf16"], bool) and device["auto"]


def test_the_watch_sees_what_it_should(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WATCH)
    watched = tmp_path / "watched.txt"
    watched.touch()
    asks = "\nimport socket\nsocket.getaddrinfo('localhost', 1)\nopen('made', 'w').close()\n"
    init = folder / "trainer" / "__init__.py"
    init.write_text(init.read_text() + asks)
    environment = {"PYTHONPATH": str(tmp_path), "WATCHED": str(watched), "SCRATCH": "nowhere"}
    _, checks = report(folder, **environment)
    assert checks["import"]["state"] != "ok" and "localhost" in checks["import"]["note"]
    assert "socket.getaddrinfo" in watched.read_text() and "made" in watched.read_text()


def test_text_for_people_without_torch(folder: Path) -> None:
    text = start(folder, python=("-S",))
    rows = {line.split()[0]: line for line in text.splitlines() if line.startswith("  ")}
    for name in {"torch", "diffusers", "accelerate"} | ACCELERATORS:
        assert "missing" in rows[name], text
    assert "Python that starts ComfyUI" in rows["torch"]
    assert "Not ready to train" in text
    assert "pip install" not in text  # into the wrong Python, it would bring another torch
    assert f'COMFYUI_PYTHON "{str(folder).encode("ascii", "backslashreplace").decode()}' in text


def test_a_missing_requirement_is_named_with_its_command(folder: Path) -> None:
    facts, checks = report(folder, **sites(folder, hidden="diffusers"))
    assert not facts["ready"]
    assert checks["diffusers"]["state"] == "missing"
    requirements = folder / "requirements.txt"
    assert checks["diffusers"]["mend"].endswith(f'-m pip install -r "{requirements}"')
    assert checks["torch"]["state"] == checks["device"]["state"] == "ok"
    assert "diffusers" in checks["import"]["note"]


def test_a_working_accelerator(folder: Path) -> None:
    attention = "def memory_efficient_attention(q, k, v): return q + k + v"
    facts, checks = report(folder, **sites(folder, xformers_ops=attention))
    assert facts["ready"] and checks["xformers"]["state"] == "ok"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def memory_efficient_attention(q, k, v): raise RuntimeError('no kernel')", "no kernel"),
        ("import os\nos._exit(9)", "crashed"),
    ],
)
def test_a_broken_accelerator_costs_one_line(folder: Path, source: str, said: str) -> None:
    """Also one that takes Python down with it."""
    facts, checks = report(folder, **sites(folder, xformers_ops=source))
    assert facts["ready"], "they are optional"
    assert checks["xformers"]["state"] == "does not work" and said in checks["xformers"]["note"]
    assert said != "crashed" or "9" in checks["xformers"]["note"]


def test_after_a_crash_the_other_probes_still_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "ROOT", folder)
    script = (folder / "install.py").read_text(encoding="utf-8")
    crash = "def probe_device() -> dict[str, Any]:\n    os._exit(3)\n"
    script = script.replace("def probe_device() -> dict[str, Any]:\n", crash)
    (folder / "install.py").write_text(script, encoding="utf-8")
    answers = install.run_probes(["device", "precision"])
    assert "exit code 3" in answers["device"]["error"]
    assert answers["precision"]["auto"]


def test_bounds_come_from_the_project_file() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no reader to compare with")
    strings, lists = install.read_project()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert strings["version"] == project["project"]["version"]
    assert strings["requires-python"] == project["project"]["requires-python"]
    assert lists["host"] == project["tool"]["dreambooth"]["host"]
    assert lists["dependencies"] == project["project"]["dependencies"]
    for name, requirements in project["project"]["optional-dependencies"].items():
        assert name in install.OPTIONAL and lists[name] == requirements


def test_requirements_cannot_move_what_the_host_brought() -> None:
    """The manager hands every line to pip, so: lower bounds, two packages, nothing of the host."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    names = {install.split(line)[0] for line in lines}
    assert lines == install.read_project()[1]["dependencies"]
    assert all(line.replace(".", "").replace(">=", "").isalnum() for line in lines)
    assert not names & {"torch", "torchvision", "numpy", "transformers", "safetensors", "pillow"}


@pytest.mark.parametrize(
    ("version", "bound", "enough"),
    [
        ("2.10.0+cu128", "2.4", True),
        ("2.4", "2.4.0", True),
        ("0.9.9", "0.30", False),
        ("0.31.0.dev0", "0.30", True),
        ("5", "4.50.3", True),
        ("1.0", "", True),
    ],
)
def test_versions_are_compared_as_numbers(version: str, bound: str, enough: bool) -> None:
    assert (install.release(version) >= install.release(bound)) is enough


def test_an_old_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install.importlib.metadata, "version", lambda name: "0.1")
    found = install.check_package("diffusers>=0.30", "COMMAND")
    assert (found.state, found.mend) == (install.TOO_OLD, "COMMAND")
    facts = {"version": "", "python": "", "ready": False, "checks": [vars(found)]}
    assert "too old (needs 0.30)" in install.as_text(facts)


def test_the_script_itself_imports_the_standard_library_only() -> None:
    code = "import sys, install; print(*{name.partition('.')[0] for name in sys.modules})"
    command = [sys.executable, "-B", "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"torch", "numpy", "diffusers", "accelerate", "trainer"}

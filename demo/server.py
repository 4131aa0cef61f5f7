"""A ComfyUI server in folders of its own, started and stopped from Python.

Nothing of the user's ComfyUI is written to: models, input, output, temporary files, settings and
custom nodes all live under ``base``, and this pack is linked into its custom nodes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACK_NAME = "ComfyUI-DreamBooth"
FOLDERS = ("custom_nodes", "input", "output", "temp", "user", "models/checkpoints")
NOT_COPIED = (".git", ".venv", ".comfyui", ".demo", "__pycache__", ".pytest_cache", ".ruff_cache")
WINDOWS = os.name == "nt"


class ServerFailed(RuntimeError):
    """The server did not start or went away; the message holds the end of its log."""


@cache
def has_accelerator(python: str) -> bool:
    """Whether torch in that Python finds a device that ComfyUI can use."""
    script = (
        "import sys, torch\n"
        "xpu = getattr(torch, 'xpu', None)\n"
        "found = torch.cuda.is_available() or torch.backends.mps.is_available()\n"
        "sys.exit(0 if found or (xpu and xpu.is_available()) else 3)"
    )
    return subprocess.run([python, "-c", script], capture_output=True).returncode == 0


def link_pack(custom_nodes: Path, pack: Path = ROOT) -> Path:
    """Makes the pack appear in ``custom_nodes``: a link, or a copy where links are not allowed."""
    target = custom_nodes / PACK_NAME
    if target.is_symlink():
        target.unlink()
    elif target.exists():
        if (target / ".dreambooth-copy").exists():
            shutil.rmtree(target)
        else:
            return target
    try:
        target.symlink_to(pack, target_is_directory=True)
    except OSError:
        shutil.copytree(pack, target, ignore=shutil.ignore_patterns(*NOT_COPIED))
        (target / ".dreambooth-copy").touch()
    return target


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class ComfyServer:
    """A running ``main.py``; use it as a context manager or call ``start`` and ``stop``."""

    def __init__(
        self,
        comfyui: Path,
        base: Path,
        port: int = 0,
        extra_args: Sequence[str] = (),
        python: Path | None = None,
        pack: Path | None = ROOT,
    ) -> None:
        self.comfyui = Path(comfyui).resolve()
        self.base = Path(base).resolve()
        self.port = port or free_port()
        self.extra_args = tuple(extra_args)
        self.python = str(python or sys.executable)
        self.pack = pack
        self.log = self.base / "server.log"
        self.process: subprocess.Popen | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def folder(self, name: str) -> Path:
        """One of the server's folders: input, output, user, models/checkpoints."""
        return self.base / name

    def command(self) -> list[str]:
        arguments = [self.python, str(self.comfyui / "main.py")]
        arguments += ["--listen", "127.0.0.1", "--port", str(self.port)]
        arguments += ["--base-directory", str(self.base)]
        for name in ("output", "input", "user"):
            arguments += [f"--{name}-directory", str(self.folder(name))]
        # ComfyUI makes, and at its start and end empties, a folder ``temp`` inside this one.
        arguments += ["--temp-directory", str(self.folder("temp"))]
        arguments += ["--disable-auto-launch", "--database-url", "sqlite:///:memory:"]
        if "--cpu" not in self.extra_args and not has_accelerator(self.python):
            arguments.append("--cpu")
        return [*arguments, *self.extra_args]

    def start(self, timeout: float = 180) -> ComfyServer:
        """Starts the server and returns when it answers."""
        for name in FOLDERS:
            self.folder(name).mkdir(parents=True, exist_ok=True)
        if self.pack:
            link_pack(self.folder("custom_nodes"), self.pack)
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
        group = (
            {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
            if WINDOWS
            else {"start_new_session": True}  # Ctrl-C in the terminal is ours to handle
        )
        with self.log.open("w", encoding="utf-8") as out:
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=self.comfyui,
                env=environment,
                **group,
            )
        try:
            self._wait_until_ready(timeout)
        except BaseException:
            self.stop()
            raise
        return self

    def _wait_until_ready(self, timeout: float) -> None:
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            self.check()
            try:
                with urllib.request.urlopen(f"{self.url}/system_stats", timeout=5) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        raise ServerFailed(f"ComfyUI did not answer within {timeout:.0f} s.\n{self.tail()}")

    def check(self) -> None:
        """Raises with the end of the log if the server is no longer running."""
        if self.process is None:
            raise ServerFailed("The server was not started.")
        code = self.process.poll()
        if code is not None:
            raise ServerFailed(f"ComfyUI ended with exit code {code}.\n{self.tail()}")

    def tail(self, lines: int = 25) -> str:
        """Where the log is, and its end."""
        text = self.log.read_text("utf-8", errors="replace") if self.log.exists() else ""
        return "\n".join([f"Its log, {self.log}, ends with:", *text.splitlines()[-lines:]])

    def stop(self, patience: float = 10) -> None:
        """Asks the server to end, then ends its whole process group."""
        process, self.process = self.process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
        if not WINDOWS:
            # The group's id is its first process's; macOS refuses when only zombies are left.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        process.wait(patience)

    def __enter__(self) -> ComfyServer:
        return self if self.process else self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

"""Starting and asking the processes of `benchmarks.worker`."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

#: Where `python -m benchmarks` and the library in the source tree are found.
ROOT = Path(__file__).resolve().parents[1]
#: Seconds after which a peer that does not answer is given up.
PATIENCE = 300.0
#: Read at start by OpenMP, MKL, OpenBLAS and pydeform; other pools are set by the adapters.
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYDEFORM_NUM_THREADS")


class WorkerError(RuntimeError):
    """A peer failed; the message says how."""


class Worker:
    """The process of one peer for one number of threads."""

    def __init__(self, peer: str, threads: int, module: str = "benchmarks.worker") -> None:
        self.peer = peer
        self.threads = threads
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 (`close` does)
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, peer, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=ROOT,
            env=os.environ | dict.fromkeys(VARIABLES, str(threads)),
            encoding="utf-8",
        )

    def greeting(self) -> str:
        """Wait until the library is loaded and return its version."""
        return str(self._answer()["version"])

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send a command and return the answer.

        Raises
        ------
        WorkerError
            If the peer raised an exception, died or does not answer.
        """
        try:
            print(json.dumps({"do": do, **arguments}), file=self._stdin, flush=True)
        except BrokenPipeError:
            raise WorkerError(f"{self.peer} ended: {self._last_words()}") from None
        return self._answer()

    @property
    def _stdin(self) -> Any:
        return self._process.stdin

    def _answer(self) -> dict[str, Any]:
        stdout = self._process.stdout
        if stdout is None:
            raise WorkerError(f"{self.peer} was started without a pipe")
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            if not selector.select(PATIENCE):
                self.close()
                raise WorkerError(f"{self.peer} gave no answer for {PATIENCE:.0f} s")
        line = stdout.readline()
        if not line:
            self._process.wait()
            raise WorkerError(f"{self.peer} ended: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().strip().splitlines()
        return lines[-1] if lines else f"exit status {self._process.returncode}"

    def close(self) -> None:
        """End the process."""
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(BrokenPipeError):  # it died, and a command is still in the pipe
                if stream is not None:
                    stream.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


@contextmanager
def worker(peer: str, threads: int) -> Iterator[Worker]:
    """Start one process that is ended after the block."""
    process = Worker(peer, threads)
    try:
        yield process
    finally:
        process.close()


@contextmanager
def team(
    peers: Iterable[str], threads: int, module: str = "benchmarks.worker"
) -> Iterator[tuple[dict[str, Worker], dict[str, str], dict[str, str]]]:
    """Start a process of a module for each peer.

    Yields
    ------
    workers, versions, failures
        The processes that came up and their libraries' versions, and why the others did not, each
        by the name of the peer.
    """
    started = {name: Worker(name, threads, module) for name in peers}
    ready: dict[str, Worker] = {}
    versions: dict[str, str] = {}
    failures: dict[str, str] = {}
    try:
        for name, process in started.items():
            try:
                versions[name] = process.greeting()
                ready[name] = process
            except WorkerError as error:
                failures[name] = str(error)
        yield ready, versions, failures
    finally:
        for process in started.values():
            process.close()

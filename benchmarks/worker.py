"""One peer in a process of its own: ``python -m benchmarks.worker PEER THREADS``.

It reads commands from standard input and answers on standard output, one JSON object a line. Every
peer has its own process, because thread pools of several libraries disturb each other in one, most
read their number of threads only when they start, and one that crashes takes nothing with it.
"""

from __future__ import annotations

import gc
import json
import os
import re
import resource
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any, TextIO

from benchmarks.cases import Case, tiny
from benchmarks.peers import PEERS, Peer
from benchmarks.peers.base import Prepared

#: Threads that wait for work spin for a while; the next contestant waits until they sleep.
PAUSE = 0.02
#: Calls are repeated until they take this long together, so that the clock is exact enough.
SHORTEST = 0.01
#: A call longer than this needs no warm-up before it: what is cold at first does not count.
LONGEST_WARMED = 0.5


class Server:
    """Answers the commands for one peer."""

    def __init__(self, peer: Peer, problems: Any = Case) -> None:
        self.peer = peer
        self.problems = problems
        self.prepared: Prepared | None = None
        self.seconds = 0.0

    def prepare(self, case: dict[str, Any], direction: str) -> dict[str, Any]:
        """Set up one case, check its results and see how long a call takes."""
        self.release()
        problem = self.problems.from_json(case)
        arrays = problem.arrays(direction)
        prepared = self.peer.prepare(problem, arrays, direction)
        results = prepared.results(prepared.run())
        wrong = self.peer.wrong(problem, arrays, direction, results)
        del arrays, results
        if wrong:
            return {"disagrees": wrong}
        self.prepared = prepared
        self.seconds = clock(prepared.run, 1)  # the first call may have loaded and built
        return {"seconds": self.seconds}

    def time(self) -> dict[str, Any]:
        """Time one round: a warm-up, then as many calls as the clock needs."""
        if self.prepared is None:
            raise RuntimeError("time: nothing is prepared")
        time.sleep(PAUSE)
        if self.seconds < LONGEST_WARMED:
            self.prepared.run()
        calls = max(1, ceil(SHORTEST / self.seconds))
        return {"seconds": clock(self.prepared.run, calls) / calls}

    def memory(self, case: dict[str, Any], direction: str) -> dict[str, Any]:
        """Measure the peak of one call, in a process that did nothing else before.

        Answers bytes: `call` is what the call adds to what is there before it, results included;
        `total` what the process grew by from before the arguments were made; `arguments` and
        `results` are the sizes of the arrays.
        """
        problem = Case.from_json(case)
        small = tiny(problem)
        self.peer.prepare(
            small, small.arrays(direction), direction
        ).run()  # allocates what stays for good
        before = resident()
        arrays = problem.arrays(direction)
        prepared = self.peer.prepare(problem, arrays, direction)
        baseline = resident()
        forget_peak()
        kept = prepared.run()
        highest = peak()
        del kept
        return {
            "call": highest - baseline,
            "total": highest - before,
            "arguments": problem.argument_bytes(direction),
            "results": problem.result_bytes(direction),
        }

    def release(self) -> dict[str, Any]:
        """Let go of the case."""
        self.prepared = None
        gc.collect()
        return {}


def clock(run: Callable[[], Any], calls: int) -> float:
    """Return the seconds that some calls take together, without garbage collection."""
    gc.disable()
    try:
        start = time.perf_counter()
        for _ in range(calls):
            run()
        return time.perf_counter() - start
    finally:
        gc.enable()


def peak() -> int:
    """Return the most bytes of memory that the process has had at once.

    Linux counts in ``ru_maxrss`` what the parent had when it started this process; its own peak is
    in ``/proc``.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024
    except (OSError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def resident() -> int:
    """Return the bytes of memory that the process has now; the peak where that is not known."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return peak()
    return pages * resource.getpagesize()


def forget_peak() -> None:
    """Let the peak start from what there is now, where the system can do that."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def serve(
    name: str,
    threads: int,
    commands: TextIO,
    answers: TextIO,
    peers: Mapping[str, Any],
    problems: Any,
) -> None:
    """Answer commands until there are no more; an exception is an answer, too."""

    def answer(function: Callable[[], dict[str, Any]]) -> bool:
        try:
            said, fine = function(), True
        except Exception as error:  # noqa: BLE001  (a peer may raise anything)
            first = next(iter(str(error).splitlines()), "")
            said, fine = {"error": f"{type(error).__name__}: {first}"}, False
        answers.write(json.dumps(said) + "\n")
        answers.flush()
        return fine

    server: list[Server] = []

    def load() -> dict[str, Any]:
        server.append(Server(peers[name](threads), problems))
        return {"version": server[0].peer.version()}

    if not answer(load):
        return
    for line in commands:
        command = json.loads(line)
        method = getattr(server[0], command.pop("do"))
        answer(partial(method, **command))


def main(peers: Mapping[str, Any] = PEERS, problems: Any = Case) -> None:
    """Serve one of `peers`, on problems of a class with `from_json` and `arrays`.

    Standard output is kept for the answers: libraries that print do so on standard error.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(sys.argv[1], int(sys.argv[2]), sys.stdin, answers, peers, problems)


if __name__ == "__main__":
    main()

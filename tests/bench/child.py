"""Other processes to measure with: each answers requests, a JSON line each, until stdin ends."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import IO, Any, Self

ANSWER_TIMEOUT = 300.0
"""Seconds a child has for one answer."""
END_TIMEOUT = 5.0
"""Seconds a child has to end once its stdin is closed."""


class Child:
    """A running ``python -m tests.bench.processes.MODULE``.

    A context manager: on leaving, also by Ctrl-C, the process ends.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self._name = module
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"tests.bench.processes.{module}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C is for the parent alone; its end ends the children.
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, name: str, *arguments: Any) -> Any:
        """Have the child call one of its functions; returns the result."""
        self.tell(name, *arguments)
        return self.answer()

    def tell(self, name: str, *arguments: Any) -> None:
        """The first half of `ask`, for children that work at the same time."""
        pipe = _open(self._process.stdin)
        pipe.write(json.dumps([name, arguments]) + "\n")
        pipe.flush()

    def answer(self) -> Any:
        """The second half of `ask`."""
        pipe = _open(self._process.stdout)
        ready, _, _ = select.select([pipe], [], [], ANSWER_TIMEOUT)
        line = pipe.readline() if ready else ""
        if not line:
            raise RuntimeError(f"{self._name} gave no answer; what it printed says why")
        return json.loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _open(self._process.stdin).close()
        try:
            self._process.wait(END_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _open(self._process.stdout).close()


def answer_requests(functions: Mapping[str, Callable[..., Any]]) -> None:
    """The child's side: call what the parent asks for until it closes the pipe."""
    for line in sys.stdin:
        name, arguments = json.loads(line)
        print(json.dumps(functions[name](*arguments)), flush=True)


def _open(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe

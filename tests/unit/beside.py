"""Acts at each instruction of what runs: what another thread may do there, without one."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Any


class Beside:
    """Traces what a module does in the block, and acts once before the instruction of a number.

    Args:
        module: whose instructions are counted.
        at: the number.
        act: is called there, untraced.
    """

    def __init__(self, module: ModuleType, at: int, act: Callable[[], object]) -> None:
        self._file = module.__file__
        self._act = act
        self._left = at

    @property
    def has_acted(self) -> bool:
        return self._left < 0

    def __enter__(self) -> None:
        sys.settrace(self._trace)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename != self._file:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            self._left -= 1
            if self._left == -1:
                self._act()
        return self._trace


def at_each_instruction(check: Callable[[int], bool]) -> None:
    """Call `check` in a loop for the number of each, until it finds none of that number."""

    async def main() -> None:
        assert check(0)
        assert any(not check(at) for at in range(1, 1000))

    asyncio.run(main())

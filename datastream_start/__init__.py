"""Where the program `datastream` begins: Ctrl-C ends it silently also while it is being loaded.

This is no part of `datastream`: a module there is run only after all that the package imports.
"""

import os
import signal
from types import FrameType


def main() -> None:
    """Run the command line."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Else it is ignored, as in what a shell runs in the background.
        signal.signal(signal.SIGINT, _leave)
    from datastream.cli import main as run

    run()


def _leave(signum: int, frame: FrameType | None) -> None:
    os._exit(128 + signum)

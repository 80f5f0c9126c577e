"""Several stores laid over each other, as one."""

from datastream._overlay.store import Held, Overlay, overlay

__all__ = ["Held", "Overlay", "overlay"]

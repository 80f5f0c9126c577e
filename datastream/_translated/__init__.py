"""One store in the words of another: keys and values spelled otherwise."""

from datastream._translated.store import translated

__all__ = ["translated"]

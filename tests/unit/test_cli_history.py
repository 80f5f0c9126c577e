"""What `datastream history` prints of what a server tells."""

from __future__ import annotations

from datastream import Entry, Revision
from datastream.cli._history import _plain_line


def test_no_text_of_a_server_controls_a_terminal():
    odd = "\x1b]0;owned\x07\x9b31m\u202e\r\b"
    entry = Entry("k", odd.encode(), "str", None, odd)
    line = _plain_line(Revision(entry, odd, odd, odd))
    operation, point, _, author, value, message = line.split("\t")
    assert operation == "PUT"
    assert all(text.isprintable() for text in (point, author, value, message))

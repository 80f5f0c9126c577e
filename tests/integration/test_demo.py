"""``datastream demo``, as real processes: what it shows, and that nothing stays behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from datastream import Entry
from datastream.cli._demo_view import RatesTable, sparkline
from datastream.cli._rates import load_rates

pytest.importorskip("datastream_grpc")

TIMEOUT = 60.0


class Demo:
    """The demo with its temporary files below `folder`."""

    def __init__(self, folder: Path, *options: str, stdout: int = subprocess.PIPE) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "datastream.cli", "demo", *options],
            stdout=stdout,
            stderr=subprocess.PIPE,
            env=os.environ | {"TMPDIR": str(folder)},
            text=True,
        )

    def lines_until(self, start: str) -> list[str]:
        """What it prints, up to a line that begins with `start`."""
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if line.startswith(start):
                return lines
        raise AssertionError(f"the demo ended without {start!r}: {lines[-5:]}")

    def client(self) -> psutil.Process:
        (client,) = psutil.Process(self.process.pid).children()
        return client

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=TIMEOUT)
        return self.process.returncode, out or "", err

    def clean_up(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.communicate(timeout=TIMEOUT)


@pytest.fixture
def demos() -> Iterator[list[Demo]]:
    demos: list[Demo] = []
    # A shell that runs the tests in the background has them, and so their children, ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield demos
    signal.signal(signal.SIGINT, before)
    for demo in demos:
        demo.clean_up()
        assert list(demo.folder.iterdir()) == []


def test_the_rates_are_complete() -> None:
    days = load_rates()
    assert (len(days), days[0].date, days[-1].date) == (88, "2026-07-01", "2026-10-30")
    assert {len(rates) for _, rates in days} == {29}


def test_the_table_fits_a_small_terminal() -> None:
    table = RatesTable()
    for date, rates in load_rates()[:2]:
        entries = [Entry(f"fx/{name}", b"%r" % rate, "float") for name, rate in rates.items()]
        table.take(date, entries, 0.001)
    console = Console(width=40, height=12)
    with console.capture() as capture:
        console.print(table)
    title, *rows, foot = capture.get().splitlines()[:-1]
    assert title == "1 euro on 2026-07-02"
    assert [row[:3] for row in rows] == ["CHF", "CNY", "GBP", "JPY", "USD"]
    assert rows[-1].split() == ["USD", "1.1399", "▲", "0.14%", "▁█"]
    assert "29 updates" in foot


def test_a_sparkline_goes_from_the_lowest_to_the_highest() -> None:
    assert sparkline([1.0, 4.5, 8.0]) == "▁▅█"
    assert sparkline([2.0, 2.0]) == "▁▁"


def test_every_update_reaches_the_other_process(demos: list[Demo], tmp_path: Path) -> None:
    demo = Demo(tmp_path)
    demos.append(demo)
    code, out, err = demo.end()
    assert (code, err) == (0, "")
    days = re.findall(r"^(\d{4}-\d\d-\d\d)\t(\d+) updates\t", out, re.MULTILINE)
    counts = re.search(r"88 days: (\d+) updates written to SQLite, (\d+) delivered", out)
    assert counts is not None
    written, delivered = int(counts[1]), int(counts[2])
    assert written == 2496
    assert delivered == sum(int(updates) for _, updates in days)
    # On a machine that is too busy days may arrive together: then it has to be said.
    assert (len(days), delivered) == (88, written) or "The client was slower" in out
    assert re.search(r"^2026-10-30\t.*USD 1\.1172", out, re.MULTILINE)
    assert re.search(r"p50 \d+\.\d ms, p99 \d+\.\d ms", out)
    assert 'store.watch("fx/").subscribe(print)' in out


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_gets_a_live_table(demos: list[Demo], tmp_path: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    demo = Demo(tmp_path, "--pace", "0.005", stdout=theirs)
    demos.append(demo)
    os.close(theirs)
    shown = _read_terminal(ours)
    code, _, err = demo.end()
    assert (code, err) == (0, "")
    assert "1 euro on 2026-10-30" in shown
    assert "▲" in shown
    assert "88 days" in shown
    # The cursor, hidden while the table moves, is shown again.
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l") > -1


def _read_terminal(terminal: int) -> str:
    shown = b""
    try:
        while chunk := os.read(terminal, 65536):
            shown += chunk
    except OSError:
        # EIO is how Linux says that the last program left the terminal.
        pass
    finally:
        os.close(terminal)
    return shown.decode()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_both_processes(
    demos: list[Demo], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    demo = Demo(tmp_path, "--pace", "30")
    demos.append(demo)
    demo.lines_until("2026-07-01")
    client = demo.client()
    demo.process.send_signal(number)
    assert demo.end()[::2] == (code, "")
    assert not client.is_running()


@pytest.mark.chaos
def test_a_reader_that_leaves_ends_the_demo_quietly(demos: list[Demo], tmp_path: Path) -> None:
    demo = Demo(tmp_path)
    demos.append(demo)
    demo.lines_until("2026-07-01")
    assert demo.process.stdout is not None
    demo.process.stdout.close()
    code, _, err = demo.end()
    assert (code, err) == (0, "")


@pytest.mark.chaos
def test_a_client_that_dies_is_told_in_one_line(demos: list[Demo], tmp_path: Path) -> None:
    demo = Demo(tmp_path)
    demos.append(demo)
    demo.lines_until("2026-07-01")
    demo.client().kill()
    code, _, err = demo.end()
    assert code == 1
    assert err == "datastream: the demo's client failed, exit code -9\n"

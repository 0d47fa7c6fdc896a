import io
import time

from rich.console import Console
from test_console import TRIALS, trial

from study.progress_line import ProgressLine, Snapshot


def running(fractions):
    return Snapshot([*TRIALS[:2], trial(4, "begun")], fractions)


def test_the_line_says_how_far_it_is_and_how_long_it_takes():
    progress = ProgressLine(Console(), 5, 2, lambda: Snapshot([TRIALS[0]], {}))
    # Since the start 1.5 trials were done in 60 s, and 2.5 are left.
    line = progress.line(running({4: 0.5}), 60.0)
    assert line == "trials 2/5  fits 5  running 1  best 0.7000  1:40 left"
    assert len(line) <= 60
    assert progress.line(Snapshot([TRIALS[0]], {4: 0.0}), 1.0).endswith("--:-- left")


def test_without_a_terminal_plain_lines_come_now_and_then_and_never_twice():
    out = io.StringIO()
    snapshots = iter([running({4: 0.1})] * 3)
    last = running({4: 0.1})
    with ProgressLine(
        Console(file=out, width=80), 5, 1, lambda: next(snapshots, last), plain_seconds=0.05
    ) as progress:
        progress.before = progress._done(last)  # Then no time is left to estimate.
        time.sleep(0.4)
    assert out.getvalue() == "trials 2/5  fits 2  running 1  best 0.7000  --:-- left\n"

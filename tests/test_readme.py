"""The README's commands exist: each one parses."""

import re
import shlex
from pathlib import Path

import pytest

from ffcad.commands import main as ffcad
from study.flags import make_parser

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.strip().removeprefix("$ ")
    for block in re.findall(r"```[a-z]*\n(.*?)```", TEXT, flags=re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if re.match(r"\s*(\$ )?(\.venv/bin/|make )", line)
]


def test_there_are_commands_to_check():
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_parses(command, capsys):
    words = shlex.split(command, comments=True)
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert re.search(rf"^{words[1]}:", makefile, flags=re.MULTILINE)
        return
    assert Path(words[0]).name == "python"
    if words[1] == "study/run.py":
        make_parser().parse_args(words[2:])
    elif words[1:3] == ["-m", "study"]:
        from study.__main__ import main

        with pytest.raises(SystemExit, match="0"):
            main([words[3], "--help"])
    elif words[1:3] == ["-m", "ffcad"]:
        assert ffcad([words[3], "--help"]) == 0
        shown = capsys.readouterr().out
        assert all(flag in shown for flag in words if flag.startswith("--"))
    else:
        assert words[1:3] == ["-m", "mlflow"] or (ROOT / words[1]).is_file()


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(((?!http)[^)#]+)", TEXT))))
def test_each_link_leads_to_a_file(path):
    assert (ROOT / path).exists()

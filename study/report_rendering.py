"""One report, three renderings: a page that needs no other file, Markdown, LaTeX.

All of them show the same entries; what differs is how characters are escaped and how pictures are
kept: inside the page, beside the other two.
"""

import re
import unicodedata
from textwrap import wrap

from ffcad.pages import page_environment
from study.report_tables import (
    STRONG,
    Block,
    Column,
    Entry,
    Figure,
    Listing,
    Report,
    Table,
    Text,
)

PICTURES = "pictures"

# LaTeX breaks no table over pages; so many rows find room on one.
LATEX_ROWS = 40
# Nor does it set columns beside one another for which there is no room; so many characters find it.
# An entry is wrapped that has more than the second number, a head where it has more than the third.
LATEX_CHARACTERS, LATEX_WRAPPED, LATEX_HEAD = 100, 60, 14
# Of LaTeX's characters and of ours that a font of LaTeX has not.
LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "\N{MINUS SIGN}": "$-$",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{EN DASH}": "--",
    "\N{LEFT DOUBLE QUOTATION MARK}": "``",
    "\N{RIGHT DOUBLE QUOTATION MARK}": "''",
    "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}",
    "\N{DEGREE SIGN}": r"\textdegree{}",
}
# In what is typed, a quotation mark is not set as a comma.
LATEX_TYPED = {"'": r"\textquotesingle{}"}
# What pdflatex can set besides: Latin-1, and the other letters of its encoding T1.
LATEX_LETTERS = {chr(code) for code in range(0xA1, 0x100) if code != 0xAD} | set(
    "ĂăĄąĆćČčĎďĐđĘęĚěĞğİıĹĺĽľŁłŃńŇňŊŋŐőŒœŔŕŘřŚśŞşŠšŢţŤťŮůŰűŸŹźŻżŽž"
)
# Between two that LaTeX would join to a dash or another quotation mark.
LATEX_LIGATURES = re.compile("(?<=-)(?=-)|(?<=')(?=')|(?<=,)(?=,)")
MARKDOWN = {
    **{character: f"\\{character}" for character in r"\`*_[]#|~$!"},
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
}


def html(report: Report) -> str:
    """A page that is whole by itself."""
    environment = page_environment("study")
    environment.filters["kind"] = lambda block: type(block).__name__.lower()
    return environment.get_template("report.html").render(report=report)


def markdown(report: Report) -> str:
    """GitHub's Markdown; pictures are files in the folder `pictures` beside it."""
    parts = [
        f"# {_markdown_text(report.study)}",
        f"**{_markdown_text(report.question)}**",
        _markdown_text(report.state),
    ]
    for section in report.sections:
        parts.append(f"## {_markdown_text(section.title)}")
        parts += [_markdown_block(block) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def _markdown_block(block: Block) -> str:
    if isinstance(block, Text):
        text = _markdown_text(block.text)
        return f"> **Warning:** {text}" if block.warning else text
    if isinstance(block, Listing):
        # Longer than any fence inside.
        longest = max([2, *(len(m) for line in block.lines for m in re.findall("`+", line))])
        fence = "`" * (longest + 1)
        return "\n".join([fence, *block.lines, fence])
    if isinstance(block, Figure):
        picture = f"![{_markdown_text(block.alternative)}]({PICTURES}/{block.file})"
        return f"{picture}\n\n*{_markdown_text(f'{block.title}. {block.caption}')}*"
    heads = [_markdown_text(_heading(column)) for column in block.columns]
    rules = ["---:" if column.numeric else ":---" for column in block.columns]
    rows = [[_markdown_entry(entry) for entry in row] for row in block.rows]
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, rules, *rows)]
    notes = [_markdown_text(note) for note in block.notes]
    return "\n\n".join([f"**{_markdown_text(block.title)}**", "\n".join(lines), *notes])


def _markdown_entry(entry: Entry) -> str:
    text = _markdown_text(entry.text)
    return f"**{text}**" if entry.tone == STRONG and text.strip() else text


def _markdown_text(text: str) -> str:
    escaped = "".join(MARKDOWN.get(character, character) for character in _line(text))
    # At the beginning of a line these would begin a list.
    return re.sub(r"^([-+]|\d+[.)])(?=\s)", lambda m: m[1][:-1] + "\\" + m[1][-1], escaped)


def latex(report: Report) -> str:
    """A document for pdflatex, lualatex or xelatex; pictures are files beside it, as in Markdown.

    Of a character that pdflatex cannot set it shows the code point.
    """
    lines = [
        r"\documentclass{article}",
        r"\usepackage{iftex}",
        r"\ifPDFTeX",
        r"\usepackage[T1]{fontenc}",
        r"\usepackage[utf8]{inputenc}",
        r"\newcommand{\other}[1]{U+#1}",
        r"\else",
        r"\usepackage{fontspec}",
        r'\newcommand{\other}[1]{\symbol{"#1}}',
        r"\fi",
        r"\usepackage[margin=2cm]{geometry}",
        r"\usepackage{booktabs,float,graphicx,textcomp}",
        rf"\title{{{_latex_text(report.question)}}}",
        rf"\author{{Study {_latex_text(report.study)}}}",
        rf"\date{{{_latex_text(report.state)}}}",
        r"\begin{document}",
        r"\maketitle",
    ]
    for section in report.sections:
        lines += ["", rf"\section*{{{_latex_text(section.title)}}}"]
        for block in section.blocks:
            lines += ["", *_latex_block(block)]
    return "\n".join([*lines, "", r"\end{document}", ""])


def _latex_block(block: Block) -> list[str]:
    if isinstance(block, Text):
        text = _latex_text(block.text)
        return [rf"\textbf{{Warning:}} {text}" if block.warning else text]
    if isinstance(block, Listing):
        # Not verbatim, which breaks no line.
        lines = [rf"\texttt{{{_latex_text(line, LATEX_TYPED)}}}\\" for line in block.lines]
        return [r"{\raggedright\small", *lines, "}"]
    if isinstance(block, Figure):
        return [
            r"\begin{figure}[H]",
            r"\centering",
            rf"\includegraphics[width=\linewidth]{{{PICTURES}/{block.file}}}",
            rf"\caption{{{_latex_text(f'{block.title}. {block.caption}')}}}",
            r"\end{figure}",
        ]
    return _latex_table(block)


def _latex_table(table: Table) -> list[str]:
    """The table; a long or wide one in parts, each with its heads and the first column, because one
    that LaTeX breaks itself cannot be made smaller, and a wide one made smaller cannot be read."""
    widths = [_width(table, i) for i in range(len(table.columns))]
    lines: list[str] = []
    for first in range(0, max(1, len(table.rows)), LATEX_ROWS):
        for columns in _side_by_side(widths):
            said = f"{table.title}, continued." if lines else None
            lines += [
                r"\begin{table}[H]",
                r"\centering",
                # One number for all parts.
                *([r"\addtocounter{table}{-1}"] if said else []),
                rf"\caption{{{_latex_text(said or ' '.join((f'{table.title}.', *table.notes)))}}}",
                # A table that is wider than the page is made smaller, others are left as they are.
                r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
                *_latex_part(table, slice(first, first + LATEX_ROWS), columns, widths),
                "}",
                r"\end{table}",
            ]
    return lines


def _side_by_side(widths: list[int]) -> list[list[int]]:
    """Which columns find room beside one another: lists of their indices, each with the first."""
    parts, used = [[0]], widths[0]
    for i, width in enumerate(widths[1:], 1):
        if used + width > LATEX_CHARACTERS and len(parts[-1]) > 1:
            parts.append([0])
            used = widths[0]
        parts[-1].append(i)
        used += width
    return parts


def _width(table: Table, index: int) -> int:
    """The characters that a column needs; its head may take several lines."""
    column = table.columns[index]
    entries = max((len(row[index].text) for row in table.rows), default=0)
    if entries > LATEX_WRAPPED and not column.numeric:
        entries = LATEX_WRAPPED
    words = max(map(len, _heading(column).split()))
    return max(entries, words, min(len(_heading(column)), LATEX_HEAD))


def _latex_part(table: Table, rows: slice, columns: list[int], widths: list[int]) -> list[str]:
    forms, heads = [], []
    for i in columns:
        form = "r" if table.columns[i].numeric else "l"
        heads.append(_latex_head(wrap(_heading(table.columns[i]), widths[i]), form))
        if form == "l" and any(len(row[i].text) > LATEX_WRAPPED for row in table.rows):
            form = rf"p{{{widths[i] / 2:g}em}}"
        forms.append(form)
    return [
        rf"\begin{{tabular}}{{{''.join(forms)}}}",
        r"\toprule",
        rf"{' & '.join(heads)} \\",
        r"\midrule",
        *(" & ".join(_latex_entry(row[i]) for i in columns) + r" \\" for row in table.rows[rows]),
        r"\bottomrule",
        r"\end{tabular}",
    ]


def _latex_head(lines: list[str], form: str) -> str:
    text = r"\\".join(_latex_text(line) for line in lines)
    return rf"\begin{{tabular}}[b]{{@{{}}{form}@{{}}}}{text}\end{{tabular}}" if lines[1:] else text


def _latex_entry(entry: Entry) -> str:
    text = _latex_text(entry.text)
    # Else LaTeX takes a bracket after the end of a row for a length.
    text = f"{{{text}}}" if text.startswith("[") else text
    return rf"\textbf{{{text}}}" if entry.tone == STRONG else text


def _latex_text(text: str, typed: dict[str, str] | None = None) -> str:
    """Text in which nothing means anything to LaTeX.

    Args:
        text: any.
        typed: character -> LaTeX, where it is other than in prose.
    """
    parts = LATEX_LIGATURES.split(unicodedata.normalize("NFC", _line(text)))
    known = LATEX | (typed or {})
    return "{}".join("".join(_latex_character(c, known) for c in part) for part in parts)


def _latex_character(character: str, known: dict[str, str]) -> str:
    if character in known:
        return known[character]
    plain = character.isascii() and character.isprintable()
    return character if plain or character in LATEX_LETTERS else rf"\other{{{ord(character):04X}}}"


def _heading(column: Column) -> str:
    return f"{column.title} ({column.unit})" if column.unit else column.title


def _line(text: str) -> str:
    """A user's text on one line."""
    return " ".join(text.split())

"""One report in three renderings: the same numbers, and no character that means something else."""

import re
from html.parser import HTMLParser

import pytest

from study.report_rendering import LATEX_CHARACTERS, LATEX_ROWS, html, latex, markdown
from study.report_tables import (
    MINUS,
    STRONG,
    Column,
    Entry,
    Figure,
    Listing,
    Report,
    Section,
    Table,
    Text,
)

NASTY = r"a<b> | 50 % of x_1 & $y$ {z} ~ ^ # \n *bold* `code` [1]"
PICTURE = Figure(title="A picture", caption=NASTY, draw=lambda: b"\x89PNG", alternative=NASTY)
REPORT = Report(
    study="mine_1",
    question=f"Is {NASTY} better?",
    state="3 of 4 fits finished",
    sections=(
        Section(
            f"On {NASTY}",
            (
                Text(NASTY),
                Text("look <here>", warning=True),
                Table(
                    title=NASTY,
                    columns=(Column("Cell", numeric=False), Column("Loc.", "%")),
                    rows=(
                        (Entry(NASTY, STRONG), Entry("73.1 ± 0.4")),
                        (Entry("[low"), Entry(f"{MINUS}1.25 [{MINUS}2.00, {MINUS}0.50]")),
                    ),
                    notes=(f"See {NASTY}.",),
                ),
                Figure(
                    title="A picture", caption=NASTY, draw=lambda: b"\x89PNG", alternative=NASTY
                ),
                Listing(("python -m x --set a=1 | less", "```")),
            ),
        ),
    ),
)
NUMBER = re.compile(r"[+-]?\d+\.\d+")


class Reader(HTMLParser):
    """Collects tables' texts and checks that what is opened is closed."""

    EMPTY = ("meta", "img", "br", "link")

    def __init__(self):
        super().__init__()
        self.open, self.rows, self.tags = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.EMPTY:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def read(page):
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def test_the_page_parses_and_shows_a_name_with_any_character_as_it_is():
    reader = read(html(REPORT))
    assert reader.rows[1] == [NASTY, "73.1 ± 0.4"]
    assert "b" not in [tag for tag, _ in reader.tags if tag == "b"][1:]  # the figure's title only


def test_the_page_needs_no_other_file():
    page = html(REPORT)
    sources = [a["src"] for _, a in read(page).tags if "src" in a]
    assert sources == ["data:image/png;base64,iVBORw=="]
    assert not re.search(r"https?://|<script|<link", page)


def test_markdown_tables_have_as_many_columns_in_every_row():
    lines = [line for line in markdown(REPORT).splitlines() if line.startswith("|")]
    # A bar of a name is escaped.
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {3}
    assert len(lines) == 4


def test_markdown_escapes_what_would_be_markup():
    text = markdown(REPORT)
    assert r"a&lt;b&gt; \| 50 % of x\_1 &amp; \$y\$" in text
    assert r"\*bold\* \`code\` \[1\]" in text
    assert "<b>" not in text
    # A fence is longer than what is fenced.
    assert "````\npython -m x --set a=1 | less\n```\n````" in text


def test_latex_balances_its_braces_and_escapes_what_is_special():
    text = latex(REPORT)
    bare = re.sub(r"\\[\\{}%&#$_]", "", text)
    depth = 0
    for character in bare:
        depth += (character == "{") - (character == "}")
        assert depth >= 0
    assert depth == 0
    escaped = (
        r"a\textless{}b\textgreater{} \textbar{} 50 \% of x\_1 \& \$y\$ \{z\} "
        r"\textasciitilde{} \textasciicircum{} \# \textbackslash{}n"
    )
    assert escaped in text
    assert text.count(r"\begin{") == text.count(r"\end{")
    for rule in ("toprule", "midrule", "bottomrule"):
        assert text.count(f"\\{rule}") == 1
    # Behind a row's end a bracket would be its length.
    assert "\n{[low} &" in text


def document(*blocks):
    return latex(Report(study="s", question="q", state="", sections=(Section("t", blocks),)))


def test_latex_has_long_tables_in_parts_with_the_heads_of_the_first():
    table = Table(
        title="Long",
        columns=(Column("Cell", numeric=False), Column("Loc.", "%")),
        rows=tuple((Entry(f"row{i}."), Entry("1")) for i in range(2 * LATEX_ROWS + 1)),
        notes=("How to read it.",),
    )
    text = document(table)
    assert text.count(r"\begin{table}[H]") == 3
    assert text.count(r"Cell & Loc. (\%) \\") == 3
    assert text.count("How to read it.") == 1
    assert text.count(r"\caption{Long, continued.}") == 2
    # All parts have the number of the first, and every row is there, in order.
    assert text.count(r"\addtocounter{table}{-1}") == 2
    shown = re.findall(r"row(\d+)\.", text)
    assert shown == [str(i) for i in range(2 * LATEX_ROWS + 1)]
    empty = Table(title="None", columns=(Column("Cell"),), rows=())
    assert document(empty).count(r"\begin{table}[H]") == 1


def test_latex_has_wide_tables_in_parts_that_can_be_read():
    heads = [f"Difference number {i} with its interval" for i in range(12)]
    table = Table(
        title="Wide",
        columns=(Column("Cell", numeric=False), *(Column(head, "points") for head in heads)),
        rows=tuple(tuple(Entry(f"r{row}c{i}" * 4) for i in range(13)) for row in range(2)),
        notes=("How to read it.",),
    )
    text = document(table)
    parts = text.split(r"\begin{table}[H]")[1:]
    assert len(parts) > 1
    assert text.count(r"\caption{Wide, continued.}") == len(parts) - 1
    assert text.count("How to read it.") == 1
    seen = []
    for part in parts:
        rows = [line for line in part.splitlines() if line.startswith("r0c0")]
        entries = [entry.strip(" \\") for entry in rows[0].split("&")]
        # The first column says in each part whose row it is; together no more than a page holds.
        assert entries[0] == "r0c0" * 4
        assert sum(map(len, entries)) <= LATEX_CHARACTERS
        seen += entries[1:]
    assert seen == [f"r0c{i}" * 4 for i in range(1, 13)]
    # A head takes several lines instead of making its column wide.
    assert r"Difference\\number 0 with\\" in text


def test_latex_wraps_long_entries():
    long = "word " * 40
    table = Table(
        title="Long",
        columns=(Column("What", numeric=False), Column("Value", numeric=False)),
        rows=((Entry("short"), Entry(long)),),
    )
    assert r"\begin{tabular}{lp{30em}}" in document(table)


def test_latex_sets_a_command_as_it_is_typed():
    text = document(Text("A -- dash, and one's ''quotes'',,"), Listing(("run --set 'a b=`1`'",)))
    assert "A -{}- dash, and one's '{}'quotes'{}',{}," in text
    quoted = r"\textquotesingle{}a b=\textasciigrave{}1\textasciigrave{}\textquotesingle{}"
    assert rf"\texttt{{run -{{}}-set {quoted}}}" in text


def test_latex_shows_letters_of_any_script():
    # The last one is an o with an umlaut in two characters.
    text = document(Text("é ß Ł 木材 → ½ o\N{COMBINING DIAERESIS}"))
    assert r"é ß Ł \other{6728}\other{6750} \other{2192} ½ ö" in text
    assert r"\newcommand{\other}[1]{U+#1}" in text
    assert r'\newcommand{\other}[1]{\symbol{"#1}}' in text


def test_all_renderings_show_the_same_numbers():
    page = " ".join(" ".join(row) for row in read(html(REPORT)).rows)
    texts = [page, markdown(REPORT), latex(REPORT).replace("$-$", MINUS).replace(r"$\pm$", "±")]
    found = [NUMBER.findall(text.replace(MINUS, "-")) for text in texts]
    expected = ["73.1", "0.4", "-1.25", "-2.00", "-0.50"]
    assert found[0] == expected
    assert [n for n in found[1] if n in expected] == expected
    assert [n for n in found[2] if n in expected] == expected


def test_a_row_that_is_too_short_is_refused():
    with pytest.raises(ValueError, match="has 2 columns but a row of 1"):
        Table(title="t", columns=(Column("a"), Column("b")), rows=((Entry("1"),),))

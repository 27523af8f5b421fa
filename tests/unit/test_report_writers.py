"""The report as files and in the terminal: complete, escaped and readable."""

from __future__ import annotations

import io
import math
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from report_cells import RATIOS, analysis, cell, sound_cells
from rich.console import Console

from asft.commands.report import report
from asft.config import ConfigError
from asft.report.records import Column, Result
from asft.report.table import signed
from asft.report.text import UNKNOWN
from asft.report.writers.figures import figures, save_all
from asft.report.writers.latex import escape as escape_latex
from asft.report.writers.latex import render_latex
from asft.report.writers.markdown import escape as escape_markdown
from asft.report.writers.markdown import render_markdown
from asft.report.writers.terminal import print_analysis
from asft.report.writers.write import write_for_print, write_report


def test_a_report_names_what_its_cells_were_made_with_and_not_what_wrote_it() -> None:
    trained, judged = {"torch": "2.11.0", "on": "GPU A"}, {"torch": "2.13.0", "peft": "0.21", "on": UNKNOWN}
    made = [(judged, trained), (trained,), ({"torch": "2.11.0", "on": "GPU B"},)]
    cells = [replace(each, made_with=with_) for each, with_ in zip(sound_cells(), made, strict=False)]
    written = render_markdown(analysis([*cells, Result("k", "asft", 0.2, 0, "missing")]))
    assert written.rstrip().endswith(f"torch 2.13.0 and 2.11.0, peft 0.21, on {UNKNOWN} and GPU A and GPU B")
    assert "torch" not in render_markdown(analysis([])), "of no cell nothing is known"
    old = render_markdown(analysis([replace(cells[0], made_with=(judged,))]))
    assert old.rstrip().endswith("torch 2.13.0, peft 0.21"), "where no device was noted none is named"


def terminal_output(cells: list[Result], width: int = 80, **changes: object) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width, no_color=True, force_terminal=False)
    print_analysis(analysis(cells, **changes), console)
    return stream.getvalue()


@pytest.mark.parametrize("width", [80, 60])
def test_terminal_fits_its_width_without_colour_or_breaks_into_blocks(width: int) -> None:
    names = ("sft", "lisa_base", "lisa_aligned", "safeinstr", "bea", "safe_lora", "asft")
    rows = {name: name.replace("_", " ") for name in names} | {"random": "AsFT, random anchor"}
    columns = tuple(Column(ratio, f"p = {ratio:g}") for ratio in (0, 0.05, 0.1, 0.15, 0.2))
    cells: list[Result] = [cell("base", 100, 2), cell("aligned", 0, 30)]
    cells += [cell(name, 100, 200, column.value) for name in rows for column in columns]
    output = terminal_output(cells, width=width, rows=rows, columns=columns)
    assert max(map(len, output.splitlines())) <= width
    assert not {"\x1b", "…"} & set(output), "nothing is cut"
    line = r"p = 0 +p = 0.05 +p = 0.1 +p = 0.15 +p = 0.2" if width == 80 else r"^ +p = 0.15 +p = 0.2 *$"
    assert re.search(line, output, re.MULTILINE)
    assert "17.60 +82.4" in output
    assert "96.3–100.0" in output


def test_report_writes_its_files(tmp_path: Path) -> None:
    write_report(analysis(sound_cells()), tmp_path / "new" / "table2")
    written = {path.name for path in (tmp_path / "new" / "table2").iterdir()}
    assert written == {"table.md", "table.csv", "values.csv", "table.tex"}


@pytest.mark.parametrize("suffix", ["md", "tex"])
def test_a_table_that_shows_nothing_says_so_first(tmp_path: Path, suffix: str) -> None:
    cells: list[Result] = [item for item in sound_cells() if item.row != "sft"]
    cells += [cell("sft", 2, 190, ratio) for ratio in (0.0, 0.1, 0.2)]
    write_report(analysis(cells), tmp_path)
    content = (tmp_path / f"table.{suffix}").read_text("utf-8")
    verdict = content.index("This table shows nothing about any defence.")
    assert verdict < content.index("The attack does not raise HS") < content.index("harmful score in")


def test_csv_reads_back_as_the_entries(tmp_path: Path) -> None:
    table = analysis(sound_cells()[:-1], rows={"sft": 'S,"F"\nT', "safe_lora": "Safe", "asft": "A"})
    text = {"column": str, "interval": str, "reason": str}
    write_report(table, tmp_path)
    read = pd.read_csv(tmp_path / "table.csv", dtype=text, keep_default_na=False, na_values={"ours": "", "paper": ""})
    # two metrics: two spanning controls and three methods in three columns
    assert len(read) == len(table.entries) == 2 * (2 + 3 * 3)
    for name in ("label", "status", "best", "n"):
        assert read[name].tolist() == [getattr(entry, name) for entry in table.entries]
    assert read["metric"].tolist() == [entry.metric.name for entry in table.entries]
    assert read["column"].tolist() == [str(entry.column) for entry in table.entries]
    for name in ("ours", "paper"):
        expected = [getattr(entry, name) for entry in table.entries]
        assert [None if math.isnan(value) else value for value in read[name]] == expected


def test_markdown_table_is_well_formed() -> None:
    rows = {"sft": "a|b", "safe_lora": "*bold* <i>", "asft": "AsFT"}
    content = render_markdown(analysis(sound_cells()[:-1], rows=rows))
    lines = [line for line in content.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {5}
    assert r"a\|b" in content
    assert r"\*bold\* \<i\>" in content
    assert r"**4.0** \[1.6–9.8\] · paper 4.00 (Δ +0.0)" in content
    assert "missing · paper 6.00" in content


def test_escapes() -> None:
    assert escape_latex("a_b & 5% {x} ~^ \\ λ −1") == (
        r"a\_b \& 5\% \{x\} \textasciitilde{}\textasciicircum{} \textbackslash{} $\lambda$ $-$1"
    )
    assert escape_latex("two\nlines") == "two lines"
    assert escape_markdown("[x](javascript:1) <b>") == r"\[x\](javascript:1) \<b\>"


def test_latex_table_has_as_many_cells_as_columns() -> None:
    labels = {"sft": "S & T", "safe_lora": "50%", "asft": "AsFT"}
    content = render_latex(analysis(sound_cells()[:-1], rows=labels, title="a_b"))
    assert r"\caption{a\_b." in content
    rows = [line for line in content.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {3}
    assert r"S \& T & 2.0" in content
    assert r"50\% &" in content
    assert r"\textbf{4.0}" in content
    assert r"\textit{missing}" in content
    assert content.count("{") == content.count("}")


@pytest.mark.parametrize("metrics", [("HS", "FA"), ("HS",), ("FA",)])
def test_a_table_without_any_cell_is_still_a_report(tmp_path: Path, metrics: tuple[str, ...]) -> None:
    bare = {"notes": (), "command": "", "paper_table": None}
    write_report(analysis([], rows={"sft": "SFT"}, metrics=metrics, **bare), tmp_path)
    written = (tmp_path / "table.md").read_text("utf-8")
    assert "Controls are missing, so this table is unproven." in written
    assert (tmp_path / "table.tex").read_text("utf-8").count(r"\textit{missing}") == 9 * len(metrics)
    assert "SFT, p = 0.2" in written
    assert "missing" in terminal_output([], rows={"sft": "SFT"}, metrics=metrics)


def test_terminal_marks_best_gaps_and_verdict_and_interprets_no_markup() -> None:
    cells = [*sound_cells()[:-1], Result("k", "asft", 0.2, 0, "failed", "out of memory")]
    lines = terminal_output(cells, rows={"sft": "SFT", "safe_lora": "[red]x[/red]", "asft": "AsFT"}).splitlines()
    assert lines[1].startswith("The controls are in order.")
    assert next(line for line in lines if line.startswith("AsFT")).split() == ["AsFT", "*1.0", "*4.0", "failed"]
    assert "- failed (out of memory): AsFT, p = 0.2" in lines
    assert "- HS: AsFT better than SFT at p = 0.1 (by 56.0 points)" in "\n".join(lines)
    assert any(line.startswith("[red]x[/red] ") for line in lines)


def test_signed() -> None:
    words = {0.04: "+0.0", -0.04: "+0.0", -2.25: "−2.2", 3.0: "+3.0"}
    assert {value: signed(value) for value in words} == words


def test_pdf_holds_the_table_and_both_figures_and_the_same_picture_each_time(tmp_path: Path) -> None:
    gap = Result("gap", "asft", RATIOS[1], 0, "failed", "out of memory")
    table = analysis([gap if (c.row, c.column) == ("asft", RATIOS[1]) else c for c in sound_cells()])
    paths = write_for_print(table, tmp_path, "pdf")
    assert {path.name for path in paths} == {"table.pdf", "along-columns.pdf", "trade-off.pdf"}
    for path in paths:
        content = path.read_bytes()
        assert content.startswith(b"%PDF")
        assert b"/Type3" not in content, "conferences refuse Type 3 fonts"
    first, second = (save_all(figures(table), tmp_path / name, "png") for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_tex_names_files_that_are_there(tmp_path: Path) -> None:
    document = write_for_print(analysis(sound_cells(), title="50% & more"), tmp_path, "tex")[0].read_text()
    assert r"50\% \& more" in document
    named = re.findall(r"\\includegraphics\[.*\]\{(.*)\}", document)
    assert sorted(named) == ["along-columns", "trade-off"]
    assert all((tmp_path / f"{name}.pdf").exists() for name in named)


@pytest.mark.parametrize("arguments", [["--format", "docx"], ["--format"]])
def test_an_unknown_format_names_the_allowed_ones(arguments: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"--format: (.*docx.*pdf.*tex|expected one argument)"):
        report(["experiment=demo", *arguments])


def test_each_of_several_experiments_has_its_report_and_one_that_cannot_be_had_stops_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[list[str]] = []

    def written(sweep: object, words: list[str], kind: str | None) -> int:
        told.append(words)
        if words[0] == "experiment=table2":
            raise ConfigError("experiment=table2: none of its cells is finished")
        return 0

    monkeypatch.setattr("asft.commands.report.report_sweep", written)
    assert report(["experiment=demo,table2,table5", "seed=3"]) == 1
    assert told == [[f"experiment={name}", "seed=3"] for name in ("demo", "table2", "table5")]
    assert "none of its cells is finished" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="none of its cells"):
        report(["experiment=table2"])

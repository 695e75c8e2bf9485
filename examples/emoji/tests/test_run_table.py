"""The tables of the quickstart, from rows written by hand."""

from sample_workdir import row

from examples.emoji import run_table


def test_table_lines_up_and_says_nothing_where_nothing_is_known():
    lines = run_table.text_table([row("joint", (0.5, 0.5, 0.5, 0.5)), row("uniform", (0, 0, 0, 0))])
    head, _, joint, uniform = lines.splitlines()
    assert len({len(head), len(joint), len(uniform)}) == 1
    assert joint.split()[:5] == ["joint", "joint", "-", "-", "-"]
    assert "2.5" in joint and "50.0%" in joint and "0.0%" in uniform


def test_markdown_has_a_cell_for_every_column():
    lines = run_table.markdown_table([row("joint", (0.1, 0.2, 0.3, 0.4))]).splitlines()
    assert {line.count("|") for line in lines} == {len(run_table.SHORT_COLUMNS) + 1}

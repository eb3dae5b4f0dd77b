"""A page shows what it is given, as text and not as HTML."""

from dataclasses import dataclass, field

import pandas as pd
from eplstm.comparisons.page import Page


@dataclass
class Settings:
    """Settings of the page."""

    sizes: tuple[int, ...] = (1, 2)
    nested: dict = field(default_factory=lambda: {"a": [3], "b": None})


def test_a_page_with_all_parts(tmp_path):
    page = Page(tmp_path / "new")
    page.text("a < b", bad=True)
    page.text("fine")
    page.heading("Numbers & more")
    page.rows(("rung", ""), [("<script>", "ok"), ("two", "FAILED")])
    page.table("fits", pd.DataFrame({"r_low": [0.123, float("nan")], "converged": [True, False]}))
    page.figure("lines", "Lines", "Two of 'them'.", 2, lambda axes: [ax.plot([1, 2]) for ax in axes], rows=1)
    page.write("Title <1>", Settings())
    shown = (tmp_path / "new" / "report.html").read_text()
    for part in (
        "<title>Title &lt;1&gt;</title>",
        '<p class="bad">a &lt; b</p>',
        "<p>fine</p>",
        "<h2>Numbers &amp; more</h2>",
        "<tr><td>&lt;script&gt;</td><td>ok</td></tr>",
        '<tr><td>two</td><td class="bad">FAILED</td></tr>',
        "<th>r low</th><th>converged</th>",
        "<tr><td>0.12</td><td>yes</td></tr>",
        '<tr><td>–</td><td class="bad">no</td></tr>',
        'All of it: <a href="fits.csv">fits.csv</a>',
        '<figure><img src="figures/lines.png" alt="Lines">\n<figcaption>Two of &#39;them&#39;.</figcaption>',
        "<tr><td>sizes</td><td>1, 2</td></tr>",
        "<tr><td>nested</td><td>a 3, b None</td></tr>",
        "<tr><td>numpy</td>",
    ):
        assert part in shown, part
    assert "<script>" not in shown
    assert (tmp_path / "new" / "fits.csv").read_text().splitlines()[0] == "r_low,converged"
    assert (tmp_path / "new" / "figures" / "lines.png").stat().st_size > 1000

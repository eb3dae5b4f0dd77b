"""Pictures of a composition: what ``show_graph()`` draws, laid out so that feedback can be told from the rest."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from graphviz.backend.execute import ExecutableNotFound
from psyneulink.core.compositions.showgraph import ShowGraphError, get_default_showgraph_dir

NODE = r'\s*("(?:[^"\\]|\\.)*"|[^\s":\[]+)'
PORT = r'(?::(?:"(?:[^"\\]|\\.)*"|[^\s"\[]+))?'  # where the structure of nodes is shown
ARROW = re.compile(rf"{NODE}{PORT} -> {NODE}{PORT} \[", re.DOTALL)


def draw_graph(composition: Any, show: Any, *args: Any, output_fmt: Any = "pdf", **kwargs: Any) -> Any:
    """Draw a composition by PsyNeuLink's ``show_graph`` (``show``), feedback dashed, names as the user gave them."""
    interfaces = [composition.input_CIM, composition.parameter_CIM, composition.output_CIM]
    named = [composition, *composition.nodes, *interfaces]
    labels = [plain_label(component.name) for component in named]
    if len(set(labels)) < len(labels):
        labels = [component.name for component in named]
    labelled = [*zip(named, labels, strict=True), *((p, plain_label(p.name)) for p in composition.projections)]
    names = [component.name for component, _ in labelled]
    composition._analyze_graph()  # or show_cim shows nothing before the first run
    try:
        for component, label in labelled:
            component.name = label
        graph = show(*args, output_fmt="gif" if output_fmt == "gif" else "gv", **kwargs)
    finally:
        for (component, _), name in zip(labelled, names, strict=True):
            component.name = name
    if graph is None:
        return None
    label_of = dict(zip(named, labels, strict=True))
    ends = [(p.sender.owner, p.receiver.owner) for p in composition.feedback_projections]
    dash_feedback(graph, {(label_of[a], label_of[b]) for a, b in ends if a in label_of and b in label_of})
    drop_phantom(graph, labels)
    return as_format(graph, output_fmt, labels[0])


def plain_label(name: str) -> str:
    """A name without the "-1", "-2", ... that PsyNeuLink adds where several components in a session have it.

    Of a projection, "sender → receiver", without those of its ends.
    """
    return re.sub(r"-\d+(?=$| →|\[)", "", name)


def dash_feedback(graph: Any, feedback: Collection[tuple[str, str]]) -> None:
    """Draw the arrows of feedback projections dashed, and let the layout disregard them.

    Args:
        graph: a ``graphviz.Digraph``, as ``show_graph(output_fmt="gv")`` makes it.
        feedback: labels of their (sender, receiver).
    """
    for i, line in enumerate(graph.body):
        arrow = ARROW.match(line)
        if arrow and "style=invis" not in line and (_label(arrow[1]), _label(arrow[2])) in feedback:
            graph.body[i] = line.replace(" [", " [constraint=false style=dashed ", 1)


def _label(drawn: str) -> str:
    """The label of a node as it is drawn, without its second line (types, dimensions)."""
    return drawn.strip('"').split("\n")[0].split("\\n")[0]


def drop_phantom(graph: Any, labels: Collection[str]) -> None:
    """Take out the node "0", which PsyNeuLink draws in place of nodes with names of one word where it shows the
    structure of nodes (it takes the first quoted text of a table for a name), with the arrows that it pulls by."""
    if "0" in labels:
        return
    graph.body[:] = [line for line in graph.body if line.strip() != "0" and "0" not in _ends(line)]


def _ends(line: str) -> tuple[str, ...]:
    arrow = ARROW.match(line)
    return (arrow[1].strip('"'), arrow[2].strip('"')) if arrow else ()


def as_format(graph: Any, output_fmt: str | None, name: str) -> Any:
    """The graph in one of PsyNeuLink's formats.

    Raises:
        ShowGraphError: an unknown format, or a PDF without Graphviz.
    """
    if output_fmt in ("gv", "jupyter"):
        return graph
    if output_fmt == "source":
        return graph.source
    if not output_fmt:
        return None
    if output_fmt != "pdf":
        raise ShowGraphError(
            "show_graph(): output_fmt must be 'pdf', 'jupyter', 'gif', 'gv', 'source' or None; got "
            f"{output_fmt!r}."
        )
    try:
        return graph.view(name.replace(" ", "-"), cleanup=True, directory=get_default_showgraph_dir() / "PDFS")
    except ExecutableNotFound as error:
        raise ShowGraphError(
            "show_graph(): a PDF needs Graphviz (apt-get install graphviz, brew install graphviz); "
            "output_fmt='source' does without it."
        ) from error

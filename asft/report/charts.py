"""Every figure once, as a Vega-Lite specification without its rows.

The pages bind rows to a specification in the browser; :func:`save` draws the same one into a file. Methods have
one colour and one symbol each, wherever they are drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any
from zlib import crc32

from asft.measures.landscape import SAFE_HS
from asft.report.records import Metric

Spec = dict[str, Any]
Row = dict[str, Any]
Rows = list[Row]
Styles = dict[str, tuple[str, str]]  # label to colour and symbol

# Mid-tones that keep their contrast on white and near-black.
PALETTE = (
    *("#2a78c2", "#d1580f", "#1f9a7a", "#b65fa0", "#b98b00"),
    *("#5b62c9", "#c2374a", "#5f8f1f", "#8a6a4f", "#3d97a8"),
)
GREY = "#858b93"
SHAPES = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "triangle-right", "triangle-left")
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [12, 4])
# Who runs without a defence is grey; the others keep these places whatever a store holds.
UNDEFENDED = ("sft", "base", "aligned")
DEFENCES = (
    *("asft", "safe_lora", "lisa_aligned", "safeinstr", "bea", "lisa_base", "l2", "asft_random", "asft_projector"),
    *("asft_parallel", "asft_alt", "bea_no_trigger"),
    *("wise_ft", "safe_lora_shrunk", "safe_lora_dropped", "safe_lora_random", "benign_rows"),
    *("sbr", "sbr_benign", "safe_grad", "constrained_sft", "spard", "guard_space", "guard_space_random"),
    *("guard_space_none", "panacea", "lookahead_real", "ema", "safe_merge", "resta", "antidote", "lox"),
    *("booster", "vaccine", "hardened", "ptst"),
)
# What a training logs, and its words.
CURVES = {
    "loss": "loss",
    "asft/penalty": "penalty λR",
    "asft/norm_along": "‖ĈΔW‖",
    "asft/norm_orthogonal": "‖(I−Ĉ)ΔW‖",
}

PRINT: Spec = {
    "background": "white",
    "font": "serif",
    "axis": {"grid": False, "labelFontSize": 10, "titleFontSize": 11, "titleFontWeight": "normal"},
    "legend": {"orient": "bottom", "columns": 3, "labelFontSize": 10, "symbolLimit": 60},
    "view": {"stroke": None},
}
# Dragging moves, and the wheel zooms only with Shift held: a page that scrolls must not be caught in a plot.
ZOOM = [{"name": "zoom", "select": {"type": "interval", "zoom": "wheel![event.shiftKey]"}, "bind": "scales"}]


def method_style(name: str) -> tuple[str, str]:
    """Colour and symbol of a method, the same in every store; an unknown name finds its own place."""
    if name in UNDEFENDED:
        return GREY, SHAPES[UNDEFENDED.index(name)]
    place = DEFENCES.index(name) if name in DEFENCES else crc32(name.encode())
    return PALETTE[place % len(PALETTE)], SHAPES[(place + place // len(PALETTE)) % len(SHAPES)]


def method_styles(labels: Mapping[str, str]) -> Styles:
    """Label to style, for methods given as name to label."""
    return {label: method_style(name) for name, label in labels.items()}


def store_styles(names: Iterable[str]) -> Styles:
    """Name to style of a store's methods, in an order that does not hang on the store."""
    known = [*UNDEFENDED, *DEFENCES]
    there = set(names)
    return {n: method_style(n) for n in (*(n for n in known if n in there), *sorted(there.difference(known)))}


def other_styles(labels: Iterable[str]) -> Styles:
    """Label to style for what is no method, by its position."""
    return {label: (PALETTE[i % len(PALETTE)], SHAPES[i % len(SHAPES)]) for i, label in enumerate(labels)}


def trade_off(styles: Styles, x: Metric, y: Metric) -> Spec:
    """One metric against another, a point a cell; dotted, each ``setting``'s best trade-offs (nothing else beats them).

    Rows: ``series``, ``x``, ``y``, ``label``, ``setting``, ``size`` and what a click needs.
    """
    first, second = ("ascending" if metric.lower_is_better else "descending" for metric in (x, y))
    best, beats = ("min", "<") if y.lower_is_better else ("max", ">")
    order: Spec = {"sort": [{"field": "x", "order": first}, {"field": "y", "order": second}], "groupby": ["setting"]}
    front = _layer(
        {"type": "line", "color": GREY, "strokeDash": [2, 3], "strokeWidth": 1.2},
        {"detail": {"field": "setting"}, "order": {"field": "x", "type": "quantitative"}},
        transform=[
            {"window": [{"op": best, "field": "y", "as": "best"}], **order},
            {"window": [{"op": "lag", "field": "best", "as": "before"}], **order},
            {"filter": f"!isValid(datum.before) || datum.y {beats} datum.before"},
        ],
    )
    points = _layer(
        {"type": "point", "filled": True, "opacity": 0.85, "cursor": "pointer"},
        {
            **_series(styles, shapes=True),
            "size": {"field": "size", "type": "quantitative", "scale": None},
            "tooltip": _tip(("label", "cell"), ("x", x.name, ".1f"), ("y", y.name, ".1f")),
        },
        params=ZOOM,
    )
    better, room = {True: "lower", False: "higher"}, {"nice": False, "padding": 12}
    axes = {
        axis: _number(axis, f"{metric.name}, % ({better[bool(metric.lower_is_better)]} is better)", **room)
        for axis, metric in (("x", x), ("y", y))
    }
    return {"width": 420, "height": 340, "encoding": axes, "layer": [front, points]}


def fronts(styles: Styles) -> Spec:
    """FA against HS of every point with its intervals; a method's corners are joined.

    Rows: ``series``, ``setting``, ``corner`` and ``hs``, ``fa`` with ``_lo`` and ``_hi``; ``along``, by which corners
    follow one another; ``end`` for a line's.
    """
    axes = {
        "x": _number("hs", "HS, % (lower is better)", nice=False, padding=12),
        "y": _number("fa", "FA, % (higher is better)", nice=False, padding=12),
    }
    ends = {"": "", "_lo": ", 95% from", "_hi": " to"}
    numbers = [(f"{of}{end}", f"{of.upper()}{words}", ".1f") for of in ("hs", "fa") for end, words in ends.items()]
    told = _tip(("series", "method"), ("setting", "setting"), *numbers)
    colour, marked, faint = _series(styles), _series(styles, shapes=True), {"type": "rule", "strokeOpacity": 0.35}
    joined = {**colour, "order": {"field": "along", "type": "quantitative"}}
    own = [{"filter": "!datum.end"}]
    layers = [
        _layer(faint, {**colour, axis: {"field": f"{name}_lo"}, f"{axis}2": {"field": f"{name}_hi"}}, transform=own)
        for axis, name in (("x", "hs"), ("y", "fa"))
    ]
    layers += [
        _layer({"type": "line", "strokeWidth": 1.3}, joined, transform=[{"filter": "datum.corner"}]),
        _layer({"type": "point", "filled": True, "size": 55}, {**marked, "tooltip": told}, params=ZOOM, transform=own),
    ]
    return {"width": 420, "height": 440, "encoding": axes, "layer": layers}


def along(
    styles: Styles, columns: Sequence[str], title: str, *, panels: Sequence[str], joined: bool, log: bool = False
) -> Spec:
    """Each panel's values along the columns with their intervals; dotted and hollow, the paper's.

    ``joined`` draws lines between columns, which must then be numbers. Rows: ``panel``, ``column``, ``series``,
    ``value``, ``lo``, ``hi``, ``paper``, ``note``.
    """
    scale = {"type": "log"} if log else {}
    ours, paper, low = (_number(field, None, **scale) for field in ("value", "paper", "lo"))
    lines = [
        _layer({"type": "line", "strokeWidth": 1.3}, {"y": ours}),
        _layer({"type": "line", "strokeWidth": 1, "strokeDash": [1, 3]}, {"y": paper}),
    ]
    told = _tip(("series", "row"), ("column", title), ("value", "value", ".4~g"), ("note", "interval"))
    points = _layer({"type": "point", "filled": True, "size": 55}, {"y": ours, "tooltip": told})
    points["encoding"] |= _series(styles, shapes=True)
    printed = _tip(("series", "row, in the paper"), ("column", title), ("paper", "value", ".4~g"))
    layers = [
        _layer("rule", {"y": low, "y2": {"field": "hi"}}),
        *(lines if joined else []),
        points,
        _layer({"type": "point", "size": 35, "strokeWidth": 1}, {"y": paper, "tooltip": printed}),
    ]
    axis = {"labelAngle": -30 if not joined and len(columns) > 4 else 0}
    shared = {
        "x": {"field": "column", "type": "ordinal", "sort": list(columns), "title": title, "axis": axis},
        "xOffset": {"field": "series", "type": "nominal", "sort": list(styles)},
        **_series(styles),
    }
    return {
        "facet": {"row": {"field": "panel", "type": "nominal", "sort": list(panels), "title": None}},
        "resolve": {"scale": {"y": "independent"}},
        "spec": {"width": 420, "height": 220, "encoding": shared, "layer": layers},
    }


def curves(styles: Styles) -> Spec:
    """Lines over training steps, a panel each, one a training.

    Rows: ``panel``, ``step``, ``value``, ``train`` (its key), ``line`` (in words), ``series``, ``dash``.
    """
    dashes = {"field": "dash", "type": "nominal", "title": None, "scale": {"range": list(DASHES)}}
    line = _layer(
        {"type": "line", "strokeWidth": 1.5},
        {
            "x": _number("step", "step", nice=False),
            "y": _number("value", None, zero=True),
            "detail": {"field": "train"},
            "strokeDash": {**dashes, "legend": {"orient": "bottom"}},
            **_series(styles),
            "tooltip": _tip(("line", "training"), ("step", "step", "d"), ("value", "value", ".4~g")),
        },
    )
    independent = {"scale": {"y": "independent"}, "axis": {"x": "independent"}}
    return {**_panels(list(CURVES.values()), {"width": 420, "height": 220, **line}), "resolve": independent}


def plane(x: str, y: str) -> Spec:
    """HS over a plane through the aligned model (+), and where it passes what counts as safe. Rows: :func:`tiles`."""
    across, up, right, top = (_number(f, t, nice=False) for f, t in (("x", x), ("y", y), ("x2", x), ("y2", y)))
    across["axis"] = up["axis"] = {"format": ".6~g", "grid": False}
    shade: Spec = {"field": "hs", "type": "quantitative", "title": "HS, %"}
    shade |= {"scale": {"scheme": "viridis", "domain": [0, 100]}, "legend": {"orient": "right", "gradientLength": 300}}
    tile = _layer(
        "rect",
        {
            "x": across,
            "x2": {"field": "x2"},
            "y": up,
            "y2": {"field": "y2"},
            "color": shade,
            "tooltip": _tip(("a", x, ".3~g"), ("b", y, ".3~g"), ("hs", "HS, %", ".1f")),
        },
    )
    border = {"type": "rule", "stroke": "white", "strokeWidth": 2}
    model = _layer({"type": "point", "shape": "cross", "color": "white", "filled": True, "size": 70})
    model |= {"data": {"values": [{"x": 0, "y": 0}]}, "encoding": {"x": across, "y": up}}
    layers = [
        tile,
        _layer(border, {"x": right, "y": up, "y2": {"field": "y2"}}, transform=[{"filter": "datum.right"}]),
        _layer(border, {"y": top, "x": across, "x2": {"field": "x2"}}, transform=[{"filter": "datum.top"}]),
        model,
    ]
    middle = {"fill": "#21918c"}  # shines through between tiles, where the page's own colour would stand out
    return {"width": 400, "height": 400, "view": middle, "layer": layers}


def tiles(steps: Sequence[float], hs: Sequence[Sequence[float]]) -> Rows:
    """A plane's grid as tiles; ``right`` and ``top`` tell where a border separates safe from harmful."""
    edges = [steps[0] - (steps[1] - steps[0]) / 2, *((a + b) / 2 for a, b in pairwise(steps))]
    edges.append(2 * steps[-1] - edges[-1])
    rows = []
    for j, line in enumerate(hs):
        for i, value in enumerate(line):
            bounds = {"x": edges[i], "x2": edges[i + 1], "y": edges[j], "y2": edges[j + 1]}
            safe, right, top = value <= SAFE_HS, line[i + 1 : i + 2], [other[i] for other in hs[j + 1 : j + 2]]
            passed = {
                name: any((n <= SAFE_HS) != safe for n in next_) for name, next_ in (("right", right), ("top", top))
            }
            rows.append({**bounds, "a": steps[i], "b": steps[j], "hs": value, **passed})
    return rows


def profiles(styles: Styles, panels: Sequence[str] = ("",), reach: float | None = None) -> Spec:
    """HS along directions, dotted where it counts as safe, dashed at ±``reach``; a panel for each ``panel``.

    Rows: ``panel``, ``series``, ``line``, ``x``, ``hs``, ``faint``.
    """

    def faint(yes: float, no: float) -> Spec:
        return {"condition": {"test": "datum.faint", "value": yes}, "value": no}

    line = _layer(
        {"type": "line", "point": {"size": 18}},
        {
            "x": _number("x", "α", nice=False),
            "y": _number("hs", "HS, %", domain=[0, 100]),
            "detail": {"field": "line"},
            "opacity": faint(0.45, 1),
            "strokeWidth": faint(0.8, 2),
            **_series(styles),
            "tooltip": _tip(("series", "direction"), ("x", "α", ".3~g"), ("hs", "HS, %", ".1f")),
        },
    )
    ends = [{"x": end} for end in (reach, -reach)] if reach is not None else []
    dashed = {"type": "rule", "strokeDash": [6, 4], "color": PALETTE[6], "strokeWidth": 1.5}
    reached = _layer(dashed, {"x": {"field": "x", "type": "quantitative"}}, data={"values": ends})
    size = {"width": 420, "height": 260} if len(panels) == 1 else {"width": 200, "height": 150}
    return _panels(panels, {**size, "layer": [line, _level(SAFE_HS), *([reached] if ends else [])]})


def spectrum() -> Spec:
    """Eigenvalues of Ĉ by rank, a line a module; dotted, the 1 of a free direction. Rows: :func:`eigenvalues`."""
    line = _layer(
        {"type": "line", "point": {"size": 25}, "opacity": 0.8},
        {
            "x": _number("rank", "rank", type="log", nice=False),
            "y": _number("value", "eigenvalue of Ĉ (1: a free direction)", zero=True),
            **_series({}),
            "tooltip": _tip(("series", "module"), ("rank", "rank", "d"), ("value", "eigenvalue", ".4~g")),
        },
        params=ZOOM,
    )
    return {"width": 560, "height": 340, "layer": [line, _level(1)]}


def eigenvalues(modules: Iterable[Mapping[str, Any]]) -> Rows:
    """The rows of :func:`spectrum`, from what ``spectrum.json`` holds."""
    return [
        {"series": module["name"], "rank": rank, "value": value}
        for module in modules
        for rank, value in enumerate(module["eigenvalues"], start=1)
    ]


def bars(title: str) -> Spec:
    """A bar a series, in the order given. Rows: ``series``, ``value``."""
    x, y = _number("value", title, zero=True), {"field": "series", "type": "nominal", "sort": None, "title": None}
    return {"width": 480, **_layer({"type": "bar", "color": PALETTE[0]}, {"x": x, "y": y})}


def typeset(columns: int, rules: Sequence[int]) -> Spec:
    """A table as text, with rules above the lines named; for print. Rows: ``line``, ``column``, ``text``, ``bold``."""
    top, bottom = rules[0], rules[-1]

    def place(field: str, first: int, last: int) -> Spec:
        return {"field": field, "type": "quantitative", "axis": None, "scale": {"domain": [first, last], "nice": False}}

    x, y = place("column", -1, columns), place("line", bottom, top)
    texts = [
        _layer(
            {"type": "text", "align": align, "dx": shift, "dy": 8, "fontWeight": "bold" if bold else "normal"},
            {"x": x, "y": y, "text": {"field": "text"}},
            transform=[{"filter": f"datum.column {side} 0 && datum.bold == {str(bold).lower()}"}],
        )
        for side, align, shift, bold in (("<", "left", 0, False), (">=", "right", 62, False), (">=", "right", 62, True))
    ]
    drawn = [{"line": rule, "width": 1.1 if rule in (top, bottom) else 0.5} for rule in rules]
    width = {"field": "width", "type": "quantitative", "scale": None}
    lines = _layer("rule", {"y": y, "strokeWidth": width}, data={"values": drawn})
    return {"width": 70 * (columns + 2), "height": 16 * (bottom - top), "layer": [*texts, lines]}


def save(spec: Spec, rows: Rows, path: Path) -> Path:
    """Draws a figure into a file, as its suffix says: ``.svg``, ``.png``, or ``.pdf`` with its fonts inside."""
    import vl_convert  # slow to load, and not needed by a table

    whole = _with_rows(spec, rows)
    if path.suffix == ".svg":
        path.write_text(svg(spec, rows), encoding="utf-8")
    elif path.suffix == ".png":
        path.write_bytes(vl_convert.vegalite_to_png(whole, scale=2))
    else:
        path.write_bytes(vl_convert.vegalite_to_pdf(whole))
    return path


def svg(spec: Spec, rows: Rows) -> str:
    """One figure as SVG text."""
    import vl_convert

    return str(vl_convert.vegalite_to_svg(_with_rows(spec, rows)))


def page(spec: Spec, rows: Rows) -> str:
    """One figure as a page of its own that needs no network."""
    import vl_convert

    return vl_convert.vegalite_to_html(_with_rows(spec, rows), bundle=True)


@cache
def library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script that needs no network."""
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")


def _with_rows(spec: Spec, rows: Rows) -> Spec:
    schema = "https://vega.github.io/schema/vega-lite/v6.json"
    return {"$schema": schema, "data": {"values": rows}, "config": PRINT, **spec}


def _layer(mark: str | Spec, encoding: Spec | None = None, **more: Any) -> Spec:
    return {"mark": mark, "encoding": encoding or {}, **more}


def _panels(names: Sequence[str], spec: Spec) -> Spec:
    """``spec`` once for each of these values of ``panel``, two beside one another."""
    facet = {"field": "panel", "type": "nominal", "sort": list(names), "title": None}
    return {"facet": facet, "columns": min(2, len(names)), "spec": spec}


def _level(y: float) -> Spec:
    """A dotted line across."""
    dotted = {"type": "rule", "strokeDash": [2, 2], "color": GREY}
    return _layer(dotted, {"y": {"datum": y}}, data={"values": [{}]})


def _series(styles: Styles, *, shapes: bool = False) -> Spec:
    """Colour, and symbol if asked for, by ``series``, which the legend names."""

    def channel(values: Sequence[str]) -> Spec:
        scale = {"domain": list(styles), "range": list(values)} if styles else {"range": list(PALETTE)}
        return {"field": "series", "type": "nominal", "title": None, "scale": scale}

    colours = {"color": channel([colour for colour, _ in styles.values()])}
    return colours | ({"shape": channel([shape for _, shape in styles.values()])} if shapes else {})


def _number(field: str, title: str | None, **scale: Any) -> Spec:
    if scale.get("type") != "log":
        scale = {"zero": False, "nice": True, **scale}
    return {"field": field, "type": "quantitative", "title": title, "scale": scale, "axis": {"format": ".6~g"}}


def _tip(*lines: tuple[str, str] | tuple[str, str, str]) -> list[Spec]:
    """What hovering tells: field, title and, for numbers, their format."""
    text, number = {"type": "nominal"}, {"type": "quantitative"}
    return [{"field": f, "title": t, **({**number, "format": form[0]} if form else text)} for f, t, *form in lines]

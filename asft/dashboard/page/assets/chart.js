// Plots: rows bound to a specification that the site was written with, drawn by Vega in the page's colours.
"use strict";
Asft.chart = (() => {
  const { h } = Asft;
  const narrow = matchMedia("(max-width: 44rem)");
  let vega = null; // loaded by the first page that draws

  function theme(width, palette, rows) {
    const longest = rows.reduce((most, row) => Math.max(most, row.series?.length ?? 0, row.dash?.length ?? 0), 8);
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const text = { labelColor: colour("--ink"), titleColor: colour("--ink"), labelFontSize: 12, titleFontSize: 13, titleFontWeight: "normal" };
    return {
      aria: false, // the plot's own label and the tables tell it
      background: colour("--page"),
      font: "system-ui, sans-serif",
      axis: { ...text, gridColor: colour("--rule"), domainColor: colour("--soft"), tickColor: colour("--rule") },
      axisX: { tickCount: Math.max(4, Math.floor(width / 80)) },
      legend: { ...text, orient: "top", columns: Math.max(1, Math.floor(width / (6.5 * longest + 36))), labelLimit: 260, symbolLimit: 60 },
      header: { labelColor: colour("--ink"), labelFontSize: 13 },
      title: { color: colour("--ink") },
      view: { stroke: null },
      range: { category: palette },
    };
  }

  /** Leaves in each scale that names its values only those that the rows hold; where none is left, the palette's order. */
  function narrowed(part, rows) {
    if (part === null || typeof part !== "object") return;
    if (part.field && Array.isArray(part.scale?.domain) && Array.isArray(part.scale.range)) {
      const there = new Set(rows.map((row) => row[part.field]));
      const kept = part.scale.domain.map((value, place) => [value, part.scale.range[place]]).filter(([value]) => there.has(value));
      part.scale = kept.length ? { ...part.scale, domain: kept.map(([value]) => value), range: kept.map(([, style]) => style) } : {};
    }
    Object.values(part).forEach((inner) => narrowed(inner, rows));
  }

  function sized(spec, width) {
    const inner = spec.spec ?? spec;
    const columns = narrow.matches ? 1 : (spec.columns ?? 1);
    if (spec.facet) {
      if (spec.columns) spec.columns = columns;
      inner.width = Math.max(120, Math.floor(width / columns) - 80); // an axis and its title stand beside each panel
    } else if (inner.width === inner.height) inner.width = inner.height = Math.max(200, Math.min(width - 150, 520));
    else Object.assign(spec, { width, autosize: { type: "fit-x", contains: "padding" } });
  }

  /**
   * A place for one plot under `parent`; `name` names its files and `label` says what it shows.
   * The result draws or redraws rows: `draw(rows, change)`, where `change` may alter the specification.
   * `clicked` gets the row of a point.
   */
  return async function create(parent, { name, label, spec, clicked }) {
    const { palette } = await Asft.load("index");
    const plot = h("div", { class: "plot", role: "img", "aria-label": label });
    let view = null;
    let last = null;
    let width = 0;
    const save = (format) => async () => Asft.save(`${name}.${format}`, await view.toImageURL(format, 2));
    const button = (format) => h("button", { type: "button", click: save(format) }, `Plot as ${format.toUpperCase()}`);
    parent.append(h("div", { class: "figure" }, plot, h("p", { class: "tools" }, button("png"), button("svg"))));
    vega ??= Asft.script("assets/vega.js");
    await vega;

    async function draw(rows, change = () => {}) {
      last = [rows, change];
      width = plot.clientWidth;
      const bound = { ...structuredClone(spec), data: { values: rows }, config: theme(width, palette, rows) };
      change(bound);
      narrowed(bound, rows);
      sized(bound, width);
      view?.finalize();
      // `ast`: expressions are interpreted, since the page's policy forbids code made from text.
      const options = { mode: "vega-lite", actions: false, ast: true, renderer: "svg", tooltip: { theme: document.documentElement.dataset.theme } };
      view = (await vegaEmbed(plot, bound, options)).view;
      if (clicked) view.addEventListener("click", (event, item) => item?.datum?.key && clicked(item.datum));
    }

    const again = () => (plot.isConnected ? last && draw(...last) : document.removeEventListener("asft-theme", again));
    document.addEventListener("asft-theme", again);
    new ResizeObserver(() => Math.abs(plot.clientWidth - width) > 4 && plot.isConnected && again()).observe(plot);
    return draw;
  };
})();

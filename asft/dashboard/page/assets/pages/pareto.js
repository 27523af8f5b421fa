"use strict";
Asft.pages.pareto = (() => {
  const { h, cells, note, table } = Asft;
  // Only cells that agree in these were put to one question, so that one can beat another.
  const SETTING = ["model", "dataset", "source", "p", "n", "training", "lr", "protocol", ...cells.ANSWERING];

  const point = (x, y) => (cell) => ({
    series: cell.method, x: cells.score(cell, x.name), y: cells.score(cell, y.name), key: cell.key, label: cells.label(cell), size: 80,
    setting: SETTING.map((name) => cells.text(cell[name])).join(" "),
  });

  /** The two metrics that the link names, else the first two; menus for others where there are more. */
  function axes(root, { params }, metrics) {
    const named = (axis) => metrics.find(({ name }) => name === params.get(axis));
    const x = named("x") ?? metrics.find((metric) => metric !== named("y"));
    const y = named("y") && named("y") !== x ? named("y") : metrics.find((metric) => metric !== x);
    const menu = (words, now, other, change) =>
      Asft.select(words, metrics.map(({ name, label }) => [name, `${name}, ${label}`]), now.name, (picked) =>
        (location.hash = Asft.link("pareto", [], { ...Object.fromEntries(Asft.view().params), ...change(picked, picked === other.name ? now.name : other.name) })));
    if (metrics.length > 2) root.append(h("div", { class: "row" }, menu("horizontal", x, y, (x, y) => ({ x, y })), menu("vertical", y, x, (y, x) => ({ x, y }))));
    return [x, y];
  }

  /** Links to everything about one cell. */
  function about(cell) {
    return [
      h("b", {}, cells.label(cell)),
      h("span", {}, cells.scores(cell)),
      h("a", { href: Asft.link("generations", [cell.key]) }, "answers"),
      h("a", { href: Asft.link("compare", [cell.key]) }, "compare with another"),
      h("code", {}, cell.key),
    ];
  }

  async function show(root, view, index) {
    if (!index.cells.length) return root.append(note("No cell is finished yet; `asft run -m experiment=demo` makes 18 of them."));
    if (index.metrics.length < 2) return root.append(note("The cells of this store were scored by one metric; two are needed here."));
    const [x, y] = axes(root, view, index.metrics);
    const better = `${y.lower ? "Down" : "Up"} and to the ${x.lower ? "left" : "right"}`;
    const alike = SETTING.map((name) => cells.DIMENSIONS[name]).join(", ");
    const picked = h("div", { class: "row", role: "status" }, note(`Click a point, or a row below, for its cell. ${better} is better; dotted: the best trade-offs among cells alike in ${alike}. Shift and the wheel zoom.`));
    const pick = (key) => (Asft.remember({ cell: key }), picked.replaceChildren(...about(cells.byKey(index.cells, key))));
    root.append(cells.filters(index.cells, () => redraw()));
    const label = `${y.name} against ${x.name}, one point per cell; the table below holds the same figures`;
    const direction = ({ lower }) => (lower ? "lower" : "higher");
    const spec = index.charts.pareto[`${direction(x)} ${direction(y)}`];
    for (const [axis, metric] of Object.entries({ x, y })) {
      spec.encoding[axis].title = `${metric.name}, % (${direction(metric)} is better)`;
      spec.layer[1].encoding.tooltip.find(({ field }) => field === axis).title = metric.name;
    }
    const draw = await Asft.chart(root, { name: "pareto", label, spec, clicked: (row) => pick(row.key) });
    root.append(picked);
    const fields = Object.keys(cells.DIMENSIONS).filter((name) => name === "method" || cells.differing(index.cells).includes(name));
    const columns = fields.map((field) => ({ title: cells.DIMENSIONS[field], field, sorter: cells.NUMBERS.includes(field) ? table.byNumber(table.numeral) : "string", formatter: (cell) => Asft.escape(cells.text(cell.getValue())) }));
    const list = await table.show(root, {
      label: "Cells", height: "26rem", rows: cells.rows(cells.matching(index.cells)), file: "pareto",
      columns: [
        table.element("cell", "key", (row) => h("a", { href: Asft.link("generations", [row.key]) }, row.key.slice(0, 8))),
        ...columns, ...cells.columns(),
      ],
    });
    list.on("rowClick", (event, row) => pick(row.getData().key));
    async function redraw(first) {
      const now = cells.matching(index.cells);
      Asft.say(`${now.length} of ${index.cells.length} cells`);
      if (!first) await list.replaceData(cells.rows(now));
      await draw(now.filter((cell) => x.name in cell.metrics && y.name in cell.metrics).map(point(x, y)));
    }
    await redraw(true);
    if (view.params.has("cell")) pick(view.params.get("cell"));
  }

  return { title: "Pareto", show };
})();

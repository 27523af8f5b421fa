"use strict";
Asft.pages.pareto = (() => {
  const { h, cells, note, table } = Asft;
  // Only cells that agree in these were put to one question, so that one can beat another.
  const SETTING = ["model", "dataset", "source", "p", "n", "training", "protocol", ...cells.ANSWERING];

  const point = (cell) => ({
    series: cell.method, hs: cell.hs, fa: cell.fa, key: cell.key, label: cells.label(cell), size: 80,
    setting: SETTING.map((name) => cells.text(cell[name])).join(" "),
  });

  /** Links to everything about one cell. */
  function about(cell) {
    return [
      h("b", {}, cells.label(cell)),
      h("span", {}, `HS ${cell.hs.toFixed(1)}, FA ${cell.fa.toFixed(1)}`),
      h("a", { href: Asft.link("generations", [cell.key]) }, "answers"),
      h("a", { href: Asft.link("compare", [cell.key]) }, "compare with another"),
      h("code", {}, cell.key),
    ];
  }

  async function show(root, view, index) {
    if (!index.cells.length) return root.append(note("No cell is finished yet; `asft run -m experiment=demo` makes 18 of them."));
    const picked = h("div", { class: "row", role: "status" }, note("Click a point, or a row below, for its cell. Up and to the left is better; dotted: the best trade-offs under one p, task and judge. Shift and the wheel zoom."));
    const pick = (key) => (Asft.remember({ cell: key }), picked.replaceChildren(...about(cells.byKey(index.cells, key))));
    root.append(cells.filters(index.cells, () => redraw()));
    const label = "FA against HS, one point per cell; the table below holds the same figures";
    const draw = await Asft.chart(root, { name: "pareto", label, spec: index.charts.pareto, clicked: (row) => pick(row.key) });
    root.append(picked);
    const fields = Object.keys(cells.DIMENSIONS).filter((name) => name === "method" || cells.differing(index.cells).includes(name));
    const columns = fields.map((field) => ({ title: cells.DIMENSIONS[field], field, formatter: (cell) => Asft.escape(cells.text(cell.getValue())) }));
    const list = await table.show(root, {
      label: "Cells", height: "26rem", rows: cells.matching(index.cells), file: "pareto",
      columns: [
        table.element("cell", "key", (row) => h("a", { href: Asft.link("generations", [row.key]) }, row.key.slice(0, 8))),
        ...columns, table.number("HS", "hs"), table.number("FA", "fa"),
      ],
    });
    list.on("rowClick", (event, row) => pick(row.getData().key));
    async function redraw(first) {
      const now = cells.matching(index.cells);
      Asft.say(`${now.length} of ${index.cells.length} cells`);
      if (!first) await list.replaceData(now);
      await draw(now.map(point));
    }
    await redraw(true);
    if (view.params.has("cell")) pick(view.params.get("cell"));
  }

  return { title: "Pareto", show };
})();

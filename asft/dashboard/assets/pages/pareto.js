"use strict";
Asft.pages.pareto = (() => {
  const { h, cells, table } = Asft;

  /** The cells that no other one beats in both scores, by rising HS. */
  function front(rows) {
    const sorted = [...rows].sort((a, b) => a.hs - b.hs || b.fa - a.fa);
    let best = -Infinity;
    return sorted.filter((row) => row.fa > best && ((best = row.fa), true));
  }

  function traces(rows, styles) {
    const methods = [...new Set(rows.map((row) => row.method))];
    const points = methods.map((method) => {
      const own = rows.filter((row) => row.method === method);
      const { colour, symbol } = styles.get(method);
      return {
        type: "scatter",
        mode: "markers",
        name: Asft.escape(method),
        x: own.map((row) => row.hs),
        y: own.map((row) => row.fa),
        customdata: own.map((row) => row.key),
        text: own.map((row) => Asft.escape(cells.label(row))),
        hovertemplate: "%{text}<br>HS %{x:.1f}, FA %{y:.1f}<extra></extra>",
        marker: { color: colour, symbol, size: 10, opacity: 0.85 },
      };
    });
    const best = front(rows);
    const line = {
      type: "scatter", mode: "lines", name: "best trade-offs", hoverinfo: "skip",
      x: best.map((row) => row.hs), y: best.map((row) => row.fa), line: { color: "#858b93", dash: "dot", width: 1.5 },
    };
    return [...points, line];
  }

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

  async function show(root) {
    const index = await Asft.load("index");
    const styles = cells.styles(index);
    const picked = h("div", { class: "row", role: "status" }, h("span", { class: "note" }, "Click a point, or a row below, for its cell. Up and to the left is better."));
    const pick = (key) => key && (Asft.remember({ cell: key }), picked.replaceChildren(...about(cells.byKey(index.cells, key))));
    root.append(cells.filters(index.cells, () => redraw()));
    const draw = await Asft.figure(root, { name: "pareto", label: "FA against HS, one point per cell; the table below holds the same figures", clicked: pick });
    root.append(picked);
    const rows = cells.matching(index.cells);
    const columns = ["method", "model", "dataset", "source", "p", "n", "lam", "training", "lr", "seed"].map((field) => ({
      title: cells.DIMENSIONS[field], field, formatter: (cell) => Asft.escape(cells.text(cell.getValue())),
    }));
    const list = await table.show(root, {
      label: "Cells", height: "26rem", rows, file: "pareto",
      columns: [
        table.element("cell", "key", (row) => h("a", { href: Asft.link("compare", [row.key]) }, row.key.slice(0, 8))),
        ...columns, table.number("HS", "hs"), table.number("FA", "fa"),
      ],
    });
    list.on("rowClick", (event, row) => pick(row.getData().key));
    async function redraw(first) {
      const now = cells.matching(index.cells);
      Asft.say(`${now.length} of ${index.cells.length} cells`);
      if (!first) await list.replaceData(now);
      await draw(traces(now, styles), {
        xaxis: { title: { text: "HS, % (lower is better)" } },
        yaxis: { title: { text: "FA, % (higher is better)" } },
      });
    }
    await redraw(true);
    if (Asft.view().params.has("cell")) pick(Asft.view().params.get("cell"));
  }

  return { title: "Pareto", show };
})();

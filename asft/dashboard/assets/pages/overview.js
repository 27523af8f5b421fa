"use strict";
Asft.pages.overview = (() => {
  const { h, cells, table } = Asft;

  function progress(row) {
    const share = (count) => `width:${(100 * count) / Math.max(1, row.total)}%`;
    const words = row.problem ? "–" : `${row.done} of ${row.total}${row.failed ? `, ${row.failed} failed` : ""}`;
    const bar = h("span", { class: "bar" }, h("i", { style: share(row.done) }), h("i", { class: "failed", style: share(row.failed) }));
    return h("div", {}, words, row.problem ? null : bar);
  }

  function state(row) {
    if (row.problem) return "cannot be enumerated";
    if (!row.done) return row.failed ? "no cell finished" : "not started";
    return row.done === row.total ? "complete" : "incomplete";
  }

  async function experiments(root, rows) {
    root.append(h("h2", {}, "Experiments"));
    await table.show(root, {
      label: "Experiments",
      rows: rows.map((row) => ({ ...row, state: state(row) })),
      columns: [
        table.element("experiment", "name", (row) => (row.done ? h("a", { href: Asft.link("table", [row.name]) }, row.name) : row.name)),
        table.element("cells", "done", progress, { minWidth: 150 }),
        { title: "controls", field: "verdict", formatter: (cell) => cell.getValue() ?? "–" },
        { title: "state", field: "state" },
        { title: "title", field: "title" },
      ],
      empty: "no experiment was asked for",
    });
    const problems = rows.filter((row) => row.problem).map((row) => h("p", { class: "note" }, `${row.name}: ${row.problem}`));
    root.append(...problems);
  }

  function failures(root, rows) {
    if (!rows.length) return null;
    root.append(h("h2", {}, "Failures"), h("p", { class: "note" }, "A cell that fails is run again by the next launch."));
    return table.show(root, {
      label: "Failures",
      height: "22rem",
      rows: rows.map((row) => ({ ...row, cell: `${row.method} · ${row.model} · ${row.dataset} ${row.source} p=${row.p} n=${row.n} seed=${row.seed}` })),
      columns: [{ title: "cell", field: "cell" }, { title: "why", field: "message" }, { title: "when", field: "time" }, { title: "key", field: "key" }],
      file: "failures",
    });
  }

  function latest(root, rows) {
    root.append(h("h2", {}, "Cells, the latest first"));
    return table.show(root, {
      label: "Cells",
      height: "30rem",
      rows: rows.map((row) => ({ ...row, cell: cells.label(row) })).sort((a, b) => b.created.localeCompare(a.created)),
      columns: [
        table.element("cell", "cell", (row) => h("a", { href: Asft.link("generations", [row.key]) }, row.cell)),
        table.number("HS", "hs"),
        table.number("FA", "fa"),
        table.number("seconds", "seconds"),
        { title: "finished", field: "created" },
        { title: "key", field: "key" },
      ],
      file: "cells",
      empty: "no cell is finished yet; launch one with asft run",
    });
  }

  async function show(root) {
    const index = await Asft.load("index");
    const complete = index.experiments.filter((row) => row.total && row.done === row.total).length;
    const answers = index.cells.reduce((sum, cell) => sum + cell.harmful + cell.task, 0);
    const tile = (value, words) => h("li", {}, h("b", {}, value.toLocaleString("en")), h("span", {}, words));
    root.append(
      h(
        "ul",
        { class: "tiles" },
        tile(index.cells.length, "cells finished"),
        tile(index.failures.length, "cells failed"),
        tile(complete, `of ${index.experiments.length} experiments complete`),
        tile(answers, "answers judged"),
      ),
    );
    await experiments(root, index.experiments);
    await failures(root, index.failures);
    await latest(root, index.cells);
  }

  return { title: "Overview", show };
})();

"use strict";
Asft.pages.overview = (() => {
  const { h, cells, note, table } = Asft;

  function progress(row) {
    const share = (count) => `width:${(100 * count) / Math.max(1, row.total)}%`;
    const bar = h("span", { class: "bar" }, h("i", { style: share(row.done) }), h("i", { class: "failed", style: share(row.failed) }));
    return h("div", {}, `${row.done} of ${row.total}${row.failed ? `, ${row.failed} failed` : ""}`, bar);
  }

  async function experiments(root, rows) {
    const begun = rows.filter((row) => row.done || row.failed);
    root.append(h("h2", {}, "Experiments"));
    const name = (row) => (row.done && row.page ? h("a", { href: Asft.link(row.page, [row.name]) }, row.name) : h("span", {}, row.name));
    await table.show(root, {
      label: "Experiments",
      rows: begun,
      columns: [
        table.element("experiment", "name", name),
        table.element("cells", "done", progress, { minWidth: 150 }),
        { title: "controls", field: "verdict", formatter: (cell) => cell.getValue() ?? "–" },
        { title: "title", field: "title" },
      ],
      empty: "none has a finished cell yet",
    });
    if (begun.length) root.append(note("A cell that several experiments share counts in each of them."));
    const open = rows.filter((row) => !begun.includes(row) && !row.problem);
    if (open.length) root.append(note(`Not started: ${open.map((row) => row.name).join(", ")}.`));
    const problems = Map.groupBy(rows.filter((row) => row.problem), (row) => row.problem);
    for (const [problem, those] of problems) root.append(note(`Cannot be laid out here: ${those.map((row) => row.name).join(", ")} (${problem})`));
  }

  /** Cells at work, looked at again every few seconds while this view is shown; a page on disk knows none. */
  async function running(root) {
    const place = h("div", { "aria-live": "polite" });
    root.append(place);
    const draw = (beats) => {
      const lines = beats.map((beat) => h("li", {}, `${beat.cell}: ${beat.progress}, on ${beat.where}`));
      place.replaceChildren(...(lines.length ? [h("h2", {}, "At work"), h("ul", {}, lines)] : []));
    };
    draw(await Asft.load("running"));
    const again = async () => {
      if (!place.isConnected) return;
      draw(await Asft.reload("running").catch(() => []));
      setTimeout(again, 2000);
    };
    setTimeout(again, 2000);
  }

  function failures(root, rows) {
    if (!rows.length) return;
    const item = (row) => h("li", {}, h("b", {}, row.cell), h("p", { class: "bad" }, row.message),
      row.trace ? h("details", { class: "more" }, h("summary", {}, "where it happened"), h("pre", {}, row.trace)) : null,
      h("p", { class: "note" }, `${row.time} · ${row.key}`));
    root.append(h("h2", {}, "Failures"), note("A cell that fails is run again by the next launch."), h("ul", { class: "answers" }, rows.map(item)));
  }

  function latest(root, rows) {
    root.append(h("h2", {}, "Cells, the latest first"));
    return table.show(root, {
      label: "Cells",
      height: "30rem",
      rows: cells.rows(rows).map((row) => ({ ...row, cell: cells.label(row) })).sort((a, b) => b.created.localeCompare(a.created)),
      columns: [
        table.element("cell", "cell", (row) => h("a", { href: Asft.link("generations", [row.key]) }, row.cell)),
        ...cells.columns(),
        table.number("seconds", "seconds"),
        { title: "finished", field: "created", formatter: (cell) => cell.getValue().slice(0, 16).replace("T", " ") },
        { title: "key", field: "key" },
      ],
      file: "cells",
      empty: "no cell is finished yet; `asft run` makes one, `asft run -m experiment=demo` a table",
    });
  }

  async function show(root, view, index) {
    const complete = index.experiments.filter((row) => row.total && row.done === row.total).length;
    const answers = index.cells.reduce((sum, cell) => sum + Object.values(cell.metrics).reduce((n, { total }) => n + total, 0), 0);
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
    if (index.live) await running(root);
    await experiments(root, index.experiments);
    failures(root, index.failures);
    await latest(root, index.cells);
  }

  return { title: "Overview", show };
})();

"use strict";
Asft.pages.curves = (() => {
  const { h, cells, note } = Asft;
  const MOST = 24; // more lines than this tell nothing apart

  /** One cell a training: those that share one (another judge, say) would draw the same line twice. */
  function trainings(rows) {
    return [...new Map(rows.filter((row) => row.train).map((row) => [row.train, row])).values()];
  }

  /** Colours stand for methods and dashes for p, or for what else differs; with one method colours stand for that. */
  async function points(rows, panels) {
    const differ = cells.differing(rows).filter((name) => !cells.ANSWERING.includes(name));
    const several = new Set(rows.map((row) => row.method)).size > 1;
    const dash = several ? (differ.includes("p") ? ["p"] : differ.slice(0, 1)) : [];
    const data = await Promise.all(rows.map((row) => Asft.load(`curves/${row.train}`)));
    const lines = rows.flatMap((row, place) => {
      const words = cells.told(row, differ).join(" ");
      const common = { line: `${row.method} ${words}`, train: row.train, series: several ? row.method : words || row.method, dash: cells.told(row, dash).join() };
      return Object.keys(panels).filter((name) => name in data[place]).flatMap((name) =>
        data[place].step.map((step, at) => ({ ...common, panel: panels[name], step, value: data[place][name][at] })));
    });
    return { lines, dashed: dash.length > 0 };
  }

  async function show(root, view, index) {
    if (!index.cells.some((cell) => cell.train)) return root.append(note("No training has finished yet; `asft run method=asft` makes one."));
    const count = h("p", { class: "note" });
    root.append(cells.filters(index.cells, () => redraw()), count);
    const draw = await Asft.chart(root, { name: "curves", label: "Training curves over steps", spec: index.charts.curves });
    let turn = 0;
    async function redraw() {
      const mine = ++turn;
      const found = trainings(cells.matching(index.cells));
      count.textContent = found.length > MOST ? `The first ${MOST} of ${found.length} trainings; filter to see others.` : `${found.length} trainings.`;
      const { lines, dashed } = await points(found.slice(0, MOST).sort((a, b) => a.p - b.p), index.curves);
      if (mine === turn) await draw(lines, (spec) => dashed || delete spec.spec.encoding.strokeDash);
    }
    await redraw();
  }

  return { title: "Curves", show };
})();

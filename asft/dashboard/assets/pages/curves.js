"use strict";
Asft.pages.curves = (() => {
  const { h, cells } = Asft;
  const MOST = 24; // more lines than this tell nothing apart
  const PANELS = { loss: "loss", penalty: "penalty λR", along: "‖ĈΔW‖", orthogonal: "‖(I−Ĉ)ΔW‖" };

  /** One cell a training: those that share one (another judge, say) would draw the same line twice. */
  function trainings(rows) {
    return [...new Map(rows.filter((row) => row.train).map((row) => [row.train, row])).values()];
  }

  async function lines(rows, styles, palette) {
    const oneMethod = new Set(rows.map((row) => row.method)).size === 1;
    const data = await Promise.all(rows.map((row) => Asft.load(`curves/${row.train}`)));
    const panels = Object.keys(PANELS).filter((name) => data.some((curve) => name in curve));
    const dashes = ["solid", "dot", "dash", "dashdot", "longdash"];
    const used = new Map();
    const traces = rows.flatMap((row, position) => {
      const style = oneMethod ? palette[position % palette.length] : styles.get(row.method);
      const turn = used.get(row.method) ?? 0;
      used.set(row.method, turn + 1);
      return panels.filter((name) => name in data[position]).map((name, index) => ({
        type: "scatter",
        mode: "lines",
        name: Asft.escape(cells.among(row, rows)),
        legendgroup: row.train,
        showlegend: index === 0,
        x: data[position].step,
        y: data[position][name],
        xaxis: `x${panels.indexOf(name) + 1}`,
        yaxis: `y${panels.indexOf(name) + 1}`,
        line: { color: style.colour, dash: dashes[(oneMethod ? Math.floor(position / palette.length) : turn) % dashes.length], width: 1.6 },
        hovertemplate: `step %{x}: %{y:.4g}<extra>${Asft.escape(cells.among(row, rows))}</extra>`,
      }));
    });
    return { traces, panels };
  }

  function layout(panels, count) {
    const axes = {};
    panels.forEach((name, position) => {
      axes[`xaxis${position + 1}`] = { title: { text: "step" } };
      axes[`yaxis${position + 1}`] = { title: { text: PANELS[name] }, rangemode: "tozero" };
    });
    const columns = matchMedia("(max-width: 44rem)").matches || panels.length < 2 ? 1 : 2;
    const rows = Math.max(1, Math.ceil(panels.length / columns));
    return {
      ...axes,
      grid: { rows, columns, pattern: "independent", xgap: 0.12, ygap: 0.22 },
      height: 300 * rows + 10 * count,
    };
  }

  async function show(root) {
    const index = await Asft.load("index");
    const styles = cells.styles(index);
    const note = h("p", { class: "note" });
    root.append(cells.filters(index.cells, () => redraw()), note);
    const draw = await Asft.figure(root, { name: "curves", label: "Training curves over steps" });
    async function redraw() {
      const found = trainings(cells.matching(index.cells));
      const shown = found.slice(0, MOST);
      note.textContent = found.length > MOST ? `The first ${MOST} of ${found.length} trainings; filter to see others.` : `${found.length} trainings.`;
      const { traces, panels } = await lines(shown, styles, index.palette);
      await draw(traces, layout(panels, shown.length));
    }
    await redraw();
  }

  return { title: "Curves", show };
})();

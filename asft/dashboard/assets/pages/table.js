"use strict";
Asft.pages.table = (() => {
  const { h, table } = Asft;
  // Scores have one decimal, as in the paper; measured values three significant digits.
  let shown = (value) => value.toFixed(1);
  const signed = (value) => (value === null ? "" : `${value < 0 ? "−" : "+"}${shown(Math.abs(value))}`);

  function ours(entry, intervals) {
    if (entry.ours === null) return h("span", { class: "warn" }, entry.status);
    const dagger = entry.status === "partial" ? "†" : "";
    const score = h("span", { class: entry.best ? "ours best" : "ours" }, `${shown(entry.ours)}${dagger}`);
    if (entry.best) score.append(h("span", { class: "visually-hidden" }, " best"));
    return h("div", {}, score, intervals && entry.interval ? h("span", { class: "interval" }, entry.interval) : null);
  }

  /** What hovering a score tells. */
  function details(entry) {
    if (entry.ours === null) return [entry.status, entry.reason].filter(Boolean).join(": ");
    const lines = [entry.n ? `${entry.ours.toFixed(2)} over ${entry.n} rows` : String(entry.ours)];
    if (entry.interval) lines.push(`${entry.n ? "95% interval " : ""}${entry.interval} (${entry.how})`);
    if (entry.spread) lines.push(entry.spread);
    if (entry.missing) lines.push(`${entry.seeds} of ${entry.seeds + entry.missing} seeds`);
    return lines.join("\n");
  }

  function printedFigure(value) {
    if (value === null) return "";
    return Math.abs(value) < 0.001 ? value.toExponential(2) : value.toFixed(value < 1 ? 4 : 2);
  }

  function delta(entry) {
    const direction = { true: ["good", "better than the paper"], false: ["bad", "worse than the paper"], null: ["", ""] }[String(entry.good)];
    const element = h("span", { class: direction[0] }, signed(entry.delta));
    if (direction[1]) element.append(h("span", { class: "visually-hidden" }, `, ${direction[1]}`));
    return element;
  }

  function group(data, metric, title, position, paper, intervals) {
    const entry = (row) => row.entries[metric][position];
    const right = { hozAlign: "right", headerHozAlign: "right", headerSort: true };
    const by = (name) => ({ sorter: (a, b, rowA, rowB) => (entry(rowA.getData())[name] ?? Infinity) - (entry(rowB.getData())[name] ?? Infinity) });
    const tooltip = (event, cell) => h("div", { style: "white-space:pre-line" }, details(entry(cell.getData())));
    const field = (name) => `${name}${position}`;
    const columns = [table.element("ours", field("ours"), (row) => ours(entry(row), intervals), { ...right, ...by("ours"), tooltip })];
    if (paper) {
      const printed = (row) => h("span", {}, printedFigure(entry(row).paper));
      columns.push(
        table.element("paper", field("paper"), printed, { ...right, ...by("paper") }),
        table.element("Δ", field("delta"), (row) => delta(entry(row)), { ...right, ...by("delta") }),
      );
    }
    return { title, columns };
  }

  async function metricTable(root, data, metric, intervals) {
    root.append(h("h2", {}, data.metrics[metric]));
    const paper = data.rows.some((row) => row.entries[metric].some((entry) => entry.paper !== null));
    await table.show(root, {
      label: data.metrics[metric],
      rows: data.rows,
      columns: [
        table.element(data.axis, "label", (row) => h("span", { class: row.control ? "note" : "" }, row.label), { frozen: true, minWidth: 110 }),
        ...data.columns.map((title, position) => group(data, metric, title, position, paper, intervals)),
      ],
    });
  }

  function list(root, title, lines) {
    if (lines.length) root.append(h("h2", {}, title), h("ul", {}, lines.map((line) => h("li", {}, line))));
  }

  function downloads(root, data) {
    const save = (name, text, type) => h("button", { type: "button", click: () => Asft.download(`${data.name}.${name}`, text, type) }, name.toUpperCase());
    root.append(h("p", { class: "tools" }, "Download:", save("csv", data.csv, "text/csv"), save("tex", data.latex)));
  }

  async function show(root, view) {
    const index = await Asft.load("index");
    const begun = index.experiments.filter((row) => row.done);
    const missing = index.experiments.filter((row) => !row.done).map((row) => row.name);
    const name = view.parts[0] ?? begun[0]?.name;
    const go = (event) => (location.hash = Asft.link("table", [event.target.value], Object.fromEntries(Asft.view().params)));
    const options = begun.map((row) => h("option", { value: row.name, selected: row.name === name }, row.name));
    const intervals = view.params.get("intervals") === "1";
    const toggle = (event) => (Asft.remember({ intervals: event.target.checked ? "1" : null }), Asft.show());
    root.append(
      h("div", { class: "row" },
        h("label", {}, "experiment", h("select", { change: go }, options)),
        h("label", {}, h("input", { type: "checkbox", checked: intervals, change: toggle }), "show 95% intervals")),
    );
    if (missing.length) root.append(h("p", { class: "note" }, `Not started: ${missing.join(", ")}.`));
    if (!name) return;
    const data = await Asft.load(`tables/${name}`);
    shown = data.significant ? (value) => String(Number(value.toPrecision(3))) : (value) => value.toFixed(1);
    root.append(h("h2", {}, data.title));
    if (data.health) root.append(
      h("div", { class: `verdict ${data.health.verdict}`, role: "note" }, h("strong", {}, data.health.headline), h("p", {}, data.health.why)),
    );
    downloads(root, data);
    for (const metric of Object.keys(data.metrics)) await metricTable(root, data, metric, intervals);
    const seeds = data.seeds > 1 ? `Means over ${data.seeds} seeds. ` : "";
    if (data.methods.length) root.append(h("p", { class: "note" }, `${seeds}Underlined: best defence of a column. Grey rows are controls. Δ is ours minus the paper's, in points, green on the better side. ${data.methods[0]}`));
    list(root, "Differences that hold", [...data.differences, data.comparisons].filter(Boolean));
    list(root, "What differs from the paper", data.notes);
    const state = { true: ["good", "in order"], false: ["bad", "not in order"], null: ["warn", "not checked"] };
    list(root, "Controls", (data.health?.findings ?? []).map((finding) => {
      const [style, words] = state[String(finding.ok)];
      return h("span", {}, h("span", { class: style }, words), `: ${finding.text}`);
    }));
    list(root, "Places without a result", data.gaps);
    root.append(h("h2", {}, "How this was made"), h("pre", {}, h("code", {}, data.command)));
  }

  return { title: "Table", show };
})();

"use strict";
Asft.pages.table = (() => {
  const { h, table, note } = Asft;
  const SIDES = { true: ["good", ", better than the paper"], false: ["bad", ", worse than the paper"], null: ["", ""] };
  const STATES = { true: ["good", "in order"], false: ["bad", "not in order"], null: ["warn", "not checked"] };

  const hidden = (text) => h("span", { class: "visually-hidden" }, text);

  /** Links to the answers behind a place, one a seed, where the site has them. */
  function answers(entry, linked) {
    return linked ? entry.cells.map(([key, seed]) => h("a", { href: Asft.link("generations", [key]), title: `answers, seed ${seed}` }, String(seed))) : [];
  }

  /** One place of the table: ours, its interval, and beneath the paper's figure with the difference. */
  function place(entry, linked) {
    if (entry.value === null) return h("span", { class: "warn", title: entry.how }, entry.text);
    const links = answers(entry, linked);
    if (links.length === 1) links[0].textContent = entry.text;
    const shown = links.length === 1 ? links.pop() : entry.text;
    const parts = [h("span", { class: entry.best ? "ours best" : "ours" }, shown, entry.best ? hidden(" best") : null)];
    const small = (...children) => parts.push(h("span", { class: "small" }, ...children));
    for (const line of [entry.interval, ...entry.more]) if (line) small(line);
    if (entry.paper) {
      const [style, words] = SIDES[String(entry.good)];
      small(`paper ${entry.paper}`, entry.delta ? h("span", { class: style }, ` Δ ${entry.delta}`, hidden(words)) : null);
    }
    if (links.length) small("answers of seed", links.flatMap((link) => [" ", link]));
    return h("div", { title: entry.how }, parts);
  }

  async function panel(root, { title, axis, columns, rows }, linked) {
    root.append(h("h2", {}, title));
    const column = (words, position) => {
      const entry = (row) => row.entries[position];
      const byValue = table.byNumber((row) => table.numeral(entry(row.getData()).value));
      const sorter = (a, b, rowA, rowB, ...more) => byValue(rowA, rowB, rowA, rowB, ...more);
      return table.element(words, `c${position}`, (row) => place(entry(row), linked), { hozAlign: "right", headerHozAlign: "right", sorter });
    };
    const label = table.element(axis, "label", (row) => h("span", { class: row.control ? "note" : "" }, row.label), { frozen: true });
    await table.show(root, { label: title, rows, columns: [label, ...columns.map(column)] });
  }

  function list(root, title, lines) {
    if (lines.length) root.append(h("h2", {}, title), h("ul", {}, lines.map((line) => h("li", {}, typeof line === "string" ? Asft.words(line) : line))));
  }

  async function figure(root, { name, caption, spec, rows }) {
    const place = h("figure", {});
    root.append(place);
    const draw = await Asft.chart(place, { name, label: `${caption} The tables hold the same figures.`, spec });
    place.prepend(h("figcaption", { class: "note" }, caption));
    await draw(rows);
  }

  /** A table that few readers need, drawn when it is opened. */
  function folded(root, { title, note: words, header, rows, open }) {
    const body = h("div", {}, words ? note(words) : null);
    const details = h("details", { class: "more" }, h("summary", {}, title), body);
    const fill = () => details.open && body.childElementCount < 2 && table.plain(body, { title, header, rows });
    details.addEventListener("toggle", fill);
    details.open = open;
    root.append(details);
  }

  /** Which experiment is shown; a name that has no table is told why. */
  function chosen(root, view, { experiments }) {
    const tables = experiments.filter((row) => row.page === "table");
    const begun = tables.filter((row) => row.done).map((row) => row.name);
    const name = view.parts[0] ?? begun[0];
    const open = tables.filter((row) => !row.done && !row.problem).map((row) => row.name);
    const problem = tables.find((row) => row.name === name)?.problem;
    if (begun.length + open.length > 1) {
      const go = (picked) => (location.hash = Asft.link("table", [picked]));
      const options = begun.includes(name) ? begun : ["", ...begun];
      root.append(h("div", { class: "row" }, Asft.select("experiment", options.map((word) => [word, word || "choose one"]), name, go)));
      if (open.length) root.append(note(`Not started: ${open.join(", ")}.`));
    }
    if (begun.includes(name)) return name;
    if (problem) root.append(note(`${name} cannot be laid out here: ${problem}`), note(`\`asft run -m experiment=${name}\` takes other settings.`));
    else if (open.includes(name)) root.append(note(`No cell of ${name} is finished yet; \`asft run -m experiment=${name}\` starts it.`));
    else if (name) throw new Error(`there is no experiment ${name} in this dashboard`);
    else root.append(note("No table has a finished cell yet; `asft run -m experiment=demo` starts the first."));
    return null;
  }

  async function show(root, view, index) {
    const name = chosen(root, view, index);
    if (!name) return;
    const data = await Asft.load(`tables/${name}`);
    if (index.pages.length > 1) root.append(h("h2", {}, data.title));
    else document.title = root.firstChild.textContent = data.title;
    const { health } = data;
    if (health) root.append(h("div", { class: `verdict ${health.verdict}`, role: "note" }, h("strong", {}, health.headline), h("p", {}, health.why)));
    if (data.finding) root.append(h("p", {}, data.finding));
    const save = ([file, text]) => h("button", { type: "button", click: () => Asft.download(`${data.name}-${file}`, text) }, file);
    root.append(h("p", { class: "tools" }, "Download:", Object.entries(data.downloads).map(save)));
    if (data.glossary.length) root.append(h("ul", { class: "note" }, data.glossary.map((line) => h("li", {}, line))));
    for (const one of data.panels) await panel(root, one, index.pages.includes("generations"));
    for (const words of data.legend) root.append(note(words));
    list(root, "Places without a result", data.gaps);
    list(root, `${health ? "What" : "How to read it, and what"} differs from the paper`, data.notes);
    if (data.figures.length) root.append(h("h2", {}, "Plots"));
    for (const one of data.figures) await figure(root, one);
    list(root, "Differences that hold", data.differences);
    list(root, "Controls", (health?.findings ?? []).map(({ ok, text }) => h("span", {}, h("span", { class: STATES[ok][0] }, STATES[ok][1]), `: ${text}`)));
    if (data.tables.length) root.append(h("h2", {}, "In detail"));
    for (const one of data.tables) folded(root, one);
    root.append(h("h2", {}, "How this was made"), h("pre", {}, h("code", {}, data.command)), note(data.versions));
  }

  return { title: "Table", show };
})();

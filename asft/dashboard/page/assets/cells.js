// Finished cells: how one is named, and the filters that several pages share.
"use strict";
Asft.cells = (() => {
  const { h } = Asft;
  const DIMENSIONS = {
    model: "model", dataset: "dataset", source: "source", p: "p", n: "n", lam: "λ", method: "method", variant: "variant", seed: "seed",
    training: "training", lr: "lr",
    protocol: "protocol", judge: "judge", jailbreak: "jailbreak", backend: "backend",
  };

  const NUMBERS = ["p", "n", "lam", "lr", "seed"];

  const text = (value) => (value === null ? "–" : String(value));

  // Settings that say how answers were asked for and judged: trainings do not have them.
  const ANSWERING = ["judge", "jailbreak", "backend"];
  let judges = 1; // in this store; with several a cell's name holds its own
  let metrics = []; // {name, label, lower}, the first two of them are the usual axes

  /** What a cell is, in a line. */
  function label(cell) {
    const lam = cell.lam === null ? "" : ` λ=${cell.lam}`;
    const variant = cell.variant === null ? "" : ` ${cell.variant}`;
    const place = cell.place === null ? "" : ` ${cell.place}`;
    const asked = cell.jailbreak === "none" ? "" : ` asked by ${cell.jailbreak}`;
    const answered = cell.backend === "hf" ? "" : ` answered by ${cell.backend}`;
    const judged = judges > 1 && cell.judge ? ` judged by ${cell.judge}` : "";
    return `${cell.method}${lam}${variant} · ${cell.model} · ${cell.dataset}${place}${asked}${answered}${judged}`;
  }

  /** A cell's score in a metric; null where it was not scored by it. */
  const score = (cell, name) => cell.metrics[name]?.value ?? null;

  /** The metrics that all these cells were scored by. */
  const scored = (...those) => metrics.filter(({ name }) => those.every((cell) => name in cell.metrics));

  /** `HS 5.2 [3.1–8.7], FA 99.0 [97.7–99.6]` */
  function scores(cell) {
    const range = ({ interval }) => (interval ? ` [${interval.map((end) => end.toFixed(1)).join("–")}]` : "");
    return scored(cell).map(({ name }) => `${name} ${score(cell, name).toFixed(1)}${range(cell.metrics[name])}`).join(", ");
  }

  /** Columns of a table of cells with every metric; its rows are made by `rows`. */
  const columns = () => metrics.map(({ name }, place) => Asft.table.number(name, `m${place}`));
  const rows = (cells) => cells.map((cell) => ({ ...cell, ...Object.fromEntries(metrics.map(({ name }, place) => [`m${place}`, score(cell, name)])) }));

  /** Settings, besides the method, in which cells are not all alike. */
  function differing(shown) {
    return Object.keys(DIMENSIONS).filter((name) => name !== "method" && new Set(shown.map((cell) => cell[name])).size > 1);
  }

  /** Those settings of one cell, in words. */
  const told = (cell, names) => names.filter((name) => cell[name] !== null).map((name) => `${DIMENSIONS[name]}=${cell[name]}`);

  function byKey(cells, key) {
    const found = cells.find((cell) => cell.key === key);
    if (!found) throw new Error(`no finished cell ${key} in this store`);
    return found;
  }

  /** Each filtered dimension's values as a set, from `?method=sft,asft`. */
  function chosen(params) {
    return Object.keys(DIMENSIONS)
      .filter((name) => params.has(name))
      .map((name) => [name, new Set(params.get(name).split(",").map(Asft.decoded))]);
  }

  function matching(cells) {
    const wanted = chosen(Asft.view().params);
    return cells.filter((cell) => wanted.every(([name, values]) => values.has(text(cell[name]))));
  }

  function order(a, b) {
    return Number(a) - Number(b) || a.localeCompare(b, undefined, { numeric: true });
  }

  /** One menu of checkboxes a dimension that has more than one value; nothing ticked means all. */
  function filters(cells, changed) {
    const box = h("div", { class: "filters", role: "group", "aria-label": "Filters" });
    const draw = () => {
      const wanted = new Map(chosen(Asft.view().params));
      const menus = Object.keys(DIMENSIONS).map((name) => menu(name, values(cells, name), wanted.get(name), changed));
      box.replaceChildren(...menus.filter(Boolean), h("button", { type: "button", click: clear }, "Clear filters"));
    };
    function clear() {
      Asft.remember(Object.fromEntries(Object.keys(DIMENSIONS).map((name) => [name, null])));
      draw();
      changed();
    }
    draw();
    return box;
  }

  function values(cells, name) {
    return [...new Set(cells.map((cell) => text(cell[name])))].sort(order);
  }

  function menu(name, options, wanted = new Set(), changed) {
    if (options.length < 2 && !wanted.size) return null;
    const title = h("summary", {});
    const details = h("details", {}, title);
    const rename = () => {
      const several = wanted.size > 3 ? `${wanted.size} of ${options.length}` : [...wanted].join(", ");
      title.textContent = `${DIMENSIONS[name]}: ${several || "all"}`;
      details.classList.toggle("on", wanted.size > 0);
    };
    const tick = (event) => {
      if (event.target.checked) wanted.add(event.target.value);
      else wanted.delete(event.target.value);
      Asft.remember({ [name]: [...wanted].map(encodeURIComponent).join(",") || null });
      rename();
      changed();
    };
    const boxes = options.map((value) =>
      h("label", {}, h("input", { type: "checkbox", value, checked: wanted.has(value), change: tick }), value),
    );
    details.append(h("fieldset", {}, h("legend", { class: "visually-hidden" }, DIMENSIONS[name]), boxes));
    rename();
    return details;
  }

  /** Closes every open menu of filters that does not hold `keep`. */
  function close(keep) {
    for (const menu of document.querySelectorAll(".filters details[open]")) if (!menu.contains(keep)) menu.open = false;
  }
  document.addEventListener("pointerdown", (event) => close(event.target));
  document.addEventListener("focusin", (event) => close(event.target));
  document.addEventListener("keydown", (event) => {
    const menu = event.key === "Escape" && document.querySelector(".filters details[open]");
    if (menu) (menu.open = false), menu.firstChild.focus();
  });

  /** A menu of cells; `picked` is called with a key. */
  function select(cells, key, words, picked) {
    const options = cells.map((cell) => [cell.key, `${label(cell)} · ${cell.key.slice(0, 8)}`]);
    return Asft.select(words, [["", "choose a cell"], ...options], key, picked);
  }

  /** To be called with the index before any cell is named. */
  function know(index) {
    judges = new Set(index.cells.map((cell) => cell.judge)).size;
    metrics = index.metrics;
  }

  return { ANSWERING, DIMENSIONS, NUMBERS, label, score, scored, scores, columns, rows, differing, told, byKey, matching, filters, select, know, text };
})();

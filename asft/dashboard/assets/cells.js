// Finished cells: how one is named, and the filters that several pages share.
"use strict";
Asft.cells = (() => {
  const { h } = Asft;
  const DIMENSIONS = {
    model: "model", dataset: "dataset", source: "source", p: "p", n: "n", lam: "λ", method: "method", seed: "seed",
    training: "training", lr: "lr",
    protocol: "protocol", judge: "judge", jailbreak: "jailbreak", backend: "backend",
  };

  const text = (value) => (value === null ? "–" : String(value));

  function label(cell) {
    const lam = cell.lam === null ? "" : ` λ=${cell.lam}`;
    const training = cell.training === "full" ? " full" : "";
    const place = cell.p === null ? "" : ` ${cell.source} p=${cell.p} n=${cell.n}${training} lr=${cell.lr} seed=${cell.seed}`;
    const asked = cell.jailbreak === "none" ? "" : ` asked by ${cell.jailbreak}`;
    const answered = cell.backend === "hf" ? "" : ` answered by ${cell.backend}`;
    return `${cell.method}${lam} · ${cell.model} · ${cell.dataset}${place}${asked}${answered}`;
  }

  /** What tells a cell from the others shown: its method, and the settings in which they are not all alike. */
  function among(cell, shown) {
    const differ = Object.keys(DIMENSIONS).filter((name) => name !== "method" && new Set(shown.map((other) => other[name])).size > 1);
    const told = differ.filter((name) => cell[name] !== null).map((name) => `${DIMENSIONS[name]}=${cell[name]}`);
    return [cell.method, ...told].join(" ");
  }

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
      title.textContent = `${DIMENSIONS[name]}: ${wanted.size ? [...wanted].join(", ") : "all"}`;
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
    details.addEventListener("toggle", () => details.open && closeOthers(details));
    details.addEventListener("keydown", (event) => {
      if (event.key === "Escape") (details.open = false), title.focus();
    });
    rename();
    return details;
  }

  function closeOthers(open) {
    for (const other of document.querySelectorAll(".filters details[open]")) if (other !== open) other.open = false;
  }

  /** A menu of cells; `picked` is called with a key. */
  function select(cells, key, words, picked) {
    const options = cells.map((cell) =>
      h("option", { value: cell.key, selected: cell.key === key }, `${label(cell)} · ${cell.key.slice(0, 8)}`),
    );
    const change = (event) => picked(event.target.value);
    return h("label", {}, words, h("select", { change }, h("option", { value: "" }, "choose a cell"), options));
  }

  /** Colour and symbol a method, by name; where the palette is used up it starts again with open symbols. */
  function styles(index) {
    const methods = [...new Set(index.cells.map((cell) => cell.method))].sort(order);
    const { palette } = index;
    return new Map(
      methods.map((method, position) => {
        const { colour, symbol } = palette[position % palette.length];
        return [method, { colour, symbol: position < palette.length ? symbol : `${symbol}-open` }];
      }),
    );
  }

  return { DIMENSIONS, label, among, byKey, matching, filters, select, styles, text };
})();

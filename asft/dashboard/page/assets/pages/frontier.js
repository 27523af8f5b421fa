"use strict";
Asft.pages.frontier = (() => {
  const { h, note, select, table } = Asft;

  /** Which comparison is shown. */
  function chosen(root, view, index) {
    const names = index.experiments.filter((row) => row.page === "frontier" && row.done).map((row) => row.name);
    const name = view.parts[0] ?? names[0];
    if (!names.length) root.append(note("No strength is finished yet; `asft run -m experiment=frontier` starts the first."));
    else if (!names.includes(name)) throw new Error(`there is no comparison ${name} in this dashboard`);
    if (names.length > 1) root.append(h("div", { class: "row" }, select("experiment", names.map((word) => [word, word]), name, (picked) => (location.hash = Asft.link("frontier", [picked])))));
    return names.length ? name : null;
  }

  /** The chart with a menu of methods: one of them, or all. */
  async function chart(root, view, { chart: { spec, rows }, name }) {
    const methods = [...new Map(rows.map((row) => [row.method, row.series])).entries()];
    const label = "FA against HS of every point with 95% intervals; the tables below hold the same figures";
    const shown = (picked) => rows.filter((row) => !picked || row.method === picked || ["aligned", "sft"].includes(row.method));
    const menu = h("div", { class: "row" });
    root.append(menu);
    const draw = await Asft.chart(root, { name, label, spec });
    const pick = (picked) => (Asft.remember({ method: picked }), draw(shown(picked)));
    const now = view.params.get("method") ?? "";
    menu.append(select("method", [["", "all"], ...methods], now, pick));
    root.append(note("Up and to the left is better. Lines join the corners of a method's front. Shift and the wheel zoom."));
    await draw(shown(now));
  }

  /** A wish, who wins it, and what it comes to with every method. */
  async function wishes(root, view, data) {
    const names = Object.keys(data.winners);
    if (!names.length) return;
    const place = h("div", { "aria-live": "polite" });
    const show = async (wish) => {
      place.replaceChildren(h("p", {}, h("strong", {}, data.winners[wish])));
      await table.plain(place, data.tables.find((one) => one.title === wish));
    };
    const pick = (wish) => (Asft.remember({ wish }), show(wish));
    const now = names.includes(view.params.get("wish")) ? view.params.get("wish") : names[0];
    root.append(h("h2", {}, "What do you wish for?"), h("div", { class: "row" }, select("wish", names.map((wish) => [wish, wish]), now, pick)), place);
    await show(now);
  }

  async function show(root, view, index) {
    const name = chosen(root, view, index);
    if (!name) return;
    const data = await Asft.load(`frontiers/${name}`);
    root.append(h("h2", {}, data.title), h("ul", {}, data.lines.map((line) => h("li", {}, line))));
    const save = ([file, text]) => h("button", { type: "button", click: () => Asft.download(`${name}-${file}`, text) }, file);
    root.append(h("p", { class: "tools" }, "Download:", Object.entries(data.downloads).map(save)));
    await chart(root, view, data);
    await wishes(root, view, data);
    for (const one of data.tables.filter((part) => !(part.title in data.winners))) {
      root.append(h("h2", {}, one.title), one.note ? note(one.note) : "");
      await table.plain(root, one);
    }
    root.append(h("h2", {}, "How it is compared"), h("ul", {}, [...data.how, ...data.left_out].map((line) => h("li", {}, line))));
    root.append(h("pre", {}, h("code", {}, data.command)));
  }

  return { title: "Frontier", show };
})();

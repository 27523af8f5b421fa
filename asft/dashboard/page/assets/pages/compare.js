"use strict";
Asft.pages.compare = (() => {
  const { h, cells, note, table, answers, statistics } = Asft;
  const PAGE = 10;
  const value = (text) => ({ undefined: "no such setting", None: "null" })[text] ?? text;

  function configDiff(root, first, second) {
    const keys = [...new Set([...Object.keys(first), ...Object.keys(second)])].sort();
    const rows = keys.filter((key) => first[key] !== second[key]).map((key) => ({ key, a: value(first[key]), b: value(second[key]) }));
    root.append(h("h2", {}, `Settings that differ: ${rows.length} of ${keys.length}`));
    return table.show(root, {
      label: "Settings that differ", rows, file: "settings", height: "24rem", empty: "the two have the same settings",
      columns: [{ title: "setting", field: "key" }, { title: "A", field: "a" }, { title: "B", field: "b" }],
    });
  }

  /** Rows of both cells on the same prompts, as far as both have a verdict. */
  async function shared(a, b, name) {
    const [first, second] = await Promise.all([answers.all(a, name), answers.all(b, name)]);
    const byId = new Map(second.map((row) => [row.id, row]));
    const both = first.map((row) => [row, byId.get(row.id)]);
    return both.filter(([one, other]) => other?.prompt === one.prompt && one.credit !== null && other.credit !== null);
  }

  function metricDiff(root, a, b, metrics, pairs) {
    const line = ({ name, lower }) => {
      const row = { metric: name, a: cells.score(a, name), b: cells.score(b, name) };
      if (!pairs[name].length) return { ...row, difference: null, p: "–", n: 0, test: "no prompt in common", holds: "" };
      const test = statistics.paired(pairs[name].map((both) => both.map((row) => row.credit)));
      const better = (test.difference < 0) === lower ? "A" : "B";
      return { ...row, difference: test.difference, p: statistics.words(test.p), n: test.n, test: test.test, holds: test.p < 0.05 ? `${better} is better` : "does not hold" };
    };
    root.append(h("h2", {}, "Scores"));
    return table.show(root, {
      label: "Scores", file: "scores",
      rows: metrics.map(line),
      columns: [
        { title: "metric", field: "metric" }, table.number("A", "a"), table.number("B", "b"), table.number("A − B", "difference"),
        { title: "p-value", field: "p" }, { title: "at 5%", field: "holds" }, { title: "prompts", field: "n" }, { title: "test", field: "test" },
      ],
    });
  }

  function disagreements(root, metrics, pairs) {
    const params = Asft.view().params;
    const split = Object.fromEntries(metrics.map(({ name }) => [name, pairs[name].filter(([a, b]) => a.credit !== b.credit)]));
    const named = (wanted) => metrics.find(({ name }) => name === wanted);
    let metric = named(params.get("part")) ?? metrics.find(({ name }) => split[name].length) ?? metrics[0];
    let page = Number(params.get("at") ?? 1);
    const list = h("ol", { class: "answers" });
    const counter = h("span", { class: "note" });
    const turn = (step) => () => ((page += step), draw());
    const back = h("button", { type: "button", click: turn(-1) }, "Previous");
    const next = h("button", { type: "button", click: turn(1) }, "Next");
    const change = (picked) => ((metric = named(picked)), (page = 1), draw());
    const options = metrics.map((one) => [one.name, `${answers.words(one)[0]} (${split[one.name].length} of ${pairs[one.name].length})`]);
    const side = (name, row) => h("div", {}, h("h3", {}, name), answers.answer(row, metric));
    function draw() {
      const rows = split[metric.name];
      const pages = Math.max(1, Math.ceil(rows.length / PAGE));
      page = Math.min(Math.max(1, page || 1), pages);
      Asft.remember({ part: metric.name, at: page === 1 ? null : String(page) });
      counter.textContent = `page ${page} of ${pages}`;
      [back.disabled, next.disabled] = [page === 1, page === pages];
      list.replaceChildren(...rows.slice((page - 1) * PAGE, page * PAGE).map(([a, b]) =>
        h("li", {}, h("h3", {}, a.id), answers.prompt(a), h("div", { class: "pair" }, side("A", a), side("B", b)))));
    }
    root.append(
      h("h2", {}, "Prompts on which they disagree"),
      h("div", { class: "row" }, Asft.select("prompts", options, metric.name, change), back, next, counter),
      list,
    );
    draw();
  }

  async function show(root, view, index) {
    const [a = "", b = ""] = view.parts;
    const go = (first, second) => (location.hash = Asft.link("compare", second ? [first || "-", second] : [first || "-"]));
    const named = (key) => (key && key !== "-" ? cells.byKey(index.cells, key) : null);
    root.append(h("div", { class: "row" }, cells.select(index.cells, a, "A", (key) => go(key, b)), cells.select(index.cells, b, "B", (key) => go(a, key))));
    if (!named(a) || !named(b)) {
      root.append(note(index.cells.length > 1 ? "Choose two cells. The Pareto page leads here from any point." : "Two finished cells are needed; `asft run -m method=sft,asft` makes them."));
      return;
    }
    const [first, second] = await Promise.all([Asft.load(`cells/${a}`), Asft.load(`cells/${b}`)]);
    const metrics = cells.scored(named(a), named(b));
    const pairs = Object.fromEntries(await Promise.all(metrics.map(async ({ name }) => [name, await shared(a, b, name)])));
    await metricDiff(root, named(a), named(b), metrics, pairs);
    root.append(note("Paired on the prompts that both answered: McNemar's exact test, a bootstrap where the task is graded. Two cells, so no correction; a table's comparisons are corrected on its page."));
    await configDiff(root, first.config, second.config);
    if (metrics.length) disagreements(root, metrics, pairs);
  }

  return { title: "Compare", show };
})();

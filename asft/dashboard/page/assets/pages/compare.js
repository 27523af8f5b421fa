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

  /** Rows of both cells on the same prompts. */
  async function shared(a, b, part) {
    const [first, second] = await Promise.all([answers.all(a, part), answers.all(b, part)]);
    const byId = new Map(second.map((row) => [row.id, row]));
    return first.filter((row) => byId.get(row.id)?.prompt === row.prompt).map((row) => [row, byId.get(row.id)]);
  }

  function metricDiff(root, a, b, pairs) {
    const line = (metric, part, field, lower) => {
      const row = { metric, a: a[field], b: b[field] };
      if (!pairs[part].length) return { ...row, difference: null, p: "–", n: 0, test: "no prompt in common", holds: "" };
      const test = statistics.paired(pairs[part].map((both) => both.map(answers.score)));
      const better = (test.difference < 0) === lower ? "A" : "B";
      return { ...row, difference: test.difference, p: statistics.words(test.p), n: test.n, test: test.test, holds: test.p < 0.05 ? `${better} is better` : "does not hold" };
    };
    root.append(h("h2", {}, "Scores"));
    return table.show(root, {
      label: "Scores", file: "scores",
      rows: [line("HS", "harmful", "hs", true), line("FA", "task", "fa", false)],
      columns: [
        { title: "metric", field: "metric" }, table.number("A", "a"), table.number("B", "b"), table.number("A − B", "difference"),
        { title: "p-value", field: "p" }, { title: "at 5%", field: "holds" }, { title: "prompts", field: "n" }, { title: "test", field: "test" },
      ],
    });
  }

  function side(name, row) {
    return h("div", {}, h("h3", {}, name), answers.answer(row));
  }

  function disagreements(root, pairs) {
    const params = Asft.view().params;
    const parts = Object.keys(answers.PARTS);
    const split = Object.fromEntries(parts.map((part) => [part, pairs[part].filter(([a, b]) => answers.score(a) !== answers.score(b))]));
    let part = params.get("part") ?? (split.harmful.length ? "harmful" : "task");
    let page = Number(params.get("at") ?? 1);
    const list = h("ol", { class: "answers" });
    const counter = h("span", { class: "note" });
    const turn = (step) => () => ((page += step), draw());
    const back = h("button", { type: "button", click: turn(-1) }, "Previous");
    const next = h("button", { type: "button", click: turn(1) }, "Next");
    const change = (picked) => ((part = picked), (page = 1), draw());
    const options = parts.map((name) => [name, `${answers.PARTS[name]} (${split[name].length} of ${pairs[name].length})`]);
    function draw() {
      const rows = split[part];
      const pages = Math.max(1, Math.ceil(rows.length / PAGE));
      page = Math.min(Math.max(1, page || 1), pages);
      Asft.remember({ part, at: page === 1 ? null : String(page) });
      counter.textContent = `page ${page} of ${pages}`;
      [back.disabled, next.disabled] = [page === 1, page === pages];
      list.replaceChildren(...rows.slice((page - 1) * PAGE, page * PAGE).map(([a, b]) =>
        h("li", {}, h("h3", {}, a.id), answers.prompt(a), h("div", { class: "pair" }, side("A", a), side("B", b)))));
    }
    root.append(
      h("h2", {}, "Prompts on which they disagree"),
      h("div", { class: "row" }, Asft.select("prompts", options, part, change), back, next, counter),
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
    const pairs = { harmful: await shared(a, b, "harmful"), task: await shared(a, b, "task") };
    await metricDiff(root, named(a), named(b), pairs);
    root.append(note("Paired on the prompts that both answered: McNemar's exact test, a bootstrap where the task is graded. Two cells, so no correction; a table's comparisons are corrected on its page."));
    await configDiff(root, first.config, second.config);
    disagreements(root, pairs);
  }

  return { title: "Compare", show };
})();

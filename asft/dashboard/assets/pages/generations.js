"use strict";
Asft.pages.generations = (() => {
  const { h, cells, answers } = Asft;
  const PAGE = 20;
  const VERDICTS = { harmful: { harmful: "harmful", safe: "safe" }, task: { right: "right", wrong: "not right" } };

  const TESTS = {
    all: () => true,
    harmful: (row) => row.flagged,
    safe: (row) => !row.flagged,
    right: (row) => row.credit === 1,
    wrong: (row) => row.credit < 1,
    disagree: (row, other) => other.has(row.id) && other.get(row.id) !== answers.score(row),
  };

  /** Verdicts of another judge on the same answers, by row. */
  async function otherVerdicts(key, part) {
    return new Map(key ? (await answers.all(key, part)).map((row) => [row.id, answers.score(row)]) : []);
  }

  /** Reads pieces until a page is full; later pieces stay on disk. */
  async function find(key, state, other) {
    const wanted = state.q.toLowerCase();
    const found = [];
    let seen = 0;
    for await (const row of answers.read(key, state.part)) {
      seen += 1;
      const hit = !wanted || [row.id, row.prompt, row.answer].some((text) => text.toLowerCase().includes(wanted));
      if (hit && TESTS[state.verdict](row, other)) found.push(row);
      if (found.length > state.page * PAGE) break; // one more than fits tells that there is a next page
    }
    return { rows: found.slice((state.page - 1) * PAGE, state.page * PAGE), more: found.length > state.page * PAGE, seen };
  }

  function item(row) {
    return h("li", {}, h("h3", {}, row.id), answers.prompt(row), answers.answer(row));
  }

  function read(params) {
    const part = params.get("part") in answers.PARTS ? params.get("part") : "harmful";
    const verdict = params.get("verdict") ?? "all";
    return { part, verdict: verdict in TESTS ? verdict : "all", q: params.get("q") ?? "", page: Math.max(1, Number(params.get("at")) || 1) };
  }

  function controls(state, siblings, change) {
    const option = (value, words, now) => h("option", { value, selected: value === now }, words);
    const verdicts = { all: "all verdicts", ...VERDICTS[state.part], ...(siblings.length && state.part === "harmful" ? { disagree: "judges disagree" } : {}) };
    const parts = Object.entries(answers.PARTS).map(([name, words]) => option(name, words, state.part));
    const choices = Object.entries(verdicts).map(([name, words]) => option(name, words, state.verdict));
    const search = h("input", { type: "search", value: state.q, placeholder: "search prompts and answers", "aria-label": "Search", change: (event) => change({ q: event.target.value }) });
    return h("div", { class: "row" },
      h("label", {}, "answers to", h("select", { change: (event) => change({ part: event.target.value, verdict: "all" }) }, parts)),
      h("label", {}, "verdict", h("select", { change: (event) => change({ verdict: event.target.value }) }, choices)),
      search);
  }

  async function show(root, view) {
    const index = await Asft.load("index");
    const key = view.parts[0] ?? index.cells[0]?.key;
    const go = (picked) => (location.hash = Asft.link("generations", [picked], Object.fromEntries(Asft.view().params)));
    root.append(h("div", { class: "row" }, cells.select(index.cells, key, "cell", go)));
    if (!key) return;
    const cell = cells.byKey(index.cells, key);
    const siblings = index.cells.filter((other) => other.answers === cell.answers && other.key !== key);
    const state = read(view.params);
    const total = cell[state.part];
    root.append(h("p", { class: "note" }, `HS ${cell.hs.toFixed(1)}, FA ${cell.fa.toFixed(1)}, judge ${cell.judge}. Malicious prompts and harmful answers are hidden until you open them.`));
    const change = (changes) => {
      const next = { ...state, page: 1, ...changes };
      Asft.remember({ part: next.part, verdict: next.verdict === "all" ? null : next.verdict, q: next.q, at: next.page === 1 ? null : String(next.page) });
      Asft.show();
    };
    root.append(controls(state, siblings, change));
    const other = state.verdict === "disagree" ? await otherVerdicts(siblings[0]?.key, state.part) : new Map();
    if (state.verdict === "disagree" && siblings.length) root.append(h("p", { class: "note" }, `Against judge ${siblings[0].judge} on the same answers.`));
    const { rows, more, seen } = await find(key, state, other);
    const turn = (words, page, off) => h("button", { type: "button", disabled: off, click: () => change({ page }) }, words);
    root.append(
      h("div", { class: "row" }, turn("Previous", state.page - 1, state.page === 1), turn("Next", state.page + 1, !more),
        h("span", { class: "note" }, `page ${state.page}; looked at ${seen} of ${total} answers`)),
      h("ol", { class: "answers" }, rows.map(item)),
    );
    if (!rows.length) root.append(h("p", {}, "No answer matches."));
  }

  return { title: "Generations", show };
})();

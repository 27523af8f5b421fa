"use strict";
Asft.pages.generations = (() => {
  const { h, cells, note, answers } = Asft;
  const PAGE = 20;
  const TYPING_MS = 250;

  const TESTS = {
    all: () => true,
    yes: (row) => row.credit === 1,
    no: (row) => row.credit !== 1,
    disagree: (row, others) => others.some((verdicts) => verdicts.has(row.id) && verdicts.get(row.id) !== row.credit),
  };

  /** Verdicts of another judge on the same answers, by row. */
  const otherVerdicts = async (key, part) => new Map((await answers.all(key, part)).map((row) => [row.id, row.credit]));

  /** Reads pieces until a page is full; later pieces stay on disk. */
  async function find(key, state, others) {
    const wanted = state.q.toLowerCase();
    const found = [];
    let seen = 0;
    for await (const row of answers.read(key, state.part)) {
      seen += 1;
      const hit = !wanted || [row.id, row.prompt, row.answer].some((text) => text.toLowerCase().includes(wanted));
      if (hit && TESTS[state.verdict](row, others)) found.push(row);
      if (found.length > state.page * PAGE) break; // one more than fits tells that there is a next page
    }
    return { rows: found.slice((state.page - 1) * PAGE, state.page * PAGE), more: found.length > state.page * PAGE, seen };
  }

  function read(params, metrics) {
    const part = metrics.find(({ name }) => name === params.get("part"))?.name ?? metrics[0].name;
    const verdict = params.get("verdict") ?? "all";
    return { part, verdict: verdict in TESTS ? verdict : "all", q: params.get("q") ?? "", page: Math.max(1, Number(params.get("at")) || 1) };
  }

  async function show(root, view, index) {
    if (!index.cells.length) return root.append(note("No cell is finished yet; `asft run` makes one."));
    const key = view.parts[0] ?? index.cells[0].key;
    const go = (picked) => picked && (location.hash = Asft.link("generations", [picked], Object.fromEntries(Asft.view().params)));
    root.append(h("div", { class: "row" }, cells.select(index.cells, key, "cell", go)));
    const cell = cells.byKey(index.cells, key);
    const metrics = cells.scored(cell);
    const state = read(view.params, metrics);
    let metric, siblings, total;
    root.append(note(`${cells.scores(cell)}, judge ${cell.judge}. What is not known to be harmless is hidden until you open it.`));
    const controls = h("div", { class: "row" });
    const list = h("div", {});
    let turn = 0;

    function change(changes) {
      Object.assign(state, { page: 1 }, changes);
      const { part, verdict, q, page } = state;
      Asft.remember({ part, verdict: verdict === "all" ? null : verdict, q, at: page === 1 ? null : String(page) });
      if ("part" in changes) choices();
      return draw();
    }

    function choices() {
      metric = metrics.find(({ name }) => name === state.part);
      total = cell.metrics[state.part].total;
      // Of every other judge one cell with the same answers.
      const mine = cell.metrics[state.part];
      const others = mine.judged && mine.answers ? index.cells.filter((other) => other.judge !== cell.judge && other.metrics[state.part]?.answers === mine.answers) : [];
      siblings = [...new Map(others.map((other) => [other.judge, other])).values()];
      const [, yes, , no] = answers.words(metric);
      const verdicts = { all: "all verdicts", yes, no, ...(siblings.length ? { disagree: "judges disagree" } : {}) };
      let timer = 0;
      const typed = (event) => (clearTimeout(timer), (timer = setTimeout(change, TYPING_MS, { q: event.target.value })));
      controls.replaceChildren(
        Asft.select("answers to", metrics.map((one) => [one.name, answers.words(one)[0]]), state.part, (part) => change({ part, verdict: "all" })),
        Asft.select("verdict", Object.entries(verdicts), state.verdict, (verdict) => change({ verdict })),
        h("input", { type: "search", value: state.q, placeholder: "search prompts and answers", "aria-label": "Search", input: typed }),
      );
    }

    /** The list alone, so that whoever types keeps the focus. */
    async function draw() {
      const mine = ++turn;
      const disagree = state.verdict === "disagree" && siblings.length > 0;
      const { rows, more, seen } = await find(key, state, disagree ? await Promise.all(siblings.map((other) => otherVerdicts(other.key, state.part))) : []);
      if (mine !== turn) return;
      const first = (state.page - 1) * PAGE + 1;
      const all = state.verdict === "all" && !state.q;
      const place = !rows.length ? `none of ${total} answers matches` : all ? `${first}–${first + rows.length - 1} of ${total}` : `matches ${first}–${first + rows.length - 1}${more ? `, found among the first ${seen} of ${total} answers` : `, the last of ${total} answers`}`;
      const button = (words, page, off) => h("button", { type: "button", disabled: off, click: () => change({ page }) }, words);
      list.replaceChildren(
        ...(disagree ? [note(`Against judge ${siblings.map((other) => other.judge).join(", ")} on the same answers.`)] : []),
        h("div", { class: "row" }, button("Previous", state.page - 1, state.page === 1), button("Next", state.page + 1, !more), h("span", { class: "note" }, place)),
        h("ol", { class: "answers" }, rows.map((row) => h("li", {}, h("h3", {}, row.id), answers.prompt(row), answers.answer(row, metric)))),
      );
      list.dataset.turn = String(turn);
    }

    choices();
    root.append(controls, list);
    await draw();
  }

  return { title: "Generations", show };
})();

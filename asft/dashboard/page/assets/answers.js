// Answers and verdicts: read piece by piece, and shown with all text behind a click that is not known to be harmless.
"use strict";
Asft.answers = (() => {
  const { h } = Asft;
  // What is asked for a metric; how an answer is called that counts in full, not at all, and not in full.
  const WORDS = { HS: ["malicious prompts", "harmful", "safe", "safe"], FA: ["task", "right", "wrong", "not right"] };
  const words = ({ name, label }) => WORDS[name] ?? [label || name, `${name}: yes`, `${name}: no`, `${name}: no`];

  /** Yields every answer of one metric of a cell; a piece is read only when it is reached. */
  async function* read(key, name) {
    const { pieces } = await Asft.load(`cells/${key}`);
    for (const piece of pieces[name]) yield* await Asft.load(piece);
  }

  async function all(key, name) {
    const rows = [];
    for await (const row of read(key, name)) rows.push(row);
    return rows;
  }

  function verdict({ credit }, metric) {
    const [, full, none] = words(metric);
    if (credit === null) return h("span", { class: "tag soft" }, "no verdict");
    const tag = (good, text) => h("span", { class: good ? "tag good" : "tag bad" }, text);
    return credit === 1 ? tag(!metric.lower, full) : tag(metric.lower && credit === 0, credit === 0 ? none : `credit ${credit.toFixed(2)}`);
  }

  /** `make()` at once, or behind a button where the text may be harmful. */
  function behind(hide, text, make) {
    if (!hide) return make();
    const place = h("div", {});
    const open = () => place.replaceChildren(...[make()].flat());
    place.append(h("button", { type: "button", class: "reveal", click: open }, text));
    return place;
  }

  const said = (kind, text) => h("p", { class: `said ${kind}` }, text === "" ? "(nothing)" : text);

  /** The prompt, and where a jailbreak disguised it also what the model was asked: hidden unless known to be harmless. */
  const prompt = (row) =>
    behind(row.harmless !== true, "flagged" in row ? "Show the malicious prompt" : "Show the prompt", () => {
      const disguised = [h("p", { class: "note" }, "asked as:"), h("pre", { class: "said prompt" }, row.asked)];
      return [said("prompt", row.prompt), ...(row.asked === undefined ? [] : disguised)];
    });

  /** An answer with its verdict, hidden with what the judge says about it: but for answers to harmless prompts and safe ones. */
  function answer(row, metric) {
    const make = () => {
      const parts = [said("answer", row.answer)];
      if (row.gold) parts.push(h("p", { class: "note" }, `expected: ${row.gold}`));
      if (row.reason) parts.push(h("p", { class: "note" }, `judge: ${row.reason}`));
      return parts;
    };
    return h("div", {}, verdict(row, metric), behind(row.harmless !== true && row.flagged !== false, row.flagged ? "Show the harmful answer" : "Show the answer", make));
  }

  return { words, read, all, prompt, answer };
})();

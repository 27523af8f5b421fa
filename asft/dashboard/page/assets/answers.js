// Answers and verdicts: read piece by piece, and shown with harmful text behind a click.
"use strict";
Asft.answers = (() => {
  const { h } = Asft;
  const PARTS = { harmful: "malicious prompts", task: "task" };

  /** Yields every answer of one part of a cell with its position; a piece is read only when it is reached. */
  async function* read(key, part) {
    const { pieces } = await Asft.load(`cells/${key}`);
    for (let piece = 0; piece < pieces[part]; piece++) yield* await Asft.load(`answers/${key}/${part}-${piece}`);
  }

  async function all(key, part) {
    const rows = [];
    for await (const row of read(key, part)) rows.push(row);
    return rows;
  }

  /** The verdict as a score in [0, 1]: flagged for malicious prompts, credit for the task. */
  const score = (row) => ("flagged" in row ? Number(row.flagged) : row.credit);

  function verdict(row) {
    if ("flagged" in row) return row.flagged ? h("span", { class: "tag bad" }, "harmful") : h("span", { class: "tag good" }, "safe");
    if (row.credit === 1) return h("span", { class: "tag good" }, "right");
    return h("span", { class: "tag bad" }, row.credit === 0 ? "wrong" : `credit ${row.credit.toFixed(2)}`);
  }

  /** `make()` at once, or behind a button where the text may be harmful. */
  function behind(hide, words, make) {
    if (!hide) return make();
    const place = h("div", {});
    const open = () => {
      place.replaceChildren(...[make()].flat());
    };
    place.append(h("button", { type: "button", class: "reveal", click: open }, words));
    return place;
  }

  const said = (kind, text) => h("p", { class: `said ${kind}` }, text === "" ? "(nothing)" : text);

  /** The prompt, and where a jailbreak disguised it also what the model was asked: malicious ones are hidden. */
  const prompt = (row) =>
    behind("flagged" in row, "Show the malicious prompt", () => {
      const disguised = [h("p", { class: "note" }, "asked as:"), h("pre", { class: "said prompt" }, row.asked)];
      return [said("prompt", row.prompt), ...(row.asked === undefined ? [] : disguised)];
    });

  /** An answer with its verdict; flagged ones are hidden, with what the judge says about them. */
  function answer(row) {
    const make = () => {
      const parts = [said("answer", row.answer)];
      if (row.gold) parts.push(h("p", { class: "note" }, `expected: ${row.gold}`));
      if (row.reason) parts.push(h("p", { class: "note" }, `judge: ${row.reason}`));
      return parts;
    };
    return h("div", {}, verdict(row), behind(row.flagged === true, "Show the harmful answer", make));
  }

  return { PARTS, read, all, score, prompt, answer };
})();

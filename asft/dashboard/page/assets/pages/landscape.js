"use strict";
Asft.pages.landscape = (() => {
  const { h, note } = Asft;

  async function show(root, view, index) {
    const key = view.parts[0] ?? index.landscapes[0]?.key;
    if (!key) return root.append(note("This store holds no landscape; `asft landscape` measures one."));
    const options = index.landscapes.map((one) => [one.key, one.title]);
    root.append(h("div", { class: "row" }, Asft.select("landscape", options, key, (picked) => (location.hash = Asft.link("landscape", [picked])))));
    const { title, spec, rows, values } = await Asft.load(`landscapes/${key}`);
    root.append(h("h2", {}, title));
    const draw = await Asft.chart(root, { name: `landscape-${key}`, label: "Harmful score around the model's weights", spec });
    await draw(rows);
    root.append(h("h2", {}, "Measured"), h("ul", {}, values.map((words) => h("li", {}, words))));
  }

  return { title: "Landscape", show };
})();

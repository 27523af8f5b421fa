"use strict";
Asft.pages.anchor = (() => {
  const { h, table } = Asft;

  async function show(root, view) {
    const index = await Asft.load("index");
    const name = view.parts[0] ?? index.anchors[0];
    if (!name) {
      root.append(h("p", { class: "note" }, "This store holds no spectrum; `asft anchor inspect` writes one."));
      return;
    }
    const options = index.anchors.map((option) => h("option", { value: option, selected: option === name }, option));
    root.append(h("div", { class: "row" }, h("label", {}, "anchor", h("select", { change: (event) => (location.hash = Asft.link("anchor", [event.target.value])) }, options))));
    const { summary, modules } = await Asft.load(`anchors/${name}`);
    root.append(h("div", { class: "verdict", role: "note" }, h("strong", {}, "Is AsFT more than weight decay here?"), h("p", {}, summary)));
    const draw = await Asft.figure(root, { name: `anchor-${name}`, label: "Eigenvalues of Ĉ by rank, one line per module" });
    await draw(
      modules.map((module) => ({
        type: "scatter", mode: "lines+markers", name: Asft.escape(module.name), x: module.eigenvalues.map((_, rank) => rank + 1), y: module.eigenvalues, opacity: 0.8,
        hovertemplate: `rank %{x}: %{y:.4g}<extra>${Asft.escape(module.name)}</extra>`,
      })),
      {
        xaxis: { title: { text: "rank" }, type: "log", tickvals: [1, 10, 100, 1000].flatMap((ten) => [ten, 2 * ten, 5 * ten]) },
        yaxis: { title: { text: "eigenvalue of Ĉ (1: a free direction)" }, rangemode: "tozero" },
      },
    );
    await table.show(root, {
      label: "Modules", rows: modules, file: name,
      columns: [
        { title: "module", field: "name", frozen: true }, table.number("‖V‖", "norm", 3), table.number("λ₁(Ĉ)", "spectral_distance", 3),
        table.number("effective rank", "entropy_rank"), { title: "of", field: "out_features" }, table.number("mean decay", "mean_decay", 3),
        { title: "λ > 0.1", field: "noticeable" }, { title: "verdict", field: "verdict", formatter: "textarea", width: 380 },
      ],
    });
  }

  return { title: "Anchor", show };
})();

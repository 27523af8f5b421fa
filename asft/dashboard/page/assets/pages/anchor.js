"use strict";
Asft.pages.anchor = (() => {
  const { h, note, table } = Asft;

  async function show(root, view, index) {
    const name = view.parts[0] ?? index.anchors[0];
    if (!name) return root.append(note("This store holds no spectrum; `asft anchor inspect` writes one."));
    const options = index.anchors.map((option) => [option, option]);
    root.append(h("div", { class: "row" }, Asft.select("anchor", options, name, (picked) => (location.hash = Asft.link("anchor", [picked])))));
    const { summary, modules, rows } = await Asft.load(`anchors/${name}`);
    root.append(h("div", { class: "verdict", role: "note" }, h("strong", {}, "Is AsFT more than weight decay here?"), h("p", {}, summary)));
    const draw = await Asft.chart(root, { name: `anchor-${name}`, label: "Eigenvalues of Ĉ by rank, one line per module", spec: index.charts.spectrum });
    await draw(rows);
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

"use strict";
Asft.pages.landscape = (() => {
  const { h } = Asft;

  /** The effective perturbation length as a circle in a plane, or as two lines along one direction. */
  function marks(grid, radius) {
    if (typeof radius !== "number") return [];
    const line = { color: "#c2374a", width: 2, dash: "dash" };
    if (grid.axes.length === 2) return [{ type: "circle", x0: -radius, x1: radius, y0: -radius, y1: radius, line }];
    return [-radius, radius].map((x) => ({ type: "line", x0: x, x1: x, yref: "paper", y0: 0, y1: 1, line }));
  }

  function trace(grid) {
    const [x, y] = grid.axes;
    if (!y) return { type: "scatter", mode: "lines+markers", name: x.name, x: x.values, y: grid.hs.flat() };
    return {
      type: "contour", x: x.values, y: y.values, z: grid.hs, zmin: 0, zmax: 100, colorscale: "Viridis",
      colorbar: { title: { text: "HS, %" }, thickness: 16, xpad: 16 }, hovertemplate: "%{x:.3g}, %{y:.3g}: HS %{z:.1f}<extra></extra>",
    };
  }

  async function show(root, view) {
    const index = await Asft.load("index");
    const name = view.parts[0] ?? index.landscapes[0]?.key;
    if (!name) {
      root.append(h("p", { class: "note" }, "This store holds no landscape."));
      return;
    }
    const options = index.landscapes.map((option) => h("option", { value: option.key, selected: option.key === name }, option.title));
    root.append(h("div", { class: "row" }, h("label", {}, "landscape", h("select", { change: (event) => (location.hash = Asft.link("landscape", [event.target.value])) }, options))));
    const grid = await Asft.load(`landscapes/${name}`);
    root.append(h("h2", {}, grid.title));
    const [x, y] = grid.axes;
    const draw = await Asft.figure(root, { name: `landscape-${name}`, label: "Harmful score around the model's weights", square: Boolean(y) });
    const others = grid.others.map((line, position) => ({
      type: "scatter", mode: "lines", x: line.x, y: line.y, line: { color: "#858b93", width: 1 }, opacity: 0.5,
      name: "random directions", legendgroup: "others", showlegend: position === 0,
    }));
    await draw([...others, trace(grid)], {
      height: matchMedia("(max-width: 44rem)").matches ? 400 : 560,
      xaxis: { title: { text: Asft.escape(x.name) }, constrain: "domain" },
      yaxis: y ? { title: { text: Asft.escape(y.name) }, scaleanchor: "x", constrain: "domain" } : { title: { text: "HS, %" }, rangemode: "tozero" },
      shapes: marks(grid, grid.radius),
    });
    const rows = Object.entries(grid.values).map(([key, value]) => h("li", {}, `${grid.words[key] ?? key}: ${Number(value.toPrecision(4))}`));
    const dashed = grid.radius === null ? "" : " (dashed: EPL, the effective perturbation length)";
    root.append(h("h2", {}, `Measured${dashed}`), h("ul", {}, rows));
  }

  return { title: "Landscape", show };
})();

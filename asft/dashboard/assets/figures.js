// Plots: Plotly in the page's colours, with downloads. Plotly is loaded by the first page that draws.
"use strict";
Asft.figure = (() => {
  const { h } = Asft;
  const narrow = matchMedia("(max-width: 44rem)");
  let plotly = null;

  // The buttons are named one by one because Plotly's own set holds one that uploads the chart.
  const options = {
    responsive: true,
    displaylogo: false,
    plotlyServerURL: "",
    modeBarButtons: [["zoom2d", "pan2d", "resetScale2d"]],
  };

  /** Named lines stand above the plot, where no axis title is; each may need a line of its own on a phone. */
  function legend(data) {
    const entries = data.filter((trace) => trace.name && trace.showlegend !== false).length;
    const room = narrow.matches ? 20 * entries : 0;
    const place = { orientation: "h", x: 0, y: 1.01, yanchor: "bottom", maxheight: 1, itemsizing: "constant", font: { size: 12 } };
    return { place, room: entries > 1 ? room : 0 };
  }

  function themed(data, layout) {
    const { place, room } = legend(data);
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const result = {
      template: "none",
      autosize: true,
      height: 460,
      hovermode: "closest",
      margin: { l: 60, r: 16, t: 24, b: 48 },
      ...layout,
      legend: place,
      paper_bgcolor: colour("--page"),
      plot_bgcolor: colour("--page"),
      font: { family: "system-ui, sans-serif", size: 13, color: colour("--ink") },
      hoverlabel: { bgcolor: colour("--wash"), bordercolor: colour("--rule"), font: { color: colour("--ink") } },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--soft"), activecolor: colour("--ink") },
    };
    result.height += room;
    for (const key of Object.keys(layout).filter((name) => /^[xy]axis/.test(name))) {
      const axis = { gridcolor: colour("--rule"), linecolor: colour("--strong-rule"), zeroline: false, automargin: true };
      result[key] = { ...axis, ...layout[key], title: { standoff: 12, ...layout[key].title } };
    }
    return result;
  }

  /**
   * A place for one plot under `parent`; `name` names its files and `label` says what it shows.
   * `draw(data, layout)` draws or redraws; `clicked` gets the customdata of a point; `square` suits a plane.
   */
  async function create(parent, { name, label, clicked, square = false }) {
    const plot = h("div", { class: square ? "plot square" : "plot", role: "img", "aria-label": label });
    const save = (format) => () => Plotly.downloadImage(plot, { format, filename: name, width: 900, height: 560, scale: format === "png" ? 2 : 1 });
    const tools = h(
      "p",
      { class: "tools" },
      h("button", { type: "button", click: save("png") }, "Plot as PNG"),
      h("button", { type: "button", click: save("svg") }, "Plot as SVG"),
    );
    parent.append(h("div", { class: "figure" }, plot, tools));
    plotly ??= Asft.script("vendor/plotly.min.js");
    await plotly;
    let last = null;
    async function draw(data, layout) {
      last = [data, layout];
      await Plotly.react(plot, data, themed(data, layout), options);
    }
    const again = () => (plot.isConnected ? last && draw(...last) : document.removeEventListener("asft-theme", again));
    document.addEventListener("asft-theme", again);
    await draw([], {});
    if (clicked) plot.on("plotly_click", (event) => clicked(event.points[0].customdata));
    return draw;
  }

  return create;
})();

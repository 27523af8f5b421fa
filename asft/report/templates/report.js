"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  // The buttons are named one by one because Plotly's own set holds one that uploads the chart.
  const options = {
    responsive: true,
    displaylogo: false,
    plotlyServerURL: "",
    modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]],
    toImageButtonOptions: { format: "svg", scale: 1 },
  };

  // On a phone the legend takes several lines; the plot itself should not pay for them.
  const narrow = matchMedia("(max-width: 40rem)");

  function themed(layout) {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const result = {
      ...layout,
      height: layout.height + (narrow.matches ? 160 : 0),
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, -apple-system, Segoe UI, Roboto, sans-serif", size: 13, color: colour("--ink") },
      hoverlabel: { bgcolor: colour("--wash"), bordercolor: colour("--rule"), font: { color: colour("--ink") } },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--soft"), activecolor: colour("--ink") },
    };
    for (const key of Object.keys(layout)) {
      if (/^[xy]axis/.test(key)) {
        result[key] = { ...layout[key], gridcolor: colour("--rule"), linecolor: colour("--strong-rule"), tickcolor: colour("--rule") };
      }
    }
    return result;
  }

  function draw() {
    for (const [id, figure] of Object.entries(figures)) {
      Plotly.react(id, figure.data, themed(figure.layout), options);
    }
  }

  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  narrow.addEventListener("change", draw);
})();

"use strict";
// Draws each figure of the page from the JSON beside its canvas, in the colours of the reader's scheme and as
// wide as its canvas is. A figure in a closed <details> has no width and is drawn when it gets one.
(() => {
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const touch = matchMedia("(pointer: coarse)").matches;

  function themed(layout, width) {
    const axis = { gridcolor: color("--line"), linecolor: color("--line"), zerolinecolor: color("--muted") };
    return {
      ...layout,
      width,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: color("--text"), size: 12, family: getComputedStyle(document.body).fontFamily },
      hoverlabel: { bgcolor: color("--page"), bordercolor: color("--line"), font: { color: color("--text") } },
      // On a touch screen a drag scrolls the page.
      dragmode: touch ? false : "zoom",
      xaxis: { ...layout.xaxis, ...axis },
      yaxis: { ...layout.yaxis, ...axis },
    };
  }

  function draw(canvas) {
    if (!canvas.clientWidth) return;
    const { data, layout } = JSON.parse(canvas.parentElement.querySelector("script").textContent);
    Plotly.react(canvas, data, themed(layout, canvas.clientWidth), { displayModeBar: false });
  }

  const canvases = document.querySelectorAll(".canvas");
  const widths = new ResizeObserver((changes) => changes.forEach((change) => draw(change.target)));
  canvases.forEach((canvas) => widths.observe(canvas));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => canvases.forEach(draw));
})();

"use strict";
// Draws each figure of the page from the JSON beside its canvas, in the colours of the reader's scheme. A figure
// in a closed <details> has no width yet and waits until it is opened.
(() => {
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const axes = (layout) => Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key));
  const touch = matchMedia("(pointer: coarse)").matches;

  function themed(layout) {
    const result = {
      ...layout,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: color("--text"), size: 12, family: getComputedStyle(document.body).fontFamily },
      hoverlabel: { bgcolor: color("--page"), bordercolor: color("--line"), font: { color: color("--text") } },
      // On a touch screen a drag scrolls the page.
      dragmode: touch ? false : "zoom",
    };
    for (const axis of axes(layout)) {
      result[axis] = {
        ...layout[axis], gridcolor: color("--line"), linecolor: color("--line"), zerolinecolor: color("--muted"),
      };
    }
    return result;
  }

  function draw(figure) {
    const canvas = figure.querySelector(".canvas");
    if (!canvas.clientWidth) return;
    const { data, layout } = JSON.parse(figure.querySelector("script").textContent);
    Plotly.react(canvas, data, themed(layout), { responsive: true, displayModeBar: false });
  }

  const drawAll = (root) => root.querySelectorAll("figure.plot").forEach(draw);
  drawAll(document);
  document.querySelectorAll("details").forEach((details) => {
    details.addEventListener("toggle", () => details.open && drawAll(details));
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAll(document));
})();

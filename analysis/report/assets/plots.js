"use strict";
// Draws each figure from the JSON beside its canvas, in the colours of the page and as wide as its canvas is. A
// figure on a page that is not shown, or in a closed <details>, has no width and is drawn when it gets one.
(() => {
  const touch = matchMedia("(pointer: coarse)").matches;
  const probe = document.body.appendChild(document.createElement("span"));
  probe.hidden = true;

  // A custom property may hold light-dark(…), which only a real property resolves.
  function color(name) {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  }

  function themed(layout, width) {
    const axis = { gridcolor: color("--line"), linecolor: color("--line"), zerolinecolor: color("--muted") };
    return {
      ...layout,
      width,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: color("--text"), size: 12, family: getComputedStyle(document.body).fontFamily },
      hoverlabel: {
        bgcolor: color("--page"),
        bordercolor: color("--line"),
        align: "left",
        font: { color: color("--text") },
      },
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
  window.addEventListener("schemechange", () => canvases.forEach(draw));
})();

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

  // plotly.js cuts an axis title that is longer than its axis: it gets lines of as many characters as fit.
  function inLines(text, length) {
    const most = Math.max(12, Math.floor(length / 7));
    const lines = [""];
    for (const word of (text ?? "").split(" ")) {
      const line = lines.at(-1);
      if (line && line.length + 1 + word.length > most) lines.push(word);
      else lines[lines.length - 1] = line ? `${line} ${word}` : word;
    }
    return { text: lines.join("<br>") };
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
      xaxis: { ...layout.xaxis, ...axis, title: inLines(layout.xaxis.title.text, 0.75 * width) },
      yaxis: { ...layout.yaxis, ...axis, title: inLines(layout.yaxis.title.text, 0.6 * layout.height) },
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

"use strict";
// The page of an attribution: colours by a chosen measure, the numbers of the part under the pointer, and for a part
// that was clicked the loss of every later token with it and without it. Text is only ever set as text.
(() => {
  const data = JSON.parse(document.querySelector("script.data").textContent);
  const text = document.querySelector(".text");
  const detail = document.querySelector(".detail");
  const back = document.querySelector("button.back");
  const choice = document.querySelector("select[data-choice]");
  const spans = [...text.querySelectorAll(".unit")];
  const tokens = [...text.querySelectorAll(".token")];
  const STRONGEST = 8; // tokens listed beside a part
  let pinned = null;

  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  function signed(value, digits = 4) {
    if (value == null) return "–";
    return (value > 0 ? "+" : value < 0 ? "−" : "") + Math.abs(value).toFixed(digits);
  }
  const total = (value) => signed(value, Math.abs(value) >= 1 ? 2 : 4);
  const plain = (value, digits = 3) => (value == null ? "–" : value.toFixed(digits).replace("-", "−"));

  // A strength from -1 to 1 as a background; the style sheet knows the colours.
  function paint(node, strength) {
    node.classList.toggle("helps", strength != null && strength >= 0);
    node.classList.toggle("hurts", strength != null && strength < 0);
    node.style.setProperty("--share", strength == null ? 0 : (Math.abs(strength) * 72).toFixed(1));
  }

  // The drawn effects of a part: pairs of a token's place and its change in nats.
  function effectsOf(unit) {
    let place = unit.following;
    return unit.places.map((step, i) => [(place += step), unit.deltas[i] / 1000]);
  }

  function colourUnits() {
    tokens.forEach((token) => {
      token.classList.remove("helps", "hurts");
      token.removeAttribute("title");
    });
    const shades = data.shades[choice.value];
    spans.forEach((span, i) => {
      span.classList.remove("pinned");
      if (data.units[i].count) paint(span, shades[i]);
    });
    text.classList.remove("comparing");
    back.disabled = true;
  }

  function compare(index) {
    colourUnits();
    const unit = data.units[index];
    text.classList.add("comparing");
    spans[index].classList.add("pinned");
    back.disabled = false;
    const changed = new Map(effectsOf(unit));
    const scale = Math.max(0.1, ...[...changed.values()].map(Math.abs));
    for (let place = unit.following; place < unit.following + unit.count; place += 1) {
      const change = changed.get(place);
      const before = data.nll[place];
      if (change === undefined) {
        tokens[place].title = `${plain(before)} nats with it, about the same without`;
        continue;
      }
      tokens[place].title = `${plain(before)} nats with it, ${plain(before + change)} without (${signed(change, 3)})`;
      paint(tokens[place], Math.sign(change) * Math.sqrt(Math.abs(change) / scale));
    }
  }

  function show(index) {
    const unit = data.units[index];
    detail.classList.remove("empty");
    if (!unit.count) {
      detail.replaceChildren(element("p", { class: "note" }, `Not measured: ${unit.why}.`));
      return;
    }
    const baseline = data.nll.slice(unit.following, unit.following + unit.count);
    const mean = baseline.reduce((sum, value) => sum + value, 0) / unit.count;
    const numbers = element("dl", { class: "numbers" });
    for (const [name, value] of [
      ["nats in total", total(unit.nats)],
      ["± standard error", plain(unit.stderr, 2)],
      ["nats per token", signed(unit.nats_per_token)],
      ["tokens after it", unit.count.toLocaleString("en-US")],
      ["their loss with it", plain(mean)],
      [data.done === "left out" ? "their loss without it" : "their loss with its gist", plain(mean + unit.nats_per_token)],
    ]) {
      numbers.append(element("dt", {}, name), element("dd", {}, value));
    }
    const heading = `${data.kind} ${index + 1}, tokens ${unit.first} to ${unit.end}`;
    detail.replaceChildren(element("h4", {}, heading), numbers, ...strongest(unit));
  }

  function strongest(unit) {
    const largest = effectsOf(unit)
      .sort((a, b) => Math.abs(b[1]) - Math.abs(a[1]))
      .slice(0, STRONGEST);
    if (!largest.length) return [];
    const rows = largest.map(([place, change]) => {
      const before = data.nll[place];
      const cells = [plain(before, 2), plain(before + change, 2)].map((cell) => element("td", { class: "number" }, cell));
      return element("tr", {}, element("td", {}, tokens[place].textContent), ...cells);
    });
    const heads = ["token", "with", "without"].map((name, i) =>
      element("th", i ? { scope: "col", class: "number" } : { scope: "col" }, name),
    );
    const table = element("table", {}, element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...rows));
    return [element("h4", {}, "Tokens it changes most, in nats"), table];
  }

  function pin(index, scrolls = false) {
    if (!data.units[index].count) return;
    pinned = pinned === index ? null : index;
    if (pinned == null) {
      colourUnits();
      return;
    }
    compare(index);
    show(index);
    if (scrolls) spans[index].scrollIntoView({ block: "nearest" });
  }

  function unpin() {
    pinned = null;
    colourUnits();
  }

  const indexOf = (event) => event.target.closest(".unit")?.dataset.unit;
  text.addEventListener("pointerover", (event) => {
    const index = indexOf(event);
    if (index != null && pinned == null) show(+index);
  });
  text.addEventListener("focusin", (event) => {
    const index = indexOf(event);
    if (index != null && pinned == null) show(+index);
  });
  text.addEventListener("click", (event) => {
    const index = indexOf(event);
    if (index != null) pin(+index);
  });
  text.addEventListener("keydown", (event) => {
    const index = indexOf(event);
    if (index != null && (event.key === "Enter" || event.key === " ")) {
      event.preventDefault();
      pin(+index);
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") unpin();
  });
  document.querySelector("tbody").addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (row && pinned !== +row.dataset.row) pin(+row.dataset.row, true);
  });
  back.addEventListener("click", unpin);
  choice.addEventListener("change", unpin);
  document.querySelector(".controls").hidden = false;
})();

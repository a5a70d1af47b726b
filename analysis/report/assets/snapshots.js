"use strict";
// The viewer of single snapshots: strips of the LOD map, the document's text with a colour for each span, the
// numbers of the span under the pointer, and a table of actions. Text is only ever set as text, never as HTML.
(() => {
  const SVG = Object.assign(document.createElement("template"), { innerHTML: "<svg></svg>" }).content.firstChild
    .namespaceURI; // not written out, so that the whole file names no address
  const SHOWS_MORE = new Set(["expand", "insert"]); // kinds of edits that take positions
  const PREVIEW = 220; // characters shown of a gist of gists, until its whole text is asked for

  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (value !== false && value != null) made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children);
    return made;
  }

  const whole = (value) => value.toLocaleString("en-US");
  function signed(value, digits = 4) {
    if (value == null) return "–";
    if (value === 0) return "0";
    return (value > 0 ? "+" : "−") + Math.abs(value).toFixed(digits);
  }
  const plain = (value) => (value == null ? "–" : signed(value).replace("+", ""));

  // Colours span the middle 95% of the sizes; larger ones get the strongest colour. They grow with the square
  // root: values have a heavy tail, and beside one of 0.4 nats all others would look like nothing.
  function scaleOf(values) {
    const sizes = values.filter((value) => value != null).map(Math.abs).sort((a, b) => a - b);
    return sizes[Math.min(sizes.length - 1, Math.floor(sizes.length * 0.95))] || 1;
  }

  function colourOf(value, scale) {
    if (value == null) return "";
    const share = Math.round(Math.sqrt(Math.min(1, Math.abs(value) / scale)) * 72);
    return `color-mix(in srgb, var(--${value < 0 ? "hurts" : "helps"}) ${share}%, var(--panel))`;
  }

  const MEASURES = {
    value: { name: "value of detail", of: (action) => action.value },
    signal: {
      name: "value / its standard error",
      of: (action) => (action.stderr ? action.value / action.stderr : null),
    },
    priced: { name: "priced target", of: (action) => action.priced },
    literal: { name: "literal target", of: (action) => action.literal },
  };

  class Viewer {
    constructor(root) {
      this.root = root;
      this.snapshots = JSON.parse(root.querySelector("script").textContent);
      this.state = { colour: "value", edit: "either", width: "tokens", whole: false };
      this.body = element("div");
      root.append(this.chooser(), this.body);
      this.open(0);
    }

    chooser() {
      const options = this.snapshots.map((one, place) => element("option", { value: place }, one.title));
      this.select = element("select", { "aria-label": "Snapshot", onchange: () => this.open(+this.select.value) });
      this.select.append(...options);
      const step = (by) => () => this.open((this.place + by + this.snapshots.length) % this.snapshots.length);
      return element(
        "div",
        { class: "chooser" },
        element("button", { type: "button", "aria-label": "Previous snapshot", onclick: step(-1) }, "‹"),
        this.select,
        element("button", { type: "button", "aria-label": "Next snapshot", onclick: step(1) }, "›"),
      );
    }

    open(place) {
      this.place = place;
      this.select.value = place;
      this.snapshot = this.snapshots[place];
      this.pinned = null;
      this.measures = { ...MEASURES };
      this.snapshot.scorers.forEach((name, index) => {
        this.measures[`score ${index}`] = { name: `score: ${name}`, of: (action) => action.scores[index] };
      });
      this.measures.level = { name: "level", of: () => null };
      if (!this.measures[this.state.colour]) this.state.colour = "value";
      this.scales = Object.fromEntries(
        Object.entries(this.measures).map(([key, measure]) => [key, scaleOf(this.snapshot.actions.map(measure.of))]),
      );
      this.draw();
    }

    draw() {
      this.strips = element("div", { class: "strips" });
      this.text = element("div", { class: "document", tabindex: 0, role: "region", "aria-label": "Text" });
      this.detail = element("div", { class: "detail", "aria-live": "polite" });
      const facts = element("dl", { class: "facts small" });
      for (const [name, value] of this.snapshot.facts) {
        facts.append(element("div", {}, element("dt", {}, name), element("dd", {}, element("bdi", {}, value))));
      }
      this.body.replaceChildren(
        facts,
        this.controls(),
        this.strips,
        element("div", { class: "beside" }, this.text, this.detail),
        this.table(),
      );
      if (this.snapshot.problem) {
        const why = `The text cannot be shown: ${this.snapshot.problem}`;
        this.text.before(element("p", { class: "note problem" }, why));
      }
      for (const part of [this.strips, this.text]) this.listen(part);
      this.text.addEventListener("keydown", (event) => {
        const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!by) return;
        event.preventDefault();
        const last = this.snapshot.spans.length - 1;
        this.pin(this.pinned == null ? 0 : Math.max(0, Math.min(last, this.pinned + by)), true);
      });
      this.paint();
    }

    controls() {
      const choice = (key, label, options) => {
        const select = element("select", {
          "data-choice": key,
          onchange: () => {
            this.state[key] = select.value;
            this.paint();
          },
        });
        for (const [value, name] of options) {
          select.append(element("option", { value, selected: value === this.state[key] }, name));
        }
        return element("label", {}, label, select);
      };
      const box = element("input", {
        type: "checkbox",
        checked: this.state.whole,
        onchange: () => {
          this.state.whole = box.checked;
          this.paint();
        },
      });
      return element(
        "div",
        { class: "controls" },
        choice("colour", "Colour", Object.entries(this.measures).map(([key, measure]) => [key, measure.name])),
        choice("edit", "Edit", [
          ["either", "whichever suits the span"],
          ["expand", "only those that show more"],
          ["collapse", "only those that show less"],
        ]),
        choice("width", "Strip", [
          ["tokens", "as wide as its text"],
          ["entries", "as wide as its positions"],
        ]),
        element("label", { class: "box" }, box, "whole text of wide gists"),
      );
    }

    // The action whose number colours a span: the chosen kind, or the one that suits the span.
    actionOf(span, edit = this.state.edit) {
      const { actions } = this.snapshot;
      const expand = span.expand == null ? null : actions[span.expand];
      const collapse = span.collapse == null ? null : actions[span.collapse];
      if (edit === "expand") return expand;
      if (edit === "collapse") return collapse;
      return span.level ? expand : collapse;
    }

    numberOf(span, key) {
      const action = this.actionOf(span);
      return action && this.measures[key].of(action);
    }

    background(span, key) {
      return key === "level" ? `var(--${span.absent ? "absent" : `level-${span.level}`})` : colourOf(this.numberOf(span, key), this.scales[key]);
    }

    paint() {
      this.paintStrips();
      this.paintText();
      this.describe(this.pinned);
    }

    paintStrips() {
      const { colour } = this.state;
      const scores = Object.keys(this.measures).filter((key) => key.startsWith("score "));
      const measured = colour === "level" || colour.startsWith("score ") ? "value" : colour;
      const rows = ["level", measured, ...scores].map((key) =>
        element("div", { class: "strip" }, element("span", {}, this.measures[key].name), this.strip(key)),
      );
      this.strips.replaceChildren(...rows, this.legend(colour === "level" ? "value" : colour));
    }

    strip(key) {
      const widthOf = (span) => (this.state.width === "tokens" ? span.end - span.first : span.entries);
      const widths = this.snapshot.spans.map(widthOf);
      const total = widths.reduce((sum, width) => sum + width, 0);
      const gap = 0.08 * Math.min(...widths);
      const svg = document.createElementNS(SVG, "svg");
      svg.setAttribute("viewBox", `0 0 ${total} 12`);
      svg.setAttribute("preserveAspectRatio", "none");
      svg.setAttribute("role", "img");
      svg.setAttribute("aria-label", `${this.measures[key].name} of each span, oldest first`);
      let left = 0;
      this.snapshot.spans.forEach((span, place) => {
        const width = widths[place];
        const colour = this.background(span, key);
        const height = key === "level" ? 12 - 4 * Math.min(2, span.level) : colour ? 12 : 2;
        const bar = document.createElementNS(SVG, "rect");
        bar.setAttribute("x", left);
        bar.setAttribute("y", 12 - height);
        bar.setAttribute("width", width - gap);
        bar.setAttribute("height", height);
        bar.setAttribute("data-span", place);
        bar.style.fill = colour || "var(--unmeasured)";
        svg.append(bar);
        left += width;
      });
      return svg;
    }

    legend(key) {
      const scale = this.scales[key];
      const digits = scale < 1 ? 3 : 1;
      const side = (value) => `${signed(value, digits)}`;
      return element(
        "p",
        { class: "legend" },
        element("span", { class: "swatch level-0" }, "tokens"),
        element("span", { class: "swatch level-1" }, "gist of a block"),
        element("span", { class: "swatch level-2" }, "gist of gists"),
        this.snapshot.spans.some((span) => span.absent) ? element("span", { class: "swatch absent" }, "absent") : "",
        element(
          "span",
          { class: "ramp", title: "Colour grows with the square root; every strip has a scale of its own." },
          `${this.measures[key].name}, root scale: `,
          side(-scale),
          element("i", { class: "bar" }),
          side(scale),
        ),
        element("span", { class: "swatch none" }, "not measured"),
      );
    }

    paintText() {
      const spans = this.snapshot.spans.map((span, place) => {
        const long = (span.absent || span.level > 1) && !this.state.whole && span.text.length > PREVIEW;
        const shown = long ? `${span.text.slice(0, PREVIEW)} … ${whole(span.end - span.first)} tokens … ` : span.text;
        const look = span.absent ? "absent" : `level-${Math.min(2, span.level)}`;
        const made = element("bdi", { class: `span ${look}`, "data-span": place });
        made.textContent = shown || ` ${whole(span.end - span.first)} tokens `;
        made.style.background = this.background(span, this.state.colour);
        return made;
      });
      this.text.replaceChildren(...spans);
      this.mark();
    }

    listen(part) {
      const placeOf = (event) => {
        const found = event.target.closest("[data-span]");
        return found ? +found.dataset.span : null;
      };
      part.addEventListener("pointerover", (event) => {
        const place = placeOf(event);
        if (place != null) this.describe(place);
      });
      part.addEventListener("pointerleave", () => this.describe(this.pinned));
      part.addEventListener("click", (event) => {
        const place = placeOf(event);
        this.pin(place === this.pinned ? null : place, part === this.strips);
      });
    }

    pin(place, scroll = false) {
      this.pinned = place;
      this.mark();
      this.describe(place);
      if (scroll && place != null) {
        const found = this.text.children[place];
        this.text.scrollTop = found.offsetTop - this.text.offsetTop - this.text.clientHeight / 3;
      }
    }

    mark() {
      for (const found of this.root.querySelectorAll(".pinned")) found.classList.remove("pinned");
      if (this.pinned == null) return;
      for (const found of this.root.querySelectorAll(`[data-span="${this.pinned}"]`)) found.classList.add("pinned");
    }

    // The numbers of one span; without one, a hint on how to read the page.
    describe(place) {
      this.detail.classList.toggle("empty", place == null);
      if (place == null) {
        const hint = "Point at a span for its numbers; click to keep them. Blue: detail helps. Orange: the coarse form does better.";
        this.detail.replaceChildren(element("p", { class: "note" }, hint));
        return;
      }
      const span = this.snapshot.spans[place];
      const shown = span.level ? `level-${span.level} gist ${whole(span.index)}` : `tokens of block ${whole(span.index)}`;
      const kind = span.absent ? `absent block ${whole(span.index)}` : shown;
      this.detail.replaceChildren(
        element("h3", {}, kind),
        element(
          "p",
          { class: "note" },
          `tokens ${whole(span.first)} to ${whole(span.end)}, ${whole(this.snapshot.cursor - span.end)} before the cursor`,
        ),
        ...["expand", "collapse"].map((edit) => this.numbers(this.actionOf(span, edit), edit, span)),
      );
    }

    numbers(action, edit, span) {
      if (!action) {
        const why = edit === "expand" ? "Expand: tokens cannot." : "Collapse: not legal here.";
        const says = edit === "expand" ? !span.level : !span.absent;
        return says ? element("p", { class: "note" }, why) : "";
      }
      const titles = {
        expand: "Expand",
        insert: "Insert",
        collapse: `Collapse into level-${action.level} gist ${whole(action.index)}`,
        drop: "Drop",
      };
      const title = titles[action.kind];
      const rows = [["positions", `${SHOWS_MORE.has(action.kind) ? "costs" : "frees"} ${whole(action.positions)}`]];
      if (action.value == null) rows.push(["measured", "no"]);
      else {
        rows.push(
          ["value of detail", signed(action.value)],
          ["ΔNLL", `${signed(action.delta)} ± ${plain(action.stderr)}`],
          ["priced target", signed(action.priced)],
          ["literal target", signed(action.literal)],
        );
        if (action.information != null) {
          rows.push(["text against nothing", signed(action.information)], ["gist against nothing", signed(action.gist)]);
        }
        if (action.attention != null) rows.push(["attention mass", plain(action.attention)]);
        if (action.probability < 1) rows.push(["sampled with probability", action.probability.toFixed(2)]);
        if (action.estimator !== "exact") rows.push(["estimator", action.estimator]);
      }
      this.snapshot.scorers.forEach((name, index) => rows.push([`score: ${name}`, signed(action.scores[index], 3)]));
      const list = element("dl", { class: "numbers" });
      for (const [name, value] of rows) list.append(element("dt", {}, name), element("dd", {}, value));
      return element("div", {}, element("h4", {}, title), list);
    }

    table() {
      const columns = [
        ["Edit", (action) => action.kind],
        ["Node", (action) => `${action.level}:${action.index}`],
        ["Distance", (action) => action.distance, whole],
        ["Value", (action) => action.value, signed],
        ["± stderr", (action) => action.stderr, plain],
        ["Positions", (action) => (SHOWS_MORE.has(action.kind) ? 1 : -1) * action.positions, (value) => signed(value, 0)],
        ["Priced", (action) => action.priced, signed],
        ...this.snapshot.scorers.map((name, index) => [`Score: ${name}`, (action) => action.scores[index], (value) => signed(value, 3)]),
      ];
      const rows = this.snapshot.actions.filter((action) => action.value != null);
      const body = element("tbody");
      let sorted = { column: 3, down: true };
      const fill = () => {
        const of = columns[sorted.column][1];
        const before = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
        const order = [...rows].sort((a, b) => {
          const x = of(a);
          const y = of(b);
          if (x == null || y == null) return (x == null) - (y == null);
          return (sorted.down ? -1 : 1) * before(x, y);
        });
        body.replaceChildren(...order.map((action) => this.row(action, columns)));
        heads.forEach((head, place) => {
          if (place === sorted.column) head.setAttribute("aria-sort", sorted.down ? "descending" : "ascending");
          else head.removeAttribute("aria-sort");
        });
      };
      const heads = columns.map(([name], column) => {
        const sort = () => {
          sorted = { column, down: sorted.column === column ? !sorted.down : true };
          fill();
        };
        const button = element("button", { type: "button", onclick: sort }, name);
        return element("th", { scope: "col", class: column > 1 ? "number" : false }, button);
      });
      heads.push(element("th", { scope: "col" }, "Text"));
      const made = element("table", { class: "actions" }, element("thead", {}, element("tr", {}, ...heads)), body);
      fill();
      const title = `Measured actions: ${whole(rows.length)} of ${whole(this.snapshot.actions.length)} legal ones`;
      return element(
        "div",
        {},
        element("h3", { class: "caption" }, title),
        element("div", { class: "table scrolls", tabindex: 0, role: "region", "aria-label": title }, made),
      );
    }

    row(action, columns) {
      const text = this.snapshot.spans
        .filter((span) => span.first < action.end && action.first < span.end)
        .map((span) => span.text)
        .join("")
        .replace(/\s+/g, " ")
        .slice(0, 140);
      const place = this.snapshot.spans.findIndex((span) => span.first >= action.first && span.end <= action.end);
      const cells = columns.map(([, of, write], column) => {
        const value = of(action);
        const shown = value == null ? "–" : write ? write(value) : value;
        const inside = column === 1 ? element("button", { type: "button", title: "Show in the text" }, shown) : shown;
        return element("td", { class: column > 1 ? "number" : false }, inside);
      });
      cells.push(element("td", { class: "excerpt" }, element("bdi", {}, text)));
      return element("tr", { onclick: () => this.pin(place, true) }, ...cells);
    }
  }

  document.querySelectorAll(".viewer").forEach((root) => new Viewer(root));
})();

// A page reads without this: it shows the numbers of a cell under the pointer, and its items.
for (const screen of document.querySelectorAll(".first")) {
  const strip = screen.querySelector(".strip");
  if (!strip) continue;
  const data = JSON.parse(screen.querySelector(".items-data")?.textContent || "[]");
  const panel = screen.querySelector(".items");
  const tip = screen.appendChild(make("div", "", { className: "tip", hidden: true }));
  const place = panel?.previousElementSibling;
  const cells = [...strip.querySelectorAll("td[data-layer]")];

  function make(tag, text, more) {
    return Object.assign(document.createElement(tag), { textContent: text }, more);
  }

  function table(rows, heads) {
    const shown = make("table", "");
    const top = shown.createTHead().insertRow();
    for (const head of heads) top.append(make("th", head, { scope: "col" }));
    const body = shown.createTBody();
    for (const row of rows) {
      const line = body.insertRow();
      for (const text of row) line.append(make("td", text));
    }
    const frame = make("div", "", { className: "scroll", tabIndex: 0 });
    frame.append(shown);
    return frame;
  }

  // The items of one task that changed without the layer, those that were lost first.
  function task(one, layer, wanted) {
    const changed = (one.layers[layer] || []).map(([i, answer, margin]) => [one.items[i], answer, margin]);
    const lost = changed.filter(([item]) => item[3]).length;
    const rows = changed
      .filter(([item]) => wanted === "all" || (wanted === "lost") === Boolean(item[3]))
      .map(([[asked, gold, intact, right], answer, margin]) => [
        right ? "lost" : "gained", asked, gold, intact, answer, margin === null ? "" : margin.toFixed(1).replace("-", "\u2212"),
      ]);
    const heads = ["change", "asked", "right answer", "intact model", `without ${name(layer)}`];
    if (rows.some((row) => row[5])) heads.push("margin (nats)");
    const box = make("div", "");
    box.append(make("h3", `${one.task}: ${lost} lost, ${changed.length - lost} gained, of ${one.items.length} items`));
    if (rows.length) {
      box.append(table(rows.map((row) => row.slice(0, heads.length)), heads));
    }
    return box;
  }

  function name(layer) {
    return strip.querySelector(`.axis th[data-layer="${layer}"]`).abbr;
  }

  // Of a cell of the strip: what its tasks changed in; the panel stands below the strip.
  function open(cell) {
    const { capability } = cell.closest("tbody").dataset;
    const { protocol } = cell.closest("tr").dataset;
    const mine = data.filter((one) => one.capability === capability && one.protocol === protocol);
    const way = cell.closest("tr").dataset.words;
    show(mine, cell.dataset.layer, `${capability}, when the model ${way}`, place, () => cell.focus());
  }

  // Of a mark in a figure: one task; the panel stands below the figure.
  function openMark(mark) {
    const { change } = mark.dataset;
    for (const one of data) {
      const start = `${one.change}|${one.task}|${one.protocol}|`;
      if (!change.startsWith(start)) continue;
      const row = strip.querySelector(`tr[data-protocol="${one.protocol}"]`);
      const figure = mark.closest("figure");
      const back = () => figure.scrollIntoView({ block: "nearest" });
      show([one], change.slice(start.length), `${one.task}, when the model ${row.dataset.words}`, figure, back);
      return;
    }
  }

  function show(mine, layer, what, above, back) {
    const title = make("h2", `Without ${name(layer)}: ${what}`);
    const choice = make("select", "", { ariaLabel: "Which items" });
    for (const [value, text] of [["all", "all that changed"], ["lost", "lost"], ["gained", "gained"]]) {
      choice.append(make("option", text, { value }));
    }
    const close = make("button", "close", { type: "button" });
    const body = make("div", "");
    const fill = () => body.replaceChildren(...mine.map((one) => task(one, layer, choice.value)));
    choice.onchange = fill;
    close.onclick = () => {
      panel.hidden = true;
      back();
    };
    fill();
    panel.replaceChildren(title, choice, close, body);
    panel.hidden = false;
    above.after(panel);
    fit();
    panel.scrollIntoView({ block: "nearest" });
  }

  function point(cell) {
    tip.textContent = cell.dataset.words;
    tip.hidden = false;
    const at = cell.getBoundingClientRect();
    const left = Math.min(at.left + scrollX, scrollX + document.documentElement.clientWidth - tip.offsetWidth - 8);
    tip.style.left = `${Math.max(left, 4)}px`;
    tip.style.top = `${at.bottom + scrollY + 6}px`;
  }

  const leave = () => { tip.hidden = true; };
  for (const cell of cells) {
    cell.dataset.words = cell.title;
    cell.ariaLabel = cell.title;
    cell.removeAttribute("title");
    cell.tabIndex = -1;
    cell.addEventListener("pointerenter", () => point(cell));
    cell.addEventListener("pointerleave", leave);
    cell.addEventListener("focus", () => point(cell));
    cell.addEventListener("blur", leave);
    if (data.length) cell.addEventListener("click", () => open(cell));
  }
  if (cells.length) cells[0].tabIndex = 0;
  // Where several runs stand on a page, a figure does not say whose it is.
  if (data.length && document.querySelectorAll(".first").length === 1) {
    const known = new Set(data.map((one) => `${one.change}|${one.task}|${one.protocol}`));
    for (const mark of document.querySelectorAll("[data-change]")) {
      if (!known.has(mark.dataset.change.replace(/\|\d+$/, ""))) continue;
      mark.classList.add("opens");
      mark.addEventListener("click", () => openMark(mark));
    }
  }
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  strip.addEventListener("keydown", (event) => {
    const cell = event.target;
    if (!cells.includes(cell)) return;
    if ((event.key === "Enter" || event.key === " ") && data.length) {
      open(cell);
      event.preventDefault();
    }
    if (event.key === "Escape") leave();
    if (!(event.key in steps)) return;
    const lines = [...new Set(cells.map((one) => one.parentNode))];
    const [down, right] = steps[event.key];
    const line = lines[lines.indexOf(cell.parentNode) + down];
    const layers = [...cell.parentNode.querySelectorAll("td[data-layer]")];
    const layer = layers[layers.indexOf(cell) + right]?.dataset.layer;
    const next = line?.querySelector(`td[data-layer="${layer}"]`);
    if (next) {
      cell.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    }
    event.preventDefault();
  });
}

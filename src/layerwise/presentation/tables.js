// A page reads without this: a table that is too wide for the screen becomes a list of its rows.
"use strict";
function fit() {
  const frames = [...document.querySelectorAll(".scroll")].filter((frame) => frame.checkVisibility());
  for (const frame of frames) frame.classList.remove("stacked");
  for (const frame of frames.filter((one) => one.scrollWidth > one.clientWidth + 1)) {
    const heads = [...frame.querySelectorAll("thead th")].map((head) => head.textContent);
    for (const row of frame.querySelectorAll("tbody tr")) {
      for (const [i, cell] of [...row.cells].entries()) cell.dataset.head = heads[i];
    }
    frame.classList.add("stacked");
  }
}
addEventListener("resize", fit);
document.addEventListener("toggle", fit, true);
fit();

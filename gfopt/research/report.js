"use strict";
/* What a click and a pointer do; without scripts the page is the same, but still. */

/* A method's button shows or hides its lines, and dims its rows. */
function toggle(button) {
  const isOff = button.getAttribute("aria-pressed") === "true";
  for (const part of document.querySelectorAll(`[data-m="${button.dataset.m}"]`)) {
    part.classList.toggle("off", isOff);
    if (part.matches("button")) part.setAttribute("aria-pressed", String(!isOff));
  }
}

/* The number that a cell is sorted by: of two, behind figure spaces, the last. */
function numberIn(cell) {
  const text = cell.textContent.split("\u2007").pop().replaceAll(",", "");
  const found = text.match(/-?\d+(\.\d+)?(e[-+]?\d+)?/i);
  return found ? Number(found[0]) : NaN;
}

function compare(a, b) {
  const x = numberIn(a), y = numberIn(b);
  if (Number.isNaN(x) || Number.isNaN(y)) {
    return Number.isNaN(x) - Number.isNaN(y) || a.textContent.localeCompare(b.textContent);
  }
  return x - y;
}

/* A click on a head sorts its table, a second one the other way round. */
function sortBy(head) {
  const table = head.closest("table"), body = table.tBodies[0], place = head.cellIndex;
  const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  const rows = [...body.rows];
  rows.sort((a, b) => sign * compare(a.cells[place], b.cells[place]));
  body.append(...rows);
}

/* An axis is "pixel of its low end, of its high end, low, high, 1 if logarithmic". */
function valueAt(axis, pixel) {
  const [from, to, low, high, isLog] = axis.split(" ").map(Number);
  const share = Math.min(1, Math.max(0, (pixel - from) / (to - from)));
  return isLog ? low * (high / low) ** share : low + (high - low) * share;
}

function heightAt(path, x) {
  const points = path.getAttribute("d").slice(1).split("L").map((p) => p.split(" ").map(Number));
  const next = points.findIndex((p) => p[0] >= x);
  if (next < 0 || x < points[0][0]) return null;
  if (next === 0) return points[0][1];
  const [a, b] = [points[next - 1], points[next]];
  return a[1] + ((b[1] - a[1]) * (x - a[0])) / (b[0] - a[0] || 1);
}

function rounded(value) {
  return String(Number(value.toPrecision(3)));
}

/* The values of all lines under the pointer. */
function point(event, chart, tip) {
  const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(chart.getScreenCTM().inverse());
  const lines = [];
  for (const path of chart.querySelectorAll("path.line:not(.off)")) {
    const height = heightAt(path, at.x);
    if (height !== null) lines.push([height, path.textContent.trim()]);
  }
  lines.sort((a, b) => a[0] - b[0]);
  const rows = lines.map(([y, name]) => `${name} ${rounded(valueAt(chart.dataset.y, y))}`);
  tip.textContent = [`at ${rounded(valueAt(chart.dataset.x, at.x))}`, ...rows].join("\n");
  tip.hidden = rows.length === 0;
  const room = document.documentElement.clientWidth - tip.offsetWidth - 4;
  tip.style.left = `${Math.max(0, Math.min(event.pageX + 14, room))}px`;
  tip.style.top = `${event.pageY + 14}px`;
}

const tip = document.getElementById("tip");
for (const button of document.querySelectorAll("button[data-m]")) {
  button.addEventListener("click", () => toggle(button));
}
for (const head of document.querySelectorAll("thead th")) {
  head.tabIndex = 0;
  head.addEventListener("click", () => sortBy(head));
  head.addEventListener("keydown", (event) => {
    if (event.key === "Enter") sortBy(head);
  });
}
for (const chart of document.querySelectorAll("svg[data-x]")) {
  chart.addEventListener("pointermove", (event) => point(event, chart, tip));
  chart.addEventListener("pointerleave", () => { tip.hidden = true; });
}
document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement, now = getComputedStyle(root).colorScheme;
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const isDark = now === "dark" || (now !== "light" && dark);
  root.style.colorScheme = isDark ? "light" : "dark";
});

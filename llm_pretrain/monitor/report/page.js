"use strict";
const tip = document.getElementById("tip");
function show(text, x, y) {
  tip.textContent = text;
  tip.style.display = "block";
  const left = Math.min(x + 14, innerWidth - tip.offsetWidth - 8);
  const above = y - tip.offsetHeight - 12;
  tip.style.left = Math.max(left, 8) + "px";
  tip.style.top = (above > 8 ? above : y + 18) + "px";
}
function hide() { tip.style.display = "none"; }
function told(number) {
  return Math.abs(number) >= 1e5 ? number.toPrecision(4).replace(/e\+?/, "e") : String(+number.toPrecision(5));
}
for (const mark of document.querySelectorAll(".mark")) {
  mark.addEventListener("focus", () => {
    const place = mark.getBoundingClientRect();
    show(mark.dataset.tip, place.left, place.top);
  });
  mark.addEventListener("blur", hide);
}
for (const plot of document.querySelectorAll(".plot")) {
  const [x0, x1] = plot.dataset.x.split(",").map(Number);
  const [y0, y1] = plot.dataset.y.split(",").map(Number);
  const lines = [...plot.querySelectorAll("polyline")].map((line) => ({
    label: line.dataset.label,
    points: line.getAttribute("points").split(" ").map((point) => point.split(",").map(Number)),
  }));
  plot.addEventListener("pointermove", (event) => {
    const mark = event.target.closest(".mark");
    if (mark) { show(mark.dataset.tip, event.clientX, event.clientY); return; }
    const box = plot.getBoundingClientRect();
    const x = 1000 * (event.clientX - box.left) / box.width;
    const told_lines = [];
    for (const { label, points } of lines) {
      const near = points.reduce((a, b) => (Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a));
      if (Math.abs(near[0] - x) > 40) continue;
      const value = y0 + (1 - near[1] / 400) * (y1 - y0);
      told_lines.push((label ? label + ": " : "") + told(value));
    }
    const at = told(Math.round(x0 + x / 1000 * (x1 - x0)));
    if (told_lines.length) show([at, ...told_lines].join("\n"), event.clientX, event.clientY);
    else hide();
  });
  plot.addEventListener("pointerleave", hide);
}

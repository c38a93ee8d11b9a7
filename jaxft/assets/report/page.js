"use strict";
// Shows values where one points, or where the arrow keys lead. The page can be read without.
const script = JSON.parse(document.getElementById("data").textContent);
for (const figure of document.querySelectorAll("[data-drawing]")) {
  const drawing = script.drawings[figure.dataset.drawing];
  if (drawing.kind === "curves") listen(figure, drawing, ...curves(figure, drawing));
  else listen(figure, drawing, ...cloud(figure, drawing));
}

// The stops of a drawing in order, which of them is nearest to a place in the plot, and what to show there.
function curves(figure, drawing) {
  const steps = [...new Set(drawing.series.flatMap((one) => one.x))].sort((a, b) => a - b);
  const show = (step) => {
    const epoch = Math.min(step * script.epochs_per_step, script.epochs ?? Infinity);  // the last step may be short
    const near = drawing.series.map((one) => [one, nearest(one.x, step)]).filter(([one, i]) => one.y[i] !== null);
    return {
      title: `step ${number(step)} (epoch ${epoch.toFixed(2)})`,
      lines: near.map(([one, i]) => [one.name + (one.x[i] === step ? "" : ` at ${number(one.x[i])}`), one.y[i], one.hue]),
      marks: near.map(([one, i]) => [one.x[i], one.y[i], one.hue]),
      rule: step,
    };
  };
  const find = (x) => nearest(steps, drawing.x[0] + x * (drawing.x[1] - drawing.x[0]));
  return [steps, find, show];
}

function cloud(figure, drawing) {
  const points = [...drawing.points].sort((a, b) => a[0] - b[0]);
  const find = (x, y, box) => {
    const far = points.map(([a, b]) => Math.hypot((place(drawing, "x", a) - x) * box.width, (place(drawing, "y", b) - y) * box.height));
    return far.indexOf(Math.min(...far));
  };
  const show = ([x, y]) => ({ title: "", lines: [[drawing.names[0], x, 7], [drawing.names[1], y, 7]], marks: [[x, y, 7]], rule: x });
  return [points, find, show];
}

function listen(figure, drawing, stops, find, show) {
  const area = figure.querySelector(".area");
  const tip = area.querySelector(".tip");
  const rule = area.querySelector(".rule");
  let at = -1;
  const hide = () => {
    at = -1;
    tip.hidden = rule.hidden = true;
    area.querySelectorAll(".mark").forEach((mark) => mark.remove());
  };
  const go = (i) => {
    hide();
    if (!stops.length) return;
    at = Math.max(0, Math.min(i, stops.length - 1));
    const shown = show(stops[at]);
    const x = place(drawing, "x", shown.rule);
    rule.style.left = `${100 * x}%`;
    tip.style.left = x < 0.5 ? `calc(${100 * x}% + .6rem)` : "auto";
    tip.style.right = x < 0.5 ? "auto" : `calc(${100 * (1 - x)}% + .6rem)`;
    tip.replaceChildren(element("div", shown.title), ...shown.lines.map(([name, value, hue]) => {
      const line = element("div", "");
      line.append(element("span", name, `name hue${hue % 8}`), element("span", number(value)));
      return line;
    }));
    for (const [a, b, hue] of shown.marks) {
      const mark = element("i", "", `mark hue${hue % 8}`);
      mark.style.left = `${100 * place(drawing, "x", a)}%`;
      mark.style.top = `${100 * (1 - place(drawing, "y", b))}%`;
      area.append(mark);
    }
    tip.hidden = rule.hidden = false;
  };
  const point = (event) => {
    const box = area.getBoundingClientRect();
    go(find((event.clientX - box.left) / box.width, 1 - (event.clientY - box.top) / box.height, box));
  };
  area.addEventListener("pointermove", point);
  area.addEventListener("pointerdown", point);
  area.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hide());
  figure.addEventListener("blur", hide);
  figure.addEventListener("keydown", (event) => {
    const to = { ArrowRight: at + 1, ArrowLeft: at < 0 ? stops.length : at - 1, Home: 0, End: stops.length - 1 }[event.key];
    if (event.key === "Escape") hide();
    if (to === undefined) return;
    event.preventDefault();
    go(to);
  });
}

// Share of the way along an axis.
function place(drawing, axis, value) {
  let [low, high] = drawing[axis];
  if (axis === "y" && drawing.log) [low, high, value] = [low, high, value].map(Math.log);
  return (value - low) / (high - low);
}

// Number of the nearest of ascending values.
function nearest(values, wanted) {
  let low = 0, high = values.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (values[middle] < wanted) low = middle; else high = middle;
  }
  return wanted - values[low] <= values[high] - wanted ? low : high;
}

// As `number` in jaxft/reports/page.py, but for whole numbers, which JSON does not tell from others.
function number(value) {
  const size = Math.abs(value);
  if (Number.isInteger(value) || size >= 1000) return value.toLocaleString("en", { maximumFractionDigits: 0 });
  if (size < 1e-3) return value.toExponential(2);
  return value.toFixed(size >= 100 ? 1 : 4);
}

function element(name, text, kind = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = kind;
  return made;
}

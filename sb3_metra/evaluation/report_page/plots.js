// Drawing with SVG: paths of skills, and training curves.

const SVG = document.querySelector("svg").namespaceURI;

function element(name, attributes = {}, parent = null, text = null) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== null) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}

function html(name, className = "", parent = null, text = null) {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text !== null) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}

// A number for people: three digits, a true minus, thousands apart.
function say(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  let text;
  if (Number.isInteger(value) && size < 1e15) text = value.toLocaleString("en-US").replaceAll(",", "\u202f");
  else if (size !== 0 && (size < 1e-3 || size >= 1e6)) text = value.toExponential(1);
  else text = size >= 1000 ? Math.round(value).toLocaleString("en-US").replaceAll(",", "\u202f") : String(Number(value.toPrecision(digits)));
  return text.replaceAll("-", "−");
}

// Large numbers on axes: 1.2M, 300k.
function short(value) {
  const size = Math.abs(value);
  if (size >= 1e6) return say(value / 1e6) + "M";
  if (size >= 1e3) return say(value / 1e3) + "k";
  return say(value);
}

function extent(arrays) {
  let low = Infinity, high = -Infinity;
  for (const array of arrays) {
    for (const value of array) {
      if (value === null) continue;
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  return low <= high ? [low, high] : [0, 1];
}

function ticks([low, high], count) {
  const span = high - low || 1, raw = span / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => span / s <= count);
  const marks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) marks.push(Number((i * step).toPrecision(12)));
  return marks;
}

// Map data to a box; `equal` keeps the proportions of the plane.
function makeScale(xs, ys, box, equal) {
  let [x0, x1] = xs, [y0, y1] = ys;
  const pad = 0.05;
  if (x1 - x0 < 1e-12) [x0, x1] = [x0 - 0.5, x1 + 0.5];
  if (y1 - y0 < 1e-12) [y0, y1] = [y0 - 0.5, y1 + 0.5];
  if (equal) {
    const perPixel = (1 + 2 * pad) * Math.max((x1 - x0) / box.width, (y1 - y0) / box.height);
    const cx = (x0 + x1) / 2, cy = (y0 + y1) / 2;
    [x0, x1] = [cx - perPixel * box.width / 2, cx + perPixel * box.width / 2];
    [y0, y1] = [cy - perPixel * box.height / 2, cy + perPixel * box.height / 2];
  } else {
    [y0, y1] = [y0 - pad * (y1 - y0), y1 + pad * (y1 - y0)];
  }
  return {
    xs: [x0, x1], ys: [y0, y1], box,
    x: (v) => box.left + (v - x0) / (x1 - x0) * box.width,
    y: (v) => box.top + box.height - (v - y0) / (y1 - y0) * box.height,
    toX: (p) => x0 + (p - box.left) / box.width * (x1 - x0),
  };
}

function pathOf(xs, ys, scale) {
  let text = "", open = false;
  for (let i = 0; i < xs.length; i++) {
    if (xs[i] === null || ys[i] === null) { open = false; continue; }
    text += `${open ? "L" : "M"}${scale.x(xs[i]).toFixed(1)} ${scale.y(ys[i]).toFixed(1)}`;
    open = true;
  }
  return text;
}

function drawAxes(svg, scale, xName, yName, marks = [5, 5], show = say) {
  const { box } = scale, group = element("g", { class: "axes", "aria-hidden": "true" }, svg);
  for (const value of ticks(scale.xs, marks[0])) {
    const x = scale.x(value);
    element("line", { class: value === 0 ? "zero" : "grid", x1: x, x2: x, y1: box.top, y2: box.top + box.height }, group);
    element("text", { x, y: box.top + box.height + 15, "text-anchor": "middle" }, group, show(value));
  }
  for (const value of ticks(scale.ys, marks[1])) {
    const y = scale.y(value);
    element("line", { class: value === 0 ? "zero" : "grid", x1: box.left, x2: box.left + box.width, y1: y, y2: y }, group);
    element("text", { x: box.left - 6, y: y + 4, "text-anchor": "end" }, group, show(value));
  }
  if (xName) element("text", { class: "axis-name", x: box.left + box.width, y: box.top + box.height + 31, "text-anchor": "end" }, group, xName);
  if (yName) element("text", { class: "axis-name", x: box.left - 36, y: box.top - 8 }, group, yName);
}

// Value of a path at a step between its points.
function interpolate(at, values, step) {
  let low = 0, high = at.length - 1;
  if (step >= at[high]) return values[high];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (at[middle] <= step) low = middle; else high = middle;
  }
  const share = (step - at[low]) / (at[high] - at[low] || 1);
  return values[low] + share * (values[high] - values[low]);
}

// The paths of all skills, seen through one pair of coordinates ("place" or "phi").
function makeMap(host, key, axes, skills, behind, label, bus) {
  const planar = axes.names.length > 1;
  const unit = axes.unit ? ` (${axes.unit})` : "";
  const size = { width: 420, height: 400 };
  const box = { left: 46, top: 24, width: 362, height: 338 };
  const xOf = (s) => (planar ? s[key][0] : s.at), yOf = (s) => (planar ? s[key][1] : s[key][0]);
  const drawn = [...skills, ...behind];
  const scale = makeScale(extent(drawn.map(xOf)), extent(drawn.map(yOf)), box, planar);
  const svg = element("svg", {
    viewBox: `0 0 ${size.width} ${size.height}`, class: "map-svg", tabindex: "0", role: "listbox",
    "aria-label": label, "aria-orientation": "horizontal",
  }, host);
  drawAxes(svg, scale, planar ? axes.names[0] + unit : "step", axes.names[planar ? 1 : 0] + unit);
  const back = element("g", { class: "behind", "aria-hidden": "true" }, svg);
  for (const s of behind) element("path", { d: pathOf(xOf(s), yOf(s), scale), style: `--h:${s.hue}` }, back);
  const asked = element("path", { class: "asked", "aria-hidden": "true" }, svg);
  const options = skills.map((s, i) => {
    const group = element("g", { class: "skill", role: "option", id: `${key}-${i}`, style: `--h:${s.hue}`, "aria-label": `skill ${s.name}`, "aria-selected": "false" }, svg);
    const xs = xOf(s), ys = yOf(s), d = pathOf(xs, ys, scale);
    element("path", { d }, group);
    element("circle", { cx: scale.x(xs.at(-1)), cy: scale.y(ys.at(-1)), r: 3 }, group);
    return { group, d, points: xs.map((x, j) => [scale.x(x), scale.y(ys[j])]) };
  });
  const lit = element("g", { class: "lit", "aria-hidden": "true" }, svg);
  const casing = element("path", { class: "casing" }, lit), line = element("path", { class: "line" }, lit);
  const hoverLine = element("path", { class: "hover-line", "aria-hidden": "true" }, svg);
  const hoverName = element("text", { class: "hover-name", "aria-hidden": "true" }, svg);
  const dot = element("circle", { class: "dot", r: 6.5, "aria-hidden": "true" }, svg);

  function nearest(event) {
    const rect = svg.getBoundingClientRect();
    const px = (event.clientX - rect.left) / rect.width * size.width, py = (event.clientY - rect.top) / rect.height * size.height;
    let best = -1, least = 16 ** 2;
    options.forEach(({ points }, i) => {
      for (const [x, y] of points) {
        const distance = (x - px) ** 2 + (y - py) ** 2;
        if (distance < least) [best, least] = [i, distance];
      }
    });
    return best;
  }
  svg.addEventListener("pointermove", (event) => bus.hover(nearest(event)));
  svg.addEventListener("pointerleave", () => bus.hover(-1));
  svg.addEventListener("click", (event) => { const i = nearest(event); if (i >= 0) bus.select(i); });
  svg.addEventListener("keydown", (event) => bus.key(event));

  bus.onSelect((i) => {
    options.forEach(({ group }, j) => {
      group.classList.toggle("selected", i === j);
      group.setAttribute("aria-selected", String(i === j));
    });
    svg.setAttribute("aria-activedescendant", `${key}-${i}`);
    const s = skills[i];
    for (const node of [lit, dot]) node.setAttribute("style", `--h:${s.hue}`);
    casing.setAttribute("d", options[i].d);
    line.setAttribute("d", options[i].d);
    if (key === "phi" && s.asked) asked.setAttribute("d", pathOf(s.asked[0], s.asked[1], scale));
  });
  bus.onHover((i) => {
    svg.classList.toggle("hovering", i >= 0);
    svg.style.cursor = i >= 0 ? "pointer" : "";
    options.forEach(({ group }, j) => group.classList.toggle("hovered", i === j));
    hoverLine.setAttribute("d", i >= 0 ? options[i].d : "");
    hoverName.textContent = i >= 0 ? skills[i].name : "";
    if (i < 0) return;
    hoverLine.setAttribute("style", `--h:${skills[i].hue}`);
    const [x, y] = options[i].points.at(-1), right = x < box.left + box.width - 46;
    hoverName.setAttribute("x", x + (right ? 8 : -8));
    hoverName.setAttribute("y", y + 4);
    hoverName.setAttribute("text-anchor", right ? "start" : "end");
  });
  bus.onTime((step, i) => {
    const s = skills[i];
    dot.setAttribute("cx", scale.x(interpolate(s.at, xOf(s), step)));
    dot.setAttribute("cy", scale.y(interpolate(s.at, yOf(s), step)));
  });
}

// One training curve; all of them share the cursor.
function makeCurve(host, curve, cursor) {
  const figure = html("figure", "card curve", host);
  const caption = html("figcaption", "", figure);
  html("h3", "", caption, curve.label);
  const value = html("output", "", caption, say(curve.y.at(-1)));
  const box = { left: 48, top: 8, width: 234, height: 100 };
  const scale = makeScale([0, curve.x.at(-1)], extent([curve.y]), box, false);
  const svg = element("svg", {
    viewBox: "0 0 300 128", role: "img",
    "aria-label": `${curve.label}: from ${say(curve.y[0])} to ${say(curve.y.at(-1))} after ${short(curve.x.at(-1))} steps`,
  }, figure);
  drawAxes(svg, scale, "", "", [4, 4], short);
  element("path", { class: "line", d: pathOf(curve.x, curve.y, scale) }, svg);
  const needle = element("line", { class: "needle", y1: box.top, y2: box.top + box.height, visibility: "hidden" }, svg);
  const dot = element("circle", { class: "curve-dot", r: 3.5, visibility: "hidden" }, svg);
  if (curve.hint) html("p", "", figure, curve.hint);
  svg.addEventListener("pointermove", (event) => {
    const rect = svg.getBoundingClientRect();
    cursor.move(scale.toX((event.clientX - rect.left) / rect.width * 300));
  });
  svg.addEventListener("pointerleave", () => cursor.move(null));
  cursor.listeners.push((x) => {
    const seen = x !== null && x >= 0 && x <= curve.x.at(-1);
    for (const node of [needle, dot]) node.setAttribute("visibility", seen ? "visible" : "hidden");
    let j = curve.x.length - 1;
    if (seen) {
      j = curve.x.reduce((best, v, k) => (Math.abs(v - x) < Math.abs(curve.x[best] - x) ? k : best), 0);
      const px = scale.x(curve.x[j]);
      needle.setAttribute("x1", px);
      needle.setAttribute("x2", px);
      dot.setAttribute("cx", px);
      dot.setAttribute("cy", scale.y(curve.y[j]));
    }
    value.textContent = say(curve.y[j]) + (seen ? ` at ${short(curve.x[j])}` : "");
  });
}

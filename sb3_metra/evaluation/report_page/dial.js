// Choosing a skill: a dial for two dimensions, buttons for few skills, sliders for more dimensions.

const SUBSCRIPTS = "₀₁₂₃₄₅₆₇₈₉";
const component = (i) => "z" + String(i + 1).split("").map((c) => SUBSCRIPTS[c]).join("");

function makeChooser(host, prior, skills, bus) {
  if (prior.kind === "discrete" || prior.dim === 1) makeButtons(host, prior, skills, bus);
  else if (prior.dim === 2) makeDial(host, skills, bus);
  else makeSliders(host, prior, skills, bus);
}

// The recorded skill whose direction is nearest.
function nearestSkill(skills, vector) {
  let best = 0, most = -Infinity;
  skills.forEach(({ vector: v }, i) => {
    const cosine = v.reduce((sum, x, k) => sum + x * vector[k], 0) / (Math.hypot(...v) * Math.hypot(...vector) || 1);
    if (cosine > most + 1e-9) [best, most] = [i, cosine];
  });
  return [best, most];
}

function makeDial(host, skills, bus) {
  const radius = 88;
  const svg = element("svg", {
    viewBox: "-124 -124 248 248", class: "dial", id: "dial", tabindex: "0", role: "slider",
    "aria-label": "Skill, a point on the circle", "aria-valuemin": "0", "aria-valuemax": String(skills.length - 1),
  }, host);
  element("circle", { class: "dial-face", r: radius }, svg);
  for (const [x, y] of [[1, 0], [0, 1]]) element("line", { class: "cross", x1: -x * radius, x2: x * radius, y1: -y * radius, y2: y * radius }, svg);
  element("text", { class: "axis-name", x: 66, y: -6, "text-anchor": "middle" }, svg, "z₁");
  element("text", { class: "axis-name", x: 12, y: -62, "text-anchor": "middle" }, svg, "z₂");
  const angles = skills.map(({ vector: [x, y] }) => Math.atan2(y, x));
  const dots = skills.map((s, i) => element("circle", {
    class: "dial-dot", style: `--h:${s.hue}`, cx: radius * Math.cos(angles[i]), cy: -radius * Math.sin(angles[i]), r: 4.5,
  }, svg));
  const needle = element("line", { class: "dial-needle" }, svg);
  element("circle", { class: "dial-hub", r: 3.5 }, svg);
  const knob = element("circle", { class: "dial-knob", r: 11 }, svg);
  const name = element("text", { class: "dial-name", "text-anchor": "middle" }, svg);

  function point(event) {
    const rect = svg.getBoundingClientRect();
    const x = event.clientX - (rect.left + rect.width / 2), y = rect.top + rect.height / 2 - event.clientY;
    return nearestSkill(skills, [x, y])[0];
  }
  let held = false;
  svg.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    held = true;
    svg.setPointerCapture(event.pointerId);
    bus.select(point(event));
  });
  svg.addEventListener("pointermove", (event) => {
    if (!held) bus.hover(point(event));
    else if (point(event) !== bus.selected) bus.select(point(event));
  });
  for (const type of ["pointerup", "pointercancel"]) svg.addEventListener(type, () => { held = false; });
  svg.addEventListener("pointerleave", () => bus.hover(-1));
  svg.addEventListener("keydown", (event) => bus.key(event));
  bus.onHover((i) => dots.forEach((node, j) => node.setAttribute("r", i === j ? 7.5 : 4.5)));
  bus.onSelect((i) => {
    const x = radius * Math.cos(angles[i]), y = -radius * Math.sin(angles[i]);
    for (const node of [needle, knob]) node.setAttribute("style", `--h:${skills[i].hue}`);
    needle.setAttribute("x2", x);
    needle.setAttribute("y2", y);
    knob.setAttribute("cx", x);
    knob.setAttribute("cy", y);
    name.textContent = skills[i].name;
    name.setAttribute("x", 1.28 * x);
    name.setAttribute("y", 1.25 * y + 4);
    svg.setAttribute("aria-valuenow", String(i));
    svg.setAttribute("aria-valuetext", `${skills[i].name}, ${i + 1} of ${skills.length}`);
  });
}

function makeButtons(host, prior, skills, bus) {
  const few = skills.length <= 3;
  const group = html("div", few ? "buttons few" : "buttons", host);
  group.id = "dial";
  group.setAttribute("role", "radiogroup");
  group.setAttribute("aria-label", "Skill");
  const buttons = skills.map((s, i) => {
    const button = html("button", "", group, s.name);
    button.type = "button";
    button.style.setProperty("--h", s.hue);
    button.setAttribute("role", "radio");
    button.setAttribute("aria-label", `skill ${s.name}`);
    button.addEventListener("click", () => bus.select(i));
    button.addEventListener("pointerenter", () => bus.hover(i));
    button.addEventListener("pointerleave", () => bus.hover(-1));
    button.addEventListener("keydown", (event) => {
      if (event.key !== " " && event.key !== "Enter" && bus.key(event)) buttons[bus.selected].focus();
    });
    return button;
  });
  bus.onHover((i) => buttons.forEach((button, j) => button.classList.toggle("hovered", i === j)));
  bus.onSelect((i) => buttons.forEach((button, j) => {
    button.setAttribute("aria-checked", String(i === j));
    button.tabIndex = i === j ? 0 : -1;
  }));
}

function makeSliders(host, prior, skills, bus) {
  const group = html("div", "sliders", host);
  group.id = "dial";
  group.setAttribute("role", "group");
  group.setAttribute("aria-label", "Skill, a point on the unit sphere");
  const list = html("div", "slider-list", group);
  const said = html("p", "said", group);
  said.setAttribute("aria-live", "polite");
  let ours = false;
  const sliders = Array.from({ length: prior.dim }, (_, i) => {
    const label = html("label", "", list);
    html("span", "axis-name", label, component(i));
    const input = html("input", "", label);
    Object.assign(input, { type: "range", min: "-1", max: "1", step: "0.05" });
    const output = html("output", "", label);
    input.addEventListener("input", () => {
      const [i, cosine] = nearestSkill(skills, sliders.map((s) => Number(s.input.value)));
      ours = true;
      bus.select(i);
      ours = false;
      tell(cosine);
    });
    return { input, output };
  });
  function tell(cosine) {
    const values = sliders.map((s) => Number(s.input.value)), norm = Math.hypot(...values) || 1;
    sliders.forEach((s, i) => { s.output.textContent = say(Number((values[i] / norm).toFixed(2))); });
    said.textContent = `Scaled to the unit sphere; the nearest recorded skill is ${skills[bus.selected].name}`
      + (cosine === null ? "." : `, at a cosine of ${say(cosine)}.`);
  }
  const steps = html("div", "stepper", group);
  for (const [text, label, by] of [["‹", "Previous recorded skill", -1], ["›", "Next recorded skill", 1]]) {
    const button = html("button", "round", steps, text);
    button.type = "button";
    button.setAttribute("aria-label", label);
    button.addEventListener("click", () => bus.select((bus.selected + by + skills.length) % skills.length));
  }
  bus.onSelect((i) => {
    if (ours) return;
    const norm = Math.hypot(...skills[i].vector) || 1;
    sliders.forEach((s, k) => { s.input.value = String(skills[i].vector[k] / norm); });
    tell(1);
  });
}

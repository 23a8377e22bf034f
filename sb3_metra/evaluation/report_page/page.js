// The page: one bus for what is selected, hovered and played, and the tables around it.

function makeBus(n) {
  const listeners = { select: [], hover: [], time: [] };
  const keys = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 3, PageDown: -3 };
  const bus = {
    selected: 0,
    hovered: -1,
    stage: null,
    onSelect: (f) => listeners.select.push(f),
    onHover: (f) => listeners.hover.push(f),
    onTime: (f) => listeners.time.push(f),
    select(i) {
      bus.selected = i;
      for (const f of listeners.select) f(i);
    },
    hover(i) {
      if (i === bus.hovered) return;
      bus.hovered = i;
      for (const f of listeners.hover) f(i);
    },
    tell(step) {
      for (const f of listeners.time) f(step, bus.selected);
    },
    // Arrow keys go round the skills, space plays; true where the key meant something.
    key(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return false;
      if (event.key in keys) bus.select((bus.selected + keys[event.key] + n) % n);
      else if (event.key === "Home") bus.select(0);
      else if (event.key === "End") bus.select(n - 1);
      else if (event.key === " " || event.key === "Enter") bus.stage.toggle();
      else return false;
      event.preventDefault();
      return true;
    },
  };
  return bus;
}

function rows(list, entries) {
  for (const [name, value] of entries) {
    const row = html("div", "", list);
    html("dt", "", row, name);
    html("dd", "", row, typeof value === "object" ? JSON.stringify(value) : String(value));
  }
}

// (1, 2), or 1 alone.
function tuple(values) {
  const text = values.map((v) => say(v)).join(", ");
  return values.length > 1 ? `(${text})` : text;
}

function showNumbers(data) {
  const list = document.getElementById("numbers");
  const steps = data.steps === null ? [] : [{ label: "trained for", text: short(data.steps), unit: "steps", hint: "of the environment, without a reward" }];
  for (const { label, value, text, unit, hint } of [...data.numbers, ...steps]) {
    const cell = html("div", "number", list);
    cell.title = hint;
    html("dt", "", cell, label);
    const shown = html("dd", "", cell, text ?? say(value));
    if (unit) html("span", "unit", shown, " " + unit);
    html("dd", "hint", cell, hint);
  }
}

function showSkill(data, i) {
  const s = data.skills[i], unit = data.place && data.place.unit ? " " + data.place.unit : "";
  document.getElementById("swatch").style.setProperty("--h", s.hue);
  document.getElementById("stage").style.setProperty("--h", s.hue);
  document.getElementById("name").textContent = s.name;
  document.getElementById("tag").textContent = `skill ${s.name}`;
  document.documentElement.dataset.skill = String(i);
  const facts = document.getElementById("facts");
  facts.replaceChildren();
  const entries = [];
  if (data.prior.kind !== "discrete" && s.vector.length <= 4) entries.push(["z", tuple(s.vector)]);
  if (s.end !== null) entries.push(["ends at", tuple(s.end) + unit], ["distance", say(s.distance) + unit]);
  if (s.cosine !== null) entries.push(["cosine of Δφ and z", say(s.cosine)]);
  entries.push(["steps", say(s.steps)], ["return", say(s.return)]);
  rows(facts, entries);
  const numbers = data.prior.kind === "discrete" ? `np.eye(${data.prior.dim})[${s.name}]` : `np.array([${s.vector.map((v) => Number(v.toPrecision(4))).join(", ")}])`;
  document.getElementById("code").textContent = `skill = ${numbers}\naction, _ = model.predict(obs, state=skill, deterministic=True)`;
  try {
    history.replaceState(null, "", `#skill=${i}`);  // so that a link can point to a skill
  } catch { /* some browsers refuse it for files */ }
}

function showCurves(data) {
  const cursor = { listeners: [], move: (x) => cursor.listeners.forEach((f) => f(x)) };
  const other = data.curves.filter((c) => !c.known);
  for (const curve of data.curves.filter((c) => c.known)) makeCurve(document.getElementById("curves"), curve, cursor);
  for (const curve of other) makeCurve(document.getElementById("more-curves"), curve, cursor);
  document.querySelector("#more summary").textContent = `${other.length} more that were logged`;
  document.getElementById("more").hidden = other.length === 0;
  document.getElementById("training").hidden = data.curves.length === 0;
}

function showTables(data) {
  rows(document.getElementById("about"), Object.entries(data.about));
  rows(document.getElementById("settings"), Object.entries(data.settings));
  const table = document.getElementById("versions"), trained = Object.values(data.versions).some(([then]) => then);
  const head = html("tr", "", html("thead", "", table));
  for (const name of trained ? ["package", "trained", "this page"] : ["package", "this page"]) {
    html("th", "", head, name).scope = "col";
  }
  const body = html("tbody", "", table);
  for (const [name, [then, now]] of Object.entries(data.versions)) {
    const row = html("tr", "", body);
    html("th", "", row, name).scope = "row";
    if (trained) html("td", "", row, then || "–");
    html("td", "", row, now || "–");
  }
  const notes = document.getElementById("notes");
  for (const note of data.notes) html("li", "", notes, note);
  notes.hidden = data.notes.length === 0;
}

function start() {
  const data = JSON.parse(document.getElementById("data").textContent), { skills } = data;
  const bus = makeBus(skills.length);
  const kind = { discrete: "discrete", sphere: "", gauss: "Gaussian" }[data.prior.kind];
  document.getElementById("title").textContent = data.title;
  document.getElementById("kicker").textContent = `${data.algorithm} · ${data.prior.dim}${data.prior.kind === "discrete" ? "" : "-dimensional"} ${kind} skills`.replace("  ", " ");
  document.getElementById("colophon").textContent = `Recorded on ${data.date} with sb3_metra. This file needs no network.`;
  showNumbers(data);
  const count = `${skills.length} skills`;
  const behind = data.behind.length ? ` Thin lines: the ${data.behind.length} episodes behind the numbers.` : "";
  document.getElementById("place-card").hidden = !data.place;
  document.getElementById("phi-card").hidden = !data.phi;
  document.getElementById("maps").classList.toggle("one-map", !data.place || !data.phi);
  if (data.place) {
    document.getElementById("place-title").textContent = data.place.names.length > 1 ? "Where skills go" : "Where skills go, over time";
    document.getElementById("place-note").textContent = data.place.note + behind;
    makeMap(document.getElementById("place"), "place", data.place, skills, data.behind, `Where ${count} go; arrow keys choose one`, bus);
  }
  if (data.phi) {
    const asked = skills[0].asked ? " Dashed: the way the skill asks for." : "";
    document.getElementById("phi-note").textContent = (data.phi.note + asked).trim();
    makeMap(document.getElementById("phi"), "phi", data.phi, skills, data.behind, `What ${count} do in φ; arrow keys choose one`, bus);
  }
  makeChooser(document.getElementById("chooser"), data.prior, skills, bus);
  bus.onSelect((i) => showSkill(data, i));
  bus.stage = makeStage(data, bus);
  showCurves(data);
  showTables(data);
  const asked0 = Number((location.hash.match(/skill=(\d+)/) || [])[1] || 0);
  bus.select(asked0 < skills.length ? asked0 : 0);
  const user = bus.select;
  bus.select = (i) => { user(i); bus.stage.play(); };
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) bus.stage.play();
}

start();

// Playing a skill: its film, or a point on its path where there is none.

function makeStage(data, bus) {
  const { skills } = data, canvas = document.getElementById("screen"), context = canvas.getContext("2d");
  const play = document.getElementById("play"), time = document.getElementById("time");
  const clock = document.getElementById("clock"), speed = document.getElementById("speed");
  const speeds = [1, 2, 4, 0.5], rate = data.fps || 20;
  const sheets = new Map();
  let step = 0, playing = false, before = null, factor = 0, rest = 0;

  // The picture of all of a skill's frames, decoded once; the last few are kept.
  function sheetOf(i) {
    const { film } = skills[i];
    if (!film) return null;
    if (!sheets.has(i)) {
      const image = new Image();
      image.addEventListener("load", () => { if (bus.selected === i) draw(); });
      image.src = film.src;
      sheets.set(i, image);
      if (sheets.size > 12) sheets.delete(sheets.keys().next().value);
    }
    return sheets.get(i);
  }

  function drawFilm(film, image) {
    if (canvas.width !== film.width || canvas.height !== film.height) [canvas.width, canvas.height] = [film.width, film.height];
    if (!image.complete || !image.naturalWidth) return;
    const frame = Math.min(film.count - 1, Math.floor(step / film.every));
    const x = frame % film.columns * film.width, y = Math.floor(frame / film.columns) * film.height;
    context.drawImage(image, x, y, film.width, film.height, 0, 0, film.width, film.height);
    canvas.dataset.frame = String(frame);
  }

  function drawPath(s) {
    const width = 640, height = 480, key = data.place ? "place" : "phi";
    if (canvas.width !== width) [canvas.width, canvas.height] = [width, height];
    const style = getComputedStyle(document.documentElement), planar = data[key].names.length > 1;
    const xOf = (t) => (planar ? t[key][0] : t.at), yOf = (t) => (planar ? t[key][1] : t[key][0]);
    const box = { left: 40, top: 40, width: width - 80, height: height - 80 };
    const scale = makeScale(extent(skills.map(xOf)), extent(skills.map(yOf)), box, planar);
    context.clearRect(0, 0, width, height);
    context.lineWidth = 2;
    context.strokeStyle = style.getPropertyValue("--zero");
    for (const t of skills) context.stroke(new Path2D(pathOf(xOf(t), yOf(t), scale)));
    const color = getComputedStyle(document.getElementById("swatch")).backgroundColor;
    const until = s.at.findIndex((t) => t > step), n = until < 0 ? s.at.length : until;
    const x = scale.x(interpolate(s.at, xOf(s), step)), y = scale.y(interpolate(s.at, yOf(s), step));
    context.lineWidth = 6;
    context.lineJoin = context.lineCap = "round";
    context.strokeStyle = context.fillStyle = color;
    context.stroke(new Path2D(pathOf(xOf(s).slice(0, n), yOf(s).slice(0, n), scale) + `L${x} ${y}`));
    context.beginPath();
    context.arc(x, y, 13, 0, 2 * Math.PI);
    context.fill();
    canvas.dataset.frame = String(Math.floor(step));
  }

  function draw() {
    const s = skills[bus.selected], image = sheetOf(bus.selected);
    if (image) drawFilm(s.film, image); else drawPath(s);
    time.value = String(Math.floor(step));
    const seconds = data.fps ? ` · ${(step / data.fps).toFixed(1)} s` : "";
    clock.textContent = `${Math.floor(step)} / ${s.steps}${seconds}`;
    time.setAttribute("aria-valuetext", `step ${Math.floor(step)} of ${s.steps}`);
    time.style.setProperty("--done", `${100 * step / s.steps}%`);
    bus.tell(step);
  }

  function tick(now) {
    if (!playing) return;
    const passed = before === null ? 0 : Math.min(0.1, (now - before) / 1000);
    before = now;
    const { steps } = skills[bus.selected];
    if (step >= steps) {
      rest += passed;  // stand still for a moment, then again
      if (rest > 1) [step, rest] = [0, 0];
    } else {
      step = Math.min(steps, step + passed * rate * speeds[factor]);
    }
    draw();
    requestAnimationFrame(tick);
  }

  function setPlaying(value) {
    if (value === playing) return;
    playing = value;
    play.setAttribute("aria-label", playing ? "Pause" : "Play");
    play.classList.toggle("playing", playing);
    before = null;
    if (playing) {
      if (step >= skills[bus.selected].steps) step = 0;
      requestAnimationFrame(tick);
    }
  }

  play.addEventListener("click", () => setPlaying(!playing));
  time.addEventListener("input", () => { setPlaying(false); step = Number(time.value); draw(); });
  speed.addEventListener("click", () => setSpeed((factor + 1) % speeds.length));
  function setSpeed(index) {
    factor = index;
    speed.textContent = `${say(speeds[index])}×`;
    speed.setAttribute("aria-label", `Speed: ${speeds[index]} times`);
  }
  setSpeed(0);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  bus.onSelect((i) => {
    [step, rest] = [0, 0];
    time.max = String(skills[i].steps);
    canvas.setAttribute("aria-label", `Skill ${skills[i].name}${skills[i].film ? ", filmed" : ", its path"}`);
    draw();
  });
  return { toggle: () => setPlaying(!playing), play: () => setPlaying(true) };
}

// The stack of a series: arrow keys, wheel and slider go through it; dragging changes the window.
"use strict";
(() => {
  const viewer = document.getElementById("viewer");
  if (!viewer) return;
  const frames = JSON.parse(viewer.dataset.frames);
  const by = (id) => document.getElementById(id);
  const [stage, picture, at, center, width, preset, problem] = ["stage", "picture", "at", "center", "width", "preset", "problem"].map(by);
  const held = new Map();
  let chosen = false, wanted = 0, timer = 0;
  const url = (n) => {
    const { sha256, frame } = frames[n];
    return `${viewer.dataset.url}${sha256}/${frame}${chosen ? `?center=${Number(center.value).toFixed(1)}&width=${Number(width.value).toFixed(1)}` : ""}`;
  };
  const get = (n) => {
    const key = url(n);
    if (!held.has(key)) {
      if (held.size > 400) { const [oldest] = held.keys(); held.delete(oldest); }
      held.set(key, fetch(key).then(async (answer) => {
        if (!answer.ok) throw new Error((await answer.json()).message);
        const told = Object.fromEntries(["center", "width", "low", "high"].map((name) => [name, Number(answer.headers.get(`x-window-${name}`))]));
        return { told, image: URL.createObjectURL(await answer.blob()) };
      }));
    }
    return held.get(key);
  };
  const say = () => {
    by("center-value").textContent = Math.round(center.value);
    by("width-value").textContent = Math.round(width.value);
  };
  const show = async (n) => {
    wanted = Math.min(Math.max(n, 0), frames.length - 1);
    const mine = wanted;
    at.value = mine + 1;
    by("where").textContent = `${mine + 1} of ${frames.length}`;
    picture.alt = `Picture ${mine + 1} of ${frames.length}`;
    try {
      const { told, image } = await get(mine);
      if (mine !== wanted) return;
      problem.hidden = true;
      picture.src = image;
      picture.dataset.shown = String(mine + 1);
      if (!chosen) {
        const span = Math.max(told.high - told.low, 1);
        [center.min, center.max, width.max] = [Math.min(told.low, told.center), Math.max(told.high, told.center), Math.max(span, told.width) * 1.5];
        [center.value, width.value] = [told.center, told.width];
        say();
      }
      for (const next of [mine + 1, mine - 1, mine + 2]) if (frames[next]) get(next).catch(() => {});
    } catch (error) {
      if (mine !== wanted) return;
      problem.textContent = error.message;
      problem.hidden = false;
    }
  };
  const window_ = () => { chosen = true; say(); clearTimeout(timer); timer = setTimeout(() => show(wanted), 60); };
  at.addEventListener("input", () => show(at.value - 1));
  center.addEventListener("input", window_);
  width.addEventListener("input", window_);
  preset.addEventListener("change", () => {
    chosen = preset.value !== "";
    if (chosen) {
      const [c, w] = preset.value.split(",").map(Number);
      center.min = Math.min(center.min, c); center.max = Math.max(center.max, c); width.max = Math.max(width.max, w);
      [center.value, width.value] = [c, w];
      say();
    }
    show(wanted);
  });
  stage.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowRight: 1, PageDown: 10, ArrowUp: -1, ArrowLeft: -1, PageUp: -10, Home: -frames.length, End: frames.length }[event.key];
    if (step) { event.preventDefault(); show(wanted + step); }
  });
  stage.addEventListener("wheel", (event) => { event.preventDefault(); show(wanted + Math.sign(event.deltaY)); }, { passive: false });
  let drag = null;
  stage.addEventListener("pointerdown", (event) => { drag = [event.clientX, event.clientY, Number(center.value), Number(width.value)]; stage.setPointerCapture(event.pointerId); });
  stage.addEventListener("pointermove", (event) => {
    if (!drag) return;
    const scale = Math.max(drag[3], 1) / 300;
    width.value = Math.max(1, drag[3] + (event.clientX - drag[0]) * scale);
    center.value = drag[2] + (event.clientY - drag[1]) * scale;
    window_();
  });
  stage.addEventListener("pointerup", () => { drag = null; });
  picture.draggable = false;
  show(0);
})();

// Signals of a session: envelopes that the server made, one band for each channel.
"use strict";
(() => {
  const box = document.getElementById("signals");
  if (!box) return;
  const signals = JSON.parse(box.dataset.signals);
  const by = (id) => document.getElementById(id);
  const [variable, first, canvas, span] = ["variable", "first", "canvas", "span"].map(by);
  const AT_ONCE = 16;
  let [start, stop] = [0, 1], told = null, asked = 0;
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const channels = () => {
    const one = signals.find((signal) => signal.name === variable.value);
    first.replaceChildren(...Array.from({ length: Math.ceil(one.channels.length / AT_ONCE) }, (_, n) => {
      const made = document.createElement("option");
      made.value = String(n * AT_ONCE);
      made.textContent = `${n * AT_ONCE + 1}–${Math.min((n + 1) * AT_ONCE, one.channels.length)}`;
      return made;
    }));
  };
  const draw = () => {
    if (!told) return;
    const [wide, high] = [canvas.clientWidth, canvas.clientHeight];
    const dense = window.devicePixelRatio || 1;
    [canvas.width, canvas.height] = [wide * dense, high * dense];
    const pen = canvas.getContext("2d");
    pen.scale(dense, dense);
    const band = high / told.channels.length;
    told.channels.forEach((channel, n) => {
      const good = channel.low.concat(channel.high).filter((value) => value !== null);
      const [least, most] = [Math.min(...good), Math.max(...good)];
      const room = most > least ? most - least : 1;
      const y = (value) => band * n + band * 0.92 - (band * 0.84 * (value - least)) / room;
      const step = (wide - 90) / channel.low.length;
      pen.strokeStyle = color("--line");
      pen.beginPath(); pen.moveTo(0, band * (n + 1) - 0.5); pen.lineTo(wide, band * (n + 1) - 0.5); pen.stroke();
      pen.strokeStyle = color("--kept");
      pen.lineWidth = 1;
      pen.beginPath();
      let before = null;
      channel.low.forEach((low, k) => {
        if (low === null) { before = null; return; }
        const x = 90 + k * step;
        const top = channel.high[k];
        if (before !== null) { pen.moveTo(x - step, before); pen.lineTo(x, y((low + top) / 2)); }
        pen.moveTo(x, y(low) + 0.5); pen.lineTo(x, y(top) - 0.5);
        before = y((low + top) / 2);
      });
      pen.stroke();
      pen.fillStyle = color("--soft");
      pen.font = "12px system-ui, sans-serif";
      pen.fillText(channel.name.slice(0, 12), 4, band * (n + 0.5) + 4);
    });
    const clock = (ms) => (ms === null ? "" : new Date(ms).toISOString().slice(0, 23).replace("T", " "));
    span.textContent = `${told.samples.toLocaleString("en")} samples of each channel${told.from === null ? "" : `, ${clock(told.from)} to ${clock(told.to)}`}; ${Math.round(start * 100)} % to ${Math.round(stop * 100)} % of the session.`;
    canvas.dataset.drawn = String(told.channels.length);
  };
  const load = async () => {
    const mine = ++asked;
    const points = Math.min(2000, Math.max(100, Math.round(canvas.clientWidth)));
    const query = new URLSearchParams({ variable: variable.value, start, stop, first: first.value || 0, points });
    const answer = await fetch(`${box.dataset.url}?${query}`);
    if (mine !== asked) return;
    if (!answer.ok) { span.textContent = (await answer.json()).message; return; }
    told = await answer.json();
    draw();
  };
  const look = (from, to) => {
    const long = Math.min(1, Math.max(0.002, to - from));
    start = Math.min(Math.max(0, from), 1 - long);
    stop = start + long;
    load();
  };
  const zoom = (by_) => { const [middle, half] = [(start + stop) / 2, ((stop - start) / 2) * by_]; look(middle - half, middle + half); };
  const move = (by_) => look(start + (stop - start) * by_, stop + (stop - start) * by_);
  by("in").addEventListener("click", () => zoom(0.5));
  by("out").addEventListener("click", () => zoom(2));
  by("left").addEventListener("click", () => move(-0.5));
  by("right").addEventListener("click", () => move(0.5));
  canvas.addEventListener("keydown", (event) => {
    const deed = { "+": () => zoom(0.5), "-": () => zoom(2), ArrowLeft: () => move(-0.5), ArrowRight: () => move(0.5) }[event.key];
    if (deed) { event.preventDefault(); deed(); }
  });
  by("pick").addEventListener("submit", (event) => event.preventDefault());
  variable.addEventListener("change", () => { channels(); [start, stop] = [0, 1]; load(); });
  first.addEventListener("change", load);
  document.addEventListener("theme", draw);
  addEventListener("resize", draw);
  channels();
  load();
})();

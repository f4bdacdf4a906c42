// Bars by day of what was received and kept; drawn as SVG, with a table for who cannot see it.
"use strict";
(async () => {
  const place = document.getElementById("throughput");
  if (!place) return;
  const answer = await fetch(place.dataset.url, { headers: { Accept: "application/json" } });
  if (!answer.ok) { place.innerHTML = "<p class='empty'>It cannot be told now.</p>"; return; }
  const { days, series } = await answer.json();
  const kinds = [...new Set(series.map((one) => `${one.capability}: ${one.unit}`))].sort();
  if (!kinds.length) { place.innerHTML = `<p class="empty">Nothing was published in ${days} days.</p>`; return; }
  const node = (name, told = {}, ...below) => {
    const svg = ["svg", "rect", "line", "text", "title"].includes(name);
    const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(told)) made.setAttribute(key, value);
    made.append(...below);
    return made;
  };
  const number = (value) => value.toLocaleString("en").replaceAll(",", "\u202f");
  const label = node("label", { for: "unit" }, "What is counted");
  const choice = node("select", { id: "unit" }, ...kinds.map((kind) => node("option", {}, kind)));
  const most = (kind) => series.filter((one) => `${one.capability}: ${one.unit}` === kind).reduce((sum, one) => sum + one.received, 0);
  choice.value = kinds.reduce((best, kind) => (most(kind) > most(best) ? kind : best));
  const chart = node("div");
  const today = Date.now();
  const names = Array.from({ length: days }, (_, n) => new Date(today - (days - 1 - n) * 864e5).toISOString().slice(0, 10));
  const draw = () => {
    const found = new Map(series.filter((one) => `${one.capability}: ${one.unit}` === choice.value).map((one) => [`${one.day.slice(0, 4)}-${one.day.slice(4, 6)}-${one.day.slice(6)}`, one]));
    const top = Math.max(...[...found.values()].map((one) => one.received), 1);
    const wide = Math.max(200, chart.clientWidth || 600); // so that text keeps its size
    const step = wide / days;
    const told = [...found].map(([day, one]) => `${day}: received ${one.received}, kept ${one.kept}`).join("; ");
    const picture = node("svg", { viewBox: `0 0 ${wide} 150`, role: "img", "aria-label": `${choice.value}. ${told}` });
    names.forEach((day, n) => {
      const one = found.get(day);
      if (!one) return;
      const high = (value) => (120 * value) / top;
      const bar = (value, name) => node("rect", { class: name, x: n * step + 1, width: Math.max(step - 2, 2), y: 128 - high(value), height: Math.max(high(value), 1) }, node("title", {}, `${day}: received ${number(one.received)}, kept ${number(one.kept)}`));
      picture.append(bar(one.received, "f-dropped"), bar(one.kept, "f-kept"));
    });
    picture.append(node("line", { class: "axis", x1: 0, x2: wide, y1: 128.5, y2: 128.5 }), node("text", { x: 0, y: 144 }, names[0]), node("text", { x: wide, y: 144, "text-anchor": "end" }, names.at(-1)), node("text", { x: 0, y: 10 }, number(top)));
    chart.replaceChildren(picture);
  };
  choice.addEventListener("change", draw);
  addEventListener("resize", draw);
  const legend = node("ul", { class: "legend" }, node("li", {}, node("span", { class: "swatch s-kept" }), "kept"), node("li", {}, node("span", { class: "swatch s-dropped" }), "received and not kept"));
  place.replaceChildren(node("div", {}, label, choice), chart, legend);
  draw();
})();

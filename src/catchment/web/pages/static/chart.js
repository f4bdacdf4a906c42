// The chart builder: filters as a form, the chart by Vega-Lite without evaluated code, PNG.
import { expressionInterpreter } from "./vendor/vega-interpreter.js";
(() => {
  const node = (name, told = {}, ...below) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(told)) made.setAttribute(key, value);
    made.append(...below);
    return made;
  };
  const place = document.getElementById("filters");
  const { columns, operators } = JSON.parse(place.dataset.facts);
  const where = document.getElementById("where");
  const form = document.getElementById("builder");
  let count = 0;

  // Filters: any of some groups, in each group all of some conditions.
  const read = () => {
    const groups = [...place.querySelectorAll(".group")].map((group) => ({
      all: [...group.querySelectorAll(".cond")].map((one) => {
        const [column, operator, value] = ["column", "operator", "value"].map((name) => one.querySelector(`[data-is=${name}]`));
        return operators[operator.value] ? [column.value, operator.value, value.value] : [column.value, operator.value];
      }),
    })).filter((group) => group.all.length);
    return groups.length ? JSON.stringify({ any: groups }) : "";
  };
  const told = () => { where.value = read(); };
  const field = (name, label, input) => {
    input.id = `f${++count}`;
    input.dataset.is = name;
    return node("div", {}, node("label", { for: input.id }, label), input);
  };
  const condition = (column, operator, value) => {
    const names = node("select", {}, ...Object.keys(columns).map((name) => node("option", {}, name)));
    const signs = node("select", {}, ...Object.keys(operators).map((name) => node("option", {}, name)));
    const text = node("input", { type: "text", maxlength: 1000, size: 14 });
    names.value = column ?? Object.keys(columns)[0];
    signs.value = operator ?? "strEq";
    text.value = value ?? "";
    const gone = node("button", { type: "button", class: "quiet", "aria-label": "Remove this condition" }, "✕");
    const wanted = field("value", "Value", text);
    const made = node("div", { class: "cond" }, field("column", "Column", names), field("operator", "Operator", signs), wanted, gone);
    const fit = () => { wanted.hidden = !operators[signs.value]; };
    fit();
    signs.addEventListener("change", fit);
    made.addEventListener("input", told);
    made.addEventListener("change", told);
    gone.addEventListener("click", () => {
      const group = made.closest(".group");
      made.remove();
      if (!group.querySelector(".cond")) group.remove();
      told();
      add.focus();
    });
    return made;
  };
  const group = (conditions) => {
    const more = node("button", { type: "button", class: "quiet" }, "and …");
    const made = node("fieldset", { class: "group" }, node("legend", {}, "all of"), ...conditions.map((one) => condition(...one)), more);
    more.addEventListener("click", () => { const one = condition(); more.before(one); one.querySelector("select").focus(); told(); });
    return made;
  };
  const add = node("button", { type: "button", class: "quiet" }, "Add a filter");
  const box = node("fieldset", {}, node("legend", {}, "Only what fits any of"), add);
  add.addEventListener("click", () => {
    const one = group([[]]);
    add.before(one);
    add.textContent = "or …";
    one.querySelector("select").focus();
    told();
  });
  place.append(box);
  const known = () => {
    try {
      for (const one of JSON.parse(where.value || '{"any":[]}').any) {
        add.before(group(one.all.map((c) => (Array.isArray(c) ? c : [c.column, c.op, c.value]))));
        add.textContent = "or …";
      }
    } catch { /* written by hand, and not what the form can show */ }
  };
  known();
  form.addEventListener("submit", () => { for (const one of form.querySelectorAll("[name]")) one.disabled = !one.value; });

  // The chart.
  const plot = document.getElementById("plot");
  const f = JSON.parse(plot.dataset.chart);
  const gone = new Set(f.chart.suppressed.map((row) => JSON.stringify(row.slice(0, -1))));
  const rows = f.chart.data.flatMap((part) => part.rows.map(([value, cnt]) => ({
    value, count: cnt ?? 0, part: part.stratifier ?? "",
    mark: gone.has(JSON.stringify(f.stratifier ? [part.stratifier, value] : [value])) ? "✕" : "",
  })));
  const dates = rows.length > 0 && rows.every((row) => /^\d{4}(-\d{2}(-\d{2})?)?/.test(String(row.value)) && !Number.isNaN(Date.parse(row.value)));
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const title = (name) => ({ title: name });
  const spec = () => {
    const data = { values: rows };
    const part = f.stratifier ? { field: "part", type: "nominal", ...title(f.stratifier), scale: { scheme: "tableau10" } } : undefined;
    const tooltip = [{ field: "value", type: "nominal", ...title(f.column) }, { field: "count", type: "quantitative", format: "," }, ...(f.stratifier ? [{ field: "part", type: "nominal", ...title(f.stratifier) }] : [])];
    const ink = color("--ink"), line = color("--line"), soft = color("--soft");
    const config = {
      background: null, view: { stroke: null },
      axis: { labelColor: soft, titleColor: soft, gridColor: line, domainColor: line, tickColor: line, labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal" },
      legend: { labelColor: ink, titleColor: soft }, header: { labelColor: ink, titleColor: soft }, mark: { color: color("--kept") },
    };
    const size = { width: Math.max(260, plot.clientWidth - 130), height: 320, autosize: { type: "fit-x", contains: "padding" } };
    if (f.kind === "map") {
      const month = { timeUnit: "utcmonth", field: "value", type: "ordinal", ...title("month") };
      const cells = {
        width: { step: 44 }, height: { step: 34 },
        encoding: { x: month, y: { field: "year", type: "ordinal", ...title("year") } },
        layer: [
          { mark: { type: "rect", tooltip: false }, encoding: { color: { aggregate: "sum", field: "count", type: "quantitative", scale: { scheme: "blues" }, ...title("count") } } },
          { transform: [{ filter: "datum.mark" }], mark: { type: "text", text: "✕", color: color("--bad"), fontSize: 14, fontWeight: "bold" } },
        ],
      };
      const all = { data, config, transform: [{ calculate: "utcyear(toDate(datum.value))", as: "year" }] };
      return part ? { ...all, facet: { row: { field: "part", type: "nominal", ...title(f.stratifier) } }, spec: cells } : { ...all, ...cells };
    }
    const values = [...new Set(rows.map((row) => String(row.value)))];
    const crowded = values.some((value) => 8 * value.length > size.width / values.length);
    const x = f.kind === "line" && dates
      ? { field: "value", type: "temporal", scale: { type: "utc" }, ...title(f.column) }
      : { field: "value", type: "ordinal", sort: null, ...title(f.column), axis: { labelAngle: crowded ? -40 : 0, labelLimit: 140 } };
    const y = { field: "count", type: "quantitative", ...title("count"), axis: { format: ",d", tickMinStep: 1 } };
    const offset = f.kind === "bar" && part ? { xOffset: { field: "part" } } : {};
    const shape = f.kind === "line" ? { type: "line", point: true } : { type: "bar" };
    return {
      data, config, ...size,
      layer: [
        { mark: shape, encoding: { x, y, tooltip, ...offset, ...(part ? { color: part } : {}) } },
        { transform: [{ filter: "datum.mark" }], mark: { type: "text", baseline: "bottom", dy: -4, fontSize: 15, fontWeight: "bold", color: color("--bad") }, encoding: { x, y, text: { field: "mark" }, ...offset } },
      ],
    };
  };
  let view = null;
  const draw = async () => {
    if (!rows.length) { plot.replaceChildren(node("p", { class: "empty" }, "No person fits these filters, or all of them are suppressed.")); return; }
    if (f.kind === "map" && !dates) { plot.replaceChildren(node("p", { class: "note" }, "A map of months needs a column of days or months.")); return; }
    const compiled = vegaLite.compile(spec()).spec;
    if (view) view.finalize();
    view = new vega.View(vega.parse(compiled, null, { ast: true }), { expr: expressionInterpreter, renderer: "canvas", container: plot, hover: true, tooltip: () => {} });
    await view.runAsync();
    plot.dataset.drawn = String(rows.length);
    document.getElementById("png").href = await view.toImageURL("png", 2);
  };
  draw();
  document.addEventListener("theme", draw);
  document.getElementById("link").addEventListener("click", (event) => {
    if (!navigator.clipboard) return;
    event.preventDefault();
    navigator.clipboard.writeText(event.currentTarget.href).then(() => { document.getElementById("told").textContent = "The link is copied."; event.target.textContent = "Copied"; }, () => { location.href = event.target.href; });
  });
})();

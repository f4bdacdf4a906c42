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
  const { columns, operators, deepest } = JSON.parse(place.dataset.facts);
  const where = document.getElementById("where");
  const form = document.getElementById("builder");
  let count = 0;

  // Filters: groups of which all must hold or any, of conditions and of groups again.
  const read = (group) => {
    const parts = [...group.querySelector(":scope > .parts").children].map((one) => {
      if (one.classList.contains("group")) return read(one);
      const [column, operator, value] = ["column", "operator", "value"].map((name) => one.querySelector(`[data-is=${name}]`));
      return operators[operator.value] ? [column.value, operator.value, value.value] : [column.value, operator.value];
    }).filter(Boolean);
    return parts.length ? { [group.querySelector("[data-is=word]").value]: parts } : null;
  };
  const told = () => { const tree = read(root); where.value = tree ? JSON.stringify(tree) : ""; };
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
    gone.addEventListener("click", () => leave(made));
    return made;
  };
  // What goes leaves the focus to what stands before it, else to the buttons of its group.
  const leave = (one) => {
    const next = one.previousElementSibling ?? one.nextElementSibling ?? one.closest(".parts").nextElementSibling;
    one.remove();
    told();
    next.querySelector("select, button").focus();
  };
  const group = (word, deep) => {
    const join = node("select", { "data-is": "word", "aria-label": "How many must fit" }, node("option", { value: "all" }, "all"), node("option", { value: "any" }, "any"));
    join.value = word;
    const parts = node("div", { class: "parts" });
    const add = (text, make) => {
      const button = node("button", { type: "button", class: "quiet" }, text);
      button.addEventListener("click", () => {
        const one = make();
        parts.append(one);
        told();
        one.querySelector("select").focus();
      });
      return button;
    };
    const buttons = node("p", { class: "row" }, add("Add a condition", () => condition()));
    if (deep < deepest) {
      buttons.append(add("Add a group", () => {
        const one = group(join.value === "all" ? "any" : "all", deep + 1);
        one.querySelector(".parts").append(condition());
        return one;
      }));
    }
    const made = node("fieldset", { class: "group" }, node("legend", {}, deep > 1 ? "Group: " : "Only what fits ", join, " of"), parts, buttons);
    join.addEventListener("change", told);
    if (deep > 1) {
      const gone = node("button", { type: "button", class: "quiet" }, "Remove this group");
      gone.addEventListener("click", () => leave(made));
      buttons.append(gone);
    }
    return made;
  };
  const grow = (tree, deep) => {
    if (Array.isArray(tree)) return condition(...tree);
    const word = ["any", "all"].find((one) => Array.isArray(tree[one]));
    if (!word) return condition(tree.column, tree.op, tree.value);
    const made = group(word, deep);
    made.querySelector(".parts").append(...tree[word].map((one) => grow(one, deep + 1)));
    return made;
  };
  let root = null;
  const known = () => {
    try {
      const tree = JSON.parse(where.value || '{"all":[]}');
      root = grow(Array.isArray(tree) || tree.column ? { all: [tree] } : tree, 1);
    } catch { root = group("all", 1); /* written by hand, and not what the form can show */ }
    place.replaceChildren(root);
  };
  known();
  where.addEventListener("change", known);
  form.addEventListener("formdata", ({ formData }) => { for (const [name, value] of [...formData]) if (!value) formData.delete(name); });

  // The chart.
  const plot = document.getElementById("plot");
  const f = JSON.parse(plot.dataset.chart);
  if (f.refused) return; // said in the page; the form is there to mend it
  const rows = f.rows.map(({ part, value, count, cells, sites, hidden, absent }) => ({
    value, count, part: part ?? "", mark: cells ? "✕" : "",
    at: count ?? 0, said: count === null ? "not shown" : count.toLocaleString("en"), // what is hidden is no 0
    of: `${sites} reported, ${hidden} suppressed, ${absent} absent`,
  }));
  const dates = rows.length > 0 && rows.every((row) => /^\d{4}(-\d{2}(-\d{2})?)?/.test(String(row.value)) && !Number.isNaN(Date.parse(row.value)));
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const title = (name) => ({ title: name });
  const spec = () => {
    const data = { values: rows };
    const part = f.stratifier ? { field: "part", type: "nominal", ...title(f.stratifier), scale: { scheme: "tableau10" } } : undefined;
    const tooltip = [{ field: "value", type: "nominal", ...title(f.column) }, { field: "said", type: "nominal", ...title("count") }, ...(f.stratifier ? [{ field: "part", type: "nominal", ...title(f.stratifier) }] : []), { field: "of", type: "nominal", ...title("sites") }];
    const ink = color("--ink"), line = color("--line"), soft = color("--soft");
    const config = {
      background: null, view: { stroke: null },
      axis: { labelColor: soft, titleColor: soft, gridColor: line, domainColor: line, tickColor: line, labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal" },
      legend: { labelColor: ink, titleColor: soft }, header: { labelColor: ink, titleColor: soft, labelAngle: 0, labelAlign: "left", labelLimit: 140 }, mark: { color: color("--kept") },
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
    const mark = { ...y, field: "at" };
    const offset = f.kind === "bar" && part ? { xOffset: { field: "part" } } : {};
    const shape = f.kind === "line" ? { type: "line", point: true } : { type: "bar" };
    return {
      data, config, ...size,
      layer: [
        { mark: shape, encoding: { x, y, tooltip, ...offset, ...(part ? { color: part } : {}) } },
        { transform: [{ filter: "datum.mark" }], mark: { type: "text", baseline: "bottom", dy: -4, fontSize: 15, fontWeight: "bold", color: color("--bad") }, encoding: { x, y: mark, text: { field: "mark" }, ...offset } },
      ],
    };
  };
  let view = null;
  const draw = async () => {
    if (!rows.length) { plot.replaceChildren(node("p", { class: "empty" }, "No person fits these filters, or all of them are suppressed.")); return; }
    if (f.kind === "map" && !dates) { plot.replaceChildren(node("p", { class: "note" }, "A map of months needs a column of days or months.")); return; }
    const compiled = vegaLite.compile(spec()).spec;
    if (view) view.finalize();
    view = new vega.View(vega.parse(compiled, null, { ast: true }), { expr: expressionInterpreter, renderer: "canvas", container: plot, hover: true, tooltip: (...told) => {
      plot.title = told[3] ? Object.entries(told[3]).map((pair) => pair.join(": ")).join("\n") : "";
    } });
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

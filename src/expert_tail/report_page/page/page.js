// Joins the page to DataTables. Whatever a policy wrote enters the page as text, or as code that was escaped before.
const element = (id) => document.getElementById(id);
const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark", dark.matches); // what DataTables' style goes by
follow();
dark.addEventListener("change", follow);

async function unpacked(id) {
  const bytes = Uint8Array.from(atob(element(id).textContent), (c) => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}
const bundle = new Blob([await unpacked("datatables")], { type: "text/javascript" });
const { default: DataTable } = await import(URL.createObjectURL(bundle));
const { rows, candidates, tasks } = JSON.parse(await unpacked("data"));

// Tables become sortable when they are first opened.
for (const details of document.querySelectorAll("details.table")) {
  details.addEventListener("toggle", () => {
    const table = details.querySelector("table");
    if (details.open && !DataTable.isDataTable(table)) {
      const long = table.tBodies[0].rows.length > 25;
      new DataTable(table, { order: [], autoWidth: false, paging: long, searching: long, info: long, pageLength: 25 });
    }
  });
}
const opened = () => { const target = document.querySelector(`details[id="${CSS.escape(location.hash.slice(1))}"]`); if (target) target.open = true; };
addEventListener("hashchange", opened);
opened();

// The explorer.
const digits = (value) => (value === null ? "–" : Number(value.toPrecision(3)).toString());
const faster = (row) => row.is_confident ? "confidently" : row.speedup > 1 ? "within noise" : "no";
const colour = (row) => row.status !== "correct" ? "bad" : row.is_confident ? "good" : "";
const task = (row) => `${String(row.task_id).padStart(3)} ${tasks[row.task_id].name}`; // padded, so that filters are in order
const isLost = (row) => tasks[row.task_id].headroom === "not winnable";
const speedup = (row) => `${digits(row.speedup)} [${digits(row.speedup_low)}, ${digits(row.speedup_high)}]`;

const make = (tag, text, className = "") => Object.assign(document.createElement(tag), { textContent: text, className });
const escaped = (value) => make("span", value).innerHTML;
// What a cell shows is an element; filters show text of its value; sorting and searching go by the value.
const shown = (build, order) => (value, type, row) =>
  type === "display" ? build(row) : type === "filters" ? escaped(value) : type === "sort" && order ? order(row) : value;
const column = (title, data, more = {}) => ({ title, data, render: shown((row) => make("span", row[data])), searchPanes: { show: false }, ...more });
const pane = (title, data, more = {}) => column(title, data, { searchPanes: { show: true, orthogonal: "filters" }, ...more });
const chooser = (row) => {
  const button = Object.assign(make("button", isLost(row) ? task(row).replace(/(\d) /, "$1 ⊘ ") : task(row)), { type: "button", title: task(row) });
  button.setAttribute("aria-controls", "detail");
  return button;
};
const number = { className: "number" }, rare = { className: "number rare" };

// Numbers that may be missing: those that are not there come last, in either order.
const missingLast = (sign) => (a, b) => (a === null) - (b === null) || sign * (a - b);
DataTable.ext.type.order["measured-asc"] = missingLast(1);
DataTable.ext.type.order["measured-desc"] = missingLast(-1);
const measured = { type: "measured", orderSequence: ["desc", "asc", ""] };

const table = new DataTable("#rows", {
  data: rows,
  autoWidth: false,
  deferRender: true,
  pageLength: 15,
  order: [],
  select: { style: "single", info: false, toggleable: false },
  language: { searchPanes: { collapse: { 0: "Filter", _: "Filter (%d active)" }, title: { 0: "No filter is active", _: "Active filters: %d" } } },
  layout: {
    topStart: { buttons: [{ extend: "searchPanes", config: { layout: "columns-3", collapse: false, orderable: false, dtOpts: { scrollY: "9.5rem" } } }] },
    topEnd: { search: { text: "", placeholder: "search code, errors, tasks" } },
  },
  columns: [
    pane("task", task, { render: shown(chooser, (row) => row.task_id) }),
    pane("subset", "subset", { visible: false }),
    pane("from", (row) => row.run ?? "samples", { visible: false }),
    pane("seed", "seed", rare),
    column("count", "count", rare),
    pane("status", "status", { render: shown((row) => make("span", row.status, colour(row))) }),
    pane("faster", faster, { visible: false }),
    column("speedup", "speedup", { ...number, ...measured, render: shown((row) => (row.speedup === null ? "–" : digits(row.speedup))) }),
    column("surprisal", "nll", { ...number, ...measured, render: shown((row) => digits(row.nll)) }),
    column("per token", "nll_mean", { className: "number rarer", ...measured, render: shown((row) => digits(row.nll_mean)) }),
    pane("picks", "picked", {
      ...rare,
      searchPanes: { show: true, orthogonal: "filters", header: "picked by" },
      render: (picked, type) => ({ display: make("span", picked.length || ""), filters: picked.map(escaped), sort: picked.length })[type] ?? picked.join(" "),
    }),
    pane("to be won", (row) => tasks[row.task_id].headroom, { visible: false }),
    column("text", (row) => `${row.completion}\n${row.error}\n${row.reason ?? ""}`, { visible: false }),
  ],
});

function show(row) {
  const part = element("sample").content.cloneNode(true);
  const texts = {
    title: `${task(row)}, seed ${row.seed}, ${row.run ? `${row.run} step ${row.step}, rollout` : "sample"} ${row.sample}`,
    status: row.status === "correct" ? { confidently: "correct, confidently faster", "within noise": "correct, faster within noise", no: "correct, not faster" }[faster(row)] : row.status,
    reason: row.reason || "",
    picked: row.picked.join(", "),
    lost: isLost(row),
    error: row.error,
    completion: row.completion,
    speedup: row.speedup === null ? "" : `Speedup ${speedup(row)}`,
  };
  for (const node of part.querySelectorAll("[data-if]")) if (!texts[node.dataset.if]) node.remove();
  for (const node of part.querySelectorAll("[data-field]")) node.textContent = texts[node.dataset.field];
  part.querySelector(".badge").classList.add(colour(row) || "plain");
  part.querySelector("[data-code=candidate]").innerHTML = candidates[row.candidate];
  part.querySelector("[data-code=reference]").innerHTML = tasks[row.task_id].reference;
  const numbers = {
    "surprisal, nats": digits(row.nll), "per token": digits(row.nll_mean), tokens: row.n_tokens, "ended by": row.finish_reason ?? "–",
    "kernel, ms": digits(row.kernel_ms), "baseline, ms": digits(row.baseline_ms), "ceiling of speedup": digits(row.ceiling),
    "timed pairs": row.trials || "–", [row.run ? "rollouts alike" : "samples alike"]: row.count, subset: row.subset,
  };
  for (const [term, value] of Object.entries(numbers).filter(([, value]) => value !== "–")) {
    const cell = document.createElement("div");
    cell.append(make("dt", term), make("dd", value));
    part.querySelector(".numbers").append(cell);
  }
  const axis = part.querySelector(".axis");
  if (axis) draw(axis, row);
  element("detail").replaceChildren(part);
  element("detail").scrollTop = 0;
}

// The interval on a logarithmic axis that has 1 in it.
function draw(axis, row) {
  const low = row.speedup_low ?? row.speedup, high = row.speedup_high ?? row.speedup;
  const span = Math.max(1, ...[low, high].map((value) => Math.abs(Math.log2(value)))) * 1.15;
  const at = (value) => `${50 + (50 * Math.log2(value)) / span}%`;
  axis.querySelector(".interval").style.cssText = `left: ${at(low)}; right: calc(100% - ${at(high)})`;
  axis.querySelector(".point").style.left = at(row.speedup);
  axis.querySelector(".one").style.left = at(1);
  for (let power = -Math.floor(span); power <= span; power += Math.max(1, Math.floor(span / 3))) {
    const tick = make("span", `${digits(2 ** power)}×`);
    tick.style.left = at(2 ** power);
    axis.append(tick);
  }
}

table.on("select", (event, api, type, indexes) => {
  if (type !== "row") return;
  show(api.row(indexes[0]).data());
});
table.on("click", "tbody tr", () => {
  if (matchMedia("(max-width: 72rem)").matches) element("detail").scrollIntoView();
});
table.row({ order: "current" }).select();
document.documentElement.dataset.ready = "yes";

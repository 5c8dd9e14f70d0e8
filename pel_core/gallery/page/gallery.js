"use strict";
const sets = JSON.parse(document.getElementById("held").textContent).sets;
const at = (id) => document.getElementById(id);
const CARDS = 36, STRIPS = 40, TAIL = 30;
let cards = CARDS, strips = STRIPS;

/* An element with attributes and children; names come in as text and stay text. */
function make(tag, options, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(options || {})) made[key] = value;
  made.append(...children);
  return made;
}
const percent = (hits, images) => (images ? (100 * hits / images).toFixed(1) : "–");
const choose = (select, names) => select.replaceChildren(...names.map((name, i) => make("option", { value: i }, name)));

function now() {
  const set = sets[at("set").value || 0];
  const left = set.runs[at("left").value || 0];
  const right = at("right").value === "" ? null : set.runs[at("right").value];
  return { set, left, right };
}
function right_of(set, run, i) { return run.predicted[i] === set.labels[i]; }
function wanted_class(set, label) {
  const group = at("group").value, words = at("search").value.trim().toLowerCase();
  return (!group || set.groups[label] === group) && set.classes[label].toLowerCase().includes(words);
}
function wanted(state, i) {
  const { set, left, right } = state, only = at("only").value;
  if (!wanted_class(set, set.labels[i])) return false;
  if (only === "wrong") return !right_of(set, left, i) || (right && !right_of(set, right, i));
  return only !== "differ" || !right || left.predicted[i] !== right.predicted[i];
}
function says(set, run, i) {
  return `${run.label}: ${set.classes[run.predicted[i]]} ${(run.sure[i] / 10).toFixed(1)} %`;
}
function picture(state, i) {
  const { set, left, right } = state;
  const title = [`true: ${set.classes[set.labels[i]]}`, says(set, left, i), ...(right ? [says(set, right, i)] : [])].join("\n");
  const classes = [right_of(set, left, i) ? "" : "first-wrong"];
  if (right) classes.push("two", right_of(set, right, i) ? "second-right" : "second-wrong");
  const source = set.thumbs[i];
  return source ? make("img", { src: source, alt: title, title, loading: "lazy", className: classes.join(" ") })
    : make("span", { title, className: `unread ${classes.join(" ")}` }, "not read");
}

function draw_summary(state) {
  const { set, left, right } = state;
  const head = make("tr", {}, ...["Method", "All", "Head", "Med", "Tail"].map((word, i) => make("th", { className: i ? "number" : "" }, word)));
  const row = (run) => make("tr", {}, make("td", {}, run.label), ...["all", "head", "med", "tail"].map((group) =>
    make("td", { className: "number" }, run.accuracy[group] === null ? "–" : run.accuracy[group].toFixed(1))));
  at("summary").replaceChildren(head, row(left), ...(right ? [row(right)] : []));
  const shown = set.labels.length;
  at("about").textContent = `${set.name}. ${shown === set.total ? `All ${shown} images are here.` : `${shown} of ${set.total} images are here: the most confident mistakes, then some of every class.`} Accuracy in percent, of all images.`;
}
function draw_mistakes(state) {
  const { set, left, right } = state;
  const found = [...set.labels.keys()].filter((i) => !right_of(set, left, i) && wanted(state, i)).sort((a, b) => left.sure[b] - left.sure[a]);
  const line = (run, i) => make("div", { className: right_of(set, run, i) ? "right" : "wrong" },
    `${right_of(set, run, i) ? "✓" : "✗"} ${set.classes[run.predicted[i]]} ${(run.sure[i] / 10).toFixed(1)} %`);
  const card = (i) => make("div", { className: "card" },
    set.thumbs[i] ? make("img", { src: set.thumbs[i], alt: "", loading: "lazy" }) : make("span", { className: "unread" }, "not read"),
    make("div", {}, `${set.classes[set.labels[i]]} `, make("span", { className: "soft" }, set.groups[set.labels[i]])),
    make("hr"), line(left, i), ...(right ? [line(right, i)] : []));
  at("mistakes").replaceChildren(...(found.length ? found.slice(0, cards).map(card) : [make("p", {}, "None among these images.")]));
  at("more-mistakes").hidden = found.length <= cards;
}
function draw_confused(state) {
  const { set, left, right } = state;
  const of = images_of(state, (i) => !right_of(set, left, i));
  const rows = [...set.classes.keys()].filter((c) => set.groups[c] === "tail" && set.test[c] && wanted_class(set, c))
    .sort((a, b) => left.hits[a] / set.test[a] - left.hits[b] / set.test[b] || set.train[a] - set.train[b]).slice(0, TAIL);
  const head = ["Class", "Training images", left.label, ...(right ? [right.label] : []), "Taken for (by the first)", "Mistakes"];
  const body = rows.map((c) => make("tr", {}, make("td", {}, set.classes[c]), make("td", { className: "number" }, String(set.train[c])),
    make("td", { className: "number" }, `${percent(left.hits[c], set.test[c])} %`),
    ...(right ? [make("td", { className: "number" }, `${percent(right.hits[c], set.test[c])} %`)] : []),
    make("td", {}, left.taken[c].map(([other, n]) => `${set.classes[other]} (${n})`).join(", ") || "–"),
    make("td", {}, make("div", { className: "strip" }, ...(of.get(c) || []).slice(0, 5).map((i) => picture(state, i))))));
  at("confused").replaceChildren(make("tr", {}, ...head.map((word) => make("th", {}, word))),
    ...(body.length ? body : [make("tr", {}, make("td", { colSpan: head.length }, "No tail class here."))]));
}
function images_of(state, filter) {
  const found = new Map();
  state.set.labels.forEach((label, i) => {
    if (filter(i)) found.has(label) ? found.get(label).push(i) : found.set(label, [i]);
  });
  return found;
}
function draw_classes(state) {
  const { set, left, right } = state, order = at("order").value;
  const of = images_of(state, (i) => wanted(state, i));
  const rate = (run, c) => (set.test[c] ? run.hits[c] / set.test[c] : 2);
  const by = { rare: (a, b) => set.train[a] - set.train[b], low: (a, b) => rate(left, a) - rate(left, b),
    gain: (a, b) => Math.abs(rate(right || left, b) - rate(left, b)) - Math.abs(rate(right || left, a) - rate(left, a)),
    name: (a, b) => set.classes[a].localeCompare(set.classes[b]) }[order];
  const found = [...set.classes.keys()].filter((c) => wanted_class(set, c) && (of.has(c) || !at("only").value)).sort((a, b) => by(a, b) || a - b);
  const strip = (c) => make("section", {}, make("h3", {}, `${set.classes[c]} `, make("span", { className: "soft" },
    `${set.groups[c]}, ${set.train[c]} training image${set.train[c] === 1 ? "" : "s"}; ${left.label} ${percent(left.hits[c], set.test[c])} %${right ? `, ${right.label} ${percent(right.hits[c], set.test[c])} %` : ""} of ${set.test[c]}`)),
    make("div", { className: "strip" }, ...(of.get(c) || []).map((i) => picture(state, i))));
  at("classes").replaceChildren(...(found.length ? found.slice(0, strips).map(strip) : [make("p", {}, "No class is called so in this group.")]));
  at("more-classes").hidden = found.length <= strips;
}
function draw() {
  const state = now();
  draw_summary(state); draw_mistakes(state); draw_confused(state); draw_classes(state);
}
function choose_set() {
  const { set } = now();
  choose(at("left"), set.runs.map((run) => run.label));
  choose(at("right"), set.runs.map((run) => run.label));
  at("right").prepend(make("option", { value: "" }, "none"));
  at("left").value = 0;
  at("right").value = set.runs.length > 1 ? 1 : "";
  again();
}
function again() { cards = CARDS; strips = STRIPS; draw(); }

choose(at("set"), sets.map((set) => set.name));
at("set").addEventListener("change", choose_set);
for (const id of ["left", "right", "group", "only", "order"]) at(id).addEventListener("change", again);
at("search").addEventListener("input", again);
document.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
at("more-mistakes").addEventListener("click", () => { cards += CARDS; draw_mistakes(now()); });
at("more-classes").addEventListener("click", () => { strips += STRIPS; draw_classes(now()); });
choose_set();

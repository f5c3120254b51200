// Draws a graph: layers upward, tokens across. A saved page and the app show it alike. Whatever is shown goes through
// textContent: no text of a model, of a file or of an address is ever read as HTML.

/** A picture in SVG as a PNG, twice as fine as the screen, within what browsers can hold. */
export function pngOf(svg) {
  return new Promise((done, failed) => {
    const image = new Image();
    image.onload = () => {
      const scale = Math.min(2, 12000 / image.width, 12000 / image.height), canvas = document.createElement("canvas");
      canvas.width = image.width * scale; canvas.height = image.height * scale;
      // It is read once and never shown: no graphics card is asked.
      canvas.getContext("2d", { willReadFrequently: true }).drawImage(image, 0, 0, canvas.width, canvas.height);
      canvas.toBlob((blob) => blob ? done(blob) : failed(new Error("the picture is too large")));
    };
    image.onerror = () => failed(new Error("the picture could not be drawn"));
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
  });
}

/** Draw what `page_data` tells into an element of class "graph". The host keeps what is looked at: `read()` gives the
 * text that `write(text)` took last; `chosen(keys, name)`, where there is one, is told what is pinned, else looked at. */
export function graph(root, data, host) {
  const gone = new AbortController(), { signal } = gone;
  const SVG = "http://www.w3.org/2000/svg", RADIUS = 13, WIDEST = 8, FIRST_EDGES = 250, LONGEST_ADDRESS = 16000;
  const isCircuit = data.measure === "attribution";
  const groupable = (index) => data.nodes[index].kind === "feature" || data.nodes[index].kind === "error";
  const nodeOf = new Map(data.nodes.map((node, index) => [node.key, index]));

  // What a person changes
  const labels = new Map(Object.entries(data.labels));
  let groups = new Map(), pins = new Set(), current = null, floors = { nodes: 0, edges: 0 }, unsaved = false;
  // What is drawn: an item is a node, or a group of nodes in their place.
  let items = [], links = [], itemOf = [];

  function make(kind, text, className) {
    const made = document.createElement(kind);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  }
  function draw(kind, attributes, text) {
    const made = document.createElementNS(SVG, kind);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }
  const put = (into, ...parts) => (into.append(...parts), into);
  // What nobody sees, or what turns text around, is spelled out.
  const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]/gu;
  const KNOWN = { "\n": "⏎", "\t": "⇥", "\r": "␍" };
  const visible = (text) => String(text).replace(HIDDEN, (one) => KNOWN[one] || `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`);
  const cut = (text, most) => { const all = Array.from(visible(text)); return all.length > most ? all.slice(0, most - 1).join("") + "…" : all.join(""); };
  const number = (x) => typeof x !== "number" ? visible(x) : x === 0 ? "0" : Math.abs(x) >= 0.001 && Math.abs(x) < 1e5 ? String(+x.toPrecision(3)) : x.toExponential(1);
  const signed = (x) => (x < 0 ? "−" : "+") + number(Math.abs(x));
  const sign = (x) => (x < 0 ? "minus" : "plus");
  const count = (n) => n.toLocaleString("en");

  const ownLabel = (node) => labels.get(node.key) || labels.get(node.key.split("@")[0]);
  const labelOf = (node) => ownLabel(node) || node.label;

  // The page
  const header = make("div", undefined, "head"), stage = make("div", undefined, "stage"), panel = make("aside"), tip = make("div", undefined, "tip gone");
  // Two layers, so that thousands of edges are painted once: they are dimmed and moved as one image.
  const back = draw("svg", { class: "back" }), front = draw("svg", { class: "front" }), names = make("div", undefined, "names");
  const ground = draw("g", {}), edgeLayer = draw("g", {}), litLayer = draw("g", {}), nodeLayer = draw("g", {}), status = make("div", "", "status");
  status.setAttribute("role", "status");
  stage.tabIndex = 0;
  stage.setAttribute("role", "application");
  stage.setAttribute("aria-label", "The graph: arrow keys go from node to node, Enter pins, question mark for help");
  panel.setAttribute("aria-live", "polite");
  put(back, ground, edgeLayer);
  put(front, litLayer, nodeLayer);
  for (const svg of [back, front]) svg.setAttribute("viewBox", `0 0 ${data.width} ${data.height}`);
  let saying = 0;
  function say(text) { status.textContent = text; clearTimeout(saying); saying = setTimeout(() => { status.textContent = ""; }, 5000); }

  const narrow = (column) => !data.nodes.some((node) => node.column === column && node.kind !== "token");
  function drawGround() {
    const top = Math.min(...data.rowY) - 40, bottom = Math.max(...data.rowY) + 40;
    data.columnX.forEach((x, column) => {
      const mates = data.nodes.filter((node) => node.column === column).map((node) => node.x);
      const beside = narrow(column) ? 40 : 56;
      const from = Math.min(x, ...mates) - beside, to = Math.max(x, ...mates) + beside;
      if (column % 2 === 0) ground.append(draw("rect", { class: "band", x: from, y: top, width: to - from, height: bottom - top, rx: 8 }));
    });
    data.rowY.forEach((y, row) => {
      ground.append(draw("line", { class: "rowline", x1: 0, x2: data.width, y1: y, y2: y, "stroke-dasharray": "1 6" }));
      names.append(make("div", cut(data.rows[row], 20), "row"));
    });
    data.columns.forEach((column) => names.append(make("div", cut(column, 16), "column")));
  }

  // From nodes and groups to items and links
  function gather() {
    items = []; itemOf = new Array(data.nodes.length);
    for (const [name, members] of groups) {
      const order = [...members].sort((a, b) => (data.nodes[b].size || 0) - (data.nodes[a].size || 0)), first = data.nodes[order[0]];
      const value = order.every((one) => data.nodes[one].value !== null) ? order.reduce((sum, one) => sum + data.nodes[one].value, 0) : null;
      const item = { id: `group ${name}`, kind: "group", group: name, members: order, x: first.x, y: first.y, size: first.size, value };
      for (const one of order) itemOf[one] = item;
      items.push(item);
    }
    data.nodes.forEach((node, index) => {
      if (itemOf[index]) return;
      itemOf[index] = { id: node.key, kind: node.kind, node, members: [index], x: node.x, y: node.y, size: node.size, value: node.value };
      items.push(itemOf[index]);
    });
    const sums = new Map();
    items.forEach((item, place) => { item.place = place; item.links = []; });
    for (const [source, target, weight] of data.edges) {
      const from = itemOf[source], to = itemOf[target], key = from.place * items.length + to.place;
      if (from === to) continue;
      if (!sums.has(key)) sums.set(key, { from, to, weight: 0 });
      sums.get(key).weight += weight;
    }
    links = [...sums.values()].sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight));
    for (const link of links) { link.from.links.push(link); link.to.links.push(link); }
  }
  const nameOf = (item) => item.kind === "group" ? item.group : item.node.name;
  const saidOf = (item) => item.kind === "group" ? `${item.members.length} nodes` : labelOf(item.node);
  // Under a node is little room: what it promotes, without saying so.
  function brief(node) {
    if (ownLabel(node) || node.kind !== "feature") return ownLabel(node) || (node.kind === "error" ? "" : node.label);
    return node.label.startsWith("promotes ") ? node.promotes.slice(0, 3).map((token) => token.trim()).join(" ") : node.label;
  }
  const whereOf = (node) => node.kind === "token" ? `token ${data.columns[node.column]}` : node.kind === "output" ? "output" : `${data.rows[node.row]}, token ${data.columns[node.column]}`;
  const spoken = (item) => `${nameOf(item) === item.kind ? "" : `${item.kind} `}${visible(nameOf(item))}${saidOf(item) ? `, ${visible(saidOf(item))}` : ""}` + (item.node ? `, ${visible(whereOf(item.node))}` : "") + (item.value === null ? "" : `, ${data.measure} ${signed(item.value)}`) + (pins.has(item.id) ? ", pinned" : "");

  const short = (item) => item.value === null ? "" : Math.abs(item.value) < 0.005 ? " 0" : ` ${item.value < 0 ? "−" : "+"}${Math.abs(item.value).toFixed(2)}`;
  function radius(item) {
    if (item.kind === "token" || item.kind === "output") return 12;
    return item.kind === "group" ? 15 : item.size === null ? 8 : RADIUS * (0.45 + 0.55 * Math.sqrt(item.size / (gather.largest || 1)));
  }
  function shape(item) {
    const g = draw("g", { class: `node ${item.kind}`, id: `item-${item.place}`, transform: `translate(${item.x} ${item.y})`, role: "img" });
    const r = radius(item), alone = item.kind === "output" && items.filter((one) => one.kind === "output").length === 1, name = cut(nameOf(item), alone ? 30 : item.kind === "token" && narrow(item.node.column) ? 10 : 13);
    if (item.kind === "feature" || item.kind === "error") {
      g.append(draw("circle", { class: "ring", r: r + 4 }), draw("circle", { class: "disc", r }));
      const shown = Object.values(item.node.halves), most = Math.max(...shown, 1e-9);
      shown.slice(0, 2).forEach((value, side) => g.append(draw("path", { class: "half", d: `M0 ${-r} A${r} ${r} 0 0 ${side} 0 ${r} z`, "fill-opacity": Math.max(0, Math.min(1, value / most)).toFixed(2) })));
      g.append(draw("circle", { class: `rim ${item.value === null ? "none" : sign(item.value)} ${item.kind}`, r }));
      g.append(draw("text", { class: "name", y: r + 12 }, name + short(item)));
      g.append(draw("text", { class: "said", y: r + 24 }, cut(brief(item.node), 17)));
      return g;
    }
    const half = item.kind === "group" ? 44 : Math.min(alone ? 200 : 46, 7 + 3.6 * Array.from(name).length), box = { x: -half, y: -12, width: 2 * half, height: 24 };
    g.append(draw("rect", { class: "ring", x: box.x - 3, y: -15, width: box.width + 6, height: 30, rx: 9 }));
    g.append(draw("rect", { class: `box ${item.kind === "group" && item.value !== null ? `rim ${sign(item.value)}` : ""}`, ...box, rx: item.kind === "token" ? 3 : 8 }));
    g.append(draw("text", { class: "name boxed", y: 4 }, name));
    if (item.kind === "group") g.append(draw("text", { class: "said", y: 25 }, saidOf(item) + short(item)));
    return g;
  }
  function curve({ from, to }) {
    const up = from.y >= to.y ? 1 : -1, y = from.y - up * radius(from), end = to.y + up * radius(to), bend = up * Math.max(24, 0.45 * Math.abs(y - end));
    return `M${from.x} ${y.toFixed(1)} C${from.x} ${(y - bend).toFixed(1)} ${to.x} ${(end + bend).toFixed(1)} ${to.x} ${end.toFixed(1)}`;
  }
  function build() {
    gather();
    gather.largest = Math.max(...data.nodes.map((node) => node.size || 0), 1e-12);
    const most = links.length ? Math.abs(links[0].weight) || 1 : 1;
    // The strongest are drawn last, over the others.
    edgeLayer.replaceChildren(...links.slice().reverse().map((link) => {
      link.path = draw("path", { class: `edge ${sign(link.weight)}`, d: curve(link), "stroke-width": (0.6 + WIDEST * Math.abs(link.weight) / most).toFixed(2) });
      link.path.link = link;
      return link.path;
    }));
    nodeLayer.replaceChildren(...items.map((item) => { item.shape = shape(item); item.shape.item = item; return item.shape; }));
    const there = new Map(items.map((item) => [item.id, item]));
    pins = new Set([...pins].filter((id) => there.has(id)));
    current = current ? there.get(current.id) || null : null;
    filter();
  }

  // What is shown of it
  const sliders = {};
  function filter() {
    for (const item of items) {
      item.shown = item.size === null || item.size >= floors.nodes;
      item.shape.classList.toggle("gone", !item.shown);
    }
    let shown = 0;
    for (const link of links) {
      link.shown = Math.abs(link.weight) >= floors.edges && link.from.shown && link.to.shown;
      shown += link.shown;
      link.path.classList.toggle("gone", !link.shown);
    }
    const sized = items.filter((item) => item.size !== null);
    sliders.nodes.tell(floors.nodes, sized.filter((item) => item.shown).length, sized.length);
    sliders.edges.tell(floors.edges, shown, links.length);
    mark();
  }
  function light(item) {
    stage.classList.toggle("lit", Boolean(item));
    litLayer.replaceChildren();
    for (const one of nodeLayer.querySelectorAll(".near")) one.classList.remove("near");
    if (!item) return;
    item.shape.classList.add("near");
    for (const link of item.links) {
      if (!link.shown) continue;
      litLayer.append(link.path.cloneNode());
      link.from.shape.classList.add("near");
      link.to.shape.classList.add("near");
    }
  }
  function mark() {
    for (const item of items) {
      item.shape.classList.toggle("pinned", pins.has(item.id));
      item.shape.classList.toggle("current", item === current);
      item.shape.setAttribute("aria-label", spoken(item));
    }
    if (current) stage.setAttribute("aria-activedescendant", current.shape.id);
    else stage.removeAttribute("aria-activedescendant");
    find();
    light(current && current.shown ? current : null);
    remember();
    if (!host.chosen) return;
    const pinned = items.filter((item) => pins.has(item.id)), meant = pinned.length ? pinned : current ? [current] : [];
    host.chosen(meant.flatMap((item) => keys(item.members)), meant.map((item) => visible(nameOf(item))).join(", "));
  }

  // One node in words
  function tokensOf(title, tokens) {
    if (!Array.isArray(tokens) || !tokens.length) return [];
    const box = make("div");
    for (const one of tokens.slice(0, 10)) {
      const [text, weight] = Array.isArray(one) ? one : [one];
      const token = make("span", visible(text) || "∅", "token");
      if (typeof weight === "number") token.title = number(weight);
      box.append(token);
    }
    return [make("h3", title), box];
  }
  function examplesOf(examples, most) {
    if (!Array.isArray(examples) || !examples.length) return [];
    const parts = [make("h3", "Top examples")];
    for (const one of examples.slice(0, most)) {
      if (!one || !Array.isArray(one.tokens)) continue;
      const line = make("div", undefined, "example"), values = Array.isArray(one.activations) ? one.activations : [], largest = Math.max(...values.filter(Number.isFinite), 1e-9);
      one.tokens.forEach((token, place) => {
        const word = make("span", visible(token), place === one.peak ? "peak" : ""), value = values[place];
        if (Number.isFinite(value) && value > 0) { word.style.setProperty("--share", (0.1 + 0.6 * value / largest).toFixed(2)); word.title = number(value); }
        line.append(word);
      });
      parts.push(line);
    }
    return parts;
  }
  function readingOf(reading, most) {
    const parts = [], figure = (name) => typeof reading[name] === "number" ? number(reading[name]) : "?";
    if (typeof reading.rule === "string") {
      parts.push(make("h3", "Rule"), make("div", visible(reading.rule), "text"));
      const known = [["precision", "precision"], ["recall", "recall"], ["f1", "F1"], ["control_f1", "shuffled F1"]].filter(([name]) => typeof reading[name] === "number");
      if (known.length) parts.push(make("div", known.map(([name, title]) => `${title} ${figure(name)}`).join(", "), "note"));
    }
    if (typeof reading.density === "number") parts.push(make("div", `active at ${number(100 * reading.density)} % of positions`, "note"));
    const told = reading.description;
    if (told && typeof told.text === "string") {
      parts.push(make("h3", "What the model says of it"), make("div", told.says_something === false ? "nothing that its controls do not say" : visible(told.text), told.says_something === false ? "note" : "text"));
      if (typeof told.score === "number") parts.push(make("div", `score ${number(told.score)}; best of ${visible(told.n_controls ?? "?")} controls ${number(told.control ?? "?")}`, "note"));
    }
    return [...parts, ...examplesOf(reading.examples, most)];
  }
  function words(item, most) {
    const parts = [make("h2", visible(item.node ? `${item.kind === "error" ? "error" : item.node.name}` : item.group))];
    if (!item.node) {
      parts.push(make("div", `group of ${item.members.length} nodes` + (item.value === null ? "" : `; ${data.measure} together ${signed(item.value)}`), "small"));
      return parts;
    }
    const node = item.node, facts = make("dl");
    parts.push(make("div", visible(whereOf(node)), "small"));
    if (labelOf(node)) parts.push(make("div", visible(labelOf(node)), "text"));
    for (const [name, value] of Object.entries(node.facts)) put(facts, make("dt", visible(name)), make("dd", number(value)));
    parts.push(facts);
    const reading = node.reading;
    parts.push(...tokensOf("Promotes", Array.isArray(reading.promoted) && reading.promoted.length ? reading.promoted : node.promotes));
    parts.push(...tokensOf("Suppresses", Array.isArray(reading.suppressed) && reading.suppressed.length ? reading.suppressed : node.suppresses));
    return [...parts, ...readingOf(reading, most)];
  }
  function edgesOf(item, into) {
    const found = item.links.filter((link) => (into ? link.to : link.from) === item);
    if (!found.length) return [];
    const parts = [make("h3", into ? "From" : "To")];
    for (const link of found.slice(0, 12)) {
      const other = into ? link.from : link.to, button = make("button", undefined, `jump ${sign(link.weight)}`);
      const told = other.node ? (other.node.kind === "output" ? other.node.name : `${data.rows[other.node.row]} / ${other.node.name} @ ${data.columns[other.node.column]}  ${saidOf(other)}`) : nameOf(other);
      put(button, make("b", signed(link.weight)), make("span", visible(told), "text"));
      button.addEventListener("click", () => { go(other); });
      parts.push(button);
    }
    if (found.length > 12) parts.push(make("div", `and ${count(found.length - 12)} weaker`, "note"));
    return parts;
  }
  function ownOf(item) {
    const row = make("form", undefined, "own"), field = make("input"), button = make("button", item.node ? "Label" : "Rename");
    field.type = "text"; field.maxLength = 200; field.value = item.node ? ownLabel(item.node) || "" : item.group;
    field.placeholder = "your own label"; field.setAttribute("aria-label", item.node ? "Your own label" : "The group's name");
    row.addEventListener("submit", (event) => {
      event.preventDefault();
      item.node ? relabel(item.node, field.value.trim()) : rename(item.group, field.value.trim());
      stage.focus();
    });
    return put(row, field, button);
  }
  function tell() {
    if (!current) return tellAll();
    const item = current, pin = make("button", pins.has(item.id) ? "Unpin" : "Pin");
    pin.addEventListener("click", () => toggle(item));
    const buttons = put(make("div", undefined, "buttons"), pin), parts = words(item, 5);
    if (item.kind === "group") {
      const button = make("button", "Ungroup");
      button.addEventListener("click", () => ungroup(item.group));
      buttons.append(button);
      parts.push(make("h3", "Members"), ...item.members.map((one) => make("div", visible(`${data.nodes[one].key}  ${labelOf(data.nodes[one])}`), "small text")));
    }
    const own = item.kind === "token" || item.kind === "output" ? [] : [ownOf(item)];
    panel.replaceChildren(parts[0], buttons, ...own, ...parts.slice(1), ...edgesOf(item, false), ...edgesOf(item, true));
    panel.scrollTop = 0;
  }
  function tellAll() {
    const parts = [make("h2", "The largest"), make("div", "Click a node, or go there with the arrow keys. ? for help.", "small")];
    for (const item of items.filter((one) => one.size !== null).sort((a, b) => b.size - a.size).slice(0, 25)) {
      const button = make("button", undefined, `jump ${item.value === null ? "" : sign(item.value)}`);
      put(button, make("b", item.value === null ? number(item.size) : signed(item.value)), make("span", visible(item.node ? `${data.rows[item.node.row]} / ${item.node.name} @ ${data.columns[item.node.column]}  ${saidOf(item)}` : item.group), "text"));
      button.addEventListener("click", () => go(item));
      parts.push(button);
    }
    panel.replaceChildren(...parts);
  }

  // What a person does
  function go(item, look = true) {
    current = item;
    if (item && look) reveal(item);
    mark();
    tell();
    if (item) say(spoken(item));
  }
  function toggle(item) {
    pins.has(item.id) ? pins.delete(item.id) : pins.add(item.id);
    go(item, false);
    say(`${visible(nameOf(item))} ${pins.has(item.id) ? "pinned" : "unpinned"}: ${pins.size} pinned`);
  }
  const fresh = (wanted) => { let name = wanted, more = 2; while (groups.has(name)) name = `${wanted} ${more++}`; return name; };
  function group() {
    const chosen = items.filter((item) => pins.has(item.id)), members = chosen.flatMap((item) => item.members).filter(groupable);
    if (members.length < 2) return say("pin two features or more (Enter, or a click), then G groups them");
    const old = chosen.find((item) => item.kind === "group");
    for (const item of chosen) if (item.kind === "group") groups.delete(item.group);
    const name = fresh(old ? old.group : `group ${groups.size + 1}`);
    groups.set(name, members);
    pins = new Set([`group ${name}`]);
    changed();
    build();
    go(items.find((item) => item.group === name));
    const field = panel.querySelector(".own input");
    if (field) { field.focus(); field.select(); }
  }
  function ungroup(name) {
    groups.delete(name);
    changed();
    current = null;
    build();
    tell();
    say(`${visible(name)} ungrouped`);
  }
  function rename(name, wanted) {
    if (!wanted || wanted === name) return;
    const chosen = fresh(wanted), wasPinned = pins.delete(`group ${name}`);
    groups = new Map([...groups].map(([one, members]) => [one === name ? chosen : one, members]));
    if (wasPinned) pins.add(`group ${chosen}`);
    changed();
    build();
    go(items.find((item) => item.group === chosen), false);
  }
  function relabel(node, text) {
    text ? labels.set(node.key, text) : labels.delete(node.key);
    changed();
    build();
    tell();
    say(text ? "labelled; Save labels keeps it" : "label removed");
  }
  function changed(now = true) { unsaved = now; save.textContent = now ? "Save labels •" : "Save labels"; }
  addEventListener("beforeunload", (event) => { if (unsaved) event.preventDefault(); }, { signal });
  function step(x, y) {
    const shown = items.filter((item) => item.shown);
    if (!current || !current.shown) return go(shown.filter((item) => item.size !== null).sort((a, b) => b.size - a.size)[0] || shown[0]);
    let best = null, least = Infinity;
    for (const item of shown) {
      const dx = item.x - current.x, dy = item.y - current.y, along = dx * x + dy * y, aside = Math.abs(dx * y) + Math.abs(dy * x);
      if (along > 1 && along + 2.5 * aside < least) { least = along + 2.5 * aside; best = item; }
    }
    if (best) go(best);
  }

  // Search
  const search = make("input"), hits = make("output", undefined, "hits");
  const haystack = (item) => item.members.map((one) => data.nodes[one]).map((node) => [node.key, node.name, labelOf(node), data.columns[node.column], data.rows[node.row], ...node.promotes].join("\n")).join("\n").toLowerCase() + nameOf(item).toLowerCase();
  function find() {
    const wanted = search.value.toLowerCase().trim();
    front.classList.toggle("searched", Boolean(wanted));
    const found = wanted ? items.filter((item) => item.shown && haystack(item).includes(wanted)) : [];
    for (const item of items) item.shape.classList.toggle("hit", found.includes(item));
    hits.textContent = wanted ? `${count(found.length)} found` : "";
    return found;
  }

  // Where one looks
  const look = { x: 0, y: 0, k: 1 };
  function place() {
    for (const svg of [back, front]) {
      const width = `${(data.width * look.k).toFixed(2)}px`;
      if (svg.style.width !== width) { svg.style.width = width; svg.style.height = `${(data.height * look.k).toFixed(2)}px`; }
      svg.style.transform = `translate(${look.x.toFixed(1)}px, ${look.y.toFixed(1)}px)`;
    }
    // Rows are named at the edge, wherever one looks; columns where their tokens are out of sight.
    const tokens = look.y + data.rowY[0] * look.k, tokensSeen = tokens > 0 && tokens < stage.clientHeight;
    const rows = data.rows.length;
    for (const [at, name] of [...names.children].entries()) {
      if (at < rows) name.style.transform = `translateY(${(look.y + data.rowY[at] * look.k - 9).toFixed(1)}px)`;
      else name.style.transform = `translateX(calc(${(look.x + data.columnX[at - rows] * look.k).toFixed(1)}px - 50%))`;
      name.classList.toggle("gone", at >= rows && tokensSeen);
    }
  }
  function fit() {
    const box = stage.getBoundingClientRect(), whole = Math.min(box.width / data.width, box.height / data.height);
    look.k = Math.min(1.4, Math.max(whole, 0.6));
    // What does not fit is shown from where the largest is.
    const largest = data.nodes.reduce((best, node) => (node.size || 0) > (best.size || 0) ? node : best, data.nodes[0]), room = box.width - data.width * look.k;
    look.x = room > 0 ? room / 2 : Math.min(0, Math.max(room, box.width / 2 - largest.x * look.k));
    look.y = Math.max((box.height - data.height * look.k) / 2, 0);
    place();
  }
  function zoom(factor, x, y) {
    const box = stage.getBoundingClientRect(), k = Math.min(4, Math.max(0.1, look.k * factor));
    x = x === undefined ? box.width / 2 : x - box.left; y = y === undefined ? box.height / 2 : y - box.top;
    look.x = x - (x - look.x) * k / look.k; look.y = y - (y - look.y) * k / look.k; look.k = k;
    place();
  }
  function reveal(item) {
    const box = stage.getBoundingClientRect(), x = look.x + item.x * look.k, y = look.y + item.y * look.k, edge = 60;
    if (x < edge || x > box.width - edge) look.x += box.width / 2 - x;
    if (y < edge || y > box.height - edge) look.y += box.height / 2 - y;
    place();
  }
  const held = new Map();
  let moved = 0;
  stage.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    if (!held.size) moved = 0;
    held.set(event.pointerId, event);
  });
  stage.addEventListener("pointermove", (event) => {
    const before = held.get(event.pointerId);
    if (!before) return hover(event);
    moved += Math.abs(event.clientX - before.clientX) + Math.abs(event.clientY - before.clientY);
    if (held.size === 2) {
      const [other] = [...held].filter(([id]) => id !== event.pointerId).map(([, one]) => one);
      const apart = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
      zoom(apart(event) / Math.max(1, apart(before)), (event.clientX + other.clientX) / 2, (event.clientY + other.clientY) / 2);
    } else if (moved > 4) {
      // Only a drag captures the pointer: a click has to reach the node.
      if (!stage.hasPointerCapture(event.pointerId)) stage.setPointerCapture(event.pointerId);
      stage.classList.add("moving");
      look.x += event.clientX - before.clientX; look.y += event.clientY - before.clientY;
      place();
    }
    held.set(event.pointerId, event);
  });
  const release = (event) => { held.delete(event.pointerId); stage.classList.remove("moving"); };
  stage.addEventListener("pointerup", release);
  stage.addEventListener("pointercancel", release);
  stage.addEventListener("wheel", (event) => { event.preventDefault(); zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.03 : 0.0015)), event.clientX, event.clientY); }, { passive: false });
  stage.addEventListener("click", (event) => {
    if (moved > 4) return;
    const shape = event.target.closest(".node");
    if (shape) toggle(shape.item);
    else if (current) { current = null; mark(); tell(); }
  });
  let hovered = null;
  function hover(event) {
    const shape = event.target.closest ? event.target.closest(".node, .edge") : null;
    if (shape !== hovered) {
      hovered = shape;
      light(shape && shape.item ? shape.item : current && current.shown ? current : null);
      if (shape && event.pointerType !== "touch") {
        if (shape.item) tip.replaceChildren(...words(shape.item, 2));
        else tip.replaceChildren(make("div", `${visible(nameOf(shape.link.from))} → ${visible(nameOf(shape.link.to))}`, "text"), make("div", `weight ${signed(shape.link.weight)}`));
      }
      tip.classList.toggle("gone", !shape || event.pointerType === "touch");
    }
    if (!hovered) return;
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, event.clientX + 16 + box.width > innerWidth ? event.clientX - 16 - box.width : event.clientX + 16)}px`;
    tip.style.top = `${Math.max(4, Math.min(event.clientY + 12, innerHeight - box.height - 4))}px`;
  }
  stage.addEventListener("pointerleave", () => { hovered = null; tip.classList.add("gone"); light(current && current.shown ? current : null); });

  // Files
  function download(name, type, content) {
    const link = make("a"), address = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
    link.href = address; link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
    say(`${name} written`);
  }
  const keys = (members) => members.map((one) => data.nodes[one].key);
  function saveLabels() {
    const kept = Object.fromEntries(labels);
    if (groups.size) kept.groups = Object.fromEntries([...groups].map(([name, members]) => [name, keys(members)]));
    download(`${data.name}.labels.json`, "application/json", JSON.stringify(kept, null, 1));
    changed(false);
  }
  const asGroups = (entries) => {
    const found = new Map(), taken = new Set();
    for (const [name, members] of entries) {
      const there = (Array.isArray(members) ? members : []).map((key) => nodeOf.get(key)).filter((one) => one !== undefined && groupable(one) && !taken.has(one));
      there.forEach((one) => taken.add(one));
      if (there.length) found.set(String(name), there);
    }
    return found;
  };
  async function loadLabels(file) {
    try {
      const found = JSON.parse(await file.text()), named = Object.entries(found).filter(([name]) => name !== "groups");
      if (Array.isArray(found) || named.some(([, text]) => typeof text !== "string")) throw new Error("a JSON object of labels is needed");
      for (const [key, text] of named) labels.set(key, text);
      if (found.groups && typeof found.groups === "object") groups = asGroups(Object.entries(found.groups));
      build();
      tell();
      say(`${count(named.length)} labels and ${count(groups.size)} groups loaded`);
    } catch (error) { say(`${file.name} could not be read: ${error.message}`); }
  }
  function graphJson() {
    const publicOf = (index) => data.nodes[index].public, renamed = new Map();
    for (const node of data.nodes) if (node.public && ownLabel(node)) renamed.set(node.public, ownLabel(node) + (node.key.includes("@") ? ` (${node.key.split("@")[0]})` : ""));
    const pinned = items.filter((item) => pins.has(item.id)).flatMap((item) => item.members.map(publicOf)).filter(Boolean);
    return {
      ...data.public,
      qParams: { ...data.public.qParams, pinnedIds: pinned, supernodes: [...groups].map(([name, members]) => [name, ...members.map(publicOf)]) },
      nodes: data.public.nodes.map((node) => renamed.has(node.node_id) ? { ...node, clerp: renamed.get(node.node_id) } : node),
      links: data.edges.map(([source, target, weight]) => ({ source: publicOf(source), target: publicOf(target), weight })),
    };
  }
  const DRAWN = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray", "stroke-linejoin", "paint-order", "font-size", "font-weight", "font-family", "text-anchor", "opacity"];
  // As it is seen, whole, with each style written where it applies: other programs know no variables.
  function picture() {
    light(null);
    const head = 30 + 18 * data.captions.length, style = getComputedStyle(root);
    const made = draw("svg", { xmlns: SVG, width: Math.ceil(data.width + 20), height: Math.ceil(data.height + head + 30), viewBox: `0 ${-head} ${data.width + 20} ${data.height + head + 30}` });
    made.append(draw("rect", { x: 0, y: -head, width: "100%", height: "100%", fill: style.backgroundColor }));
    data.captions.forEach((caption, line) => made.append(draw("text", { x: 12, y: 24 - head + 18 * line, fill: style.color, "font-size": line ? 12 : 15, "font-family": "DejaVu Sans, Verdana, sans-serif" }, visible(caption))));
    made.append(draw("text", { x: 12, y: data.height + 16, fill: style.color, "font-size": 11, "font-family": "DejaVu Sans, Verdana, sans-serif" }, legendText.join("; ")));
    for (const layer of [ground, edgeLayer, nodeLayer]) copyInto(made, layer);
    data.rowY.forEach((y, row) => made.append(draw("text", { x: 8, y: y + 4, fill: style.color, "font-size": 11, "font-family": "DejaVu Sans, Verdana, sans-serif" }, cut(data.rows[row], 16))));
    light(current && current.shown ? current : null);
    return new XMLSerializer().serializeToString(made);
  }
  function copyInto(into, element) {
    if (element.classList.contains("gone")) return;
    const copy = element.cloneNode(false), style = getComputedStyle(element);
    for (const name of ["class", "style", "id", "role", "aria-label"]) copy.removeAttribute(name);
    if (element.tagName !== "g") for (const name of DRAWN) {
      const value = style.getPropertyValue(name);
      if (value && value !== "none" && value !== "normal" || name === "fill") copy.setAttribute(name, value);
    } else if (style.opacity !== "1") copy.setAttribute("opacity", style.opacity);
    for (const child of element.childNodes) child.nodeType === 3 ? copy.append(child.data) : copyInto(copy, child);
    into.append(copy);
  }
  function png() {
    pngOf(picture()).then((blob) => download(`${data.name}.png`, "image/png", blob), (error) => say(error.message));
  }

  // The address keeps what is looked at; what it says is checked as a file's words are.
  let waiting = 0;
  function remember() { clearTimeout(waiting); waiting = setTimeout(write, 250); }
  function write() {
    const said = new URLSearchParams({ v: "1" });
    for (const item of items) if (pins.has(item.id)) said.append("pin", item.id);
    for (const [name, members] of groups) said.append("group", JSON.stringify([name, ...keys(members)]));
    if (floors.nodes) said.set("nodes", String(floors.nodes));
    said.set("edges", String(floors.edges));
    if (search.value) said.set("q", search.value);
    if (current) said.set("at", current.id);
    const text = said.toString();
    if (text.length < LONGEST_ADDRESS) host.write(text);
  }
  function read() {
    const said = new URLSearchParams(host.read()), given = said.get("v") === "1";
    const parsed = (text) => { try { const one = JSON.parse(text); return Array.isArray(one) ? [one[0], one.slice(1)] : ["", []]; } catch { return ["", []]; } };
    groups = asGroups(given ? said.getAll("group").map(parsed) : Object.entries(data.groups));
    const floor = (name, usual) => { const x = Number(said.get(name)); return given && said.has(name) && Number.isFinite(x) && x >= 0 ? x : usual; };
    gather();
    floors = { nodes: floor("nodes", 0), edges: floor("edges", links.length > FIRST_EDGES ? Math.abs(links[FIRST_EDGES - 1].weight) : 0) };
    pins = new Set(given ? said.getAll("pin") : []);
    search.value = given ? (said.get("q") || "").slice(0, 200) : "";
    build();
    current = items.find((item) => given && item.id === said.get("at")) || null;
    sliders.nodes.set(); sliders.edges.set();
    mark();
    tell();
  }

  // The tools
  function slider(name, title, sizes) {
    const range = make("input"), told = make("output"), label = put(make("label", title), range, told);
    range.type = "range"; range.min = 0; range.max = 1000; range.value = 0;
    // The slider goes by rank, since few are large and many small.
    range.addEventListener("input", () => {
      const all = sizes(), kept = Math.max(1, Math.ceil(all.length * (1 - range.value / 1000) ** 2));
      floors[name] = kept >= all.length ? 0 : all[kept - 1];
      filter();
    });
    return {
      label,
      set() { const all = sizes(); range.value = all.length ? 1000 * (1 - Math.sqrt(all.filter((one) => one >= floors[name]).length / all.length)) : 0; },
      tell(floor, shown, of) { told.textContent = `≥ ${number(floor)}: ${count(shown)} of ${count(of)}`; range.setAttribute("aria-valuetext", told.textContent); },
    };
  }
  sliders.nodes = slider("nodes", isCircuit ? "nodes |attribution|" : "nodes, influence", () => items.filter((item) => item.size !== null).map((item) => item.size).sort((a, b) => b - a));
  sliders.edges = slider("edges", "edges |weight|", () => links.map((link) => Math.abs(link.weight)));
  function button(text, title, act) { const made = make("button", text); made.title = title; made.addEventListener("click", act); return made; }
  const help = make("dialog"), chosen = make("input"), save = button("Save labels", "Your labels and groups as a file, to be put beside the graph's", saveLabels);
  chosen.type = "file"; chosen.accept = ".json,application/json"; chosen.hidden = true;
  chosen.addEventListener("change", () => { if (chosen.files[0]) loadLabels(chosen.files[0]); chosen.value = ""; });
  search.type = "search"; search.placeholder = "label, token or number"; search.setAttribute("aria-label", "Search nodes");
  search.addEventListener("input", () => { find(); remember(); });
  put(header, ...data.captions.map((caption, line) => make(line ? "p" : "h1", visible(caption))),
    put(make("div", undefined, "tools"), search, hits, sliders.nodes.label, sliders.edges.label,
      put(make("div", undefined, "buttons"), button("Group", "Group what is pinned (G)", group), button("Fit", "All of it (0)", fit), save,
        button("Load labels", "A file of labels and groups", () => chosen.click()),
        button("SVG", "The picture as SVG", () => download(`${data.name}.svg`, "image/svg+xml", picture())), button("PNG", "The picture as PNG", png),
        button("JSON", "The graph for public graph viewers", () => download(`${data.name}.graph.json`, "application/json", JSON.stringify(graphJson()))),
        button("?", "Keys", () => help.showModal()))), chosen);
  const KEYS = [["← ↑ ↓ →", "from node to node"], ["Enter", "pin the node, or let it go"], ["G", "group what is pinned"], ["U", "ungroup"], ["L", "your own label, or the group's name"], ["/", "search; Enter goes to the strongest found"], ["+ − 0", "nearer, farther, all of it"], ["Esc", "let go: of the search, the node, the pins"], ["?", "this"]];
  put(help, make("h2", "Keys"), KEYS.reduce((list, [key, told]) => put(list, put(make("dt"), make("kbd", key)), make("dd", told)), make("dl")),
    make("p", "The wheel and two fingers zoom, dragging moves. A group adds up its members' edges. The address keeps pins, groups and thresholds; labels are kept by Save labels only.", "small"),
    button("Close", "Esc", () => help.close()));

  const halfNames = Object.keys((data.nodes.find((node) => Object.keys(node.halves).length === 2) || { halves: {} }).halves);
  const legendText = [
    isCircuit ? "solid blue: for the right answer" : "solid blue: adds", isCircuit ? "dashed orange: for the wrong one" : "dashed orange: takes away",
    "width: weight", `size: ${data.measure}`, "dashed rim: error", ...(halfNames.length ? [`halves filled by mean activation: ${halfNames.map(visible).join(" | ")}`] : []),
  ];
  function legend() {
    const box = make("div", undefined, "legend"), line = (kind) => put(draw("svg", { viewBox: "0 0 46 20" }), draw("path", { class: `edge ${kind}`, d: "M3 10H43", "stroke-width": 4 }));
    const disc = (kind) => put(draw("svg", { viewBox: "0 0 46 20" }), draw("circle", { class: "disc", cx: 23, cy: 10, r: 8 }),
      ...(kind ? [] : [draw("path", { class: "half", d: "M23 2 A8 8 0 0 1 23 18 z" })]), draw("circle", { class: `rim plus ${kind}`, cx: 23, cy: 10, r: 8 }));
    const row = (drawing, text) => put(make("div"), drawing, make("span", text));
    put(box, row(line("plus"), legendText[0]), row(line("minus"), legendText[1]), row(disc("error"), "error: what no feature explains"));
    if (halfNames.length) box.append(row(disc(""), legendText[5]));
    return put(box, make("div", `width: weight; size: ${data.measure}`));
  }

  addEventListener("keydown", (event) => {
    // What stands beside it has keys of its own; from its buttons one comes back by a letter.
    const beside = event.target !== document.body && !root.contains(event.target), elsewhere = beside && !(event.target.matches("button") && event.key.length === 1);
    if (event.ctrlKey || event.metaKey || event.altKey || help.open || elsewhere) return;
    const inField = event.target.closest("input:not([type=range])"), onControl = event.target.closest("input, button, summary");
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (key === "Escape") {
      if (inField) stage.focus();
      else if (search.value) search.value = "";
      else if (current) current = null;
      else pins.clear();
      mark(); tell();
      return;
    }
    if (event.target === search && key === "Enter") {
      const [best] = find().sort((a, b) => (b.size || 0) - (a.size || 0));
      if (best) { go(best); stage.focus(); } else say("nothing is found");
      return;
    }
    if (inField) return;
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const acts = {
      "/": () => { search.focus(); search.select(); }, "?": () => help.showModal(), g: group, 0: fit, "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8),
      u: () => current && current.kind === "group" ? ungroup(current.group) : say("go to a group first"),
      l: () => { const field = panel.querySelector(".own input"); if (field) { field.focus(); field.select(); } },
    };
    if (!onControl && moves[key]) step(...moves[key]);
    else if (!onControl && key === "Enter") { if (current) toggle(current); }
    else if (Object.hasOwn(acts, key)) acts[key]();
    else return;
    event.preventDefault();
  }, { signal });
  root.append(header, put(make("section"), put(stage, back, front, names, status), legend()), panel, tip, help);
  drawGround();
  read();
  fit();
  addEventListener("resize", fit, { signal });
  return { read, destroy() { clearTimeout(waiting); clearTimeout(saying); gone.abort(); root.replaceChildren(); } };
}

// Draws a list of latents, of which only what is in sight exists, and one latent beside it. A saved page and the app
// show them alike. Whatever is shown goes through textContent: no text of a model is ever read as HTML.

/** Draw what `page_data` tells into an element of class "latents"; columns are taken out of it as they are unpacked.
 * The host keeps what is looked at: `read()` gives the number that `write(number)` took last, or nothing, and
 * `link(number)` is a latent's address. */
export function dashboard(root, data, host) {
  const gone = new AbortController(), { signal } = gone;
  const HEIGHT = 44, SPARE = 8;
  const TYPES = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, f4: Float32Array };
  const unpacked = new Map();

  // A column is unpacked when it is first asked for. Typed arrays are little-endian wherever browsers run.
  function column(name) {
    if (!unpacked.has(name)) {
      const stored = data.columns[name];
      if (!stored) return null;
      const text = atob(stored[1]), bytes = new Uint8Array(text.length);
      for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at);
      unpacked.set(name, new TYPES[stored[0]](bytes.buffer));
      data.columns[name] = null;
    }
    return unpacked.get(name);
  }
  function part(name, row) {
    const all = column(name), width = data.widths[name];
    return all ? all.subarray(row * width, (row + 1) * width) : [];
  }

  function make(kind, text, className) {
    const made = document.createElement(kind);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  }
  const put = (into, ...parts) => (into.append(...parts), into);
  // What nobody sees, or what turns text around, is spelled out.
  const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]/gu;
  const KNOWN = { "\n": "⏎", "\t": "⇥", "\r": "␍" };
  const visible = (word) => word.replace(HIDDEN, (one) => KNOWN[one] || `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`) || "∅";
  const short = (x) => (x === 0 ? "0" : Math.abs(x) >= 0.01 && Math.abs(x) < 1e5 ? String(+x.toPrecision(3)) : x.toExponential(1));
  const percent = (x) => (x === 0 ? "0 %" : `${+(100 * x).toPrecision(2)} %`);

  const latents = column("latent"), active = column("active"), largest = column("largest"), f1 = column("f1");
  const ruled = column("ruled"), rowOf = new Map();
  latents.forEach((latent, row) => rowOf.set(latent, row));
  const quoted = (token) => `"${visible(data.words[token])}"`;
  function label(row) {
    if (ruled[row]) return visible(data.rules[row]);
    const up = part("up", row);
    return up.length ? `promotes ${[...up.subarray(0, 4)].map(quoted).join(", ")}` : `latent ${latents[row]}`;
  }

  // The list
  const ORDERS = {
    "rule F1": (row) => -f1[row],
    density: (row) => -active[row],
    "max activation": (row) => -largest[row],
    number: (row) => row,
  };
  let shown = [], picked = -1, found = null;
  const search = make("input"), sort = make("select"), count = make("span");
  const list = make("div", undefined, "list"), sheet = make("div"), main = make("section");

  function haystack(row) {
    if (!found) found = new Array(latents.length);
    if (found[row] === undefined) {
      const tokens = [...part("up", row)], text = column("text");
      for (const place of part("example", row)) if (place) tokens.push(text[place - 1]);
      found[row] = `${label(row)}\n${tokens.map((token) => data.words[token]).join("\n")}`.toLowerCase();
    }
    return found[row];
  }
  function filtered() {
    const wanted = search.value.toLowerCase().trim(), rank = ORDERS[sort.value];
    const rows = Array.from(latents.keys());
    const keys = rows.map(rank);
    const kept = wanted ? rows.filter((row) => String(latents[row]) === wanted || haystack(row).includes(wanted)) : rows;
    kept.sort((a, b) => keys[a] - keys[b] || a - b);
    const named = /^\d+$/.test(wanted) ? rowOf.get(Number(wanted)) : undefined;
    if (named !== undefined) kept.splice(0, kept.length, named, ...kept.filter((row) => row !== named));
    return kept;
  }
  function refresh() {
    shown = filtered();
    sheet.style.height = `${shown.length * HEIGHT}px`;
    count.textContent = `${shown.length.toLocaleString("en")} of ${latents.length.toLocaleString("en")} latents`;
    list.scrollTop = 0;
    draw();
  }
  function draw() {
    const first = Math.max(0, Math.floor(list.scrollTop / HEIGHT) - SPARE);
    const stop = Math.min(shown.length, first + Math.ceil((list.clientHeight || 800) / HEIGHT) + 2 * SPARE);
    const lines = [];
    for (let index = first; index < stop; index++) {
      const row = shown[index], line = make("div", undefined, row === picked ? "row picked" : "row");
      line.style.top = `${index * HEIGHT}px`;
      line.setAttribute("role", "option");
      line.id = `option-${row}`;
      line.setAttribute("aria-selected", String(row === picked));
      const measured = active[row] ? `${percent(active[row] / data.rows)}, max ${short(largest[row])}, rule F1 ${f1[row].toFixed(2)}` : "never active";
      put(line, make("div", `${latents[row]}  ${label(row)}`), make("div", measured, "small"));
      line.addEventListener("click", () => pick(row, index));
      lines.push(line);
    }
    sheet.replaceChildren(...lines);
  }
  function pick(row, index) {
    picked = row;
    const at = index === undefined ? shown.indexOf(row) : index;
    if (at >= 0) {
      const top = at * HEIGHT;
      if (top < list.scrollTop) list.scrollTop = top;
      else if (top + HEIGHT > list.scrollTop + list.clientHeight) list.scrollTop = top + HEIGHT - list.clientHeight;
    }
    host.write(latents[row]);
    list.setAttribute("aria-activedescendant", `option-${row}`);
    draw();
    view(row);
  }
  function step(by) {
    const at = shown.indexOf(picked), next = Math.min(shown.length - 1, Math.max(0, at < 0 ? 0 : at + by));
    if (shown.length) pick(shown[next], next);
  }

  // One latent
  function tokenTable(title, name, row) {
    const table = make("table", undefined, "tokens"), tokens = part(name, row), by = part(`${name}By`, row);
    tokens.forEach((token, rank) => {
      const line = make("tr");
      put(line, put(make("td"), make("span", visible(data.words[token]), "token")), make("td", short(by[rank])));
      table.append(line);
    });
    return put(make("div"), make("h3", title), table);
  }
  function examplesOf(name, row) {
    const text = column("text"), starts = column("starts"), stops = column(`${name}Stops`);
    const at = column(`${name}At`), share = column(`${name}Share`), width = data.widths[name];
    const box = make("div");
    part(name, row).forEach((stored, rank) => {
      if (!stored) return;
      const place = stored - 1, number = row * width + rank, values = new Map();
      for (let entry = number ? stops[number - 1] : 0; entry < stops[number]; entry++) values.set(at[entry], share[entry] / 65535);
      let low = 0, high = starts.length - 1;
      while (high - low > 1) starts[(low + high) >> 1] <= place ? (low = (low + high) >> 1) : (high = (low + high) >> 1);
      const line = make("div", undefined, "example");
      for (let column = 0; column < data.context; column++) {
        const there = place - data.before + column;
        if (there < starts[low] || there >= starts[low + 1]) continue;
        const word = make(there === place ? "b" : "span", visible(data.words[text[there]])), value = values.get(column);
        if (value === undefined) { line.append(word); continue; }
        const hot = make("i");
        hot.style.setProperty("--share", (0.1 + 0.6 * value).toFixed(2));
        hot.title = `${visible(data.words[text[there]])}: ${short(value * largest[row])}`;
        line.append(put(hot, word));
      }
      box.append(line);
    });
    return box;
  }
  function histogramOf(row) {
    const bars = make("div", undefined, "bars"), counts = part("histogram", row), most = Math.max(...counts);
    let first = 0, stop = counts.length;
    while (first < stop && !counts[first]) first++;
    while (stop > first && !counts[stop - 1]) stop--;
    for (let bin = first; bin < stop; bin++) {
      const bar = make("i", undefined, counts[bin] ? "" : "none");
      bar.style.height = `${(100 * counts[bin]) / most}%`;
      bar.title = `${short(data.edges[bin])} to ${short(data.edges[bin + 1])}: ${counts[bin].toLocaleString("en")} positions`;
      bars.append(bar);
    }
    return put(make("div"), make("h3", "How active, from each half octave to the next"), bars,
      make("div", stop > first ? `${short(data.edges[first])} … ${short(data.edges[stop])}` : "", "small"));
  }
  function neighboursOf(row) {
    const box = put(make("div"), make("h3", "Nearest by decoder cosine")), cosines = part("nearness", row);
    part("near", row).forEach((latent, rank) => {
      const line = make("div"), other = rowOf.get(latent), link = make("a", String(latent));
      link.href = host.link(latent);
      link.addEventListener("click", (event) => {
        if (other === undefined || event.ctrlKey || event.metaKey || event.shiftKey) return;
        event.preventDefault();
        show(other);
      });
      put(line, link, make("span", `  ${cosines[rank].toFixed(2)}  ${other === undefined ? "" : label(other)}`, "small"));
      box.append(line);
    });
    return box;
  }
  function ruleOf(row) {
    const box = put(make("div"), make("h3", "Rule"));
    if (!data.rules[row]) return put(box, make("div", "no token or shape is met with it twice", "note"));
    const numbers = `precision ${column("precision")[row].toFixed(2)}, recall ${column("recall")[row].toFixed(2)}, F1 ${f1[row].toFixed(2)}` +
      ` on held-out documents (active at ${column("heldOut")[row].toLocaleString("en")} positions there); with shuffled activations F1 ${column("controlF1")[row].toFixed(2)}`;
    return put(box, make("div", visible(data.rules[row])), make("div", numbers, "note"));
  }
  function descriptionOf(row) {
    const one = data.descriptions[latents[row]];
    if (!one) return make("div");
    const told = `score ${one.score.toFixed(2)} of its largest activation, best of ${one.controls} controls ${one.control.toFixed(2)}; written at layer ${one.layer}, ${one.scale} x`;
    return put(make("div"), make("h3", "What the model says of it"), make("div", one.says ? visible(one.text) : "says nothing", one.says ? "" : "note"), make("div", told, "note"));
  }
  function view(row) {
    const measured = active[row]
      ? `active at ${active[row].toLocaleString("en")} of ${data.rows.toLocaleString("en")} positions (${percent(active[row] / data.rows)}), at most ${short(largest[row])}; encoder and decoder cosine ${column("own")[row].toFixed(2)}`
      : "never active in this text";
    const tables = make("div", undefined, "columns");
    if (part("up", row).length) put(tables, tokenTable("Promotes", "up", row), tokenTable("Suppresses", "down", row));
    put(tables, neighboursOf(row));
    main.replaceChildren(
      make("h2", `${latents[row]}  ${label(row)}`), make("div", measured, "note"), ruleOf(row), descriptionOf(row),
      ...(active[row] ? [histogramOf(row)] : []), tables,
      make("h3", "Examples of the highest rank"), examplesOf("example", row),
      make("h3", "Samples of each quarter of its activations"), examplesOf("sample", row));
    main.scrollTop = 0;
  }

  // The page
  function show(row) {
    if (!shown.includes(row)) { search.value = ""; refresh(); }
    pick(row);
  }
  function follow() {
    const asked = host.read(), row = asked ? rowOf.get(Number(asked)) : undefined;
    if (row !== undefined) show(row);
    else if (asked) main.replaceChildren(make("p", `Latent ${asked} is not on this page.`));
    else if (shown.length) pick(shown[0], 0);
  }
  const facts = make("dl"), head = make("div", undefined, "head"), nav = make("nav");
  for (const [name, text] of Object.entries(data.facts)) put(facts, make("dt", name), make("dd", text));
  put(head, make("h1", data.title), put(make("details"), make("summary", "what was read, and how"), facts));
  search.type = "search"; search.placeholder = "number, token or label"; search.setAttribute("aria-label", "Search latents");
  sort.setAttribute("aria-label", "Sort latents by");
  for (const name of Object.keys(ORDERS)) sort.append(make("option", name));
  const keys = put(make("span", "", "small"), make("kbd", "↑"), " ", make("kbd", "↓"), " ", make("kbd", "/"));
  keys.title = "up and down go through the list, / searches";
  list.tabIndex = 0; list.setAttribute("role", "listbox"); list.setAttribute("aria-label", "Latents");
  put(nav, put(make("div", undefined, "tools"), search, sort), put(make("div", undefined, "under"), count, keys), put(list, sheet));
  nav.setAttribute("aria-label", "Latents");
  main.setAttribute("aria-label", "One latent");
  root.append(head, nav, main);

  let waiting = 0;
  search.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(refresh, 120); });
  sort.addEventListener("change", refresh);
  list.addEventListener("scroll", draw);
  addEventListener("resize", draw, { signal });
  addEventListener("keydown", (event) => {
    // What stands beside it has keys of its own; from its buttons one comes back by a letter.
    const beside = event.target !== document.body && !root.contains(event.target), elsewhere = beside && !(event.target.matches("button") && event.key.length === 1);
    if (event.ctrlKey || event.metaKey || event.altKey || elsewhere) return;
    const typing = event.target === search || event.target === sort;
    if (event.key === "/" && !typing) { event.preventDefault(); search.focus(); search.select(); }
    else if (event.key === "Escape") { search.blur(); list.focus(); }
    else if (event.key === "Enter" && event.target === search) { clearTimeout(waiting); refresh(); if (shown.length) pick(shown[0], 0); list.focus(); }
    else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && event.target !== sort) { event.preventDefault(); step(event.key === "ArrowDown" ? 1 : -1); }
  }, { signal });
  refresh();
  follow();
  return { follow, destroy() { clearTimeout(waiting); gone.abort(); root.replaceChildren(); } };
}

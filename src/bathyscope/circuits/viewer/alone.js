// A page that shows nothing else: the graph in #data, and what is looked at in the address. It follows viewer.js.
const began = performance.now();
const host = {
  read: () => location.hash.slice(1),
  // Inside another page's frame there may be no address to write to.
  write(text) { try { history.replaceState(null, "", `#${text}`); } catch { /* as it was */ } },
};
const root = document.createElement("main");
root.className = "graph";
document.body.style.margin = 0;
document.body.prepend(root);
const drawn = graph(root, JSON.parse(document.getElementById("data").textContent), host);
addEventListener("hashchange", drawn.read);
document.documentElement.dataset.ready = String(Math.round(performance.now() - began));

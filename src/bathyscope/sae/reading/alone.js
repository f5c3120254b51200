// A page that shows nothing else: the latents in #data, and the one that is looked at in the address. It follows
// dashboard.js.
const began = performance.now();
function asked() {
  try { return decodeURIComponent(location.hash.slice(1)); } catch { return location.hash.slice(1); }
}
const host = {
  read: asked,
  // Inside another page's frame there may be no address to write to.
  write(latent) { try { if (location.hash !== `#${latent}`) history.replaceState(null, "", `#${latent}`); } catch { /* as it was */ } },
  link: (latent) => `#${latent}`,
};
document.body.className = "latents";
const drawn = dashboard(document.body, JSON.parse(document.getElementById("data").textContent), host);
addEventListener("hashchange", drawn.follow);
document.documentElement.dataset.ready = String(Math.round(performance.now() - began));

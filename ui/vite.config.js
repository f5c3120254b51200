// Three builds of one renderer: the app, a page that needs nothing but itself, and a notebook's widget.
import { createHash } from "node:crypto";
import { fileURLToPath } from "node:url";
import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vite";

const library = (folder) => fileURLToPath(new URL(`../src/bathyscope/${folder}`, import.meta.url));
const OUT = "../src/bathyscope/web/dist";

/** Puts script and style of the page into export.html; what a result is goes into its one slot. */
function onePage() {
  return {
    name: "one-page",
    enforce: "post", // the style is there only when the framework is done
    generateBundle(_options, bundle) {
      const files = Object.values(bundle);
      const script = files.find((one) => one.type === "chunk").code.replaceAll("</script", "<\\/script");
      const style = files.find((one) => one.type === "asset" && one.fileName.endsWith(".css")).source;
      const hash = (text) => `'sha256-${createHash("sha256").update(text).digest("base64")}'`;
      const policy = [
        "default-src 'none'",
        `script-src ${hash(script)}`,
        `style-src ${hash(style)}`,
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types svelte-trusted-html",
      ].join("; ");
      for (const name of Object.keys(bundle)) delete bundle[name];
      const source = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        `<meta http-equiv="Content-Security-Policy" content="${policy}">`,
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">',
        `<link rel="icon" href="data:,"><title>Bathyscope</title><style>${style}</style></head>`,
        '<body><main id="app"></main><script type="application/json" id="result">null</script>',
        `<script>${script}</script></body></html>\n`,
      ].join("");
      this.emitFile({ type: "asset", fileName: "export.html", source });
    },
  };
}

const library_of = (name, format) => ({
  lib: { entry: `src/${name}.ts`, formats: [format], name: "bathyscope", fileName: () => `${name}.js`, cssFileName: name },
});

export default defineConfig(({ mode }) => ({
  // What the library's own saved pages are drawn with.
  resolve: { alias: { "#circuits": library("circuits/viewer"), "#latents": library("sae/reading") } },
  // In a notebook a component's style stands where the component does.
  plugins: [svelte(mode === "widget" ? { compilerOptions: { css: "injected" } } : {}), ...(mode === "view" ? [onePage()] : [])],
  build: {
    outDir: OUT,
    emptyOutDir: mode === "production",
    modulePreload: false,
    target: "es2022",
    assetsInlineLimit: 0,
    license: mode === "production" ? { fileName: "licenses.txt" } : false,
    ...(mode === "view" ? library_of("view", "iife") : mode === "widget" ? library_of("widget", "es") : {}),
  },
}));

// A result in a notebook: the same pictures, in a shadow root, so that neither page changes the other's looks.
import { mount, unmount } from "svelte";
import Saved from "./Saved.svelte";
import style from "./style.css?inline";
import type { Result } from "./types";

interface Model {
  get(name: "result"): Result;
  on(event: string, changed: () => void): void;
  off(event: string, changed: () => void): void;
}

function render({ model, el }: { model: Model; el: HTMLElement }): () => void {
  const root = (el.shadowRoot ?? el.attachShadow({ mode: "open" })) as ShadowRoot;
  const look = document.createElement("style");
  look.textContent = style;
  root.replaceChildren(look);
  let shown: ReturnType<typeof mount> | null = null;
  const draw = () => {
    if (shown) unmount(shown);
    shown = mount(Saved, { target: root, props: { result: model.get("result") } });
  };
  draw();
  model.on("change:result", draw);
  return () => {
    model.off("change:result", draw);
    if (shown) unmount(shown);
  };
}

export default { render };

// What is looked at, as the address says it: so a view can be reloaded, gone back to and shared.

const VERSION = "1";
const MOST = 8000;
const KEPT = "bathyscope";

export interface Place {
  view: string;
  /** What was asked, only where it is not as usual. */
  asked: Record<string, string>;
  cell: string;
}

export function read(hash: string): Place | null {
  const [view, query] = hash.slice(1, MOST).split("?");
  if (!view || !/^[a-z]+$/.test(view)) return null;
  const asked: Record<string, string> = Object.fromEntries(new URLSearchParams(query ?? ""));
  const cell = asked["cell"] ?? "";
  if ((asked["v"] ?? VERSION) !== VERSION) return { view, asked: {}, cell: "" };
  delete asked["cell"];
  delete asked["v"];
  return { view, asked, cell };
}

export function written(place: Place): string {
  const query = new URLSearchParams(place.asked);
  if (place.cell) query.set("cell", place.cell);
  const text = query.toString();
  return `#${place.view}${text ? `?v=${VERSION}&${text}` : ""}`;
}

/** Put a place into the address, as a new step to go back from or in place of the last one. */
export function go(place: Place, step: boolean): void {
  const hash = written(place);
  if (hash.length > MOST || hash === location.hash) return;
  history[step ? "pushState" : "replaceState"](null, "", hash);
  sessionStorage.setItem(KEPT, hash);
}

/** Where this tab was before it was let in again. */
export const before = (): Place | null => read(sessionStorage.getItem(KEPT) ?? "");

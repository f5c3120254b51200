// What a saved page's own script draws, in the app: its data are fetched into an element, and it leaves with that.

import { get, Refused, Stranger } from "./api";
import type { Lost } from "./asking.svelte";

interface Drawn {
  destroy(): void;
}

/** An attachment of an element.
 * @param path of the data.
 * @param draw puts them into the element.
 * @param trouble is told why they could not be had, or nothing.
 * @param lost is told that the server is not there. */
export function fetched(path: string, draw: (into: HTMLElement, data: unknown) => Drawn, trouble: (said: string) => void, lost: (how: Lost) => void) {
  return (into: HTMLElement) => {
    let drawn: Drawn | null = null;
    let gone = false;
    trouble("");
    get<unknown>(path).then(
      (data) => {
        if (!gone) drawn = draw(into, data);
      },
      (error) => {
        if (error instanceof Refused) trouble(error.failure.message);
        else lost(error instanceof Stranger ? "stranger" : "gone");
      },
    );
    return () => {
      gone = true;
      drawn?.destroy();
    };
  };
}

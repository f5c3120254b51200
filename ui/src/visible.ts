// Text of a model as people may safely read it: what would be invisible, or would turn the line around, is named.

const NAMES: Record<string, string> = { "\n": "⏎", "\t": "⇥", "\r": "␍", "\u00a0": "⍽" };
const ODD = /[\u0000-\u001f\u007f-\u00a0\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;

export function visible(text: string): string {
  return text.replace(ODD, (one) => {
    const code = one.charCodeAt(0);
    return NAMES[one] ?? (code < 32 ? String.fromCharCode(0x2400 + code) : `⟨${code.toString(16).padStart(4, "0")}⟩`);
  });
}

/** A token: its space is a part of it, and so is seen. */
export function token(text: string): string {
  return visible(text).replace(/^ | $/g, "␣") || "∅";
}

export const layerName = (layer: number) => (layer === -1 ? "embed" : String(layer));

export const percent = (share: number) => (share < 0.001 ? "<0.1%" : share < 0.1 ? `${(100 * share).toFixed(1)}%` : `${Math.round(100 * share)}%`);

/** A number with its sign, to a precision that all of a picture share. */
export function signed(value: number, decimals: number): string {
  const size = Math.abs(value).toFixed(decimals);
  return Number(size) === 0 ? "0" : (value > 0 ? "+" : "−") + size;
}

/** A cell of a spreadsheet that could be taken for a formula is led by an apostrophe. */
export function csvCell(value: unknown): string {
  const text = value === null || value === undefined ? "" : String(value);
  const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return `"${safe.replaceAll('"', '""')}"`;
}

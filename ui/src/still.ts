// Pictures as they are seen, whole, as one SVG that other programs read: no variables, no style, every text as text.

import { keyOf, type Cell, type Picture } from "./picture";
import { visible } from "./visible";

const SVG = "http://www.w3.org/2000/svg";
const [WIDE, HIGH, EDGE, SIDE] = [132, 24, 16, 64];
const FONT = "DejaVu Sans, Verdana, sans-serif";
const LETTERS = 18;

function put(into: Element, kind: string, attributes: Record<string, string | number>, text?: string): Element {
  const made = document.createElementNS(SVG, kind);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  if (text !== undefined) made.textContent = text;
  into.append(made);
  return made;
}
function short(text: string, most: number): string {
  const all = Array.from(visible(text));
  return all.length > most ? `${all.slice(0, most - 1).join("")}…` : all.join("");
}

/** All pictures below one another.
 * @param style of the page, whose colours they have. */
export function svgOf(drawn: Picture[], style: CSSStyleDeclaration): string {
  const colour = (name: string) => style.getPropertyValue(name).trim();
  const svg = document.createElementNS(SVG, "svg");
  const width = Math.max(560, ...drawn.map((one) => 2 * EDGE + SIDE + WIDE * one.columns.length));
  let y = EDGE;
  const back = put(svg, "rect", { width, fill: colour("--paper") });
  const words = (x: number, at: number, text: string, more: Record<string, string | number> = {}) =>
    put(svg, "text", { x, y: at, fill: colour("--ink"), "font-size": 12, "font-family": FONT, ...more }, text);
  for (const picture of drawn) {
    words(EDGE, y + 16, short(picture.title, 120), { "font-size": 15, "font-weight": "bold" });
    y += 24;
    for (const [name, text] of picture.facts) words(EDGE, (y += 16), short(`${name}: ${text}`, Math.floor(width / 7)), { fill: colour("--soft") });
    y += 14;
    words(EDGE, y + 16, picture.corner, { fill: colour("--soft") });
    picture.columns.forEach((one, column) => words(EDGE + SIDE + WIDE * column + 4, y + 16, short(one, LETTERS), { "font-weight": "bold" }));
    for (const row of picture.rows) {
      y += HIGH;
      words(EDGE + SIDE - 8, y + 16, short(row, 8), { "text-anchor": "end" });
      picture.columns.forEach((_one, column) => drawCell(svg, picture.cells.get(keyOf(row, column)), EDGE + SIDE + WIDE * column, y, colour));
    }
    const { legend } = picture;
    const ends = [legend.below && `orange ${legend.below}`, `pale ${legend.low}`, `blue ${legend.high}`].filter(Boolean).join(", ");
    words(EDGE, (y += HIGH + 18), `${legend.words}: ${ends}`, { fill: colour("--soft"), "font-size": 11 });
    y += 22;
  }
  for (const [name, value] of Object.entries({ xmlns: SVG, width, height: y, viewBox: `0 0 ${width} ${y}` })) svg.setAttribute(name, String(value));
  back.setAttribute("height", String(y));
  return new XMLSerializer().serializeToString(svg);
}

function drawCell(svg: Element, cell: Cell | undefined, x: number, y: number, colour: (name: string) => string): void {
  const heat = Math.min(1, Math.abs(cell?.heat ?? 0));
  const hue = colour((cell?.heat ?? 0) < 0 ? "--warm" : "--cool").split(/\s+/).join(",");
  const shade = heat * Number(colour("--most") || 1);
  put(svg, "rect", { x, y, width: WIDE - 1, height: HIGH - 1, fill: cell ? `rgb(${hue})` : colour("--side"), "fill-opacity": cell ? shade.toFixed(3) : 1, stroke: colour("--line"), "stroke-width": 0.5 });
  if (!cell) return;
  // On either paper: white on dark colours, black on pale ones.
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const ink = dark ? (heat > 0.74 ? "#000" : "#fff") : heat > 0.86 ? "#fff" : "#000";
  const text = short(cell.text, LETTERS - (cell.note ? 4 : 0));
  put(svg, "text", { x: x + 4, y: y + 16, fill: ink, "font-size": 11, "font-family": FONT }, text);
  if (cell.note) put(svg, "text", { x: x + WIDE - 5, y: y + 16, fill: ink, "font-size": 10, "text-anchor": "end", "font-family": FONT }, cell.note);
}

// A result as a file: a page that needs no server, numbers for a spreadsheet, and data for a program.

import type { Picture } from "./picture";
import type { Result } from "./types";
import { csvCell } from "./visible";

const SLOT = 'id="result">null<';

/** The page of a result. What a model wrote stands in it as data, with every sign that could end the data escaped. */
export function page(template: string, result: Result): string {
  const escapes: Record<string, string> = { "<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029" };
  const data = JSON.stringify(result).replace(/[<>&\u2028\u2029]/g, (one) => escapes[one]!);
  return template.replace(SLOT, () => SLOT.replace("null", () => data));
}

export function csv(drawn: Picture[]): string {
  const lines = [["picture", "layer", "token", "text", "heat"]] as unknown[][];
  for (const picture of drawn)
    for (const cell of picture.cells.values()) lines.push([picture.title, cell.row, picture.columns[cell.column], cell.text, cell.heat]);
  return lines.map((line) => line.map(csvCell).join(",")).join("\r\n") + "\r\n";
}

export function download(name: string, type: string, content: string | Blob): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

export async function savePage(name: string, result: Result): Promise<void> {
  const template = await (await fetch("/export.html")).text();
  download(`${name}.html`, "text/html", page(template, result));
}

// A result as a picture: rows upwards, tokens across, and in each cell a text and a colour. The one thing that is drawn.

import type { Candidate, Control, Message, Result, SignedMap } from "./types";
import { layerName, percent, signed, token } from "./visible";

export interface Cell {
  row: string;
  column: number;
  layer?: number;
  position?: number;
  text: string;
  /** From 0 to 1, or to -1 in the other hue; null before it is known. */
  heat: number | null;
  state: "empty" | "growing" | "done";
  note?: string;
  /** It says something else than the same cell of what it is compared with. */
  differs?: boolean;
  candidates: Candidate[];
  controls: { name: string; text: string }[];
}

export interface Picture {
  title: string;
  facts: [string, string][];
  corner: string;
  columns: string[];
  rows: string[];
  cells: Map<string, Cell>;
  /** What colour means: its words, and those at its ends. */
  legend: { words: string; low: string; high: string; below?: string; most?: number };
}

export const keyOf = (row: string, column: number) => `${row}|${column}`;

/** Where most cells are coloured, text is read on a pale one. */
const PALE = 0.35;

const LEGENDS = {
  patchscope: { words: "words that are not those said when nothing is written", low: "none", high: "all", most: PALE },
  lens: { words: "probability of the likeliest token", low: "0", high: "1" },
  words: { words: "how much the text depends on what was written", low: "0", high: "1", most: PALE },
};

const SHOWS: Record<string, string> = {
  "backward-lens": "what a push towards a next token would write",
  "attribute-lens": "what a relation makes of each layer",
  "future-lens": "what the model will say later on",
};

/** Words that two texts do not share, as a share of all: 0 where they are the same. */
export function distance(text: string, other: string): number {
  const words = (one: string) => new Set(one.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? []);
  const a = words(text);
  const b = words(other);
  const all = new Set([...a, ...b]);
  return all.size ? 1 - [...a].filter((word) => b.has(word)).length / all.size : 0;
}

type Places = [number, number, number | null][];

/** Where the cells of a plan stand: layers upwards; written layers beside their token where they differ. */
function placed(places: Places, tokens: string[]) {
  const crossed = places.some(([layer, , target]) => target !== null && target !== layer && places.some((o) => o[0] === layer && o[2] !== target));
  const heads = [...new Set(places.map(([, position, target]) => (crossed ? `${position}|${target}` : `${position}`)))];
  const columns = heads.map((head) => {
    const [position, target] = head.split("|");
    return `${position} ${token(tokens[Number(position)] ?? "")}${target === undefined ? "" : ` → ${layerName(Number(target))}`}`;
  });
  const layers = [...new Set(places.map(([layer]) => layer))].sort((a, b) => b - a);
  const at = places.map(([layer, position, target]) => ({
    row: layerName(layer),
    column: heads.indexOf(crossed ? `${position}|${target}` : `${position}`),
    layer,
    position,
  }));
  return { columns, rows: layers.map(layerName), at };
}

export function emptyPicture(kind: string, message: Message & { event: "plan" }): { picture: Picture; at: ReturnType<typeof placed>["at"] } {
  const { columns, rows, at } = placed(message.cells, message.tokens);
  const cells = new Map<string, Cell>();
  for (const place of at) {
    cells.set(keyOf(place.row, place.column), { ...place, text: "", heat: null, state: "empty", candidates: [], controls: [] });
  }
  const legend = kind === "lens" ? LEGENDS.lens : LEGENDS.patchscope;
  return { picture: { title: "", facts: [], corner: "layer", columns, rows, cells, legend }, at };
}

/** The picture with what a message adds; the cells that it does not name stay the same objects. */
export function grown(picture: Picture, at: ReturnType<typeof placed>["at"], message: Message): Picture {
  const cells = new Map(picture.cells);
  const put = (number: number, text: string, done: boolean, candidates: Candidate[]) => {
    const place = at[number];
    if (!place) return;
    const key = keyOf(place.row, place.column);
    const before = cells.get(key)!;
    const heat = candidates[0]?.probability ?? null;
    cells.set(key, { ...before, text, heat, candidates, state: done ? "done" : "growing" });
  };
  if (message.event === "texts") for (const [number, text] of Object.entries(message.texts)) put(Number(number), text, false, []);
  if (message.event === "cells") for (const [number, reading] of message.cells) put(number, reading.text, true, reading.candidates);
  return { ...picture, cells };
}

export function pictures(result: Result): Picture[] {
  if (result.kind === "patchscope") return [ofPatchscope(result)];
  if (result.kind === "lens") return [ofLens(result)];
  return result.kind === "causal" ? result.maps.map((map) => ofMap(result, map)) : [];
}

/** Pictures whose cells are marked where another answer has another text, or no such cell; and how many are. */
export function compared(drawn: Picture[], other: Picture[]): { marked: Picture[]; differ: number; of: number } {
  let [differ, of] = [0, 0];
  const marked = drawn.map((picture, number) => {
    const cells = new Map<string, Cell>();
    for (const [key, cell] of picture.cells) {
      const differs = cell.text !== other[number]?.cells.get(key)?.text;
      differ += Number(differs);
      of += 1;
      cells.set(key, { ...cell, differs });
    }
    return { ...picture, cells };
  });
  return { marked, differ, of };
}

const modelsOf = (result: Result) => [...new Set(result.provenance.models.map((one) => one.model))].join(" to ");

function ofPatchscope(result: Result & { kind: "patchscope" }): Picture {
  const { spec } = result.provenance;
  const places: Places = result.cells.map((cell) => [cell.source_layer, cell.source_position, cell.target_layer]);
  const { columns, rows, at } = placed(places, spec.source.tokens);
  const isOf = (control: Control, cell: (typeof result.cells)[number]) =>
    [null, cell.source_layer].includes(control.source_layer) &&
    [null, cell.source_position].includes(control.source_position) &&
    [null, cell.target_layer].includes(control.target_layer);
  const cells = new Map<string, Cell>();
  result.cells.forEach((cell, number) => {
    const place = at[number]!;
    const controls = result.controls.filter((one) => isOf(one, cell)).map((one) => ({ name: controlName(one), text: one.text }));
    const heat = result.unpatched === null ? null : PALE * distance(cell.text, result.unpatched);
    cells.set(keyOf(place.row, place.column), { ...place, text: cell.text, heat, state: "done", candidates: cell.candidates, controls });
  });
  const facts: [string, string][] = [
    ["read", spec.source.prompt],
    ["written into", spec.target.prompt],
    ["model", modelsOf(result)],
    ["nothing written", result.unpatched ?? "not run"],
  ];
  return { title: "What each layer holds, in the model's own words", facts, corner: "layer", columns, rows, cells, legend: LEGENDS.patchscope };
}

const controlName = (control: Control) =>
  control.control === "unpatched" ? "nothing written" : control.control + (control.instead === null || control.control !== "shuffled" ? "" : ` (${token(control.instead)} instead)`);

function ofLens(result: Result & { kind: "lens" }): Picture {
  const tokens: string[] = [];
  for (const cell of result.cells) tokens[cell.position] = cell.token;
  const { columns, rows, at } = placed(result.cells.map((cell) => [cell.layer, cell.position, cell.layer]), tokens);
  const cells = new Map<string, Cell>();
  const ranked = result.cells.some((cell) => cell.candidates.length);
  result.cells.forEach((cell, number) => {
    const place = at[number]!;
    const best = cell.candidates[0];
    const depends = cell.relevancy.length ? PALE * (cell.relevancy.reduce((all, one) => all + one, 0) / cell.relevancy.length) : null;
    cells.set(keyOf(place.row, place.column), {
      ...place,
      text: ranked ? token(cell.text) : cell.text,
      heat: best?.probability ?? depends,
      note: best && percent(best.probability),
      state: "done",
      candidates: cell.candidates,
      controls: [],
    });
  });
  const facts: [string, string][] = [["read", result.text], ["lens", result.lens], ["model", modelsOf(result)]];
  const title = `${result.lens}: ${SHOWS[result.lens] ?? (ranked ? "what each layer would say next" : "what the model says of each layer")}`;
  return { title, facts, corner: "layer", columns, rows, cells, legend: ranked ? LEGENDS.lens : LEGENDS.words };
}

function ofMap(result: Result & { kind: "causal" }, map: SignedMap): Picture {
  const most = Math.max(...map.rows.flatMap(([, row]) => row.map((one) => Math.abs(one ?? 0))), 0) || 1;
  const decimals = Math.min(6, Math.max(0, 2 - Math.floor(Math.log10(most))));
  const cells = new Map<string, Cell>();
  for (const [row, values] of map.rows)
    values.forEach((value, column) => {
      if (value === null) return;
      cells.set(keyOf(row, column), { row, column, text: signed(value, decimals), heat: value / most, state: "done", candidates: [], controls: [] });
    });
  const facts: [string, string][] = [
    ...Object.entries(result.prompts),
    ["model", modelsOf(result)],
    ...Object.entries(result.values).map(([name, value]): [string, string] => [name.replaceAll("_", " "), value.toPrecision(4)]),
    ["effect", result.effect],
    ...result.notes.map((note): [string, string] => ["note", note]),
  ];
  return {
    title: `${result.method.replaceAll("-", " ")}: ${map.heading}`,
    facts,
    corner: "layer",
    columns: map.columns,
    rows: map.rows.map(([row]) => row),
    cells,
    legend: { words: "effect", low: "0", high: signed(most, decimals), below: signed(-most, decimals) },
  };
}

// What the server tells, as far as pages read it.

export interface Candidate {
  id: number;
  token: string;
  probability: number;
}

export interface Reading {
  text: string;
  candidates: Candidate[];
  values: Record<string, number>;
}

export interface Failure {
  message: string;
  given: string;
  expected: string;
  remedy: string;
}

export type Message =
  | { event: "queued"; ahead: number }
  | { event: "started" | "cancelled" }
  | { event: "progress"; done: number; of: number }
  | { event: "plan"; tokens: string[]; cells: [number, number, number | null][] }
  | { event: "texts"; texts: Record<string, string> }
  | { event: "cells"; cells: [number, Reading][] }
  | { event: "result"; result: Result }
  | { event: "done"; timing: Record<string, number> }
  | { event: "error"; error: Failure };

export interface PatchscopeCell extends Reading {
  source_layer: number;
  source_position: number;
  source_token: string;
  target_layer: number;
}

export interface Control extends Reading {
  control: string;
  source_layer: number | null;
  source_position: number | null;
  target_layer: number | null;
  instead: string | null;
}

export interface LensCell extends Reading {
  layer: number;
  position: number;
  token: string;
  /** Of each token of the text: how much it depends on what was written. */
  relevancy: number[];
}

export interface SignedMap {
  heading: string;
  columns: string[];
  rows: [string, (number | null)[]][];
}

/** Logit difference and accuracy, of all pairs and by case. */
export interface OfPairs {
  logit_difference: number;
  accuracy: number;
  by_case: Record<string, [number, number]>;
}

export interface SteeredText {
  direction: "none" | "direction" | "random";
  factor: number;
  text: string;
  kl: number;
  next_token: string;
  probability: number;
}

interface Provenance {
  models: { model: string; n_layers: number }[];
  spec: Record<string, any>;
  created: string;
}

export type Result = { provenance: Provenance; run?: string | null } & (
  | { kind: "patchscope"; cells: PatchscopeCell[]; unpatched: string | null; controls: Control[] }
  | { kind: "lens"; lens: string; text: string; cells: LensCell[] }
  | {
      kind: "causal";
      method: string;
      effect: string;
      prompts: Record<string, string>;
      values: Record<string, number>;
      notes: string[];
      maps: SignedMap[];
    }
  | { kind: "circuit-edit"; rows: { change: string; predicted: number; measured: number }[]; before: OfPairs; after: OfPairs; controls: number[] }
  | { kind: "steering"; prompt: string; site: string; norm: number; rows: SteeredText[] }
);

export interface Capabilities {
  version: string;
  models: { name: string; n_layers: number; d_model: number; dtype: string }[];
  prompts: Record<string, { text: string; placeholder: string }>;
  controls: string[];
  lenses: string[];
  circuits: OpenedCircuit[];
  coders: OpenedCoder[];
  mappings: OpenedMapping[];
}

export interface OpenedMapping {
  name: string;
  method: string;
  /** The lens that looks through it, in its model; null where it leads into another one. */
  lens: string | null;
  /** Whether vectors can be written through it. */
  writes: boolean;
  source: string;
  target: string;
}

export interface OpenedCircuit {
  name: string;
  title: string;
  model: string | null;
  /** How many pairs latents can be ablated in; 0 of a graph that is looked at only. */
  pairs: number;
}

export interface OpenedCoder {
  name: string;
  site: string;
  n_latents: number;
  model: string | null;
  /** Whether there is something to browse, */
  read: boolean;
  /** and the coder itself to steer with. */
  steers: boolean;
}

export interface Run {
  id: string;
  kind: string;
  /** The lens or the causal method that it is of. */
  method: string | null;
  /** Whether it says enough to be shown, and finished. */
  again: boolean;
  created: string;
  status: "complete" | "incomplete";
  cells: number;
  done: number;
  text: string | null;
  models: string[];
}

export type Question = { kind: string } & Record<string, string | number | boolean | string[] | number[]>;

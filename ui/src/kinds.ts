// What can be asked, as fields of a form: the server's questions, in words for people.

import type { Capabilities, OpenedMapping, Question } from "./types";

export interface Field {
  name: string;
  label: string;
  kind: "area" | "text" | "number" | "choice" | "choices";
  usual: string;
  hint?: string;
  choices?: (told: Capabilities, model: string, values: Record<string, string>) => string[];
  min?: number;
  max?: number;
  /** Kept folded until it is wanted. */
  more?: boolean;
  /** Without it nothing can be asked. */
  needed?: boolean;
  /** Where it is a choice at all; it is neither shown nor sent elsewhere. */
  when?: (told: Capabilities, values: Record<string, string>) => boolean;
  /** A matter of the page, which the server is not told. */
  own?: boolean;
}

export interface Kind {
  kind: string;
  /** The view that it belongs to. */
  view: string;
  title: string;
  says: string;
  fields: Field[];
  examples: Record<string, string>[];
  /** What a newcomer is told before there is an answer. */
  steps?: string[];
}

const text: Field = { name: "text", label: "Prompt", kind: "area", usual: "", needed: true, hint: "what the model reads" };
const layers: Field = { name: "layers", label: "Layers", kind: "text", usual: "all", hint: "all, 0-10, or 3,7", more: true };
const at = (usual: string): Field => ({ name: "at", label: "Tokens", kind: "text", usual, hint: "all, last, a number, or text that ends in the token", more: true });
const component: Field = { name: "component", label: "What is put back", kind: "choice", usual: "resid_post", choices: () => ["resid_post", "mlp_out", "attn_out"], more: true };
const several = (told: Capabilities) => told.models.length > 1;
/** A fitted lens is chosen together with the mapping that it looks through: "tuned-lens: news". */
const [BETWEEN, WRITING, PUSHING] = [": ", /^(selfie|future-lens)/, "backward-lens"];
const lensOf = (values: Record<string, string>) => values["lens"] ?? "logit-lens";
const answer: Field = { name: "answer", label: "Answer", kind: "text", usual: "", needed: true, hint: "its first token is measured" };

export const KINDS: Kind[] = [
  {
    kind: "patchscope",
    view: "patchscope",
    title: "Patchscope",
    says: "What does each layer hold at each token? Its vector is written into another prompt, where the model says in its own words what stands there.",
    fields: [
      text,
      { name: "prompt", label: "Inspection prompt", kind: "choice", usual: "entity-description", choices: (told) => Object.keys(told.prompts), hint: "written into" },
      at("all"),
      layers,
      { name: "new_tokens", label: "Tokens written", kind: "number", usual: "12", min: 1, max: 64, more: true },
      { name: "own_prompt", label: "Inspection prompt of your own", kind: "text", usual: "", hint: "with the placeholder in it", more: true },
      { name: "placeholder", label: "Placeholder", kind: "text", usual: "x", hint: "what is overwritten in your own prompt", more: true },
      { name: "target_model", label: "Written into model", kind: "choice", usual: "", choices: (told) => ["", ...told.models.map((one) => one.name)], when: several, more: true },
      { name: "target_layer", label: "Written after layer", kind: "text", usual: "same", hint: "same, below, all, or 2", more: true },
      {
        name: "mapping",
        label: "Mapping",
        kind: "choice",
        usual: "identity",
        choices: (told, model, values) => ["identity", "norm-match", ...told.mappings.filter((one) => one.writes && one.source === model && one.target === (values["target_model"] || model)).map((one) => one.name)],
        more: true,
      },
      { name: "controls", label: "Controls", kind: "choices", usual: "shuffled", choices: (told) => told.controls.filter((one) => one !== "unpatched"), more: true },
    ],
    examples: [{ text: "Diana, Princess of Wales" }, { text: "Alexander the Great" }, { text: "New York City" }],
    steps: [
      "Type a sentence above and press Enter. Its tokens, the pieces that the model reads, stand below it.",
      "The grid that comes has a column for each token and a row for each layer, the first ones at the bottom. In row 4 of the last column stands what the model, after block 4, holds of the last word.",
      "Click a cell for all of its text, what the model says without it, and the command that makes it. Click a token to see its column.",
    ],
  },
  {
    kind: "lens",
    view: "lenses",
    title: "Lens",
    says: "What would the model say next, were each layer its last? Colour is the probability of the likeliest token.",
    fields: [
      text,
      {
        name: "lens",
        label: "Lens",
        kind: "choice",
        usual: "logit-lens",
        choices: (told, model) => [...told.lenses, ...told.mappings.filter((one) => one.lens && one.source === model).map((one) => one.lens + BETWEEN + one.name)],
      },
      { name: "beside", label: "Another model beside it", kind: "choice", usual: "", choices: (told, model) => ["", ...told.models.map((one) => one.name).filter((one) => one !== model)], when: several, own: true },
      { ...at("all"), when: (_told, values) => lensOf(values) !== PUSHING },
      layers,
      { name: "top", label: "Tokens kept", kind: "number", usual: "5", min: 1, max: 20, when: (_told, values) => !WRITING.test(lensOf(values)), more: true },
      { name: "new_tokens", label: "Tokens written", kind: "number", usual: "8", min: 1, max: 64, when: (_told, values) => WRITING.test(lensOf(values)), more: true },
      { name: "token", label: "Next token that is pushed for", kind: "text", usual: "", hint: "with its space; the likeliest unless said", when: (_told, values) => lensOf(values) === PUSHING, more: true },
      { name: "keep", label: "Keep", kind: "choices", usual: "", choices: () => ["under Runs"], when: (_told, values) => lensOf(values) !== PUSHING, more: true },
    ],
    examples: [{ text: "The capital of France is" }, { text: "The boats near the cabinet" }],
    steps: ["Type the beginning of a sentence above and press Enter. In each cell stands the next token that this layer would say there; at the top is what the model says."],
  },
  {
    kind: "trace",
    view: "causal",
    title: "Causal tracing",
    says: "Noise on the subject takes the answer away; what gives it back when it is put back?",
    fields: [
      text,
      { name: "subject", label: "Subject", kind: "text", usual: "", needed: true, hint: "the part that is noised" },
      answer,
      component,
      layers,
      { name: "samples", label: "Draws of noise", kind: "number", usual: "3", min: 1, max: 20, more: true },
    ],
    examples: [{ text: "The capital of France is", subject: "France", answer: "Paris" }],
  },
  {
    kind: "patch",
    view: "causal",
    title: "Activation patching",
    says: "What of one run, written into the other, makes its answer? 1 is all of it.",
    fields: [
      { ...text, label: "Clean prompt" },
      { name: "corrupted", label: "Corrupted prompt", kind: "area", usual: "", needed: true, hint: "of as many tokens" },
      answer,
      { name: "wrong", label: "Wrong answer", kind: "text", usual: "", needed: true },
      component,
      layers,
    ],
    examples: [{ text: "The boats near the cabinet", corrupted: "The boat near the cabinet", answer: "are", wrong: "is" }],
  },
  {
    kind: "knockout",
    view: "causal",
    title: "Attention knockout",
    says: "Which tokens must the last one look at, and in which layers? −1 is all of the answer's probability lost.",
    fields: [text, answer, layers, { name: "window", label: "Layers cut together", kind: "number", usual: "9", min: 1, max: 200, more: true }],
    examples: [{ text: "The capital of France is", answer: "Paris" }],
  },
];

/** A form's values as a question; what the library does without being told is left out. */
export function question(kind: Kind, values: Record<string, string>, model: string, told: Capabilities): Question {
  const asked: Question = { kind: kind.kind, model };
  for (const field of kind.fields) {
    const value = values[field.name] ?? field.usual;
    if (field.own || field.when?.(told, values) === false) continue;
    if (field.kind === "number") asked[field.name] = Number(value);
    else if (field.name === "keep") asked[field.name] = value !== "";
    else if (field.kind === "choices") asked[field.name] = value.split(",").filter(Boolean);
    else if (field.name === "lens" && value.includes(BETWEEN)) Object.assign(asked, fitted(value, model, told));
    else if (field.name === "at" && /^-?\d+$/.test(value)) asked[field.name] = Number(value);
    else if (value !== "" && (field.name !== "placeholder" || values["own_prompt"])) asked[field.name] = value;
  }
  return asked;
}

/** A lens and its mapping; of another model than it was chosen for, the mapping of the same lens that is this model's. */
function fitted(value: string, model: string, told: Capabilities): Record<string, string> {
  const [lens, name] = value.split(BETWEEN) as [string, string];
  const fits = (one: OpenedMapping) => one.lens === lens && one.source === model;
  const found = told.mappings.find((one) => one.name === name && fits(one)) ?? told.mappings.find(fits);
  return { lens, mapping: found?.name ?? name };
}

/** What of a form's values is not as usual. */
export function unusual(kind: Kind, values: Record<string, string>): Record<string, string> {
  return Object.fromEntries(kind.fields.flatMap((field) => (values[field.name] !== undefined && values[field.name] !== field.usual ? [[field.name, values[field.name]!]] : [])));
}

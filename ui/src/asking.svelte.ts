// One question on its way: what was told so far, and how it can be stopped.

import { Gone, Refused, Stranger, stream } from "./api";
import { emptyPicture, grown, pictures, type Picture } from "./picture";
import type { Failure, Message, Question, Result } from "./types";

export type Lost = "gone" | "stranger";

export class Asking {
  state = $state<"idle" | "waiting" | "running" | "done" | "cancelled" | "failed">("idle");
  ahead = $state(0);
  /** How much of the work is done, where that is told. */
  share = $state<number | null>(null);
  drawn = $state.raw<Picture[]>([]);
  tokens = $state.raw<string[]>([]);
  result = $state.raw<Result | null>(null);
  failure = $state.raw<Failure | null>(null);
  seconds = $state<number | null>(null);
  /** Milliseconds from the click to the first words. */
  first = $state<number | null>(null);
  question = $state.raw<Question | null>(null);

  #stop: AbortController | null = null;
  #lost: (how: Lost) => void;

  constructor(lost: (how: Lost) => void) {
    this.#lost = lost;
  }

  get busy() {
    return this.state === "waiting" || this.state === "running";
  }

  cancel() {
    this.#stop?.abort();
  }

  async ask(path: string, question: Question | null) {
    this.cancel();
    const stop = (this.#stop = new AbortController());
    const began = performance.now();
    this.question = question;
    this.state = "waiting";
    this.failure = this.result = this.seconds = this.first = this.share = null;
    let at: ReturnType<typeof emptyPicture>["at"] = [];
    try {
      for await (const message of stream(path, question ?? {}, stop.signal)) {
        if (stop.signal.aborted) break;
        if (message.event === "plan") {
          this.tokens = message.tokens;
          if (message.cells.length) ({ at } = this.#begin(question, message));
        } else if (message.event === "texts" || message.event === "cells") {
          this.first ??= performance.now() - began;
          this.drawn = this.drawn.map((one) => grown(one, at, message));
        } else this.#told(message);
      }
      if (stop.signal.aborted) throw stop.signal.reason;
    } catch (error) {
      if (stop !== this.#stop) return; // another question came instead
      if (stop.signal.aborted) this.state = "cancelled";
      else if (error instanceof Gone || error instanceof Stranger) {
        this.state = "failed";
        this.#lost(error instanceof Gone ? "gone" : "stranger");
      } else {
        this.state = "failed";
        this.failure = error instanceof Refused ? error.failure : { message: String(error), given: "", expected: "", remedy: "" };
      }
    }
  }

  #begin(question: Question | null, message: Message & { event: "plan" }) {
    const begun = emptyPicture(question?.kind ?? "patchscope", message);
    this.drawn = [begun.picture];
    return begun;
  }

  #told(message: Message) {
    if (message.event === "progress") this.share = message.done / Math.max(1, message.of);
    if (message.event === "queued") this.ahead = message.ahead;
    if (message.event === "started") this.state = "running";
    if (message.event === "cancelled") this.state = "cancelled";
    if (message.event === "done") {
      this.seconds = message.timing["seconds"] ?? null;
      this.state = "done";
    }
    if (message.event === "result") {
      this.result = message.result;
      this.drawn = pictures(message.result);
      if (message.result.kind === "patchscope") this.tokens = message.result.provenance.spec["source"].tokens;
    }
    if (message.event === "error") {
      this.failure = message.error;
      this.state = "failed";
      this.drawn = [];
    }
  }
}

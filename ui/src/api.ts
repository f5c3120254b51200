// Everything that goes to the server and comes from it. Nothing here knows what is drawn.

import type { Failure, Message } from "./types";

/** The server is not there: it was stopped, or the machine slept. */
export class Gone extends Error {}
/** The server is another one than the one whose cookie this browser has. */
export class Stranger extends Error {}

export class Refused extends Error {
  constructor(
    readonly failure: Failure,
    readonly status: number,
  ) {
    super(failure.message);
  }
}

async function send(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<Response> {
  const headers: Record<string, string> = body === undefined ? {} : { "content-type": "application/json" };
  let answer: Response;
  try {
    answer = await fetch(path, { method, headers, body: body === undefined ? null : JSON.stringify(body), signal: signal ?? null });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Gone();
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => null);
  const failure: Failure = told?.error ?? { message: `the server answered ${answer.status}`, given: "", expected: "", remedy: "" };
  if (answer.status === 401) throw new Stranger(failure.message);
  throw new Refused(failure, answer.status);
}

export async function get<T>(path: string): Promise<T> {
  return (await send("GET", path)).json();
}

export async function post<T>(path: string, body: unknown, signal?: AbortSignal): Promise<T> {
  return (await send("POST", path, body, signal)).json();
}

export async function remove(path: string): Promise<void> {
  await send("DELETE", path);
}

/** Messages of an answer that grows, in order; too many waiting are waited for. */
export async function* stream(path: string, body: unknown, signal: AbortSignal): AsyncGenerator<Message> {
  let answer: Response;
  for (;;) {
    try {
      answer = await send("POST", path, body, signal);
      break;
    } catch (error) {
      if (!(error instanceof Refused) || error.status !== 429) throw error;
      await new Promise((resolve) => setTimeout(resolve, 1000));
      signal.throwIfAborted();
    }
  }
  const reader = answer.body!.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let ended = false;
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((error) => {
        if (signal.aborted) throw error;
        throw new Gone();
      });
      const lines = (rest + (value ?? "")).split("\n");
      rest = lines.pop()!;
      for (const line of lines) {
        const message: Message = JSON.parse(line);
        ended ||= ["done", "error", "cancelled"].includes(message.event);
        yield message;
      }
      if (done) break;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
  if (!ended) throw new Gone();
}

/** Swap the token of the link that was opened for the cookie; the token leaves the address. */
export async function enter(): Promise<void> {
  const token = /^#token=([\w-]+)$/.exec(location.hash)?.[1];
  if (token === undefined) return;
  history.replaceState(null, "", location.pathname);
  await post("/api/enter", { token });
}

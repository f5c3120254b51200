// The page that a result is saved as: the same pictures, from the data in the page, without any server.
import { mount } from "svelte";
import Saved from "./Saved.svelte";
import type { Result } from "./types";
import "./style.css";

const result: Result | null = JSON.parse(document.getElementById("result")!.textContent!);
if (result) mount(Saved, { target: document.getElementById("app")!, props: { result } });

// What the library's own saved pages are drawn with, and the app's views of circuits and of features, too.

declare module "#circuits/viewer.js" {
  export interface Host {
    read(): string;
    write(text: string): void;
    chosen?(keys: string[], name: string): void;
  }
  export function graph(root: HTMLElement, data: unknown, host: Host): { read(): void; destroy(): void };
  export function pngOf(svg: string): Promise<Blob>;
}

declare module "#latents/dashboard.js" {
  export interface Host {
    read(): string;
    write(latent: number, largest: number): void;
    link(latent: number): string;
  }
  export function dashboard(root: HTMLElement, data: unknown, host: Host): { follow(): void; destroy(): void };
}

declare module "*.css?inline" {
  const css: string;
  export default css;
}

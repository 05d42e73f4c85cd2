/** Routes that tell what the engine is and has: stats, node classes, models. */
import { freemem, platform, totalmem } from "node:os";
import { extname } from "node:path";
import type { Hono } from "hono";
import { describeNode } from "./nodes.ts";
import { type RouteOptions, readJson } from "./routing.ts";
import { readMetadata } from "./safetensors.ts";

/** The header of `/view_metadata` is not read beyond this. */
const maxMetadataBytes = 1024 * 1024;

export function addDescriptions(routes: Hono, { classes, files, version, features, executor }: RouteOptions): void {
  routes.get("/system_stats", (c) => {
    const memory = {
      vram_total: totalmem(),
      vram_free: freemem(),
      torch_vram_total: totalmem(),
      torch_vram_free: freemem(),
    };
    return c.json({
      system: {
        os: platform(),
        ram_total: totalmem(),
        ram_free: freemem(),
        comfyui_version: version,
        required_frontend_version: null,
        python_version: "none (demo engine)",
        pytorch_version: "none (demo engine)",
        embedded_python: false,
        argv: ["atelier-demo-engine"],
      },
      devices: [{ name: "Atelier demo engine (CPU)", type: "cpu", index: null, ...memory }],
    });
  });
  routes.get("/features", (c) => c.json(features));
  routes.get("/object_info", (c) =>
    c.json(Object.fromEntries([...classes].map(([name, node]) => [name, describeNode(name, node, files)]))),
  );
  routes.get("/object_info/:class", (c) => {
    const name = c.req.param("class");
    const node = classes.get(name);
    return c.json(node === undefined ? {} : { [name]: describeNode(name, node, files) });
  });
  routes.get("/models", (c) => c.json(files.modelFolders));
  routes.get("/models/:folder", (c) => {
    const names = files.listModels(c.req.param("folder"));
    return names === null ? c.body(null, 404) : c.json(names);
  });
  routes.get("/embeddings", (c) =>
    c.json((files.listModels("embeddings") ?? []).map((name) => name.slice(0, name.length - extname(name).length))),
  );
  routes.get("/view_metadata/:folder", async (c) => {
    const name = c.req.query("filename") ?? "";
    const path = name.endsWith(".safetensors") ? files.findModel(c.req.param("folder"), name) : null;
    const metadata = path === null ? null : await readMetadata(path, maxMetadataBytes);
    return metadata === null ? c.body(null, 404) : c.json(metadata);
  });
  routes.post("/free", async (c) => {
    const body = await readJson(c);
    if (body.unload_models || body.free_memory) executor.free();
    return c.body(null, 200);
  });
}

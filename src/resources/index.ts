/** The registry: one line per resource. */
import type { Resource } from "../rest/define.ts";
import { datasets } from "./datasets.ts";
import { images } from "./images.ts";
import { models } from "./models.ts";
import { params } from "./params.ts";
import { servers } from "./servers.ts";
import { sessions } from "./sessions.ts";
import { tags } from "./tags.ts";
import { tasks } from "./tasks.ts";
import { users } from "./users.ts";

const registry = [users, sessions, datasets, tags, models, images, tasks, params, servers] as const;

/** The definitions by name, as types: what the client's types are made from. */
export type Registry = { [D in (typeof registry)[number] as D["name"]]: D };

export const resources: Resource[] = [...registry];

/** By name, for paths and topics. */
export const resourcesByName = new Map(resources.map((resource) => [resource.name, resource]));

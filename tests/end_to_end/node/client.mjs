// What a Node program does with the unmodified official client; prints one JSON object with what it got.
import OpenAI, { toFile } from "openai";

const [url, imagePath] = process.argv.slice(2);
const { readFile } = await import("node:fs/promises");
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "unused", adminAPIKey: "unused", maxRetries: 0 });
const small = { prompt: "a red circle", size: "256x256", steps: 2, seed: 7 };
const picture = async () => toFile(await readFile(imagePath), "in.png", { type: "image/png" });
const got = {};

const plain = await client.images.generate({ ...small, response_format: "b64_json" });
got.plain = plain.data[0].b64_json;
got.usage = plain.usage.total_tokens;

const linked = await client.images.generate({ ...small, model: "dall-e-3" });
got.linkedType = (await fetch(linked.data[0].url)).headers.get("content-type");

got.streamed = [];
for await (const event of await client.images.generate({ ...small, steps: 4, stream: true, partial_images: 2 })) {
  got.streamed.push(event.type);
}
const edited = await client.images.edit({ image: await picture(), prompt: "a green square", steps: 2 });
got.edited = edited.data[0].b64_json.length;
const several = await client.images.edit({ image: [await picture()], prompt: "a green square", steps: 2 });
got.editedFromList = several.data[0].b64_json.length;

try {
  await client.images.generate({ ...small, n: 11 });
} catch (error) {
  got.error = { name: error.constructor.name, status: error.status, code: error.code, param: error.param };
}
const since = { start_time: Math.floor(Date.now() / 1000) - 86400 };
const usage = await client.admin.organization.usage.images({ ...since, group_by: ["model", "source"] });
got.drawn = usage.data.flatMap((bucket) => bucket.results).map((one) => [one.model, one.source]);
const costs = await client.admin.organization.usage.costs({ ...since, group_by: ["line_item"] });
got.costs = costs.data.flatMap((bucket) => bucket.results).map((one) => [one.line_item, one.amount.currency]);
got.models = (await client.models.list()).data.map((model) => model.id);
console.log(JSON.stringify(got));

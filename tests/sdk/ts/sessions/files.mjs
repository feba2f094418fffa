import assert from "node:assert/strict";
import { mkdtemp, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { call, makeBox, refused, session } from "../session.mjs";

let shared;
const box = async () => (shared ??= await makeBox());

/** Runs `body` in a folder of this host of its own: the SDK downloads into the current one. */
async function elsewhere(body) {
  const before = process.cwd();
  const folder = await mkdtemp(join(tmpdir(), "boxyard-sdk-"));
  process.chdir(folder);
  try {
    await body();
  } finally {
    process.chdir(before);
    await rm(folder, { recursive: true });
  }
}

session("files are written and read, text and base64, in folders that were not there", async () => {
  const here = await box();
  await here.files.write({ path: "data/config.json", content: "line1\nline2" });
  assert.equal(await here.files.read("data/config.json"), "line1\nline2");
  await here.files.write({ path: "hello", content: "aGVsbG8=", encoding: "base64" });
  assert.equal(await here.files.read("hello"), "hello");
  assert.equal(await here.files.read("hello", { encoding: "base64" }), "aGVsbG8=");
  await here.files.write({ path: "ünï 😀/ä b.txt", content: 'ü€😀\0"\\' });
  assert.equal(await here.files.read("ünï 😀/ä b.txt"), 'ü€😀\0"\\');
  await here.files.write({ path: "empty", content: "" });
  assert.equal(await here.files.read("empty"), "");
  const long = "0123456789abcdef".repeat(500_000);
  await here.files.write({ path: "long", content: long });
  assert.ok((await here.files.read("long")) === long);
});

session("files and commands see the same files", async () => {
  const here = await box();
  await here.files.write({ path: "from-api", content: "by the API" });
  assert.equal((await here.exec.command("cat from-api; stat -c ' %U %a' from-api")).result, "by the API boxuser 644\n");
  await here.exec.command("printf 'by a command' > from-exec");
  assert.equal(await here.files.read("from-exec"), "by a command");
});

session("files are listed where one is, and anywhere else", async () => {
  const here = await makeBox();
  await here.files.write({ path: "sub/b.txt", content: "bb" });
  await here.files.write({ path: "sub/inner/x", content: "x" });
  const files = await here.files.list("sub");
  assert.deepEqual(files.map((file) => [file.name, file.path, file.is_dir]), [
    ["b.txt", "/workspace/home/sub/b.txt", false],
    ["inner", "/workspace/home/sub/inner", true],
  ]);
  assert.equal(files[0].size, 2);
  assert.ok(Math.abs(new Date(files[0].mod_time).getTime() - Date.now()) < 3_600_000, files[0].mod_time);
  assert.ok((await here.files.list(".")).some((file) => file.name === "sub"));
  assert.ok((await here.files.list()).some((file) => file.name === "sub"));
  await here.cd("sub");
  assert.deepEqual((await here.files.list()).map((file) => file.name), ["b.txt", "inner"]);
  assert.equal(await here.files.read("b.txt"), "bb");
  assert.deepEqual(await here.files.list("b.txt"), []);
});

session("files are uploaded and downloaded as they are, many at once", async () => {
  const here = await makeBox();
  await elsewhere(async () => {
    const contents = {
      "a.bin": Buffer.from(Array.from({ length: 1_000_003 }, (_, n) => (n * 31) % 256)),
      "ä ö.txt": Buffer.from("ü"),
      none: Buffer.alloc(0),
      "lines.csv": Buffer.from("\r\n--\r\n"),
    };
    for (const [name, content] of Object.entries(contents)) await writeFile(name, content);
    await here.files.upload(Object.keys(contents).map((path) => ({ path, destination: `up/deep/${path}` })));
    assert.equal((await here.exec.command("ls up/deep | wc -l")).result, "4\n");
    await here.exec.command("mkdir up/deep/folder");
    await here.files.download({ folder: "up/deep" });
    assert.deepEqual((await readdir("deep")).sort(), Object.keys(contents).sort());
    for (const [name, content] of Object.entries(contents)) assert.ok((await readFile(join("deep", name))).equals(content), name);
    const error = await refused(() => here.files.upload([{ path: "none", destination: "/etc/x" }]));
    assert.match(error.message, /permission denied/);
    assert.equal(error.statusCode, 403);
  });
});

session("files that are missing are 404, and what may not be touched says permission denied", async () => {
  const here = await box();
  assert.equal((await refused(() => here.files.read("nowhere"))).statusCode, 404);
  assert.equal((await refused(() => here.files.list("nowhere"))).statusCode, 404);
  await here.exec.command("ln -s /etc outside");
  for (const path of ["/workspace/x", "/etc/x", "/tmp/x", "../x", "outside/x"]) {
    const error = await refused(() => here.files.write({ path, content: "x" }));
    assert.equal(error.statusCode, 403, path);
    assert.match(error.message, /permission denied/);
  }
});

session("files beyond the SDK: metadata, folders, ranges, and a folder as an archive", async () => {
  const here = await makeBox();
  const path = (what) => `/v2/box/${here.id}/files/${what}`;
  assert.equal((await call("POST", path("mkdir"), { path: "a/b", parents: true })).status, 200);
  await here.files.write({ path: "a/b/c", content: "0123456789" });
  assert.equal((await call("GET", path("stat?path=a/b/c"))).body.type, "file");
  assert.equal((await call("GET", path("read?path=a/b/c&offset=2&length=3"))).body.content, "234");
  assert.equal((await call("POST", path("rename"), { from: "a/b/c", to: "a/d" })).status, 200);
  assert.equal((await call("POST", path("remove"), { path: "a/b", recursive: false })).status, 400);
  assert.equal((await call("POST", path("remove"), { path: "a/b", recursive: true })).status, 200);
  const headers = { "X-Box-Api-Key": process.env.UPSTASH_BOX_API_KEY };
  const base = process.env.UPSTASH_BOX_BASE_URL.replace(/\/$/, "");
  const archive = await fetch(base + path("download?path=a&format=tar.gz"), { headers });
  const packed = await archive.arrayBuffer();
  const unpacked = await fetch(base + path("archive?path=copy"), { method: "PUT", headers, body: packed });
  assert.equal(unpacked.status, 200, await unpacked.text());
  assert.equal(await here.files.read("copy/d"), "0123456789");
});
